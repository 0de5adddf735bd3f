"""The numbers of `scaling_plan.py`, each with its source: a measurement on one machine, or an assumption."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import dataclass, field
from functools import cache
from typing import TypeVar

import cost
import dspy

from optimizers.core.records import PreferencePair
from optimizers.sgt.recipe import Recipe
from optimizers.training.trainer import TrainingSettings
from sgt_modules.remote.endpoint import Endpoint

_Value = TypeVar("_Value")

MEASURED = "measured on two busy CPU cores by `scaling_measures.py`"


def given(value: _Value, source: str) -> _Value:
    """Make a field with a default and its source."""
    return field(default=value, metadata={"source": source})


@dataclass(frozen=True, slots=True)
class Cluster:
    """The machines, the actor's provider, and how often a node fails."""

    gpus: int = given(200, "the question")
    training_gpus: int = given(100, "assumed: the others hold the generator's servers")
    gpus_a_node: int = given(8, "assumed")
    tokens_written_a_second_a_gpu: float = given(cost.SAMPLED_A_SECOND[1], "assumed, as above")
    tokens_trained_a_second_a_gpu: float = given(cost.TRAINED_A_SECOND[1], "assumed, as above")
    actor_calls_a_minute: float = given(10_000, "the question")
    actor_seconds: float = given(cost.LATENCY, "assumed, as above")
    sample_seconds: float = given(3.0, "assumed: 150 tokens at 50 a second for each request")
    failures_a_node_a_day: float = given(0.02, "assumed: 5 x the 419 in 54 days on 2,048 nodes of arXiv 2407.21783")
    restart_seconds: float = given(600, "assumed")
    memory: float = given(512e9, "assumed, bytes of each node")
    network: float = given(1e9, "assumed, bytes a second from the main process to the others")

    @property
    def sampling_nodes(self) -> int:
        return max(1, (self.gpus - self.training_gpus) // self.gpus_a_node)

    @property
    def training_nodes(self) -> int:
        return max(1, self.training_gpus // self.gpus_a_node)


@dataclass(frozen=True, slots=True)
class Setup:
    """What a user sets: calls and samples at once, and the rows of a training step. The defaults are the package's."""

    threads: int = given(dspy.settings.num_threads, "DSPy's default of `num_threads`")
    requests: int = given(
        inspect.signature(Endpoint).parameters["concurrency"].default, "default of `Endpoint(concurrency=)`"
    )
    rows_a_step: int = given(
        TrainingSettings().batch_size * TrainingSettings().gradient_accumulation, "default of `TrainingSettings`"
    )
    own_job: bool = given(False, "by default the main process is launched with the training ones")
    """Whether training is a job of its own, started by a `Trainer` that the user writes."""


@dataclass(frozen=True, slots=True)
class Software:
    """What one main process and one store do."""

    python_seconds: float = given(3.31e-3, f"a rollout with its sample, {MEASURED}")
    stored_a_second: float = given(200.0, f"rollouts, four writers, {MEASURED}")
    bytes_stored: float = given(7_584, f"a rollout with its sample, {MEASURED}")
    bytes_exploring: float = given(10_275, f"memory a rollout of the stage that is explored, {MEASURED}")
    bytes_held: float = given(2_200, "memory a rollout of earlier stages: `cost.rollouts`, whose queries are shared")
    resumed_seconds: float = given(2.51e-3, f"a rollout that the store has, {MEASURED}")


@dataclass(frozen=True, slots=True)
class Method:
    """A recipe on so many queries; its sizes are the package's own."""

    recipe: Recipe
    queries: int
    validation: int = 1_000
    settings: TrainingSettings = field(default_factory=TrainingSettings)


TUNED = Setup(threads=512, requests=1_024, rows_a_step=100)
"""Set for 200 GPUs: enough calls and samples at once for the actor's limit, and a row a step for each training GPU."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A step of a run: the actor's calls, the generator's samples, tokens to train on, bytes of rows to send."""

    name: str
    calls: int = 0
    samples: int = 0
    tokens: int = 0
    sent: float = 0.0


@cache
def bytes_a_pair() -> float:
    """Return the bytes of a preference pair as it is sent; pairs of a query share the prompt's text."""
    pairs: list[PreferencePair] = []
    for query in range(20):
        prompt = f"{query:04}" * cost.PROMPT
        texts = [f"{query:02}{number:02}" * cost.SUPPLEMENT for number in range(20)]
        pairs += [
            PreferencePair(str(query), "intra", prompt, won, lost) for won, lost in zip(texts, texts[::-1], strict=True)
        ]
    return len(pickle.dumps(pairs, protocol=4)) / len(pairs)


def phases(method: Method) -> list[Phase]:
    """Return a run's steps in order, as `SGTTeleprompter.compile` goes through them.

    A round's training needs all of the round's rollouts, and the next exploration the trained weights. Validations have
    a phase of their own: where several processes train, they do not go on during the next training.
    """
    recipe, queries, most, settings = method.recipe, method.queries, cost.calls(method.recipe), method.settings
    text = cost.PROMPT + cost.SUPPLEMENT
    validate = Phase("validation", method.validation, method.validation)
    steps = [
        Phase("unaided runs", queries + method.validation),
        Phase("warm start", queries * most.warm, queries * most.warm),
    ]
    if recipe.sft:
        rows = min(queries * most.warm, recipe.max_per_kind * recipe.kinds_asked)
        steps += [Phase("SFT", tokens=settings.sft_epochs * rows * text, sent=rows * 4.0 * text), validate]
    later = most.later // max(1, recipe.rounds - 1)
    for round_ in range(1, recipe.rounds + 1):
        calls = most.first if round_ == 1 else later
        pairs = queries * pairs_a_query(recipe, calls)
        samples = calls - recipe.concat if round_ == 1 else calls
        steps += [
            Phase(f"round {round_}: explore", queries * calls, queries * samples),
            Phase(f"round {round_}: train", tokens=settings.dpo_epochs * pairs * 2 * text, sent=pairs * bytes_a_pair()),
            validate,
        ]
    return steps


def pairs_a_query(recipe: Recipe, pool: int) -> int:
    """Return the most pairs of a query in a round, as `cost.pairs` counts them over all rounds."""
    size = pool + recipe.silence
    return min(2 * recipe.pair_cap, size // 2 * -(-size // 2))
