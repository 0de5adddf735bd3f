"""Rollouts of a run that somebody asks for, and a query's winners next to its losers. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from optimizers.observe.report.stage_rollouts import StageRollout
from sgt_modules.errors import SetupError

_LONGEST_POSITION = 7
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SHOWN = ("stage", "kind", "prompt", "supplement", "answer", "feedback", "error")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for; an empty text asks for anything.

    `query` is an example's position or the beginning of a query's id; `reward` is `won`, `lost`, `unanswered`, or two
    numbers such as `0.5:1`, both included; `stage` is a stage (`dpo1`, `warm`) or a stage's split (`dpo1/val`).
    """

    query: str = ""
    kind: str = ""
    reward: str = ""
    stage: str = ""
    text: str = ""
    threshold: float = 1.0

    def of(self, found: Iterable[StageRollout]) -> list[StageRollout]:
        """The rollouts that are asked for, in their order. Raises `SetupError` for a reward that is none.

        >>> one = StageRollout("warm", "train", "free", "cot", "4fe1", 3, "self", "2+2?", "[cot]", "", "4", 1.0, "", "")
        >>> [len(Wanted(query=query, reward="0.5:1").of([one])) for query in ("3", "4fe1", "5")]
        [1, 1, 0]
        """
        low, high = self._bounds()
        return [each for each in found if self._fits(each) and self._rewarded(each, low, high)]

    def _fits(self, each: StageRollout) -> bool:
        position = self.query.isdigit() and len(self.query) <= _LONGEST_POSITION
        words = (each.prompt, each.supplement, each.answer, each.feedback, each.error)
        return (
            (not self.query or (each.position == int(self.query) if position else each.query.startswith(self.query)))
            and self.kind in ("", each.kind)
            and self.stage in ("", each.stage, f"{each.stage}/{each.split}")
            and (not self.text or any(self.text.casefold() in word.casefold() for word in words))
        )

    def _rewarded(self, each: StageRollout, low: float, high: float) -> bool:
        match self.reward:
            case "":
                return True
            case "unanswered":
                return each.score is None
            case "won":
                return each.score is not None and each.score >= self.threshold
            case "lost":
                return each.score is not None and each.score < self.threshold
            case _:
                return each.score is not None and low <= each.score <= high

    def _bounds(self) -> tuple[float, float]:
        if self.reward in ("", "won", "lost", "unanswered"):
            return 0.0, 1.0
        low, _, high = self.reward.partition(":")
        try:
            return float(low), float(high)
        except ValueError:
            raise SetupError(
                f"Expected a reward as won, lost, unanswered or two numbers such as 0.5:1, got {self.reward!r}."
            ) from None


def sides(found: Iterable[StageRollout], threshold: float) -> tuple[list[StageRollout], list[StageRollout]]:
    """Distinct winners and losers among supplements, no supplement included; one without a reward is neither."""
    distinct = {(each.query, each.supplement): each for each in found if each.score is not None}
    winners = [each for each in distinct.values() if each.score is not None and each.score >= threshold]
    losers = [each for each in distinct.values() if each.score is not None and each.score < threshold]
    return winners, losers


def strip_rollout(each: StageRollout) -> StageRollout:
    """The rollout without what a terminal would take for a command.

    >>> one = StageRollout("warm", "train", "free", "cot", "4fe1", 3, "self", "?", "\\x1b[2Jgone", "", "4", 1.0, "", "")
    >>> strip_rollout(one).supplement
    '�[2Jgone'
    """
    return replace(each, **{name: strip_commands(getattr(each, name)) for name in _SHOWN})


def strip_commands(text: str) -> str:
    """A text without what a terminal would take for a command; line ends stay."""
    return _CONTROL.sub("\ufffd", text)


def as_rows(found: Sequence[StageRollout]) -> list[dict[str, Any]]:
    """The rollouts as JSON holds them."""
    return [asdict(each) for each in found]
