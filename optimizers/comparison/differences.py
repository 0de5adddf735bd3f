"""Differences between two named contenders of a comparison that were planned before any result. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter

from optimizers.comparison.outcomes import TrialOutcome, average_by_example
from optimizers.core.paired_scores import find_paired, pair_scores_by_example
from optimizers.core.statistics import gain_interval, paired_p_value
from optimizers.observe.report.texts import p_text, signed, span

PLANNED = tuple(("sgt", name, "what training adds to exploration's outcomes") for name in ("nearest_winner", "lookup"))
"""Pairs of contenders whose difference a comparison reports where both ran, and what it means."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The gain of one contender over another on the examples for which both have a score, averaged over seeds.

    `interval` is a 95 % interval, `p_value` of a paired test, not adjusted, as the pair was planned.

    >>> Difference("sgt", "lookup", 0.1, (0.05, 0.15), 0.001, 240, "what training adds").words
    'sgt against lookup: +0.100 (0.050-0.150), p .001, on 240 questions: what training adds'
    """

    name: str
    other: str
    gain: float
    interval: tuple[float, float]
    p_value: float
    examples: int
    meaning: str = ""

    @property
    def words(self) -> str:
        """The difference as a sentence."""
        end = f": {self.meaning}" if self.meaning else ""
        return (
            f"{self.name} against {self.other}: {signed(self.gain)} ({span(self.interval)}), p {p_text(self.p_value)}, "
            f"on {self.examples} questions{end}"
        )

    def content(self) -> dict[str, Any]:
        """Returns the difference as JSON."""
        return {**asdict(self), "interval": list(self.interval)}

    @staticmethod
    def read(content: dict[str, Any]) -> Difference:
        """Returns the difference of `content`; raises `ValueError` for another form."""
        return TypeAdapter(Difference).validate_python(content)


def measure_differences(
    outcomes: Sequence[TrialOutcome], clusters: Mapping[str, Hashable | None] | None = None
) -> list[Difference]:
    """Returns the planned differences of which both contenders have scores; `clusters` as for `rank_rows`.

    >>> sgt, lookup = TrialOutcome("sgt", 0, {"x": 1.0, "y": 1.0}), TrialOutcome("lookup", 0, {"x": 0.0, "y": 1.0})
    >>> [each.gain for each in measure_differences([sgt, lookup])], measure_differences([sgt])
    ([0.5], [])
    """
    found: list[Difference] = []
    for name, other, meaning in PLANNED:
        after, before = (
            average_by_example([outcome for outcome in outcomes if outcome.name == each]) for each in (name, other)
        )
        shared = find_paired(before, after)
        if shared:
            first, second = pair_scores_by_example(before, after)
            gain = (sum(second) - sum(first)) / len(shared)
            own = [(clusters or {}).get(each) for each in shared]
            interval = gain_interval(first, second, clusters=own)
            p_value = paired_p_value(first, second, clusters=own)
            found.append(Difference(name, other, gain, interval, p_value, len(shared), meaning))
    return found
