"""Settings of a run of the nearest winner: those of SGT's exploration, a lookup's own, and no trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import dspy

from optimizers.run_options import Examples
from optimizers.sgt.settings import SGTSettings
from optimizers.training.trainer import Trainer
from sgt_modules.generator import SupplementGenerator
from sgt_modules.winner_lookup import WinnerLookup

if TYPE_CHECKING:
    from optimizers.core.estimate import Estimate
    from optimizers.core.events import Plan

NEIGHBOURS = (1, 2, 4, 8, 16)
"""The numbers of neighbours among which validation chooses."""

NEAREST = "nearest"
"""The stage of a lookup, next to `none`."""

METHOD = "nearest winner"
"""What `run.json` says of such a run, as no other run goes on in its folder."""


class NoTraining:
    """The trainer of a method that trains nothing.

    >>> isinstance(NoTraining().settings, str)
    True
    """

    settings = "none"

    def sft(self, *_: Any, **__: Any) -> NoReturn:
        """Raise `AssertionError`: nobody asks."""
        raise AssertionError("nothing is trained")

    dpo = grpo = sft


@dataclass(frozen=True, slots=True, kw_only=True)
class NearestSettings(SGTSettings):
    """The options of `NearestWinner`, which documents them."""

    neighbours: Sequence[int] = NEIGHBOURS

    def trainer_or_default(self) -> Trainer:
        """The trainer that is never asked."""
        return NoTraining()

    @property
    def asks_generator(self) -> bool:
        """Whether exploration asks a model; else it has given texts or a log."""
        return not isinstance(self.generator.engine, WinnerLookup)

    @property
    def explores(self) -> bool:
        """Whether exploration tries supplements; else a log is all that there is."""
        return self.asks_generator or self.recipe.closed

    def prepare(self, student: dspy.Module, trainset: Examples, valset: Examples) -> dspy.Module:
        """Check the generator, trainable or not, and the log, and return the student's wrapped copy."""
        self.generator.check()
        wrapped = self.wrap(student)
        self.check_log(wrapped, trainset, valset)
        return wrapped

    def must_match_on_resume(self, trainset: Examples, valset: Examples) -> dict[str, object]:
        """Settings in `run.json` that must be the same when a run goes on in its folder."""
        own: dict[str, object] = {"method": METHOD, "neighbours": list(self.neighbours)}
        return {**SGTSettings.must_match_on_resume(self, trainset, valset), **own}

    def planned(self, student: dspy.Module, train: int, validation: int) -> Plan:
        """The expected steps of a run on so many examples."""
        from optimizers.core.events import Plan, Step

        stages = self.estimate(student, train, validation).stages
        return Plan([Step(each.name, each.actor_calls, each.samples) for each in stages], self.recipe.threshold)

    def estimate(self, student: dspy.Module, train: int, validation: int) -> Estimate:
        """The expected calls: of the student, SGT's exploration, and validation for each number of neighbours."""
        from optimizers.core.estimate import Estimate, StageEstimate
        from optimizers.core.stages import pool_name
        from optimizers.sgt.estimate import estimate_sgt

        came = self.list_stages_as_they_came(student)
        sizes = {"train": train, "validation": validation}
        whole = estimate_sgt(self.recipe, **sizes, epochs=(1, 1), probe=None, as_it_came=came)
        pools = (pool_name(0), pool_name(1)) if self.explores else ()
        kept = [each for each in whole.stages if each.name in ("none", *came, *pools)]
        runs = validation * len(self.neighbours)
        return Estimate([*kept, StageEstimate(NEAREST, actor_calls=runs, at_most=runs)])


def without_model(like: SupplementGenerator | None) -> SupplementGenerator:
    """Return a generator that finds nothing, which writes the prompts that `like` writes."""
    empty = WinnerLookup()
    if like is None:
        return SupplementGenerator(empty)
    return SupplementGenerator(empty, prompt=like.prompt, max_prompt_tokens=like.max_prompt_tokens)
