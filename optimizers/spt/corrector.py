"""The corrector: an LM that reads a prompt and its mistakes and writes better prompts, and a better brief for itself.

It is asked through the same `RolloutEngine` as the program, so its replies are in the store as they come and never paid twice.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import dspy

from optimizers.core.budget import Budget
from optimizers.core.fingerprints import scope_of
from optimizers.core.records import Rollout
from optimizers.core.reward import Scorer
from optimizers.core.usage import Usage
from optimizers.rollouts.engine import RolloutEngine
from optimizers.spt.impact import count_tokens, strip_impacts
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.errors import SetupError, SGTError, StoppedError

IMPACT = (
    "The instructions as they are now. Behind each sentence stands its impact: by how much it raises the mean score on "
    "training questions, with the standard error. Write no impacts yourself."
)


class Correct(dspy.Signature):
    """Write better instructions."""

    step: str = dspy.InputField(desc="What the model reads and writes under these instructions.")
    prompt: str = dspy.InputField(desc="The instructions as they are now.")
    mistakes: str = dspy.InputField(
        desc="Questions that the model got wrong, with what it wrote and what was expected."
    )
    new_prompt: str = dspy.OutputField(desc="The better instructions, whole, and nothing else.")


class Improve(dspy.Signature):
    """Write a better brief."""

    meta_prompt: str = dspy.InputField(desc="The teacher's brief as it is now.")
    first_prompt: str = dspy.InputField(desc="The first instructions.")
    best_prompt: str = dspy.InputField(desc="The best instructions so far.")
    mistakes: str = dspy.InputField(desc="Questions that the model got wrong under both.")
    new_meta_prompt: str = dspy.OutputField(desc="The better brief, whole, and nothing else.")


@dataclass(frozen=True, slots=True)
class Mistake:
    """A question that the program got wrong: its position in the training set, and what the corrector reads of it."""

    index: int
    text: str


def make_mistake(index: int, example: dspy.Example, rollout: Rollout) -> Mistake:
    """What went wrong on an example, as text.

    >>> from optimizers.core.records import Query, Reward
    >>> from sgt_modules.kinds import SILENCE
    >>> example = dspy.Example(question="2+2?", answer="4").with_inputs("question")
    >>> wrong = Rollout(Query("a", 0, "", ""), "", "none", SILENCE, Reward(0.0, "Too large."), {"answer": "5"})
    >>> print(make_mistake(7, example, wrong).text)
    Question:
      question: 2+2?
    Written:
      answer: 5
    Expected:
      answer: 4
    Verdict: Too large.
    """
    parts = [
        ("Question", example.inputs().items()),
        ("Written", rollout.output.items()),
        ("Expected", example.labels().items()),
    ]
    said = [f"{title}:\n" + "\n".join(f"  {k}: {v}" for k, v in each) for title, each in parts if each]
    verdict = (rollout.reward.feedback if rollout.reward else "") or rollout.error
    return Mistake(index, "\n".join([*said, *([f"Verdict: {verdict}"] if verdict else [])]))


def batch_mistakes(mistakes: Sequence[Mistake], most: int, rng: random.Random) -> list[list[Mistake]]:
    """The mistakes in as many parts as it takes for each to have at most `most` tokens, drawn by the seed.

    Those that fit together stay together, in their order. One that is too long alone is cut.

    >>> all_ = [Mistake(n, "123456789") for n in range(5)]  # 9 bytes are 3 tokens
    >>> [[len(batch) for batch in batch_mistakes(all_, most, random.Random(0))] for most in (15, 7)]
    [[5], [2, 2, 1]]
    """
    fitting = [Mistake(each.index, _truncate(each.text, most)) for each in mistakes]
    if sum(count_tokens(each.text) for each in fitting) <= most:
        return [fitting]
    found: list[list[Mistake]] = []
    left = 0
    for each in rng.sample(fitting, len(fitting)):
        if not found or count_tokens(each.text) > left:
            found.append([])
            left = most
        found[-1].append(each)
        left -= count_tokens(each.text)
    return [sorted(batch, key=lambda each: each.index) for batch in found]


def _truncate(text: str, most: int) -> str:
    return text if count_tokens(text) <= most else text.encode()[: most * 3].decode(errors="ignore")


def format_mistakes(batch: Sequence[Mistake]) -> str:
    """A batch as the corrector reads it."""
    return "\n\n".join(each.text for each in batch)


def find_new(written: Sequence[str], known: Sequence[str]) -> list[bool]:
    """Which of the texts are neither empty nor repeat a known one or one before, but for white space.

    >>> find_new(["Add.", "", "Add  it.", "Add it.", "Stop."], ["Stop."])
    [True, False, True, False, False]
    """
    seen = {" ".join(each.split()) for each in known} | {""}
    found: list[bool] = []
    for each in written:
        plain = " ".join(each.split())
        found.append(plain not in seen)
        seen.add(plain)
    return found


class _CorrectorProgram(dspy.Module):
    """One predictor of the corrector; `number` tells samples of the same request apart."""

    def __init__(self, signature: type[dspy.Signature], lm: dspy.LM, temperature: float) -> None:
        super().__init__()
        self.predict = dspy.Predict(signature, temperature=temperature)
        self.predict.lm = lm

    def forward(self, number: int, **inputs: str) -> dspy.Prediction:
        return self.predict(**inputs, config={"rollout_id": number})


def _has_text(_example: dspy.Example, prediction: dspy.Prediction) -> bool:
    """Any reply that could be read will do."""
    return any(str(value).strip() for value in cast("Any", prediction).values())


class _CorrectorBudget(Budget):
    """Usage of the corrector. Checks the run's budget before each call, and adds the dollars to it."""

    def __init__(self, run: Budget, usage: Usage) -> None:
        super().__init__(usage=usage)
        self._run = run
        run.add_other_cost(usage.cost)

    @contextmanager
    def reserve_run(self) -> Iterator[Callable[[Usage], Usage]]:
        self._run.check()
        with super().reserve_run() as charge:

            def charge_both(usage: Usage) -> Usage:
                whole = charge(usage)
                self._run.add_other_cost(whole.cost)
                return whole

            yield charge_both


class Corrector:
    """An LM as corrector. Its replies lie in `store`, a run of its own; its dollars count to the run's `budget`.

    An outage is a reply that never came; it is asked again when the run goes on. Raises what an `RolloutEngine` raises:
    `SGTError` for `max_errors` outages in a row, `ProviderRefusedError`.
    """

    def __init__(
        self,
        lm: dspy.LM,
        store: RolloutStore,
        budget: Budget,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        num_threads: int | None = None,
        max_errors: int = 10,
    ) -> None:
        self._lm, self._seed, self._temperature = lm, seed, temperature
        scorer, asking = Scorer(_has_text), self._asking(Correct)
        self._actor = RolloutEngine(
            asking,
            scorer,
            store,
            scope_of(asking, _has_text),
            num_threads=num_threads,
            max_errors=max_errors,
            budget=_CorrectorBudget(budget, store.spent()),
        )

    @property
    def usage(self) -> Usage:
        """Usage of the corrector in all sessions."""
        return self._actor.budget.usage

    def write_prompts(
        self, brief: str, *, step: str, prompt: str, shown: Sequence[Sequence[Mistake]], number: int, impact: bool
    ) -> list[str]:
        """A prompt for each batch of mistakes, without impacts; empty where the reply could not be read, or never came.

        `number` tells these requests from the same ones of another round.
        """
        signature = Correct.with_instructions(brief)
        if impact:
            signature = signature.with_updated_fields("prompt", desc=cast("Any", IMPACT))
        asked = [{"step": step, "prompt": prompt, "mistakes": format_mistakes(batch)} for batch in shown]
        return [strip_impacts(each).strip() for each in self._replies(signature, asked, number, "new_prompt")]

    def rewrite_brief(
        self, improve: str, *, brief: str, first: str, best: str, shown: Sequence[Mistake], number: int
    ) -> str:
        """The corrector's own brief, written anew; empty where the reply could not be read, or never came."""
        asked = {"meta_prompt": brief, "first_prompt": first, "best_prompt": best, "mistakes": format_mistakes(shown)}
        signature = Improve.with_instructions(improve)
        return self._replies(signature, [asked], number, "new_meta_prompt")[0].strip()

    def _replies(
        self, signature: type[dspy.Signature], asked: Sequence[dict[str, str]], number: int, field: str
    ) -> list[str]:
        first = number + 100_000 * self._seed
        examples = [dspy.Example(**each, number=first + n) for n, each in enumerate(asked)]
        try:
            probe = self._actor.for_program(self._asking(signature)).probe(
                [each.with_inputs(*each.keys()) for each in examples], stage="corrector"
            )
        except StoppedError:
            raise
        except SGTError as failed:
            raise type(failed)(f"The corrector could not be asked. {failed}") from failed
        return [rollout.output.get(field, "") if rollout.won() else "" for rollout in probe.rollouts]

    def _asking(self, signature: type[dspy.Signature]) -> _CorrectorProgram:
        return _CorrectorProgram(signature, self._lm, self._temperature)


def check_corrector(lm: object) -> dspy.LM:
    """The LM itself; raises `SetupError` for what is none."""
    if not isinstance(lm, dspy.LM):
        raise SetupError(f"Expected a dspy.LM as corrector, got {lm!r}. Write corrector=dspy.LM('provider/model').")
    return lm
