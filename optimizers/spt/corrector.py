"""The corrector: an LM that reads a prompt and its mistakes and writes better prompts, and a better brief for itself.

It runs in a `RolloutEngine` like the program, so each reply is stored at once and never paid twice.
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
from sgt_modules.errors import SGTError, StoppedError

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
    """A question that the program got wrong: its position in the training set, and its text for the corrector."""

    index: int
    text: str


def make_mistake(index: int, example: dspy.Example, rollout: Rollout) -> Mistake:
    """Describes a wrong answer to an example as text.

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
    """Splits the mistakes into batches of at most `most` tokens, at random.

    If all fit into one batch, they stay in their order. A single mistake that is too long is cut.

    >>> all_ = [Mistake(n, "123456789") for n in range(5)]  # 9 bytes are 3 tokens
    >>> [[len(batch) for batch in batch_mistakes(all_, most, random.Random(0))] for most in (15, 7)]
    [[5], [2, 2, 1]]
    """
    fitting = [Mistake(each.index, _truncate(each.text, most)) for each in mistakes]
    if sum(count_tokens(each.text) for each in fitting) <= most:
        return [fitting]
    drawn: list[list[Mistake]] = []
    left = 0
    for each in rng.sample(fitting, len(fitting)):
        if not drawn or count_tokens(each.text) > left:
            drawn.append([])
            left = most
        drawn[-1].append(each)
        left -= count_tokens(each.text)
    return [sorted(batch, key=lambda each: each.index) for batch in drawn]


def _truncate(text: str, most: int) -> str:
    return text if count_tokens(text) <= most else text.encode()[: most * 3].decode(errors="ignore")


def format_mistakes(batch: Sequence[Mistake]) -> str:
    """A batch of mistakes as the text for the corrector."""
    return "\n\n".join(each.text for each in batch)


def find_new(written: Sequence[str], known: Sequence[str]) -> list[bool]:
    """Which of the texts are neither empty nor repeat a known or an earlier one; white space does not count.

    >>> find_new(["Add.", "", "Add  it.", "Add it.", "Stop."], ["Stop."])
    [True, False, True, False, False]
    """
    seen = {" ".join(each.split()) for each in known} | {""}
    fresh: list[bool] = []
    for each in written:
        plain = " ".join(each.split())
        fresh.append(plain not in seen)
        seen.add(plain)
    return fresh


class _CorrectorProgram(dspy.Module):
    """One predictor of the corrector; `number` makes repeated requests distinct."""

    def __init__(self, signature: type[dspy.Signature], lm: dspy.LM, temperature: float) -> None:
        super().__init__()
        self.predict = dspy.Predict(signature, temperature=temperature)
        self.predict.lm = lm

    def forward(self, number: int, **inputs: str) -> dspy.Prediction:
        return self.predict(**inputs, config={"rollout_id": number})


def _has_text(_example: dspy.Example, prediction: dspy.Prediction) -> bool:
    """The corrector's metric: whether the reply has any text."""
    return any(str(value).strip() for value in cast("Any", prediction).values())


class _CorrectorBudget(Budget):
    """Counts the corrector's usage; checks the run's budget before each call, and adds the dollars to it."""

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
    """An LM as corrector. Its replies are saved in `store`, apart from the run's; its dollars count in `budget`.

    A request that failed by an outage is repeated when the run is resumed. Raises the errors of `RolloutEngine`:
    `SGTError` after `max_errors` outages in a row, `ProviderRefusedError`.
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
        scorer, program = Scorer(_has_text), self._program(Correct)
        self._engine = RolloutEngine(
            program,
            scorer,
            store,
            scope_of(program, _has_text),
            num_threads=num_threads,
            max_errors=max_errors,
            budget=_CorrectorBudget(budget, store.spent()),
        )

    @property
    def usage(self) -> Usage:
        """The corrector's usage in all sessions."""
        return self._engine.budget.usage

    def write_prompts(
        self, brief: str, *, step: str, prompt: str, shown: Sequence[Sequence[Mistake]], number: int, impact: bool
    ) -> list[str]:
        """Write a prompt for each batch of mistakes, without impacts; empty if the reply failed or could not be read.

        `number` makes these requests distinct from equal ones of another round.
        """
        signature = Correct.with_instructions(brief)
        if impact:
            signature = signature.with_updated_fields("prompt", desc=cast("Any", IMPACT))
        inputs = [{"step": step, "prompt": prompt, "mistakes": format_mistakes(batch)} for batch in shown]
        return [strip_impacts(each).strip() for each in self._ask(signature, inputs, number, "new_prompt")]

    def rewrite_brief(
        self, improve: str, *, brief: str, first: str, best: str, shown: Sequence[Mistake], number: int
    ) -> str:
        """Rewrite the corrector's own brief; empty if the reply failed or could not be read."""
        inputs = {"meta_prompt": brief, "first_prompt": first, "best_prompt": best, "mistakes": format_mistakes(shown)}
        signature = Improve.with_instructions(improve)
        return self._ask(signature, [inputs], number, "new_meta_prompt")[0].strip()

    def _ask(
        self, signature: type[dspy.Signature], inputs: Sequence[dict[str, str]], number: int, field: str
    ) -> list[str]:
        first = number + 100_000 * self._seed
        examples = [dspy.Example(**each, number=first + n) for n, each in enumerate(inputs)]
        try:
            probe = self._engine.for_program(self._program(signature)).probe(
                [each.with_inputs(*each.keys()) for each in examples], stage="corrector"
            )
        except StoppedError:
            raise
        except SGTError as failed:
            raise type(failed)(f"The corrector could not be asked. {failed}") from failed
        return [rollout.output.get(field, "") if rollout.won() else "" for rollout in probe.rollouts]

    def _program(self, signature: type[dspy.Signature]) -> _CorrectorProgram:
        return _CorrectorProgram(signature, self._lm, self._temperature)
