"""Counts the drafts of a stage that were returned as the answer, and the calls of the actor that this saved."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DraftCount:
    """Calls of a stage in which the generator read a draft, and those in which the draft was the answer.

    >>> print(DraftCount(calls=60, returned=45))
    In 45 of 60 calls (75 %) the draft was the answer, which saves 45 second calls: at inference, a predictor's call \
takes 1.25 actor calls.
    """

    calls: int
    returned: int

    @property
    def share(self) -> float:
        """The share of calls in which the draft was the answer; 0.0 without calls."""
        return self.returned / self.calls if self.calls else 0.0

    @property
    def saved(self) -> int:
        """The second calls of the actor that were not made."""
        return self.returned

    @property
    def actor_calls(self) -> float:
        """The mean of actor calls that one call of a predictor takes at inference: 1 for a draft, 2 with a note."""
        return 2.0 - self.share

    def __str__(self) -> str:
        return (
            f"In {self.returned} of {self.calls} calls ({self.share:.0%}) the draft was the answer, which saves "
            f"{self.saved} second calls: at inference, a predictor's call takes {self.actor_calls:.2f} actor calls."
        ).replace("%", " %")
