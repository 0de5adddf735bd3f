"""The embedded models, ready to use: three frozen actors behind `dspy.LM` and one untrained generator.

They are small transformers of the Qwen3 architecture, pretrained on random worlds by `sgt_modules.embedded.pretrain`.
With them, both methods run without a model hub. They know this package's tables or its house rules, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import dspy

from sgt_modules.errors import GeneratorNotFoundError
from sgt_modules.generator import SupplementGenerator
from sgt_modules.generator_prompt import COMPACT
from sgt_modules.saving.weights import SHIPPED

if TYPE_CHECKING:
    from sgt_modules.local.engine import LocalEngine

WEIGHTS = SHIPPED

ActorName = Literal["actor", "second-actor", "rule-follower"]

DTYPE = "float64"
"""Twice as wide as the weights: then the composition of a batch cannot change a logit enough to flip a token. So the
same seed gives the same run, in whatever batches the calls of many threads are decoded."""

MAX_NEW_TOKENS = 64


@cache
def _engine(name: str) -> LocalEngine:
    from sgt_modules.local.engine import LocalEngine

    return LocalEngine(embedded_folder(name), dtype=DTYPE, max_new_tokens=MAX_NEW_TOKENS)


def embedded_folder(name: str) -> Path:
    """Return the `transformers` folder of an embedded model: `generator` or an actor's name.

    Raises:
        GeneratorNotFoundError: no such model is shipped.
    """
    folder = WEIGHTS / name
    if not (folder / "model.safetensors").exists():
        shipped = sorted(each.parent.name for each in WEIGHTS.glob("*/model.safetensors"))
        raise GeneratorNotFoundError(f"No embedded model {name!r}; there are {shipped}.")
    return folder


def embedded_actor(name: ActorName = "actor", *, cache: bool = False) -> dspy.LM:
    """Return a frozen actor that answers DSPy's prompts on this machine.

    `actor` writes SQL; so does `second-actor`, which has another size and seed. `rule-follower` answers questions about
    lists.

    Calls are decoded greedily, in batches. `cache` is DSPy's cache, off by default: a run's store keeps all rollouts,
    and only programs of several predictors repeat calls within a run.

    Raises:
        GeneratorNotFoundError: no such model is shipped.

    >>> embedded_actor("rule-follower")("Say something.")[0] != ""
    True
    """
    engine = _engine(name)
    return dspy.LM(engine.model_name, engine=engine, async_engine=engine.asynchronous(), cache=cache)


@contextmanager
def acting(name: ActorName = "actor") -> Iterator[None]:
    """Set an embedded actor as DSPy's LM inside the block, without a second request in JSON mode.

    >>> with acting("rule-follower"):
    ...     dspy.settings.lm.model == embedded_actor("rule-follower").model
    True
    """
    with dspy.context(lm=embedded_actor(name), adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
        yield


def embedded_generator() -> SupplementGenerator:
    """Return the untrained generator: it knows the form of each kind, but not the meaning of any world's words.

    Its supplements have at most 64 tokens (`MAX_NEW_TOKENS`).

    >>> supplements = embedded_generator().sample(["question: how many bottles?"], seeds=[0])
    >>> len(supplements)
    1
    """
    folder = embedded_folder("generator")
    return SupplementGenerator(folder, dtype=DTYPE, max_new_tokens=MAX_NEW_TOKENS, prompt=COMPACT)
