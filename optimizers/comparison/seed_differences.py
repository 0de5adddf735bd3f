"""Compares contenders with a reference, such as `sgt`, by their scores of each seed: a paired test over seeds. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from optimizers.core.statistics import LEVEL, SeedTest, compare_seeds, holm
from optimizers.observe.report.texts import p_text

REFERENCE = "sgt"
"""The contender with which the others are compared by seed."""

ENOUGH_SEEDS = 8
"""With fewer seeds nothing is claimed: the test is right, but can hardly see a difference."""

SEED_COLUMNS = ("contender", "seeds", "difference", "sd", "95 %", "p", "p adjusted", "sees", "shown")
"""The columns of the table of differences by seed."""

SEED_LEGEND = (
    f"Differences are to {REFERENCE}, paired by seed: the mean over the seeds, its sample standard deviation, and "
    "Student's t interval and test, so that they hold for other seeds as well. p adjusted is by Holm's method over the "
    "table. sees is the smallest difference that these seeds can show, with 80 % power at 5 %. A contender counts as "
    f"lower or higher only with at least {ENOUGH_SEEDS} seeds and an adjusted p below {LEVEL:g}."
)


@dataclass(frozen=True, slots=True)
class SeedDifference:
    """A contender's score minus the reference's, paired by seed, with the p-value adjusted by Holm's method.

    For a reference with a part that the contender lacks, the part is needed here if `shown` is `lower`.
    """

    name: str
    test: SeedTest
    adjusted: float

    @property
    def shown(self) -> str:
        """What the test shows: `lower`, `higher`, `no difference`, or `too few seeds`."""
        if self.test.seeds < ENOUGH_SEEDS:
            return "too few seeds"
        if self.adjusted >= LEVEL:
            return "no difference"
        return "lower" if self.test.difference < 0 else "higher"

    @property
    def cells(self) -> list[str]:
        """The texts of the row, in the order of `SEED_COLUMNS`."""
        test, (low, high) = self.test, self.test.interval
        return [
            self.name,
            str(test.seeds),
            f"{test.difference:+.3f}",
            f"{test.deviation:.3f}",
            f"{low:+.3f}..{high:+.3f}",
            p_text(test.p_value),
            p_text(self.adjusted),
            "" if test.smallest is None else f"{test.smallest:.3f}",
            self.shown,
        ]

    def content(self) -> dict[str, Any]:
        """Returns the difference as JSON."""
        return {"name": self.name, **asdict(self.test), "adjusted": self.adjusted, "shown": self.shown}


def compare_by_seed(by_seed: Mapping[str, Mapping[int, float]], reference: str = REFERENCE) -> Sequence[SeedDifference]:
    """Compares every contender with the reference on the seeds that both have; empty with fewer than two such seeds.

    >>> scores = {"sgt": {0: 0.9, 1: 0.8}, "sgt_without_sft": {0: 0.6, 1: 0.6}}
    >>> [(each.name, round(each.test.difference, 3), each.shown) for each in compare_by_seed(scores)]
    [('sgt_without_sft', -0.25, 'too few seeds')]
    """
    base = by_seed.get(reference, {})
    others = {name: own for name, own in by_seed.items() if name != reference}
    return compare_figures(
        {name: [own[seed] - base[seed] for seed in base if seed in own] for name, own in others.items()}
    )


def compare_figures(differences: Mapping[str, Sequence[float]]) -> Sequence[SeedDifference]:
    """Tests one family of named differences, each with a value for every seed; skips those of fewer than two seeds.

    >>> [each.shown for each in compare_figures({"score": [-0.3, -0.2, -0.3, -0.25, -0.2, -0.3, -0.3, -0.2]})]
    ['lower']
    """
    tests = {name: compare_seeds(own) for name, own in differences.items() if len(own) > 1}
    adjusted = holm([test.p_value for test in tests.values()])
    return tuple(SeedDifference(name, test, p) for (name, test), p in zip(tests.items(), adjusted, strict=True))


def seed_table(differences: Sequence[SeedDifference]) -> str:
    """Returns the differences as a Markdown table with its legend; empty without any."""
    if not differences:
        return ""
    head = [f"| {' | '.join(SEED_COLUMNS)} |", f"|---|{'---:|' * (len(SEED_COLUMNS) - 1)}"]
    return "\n".join([*head, *(f"| {' | '.join(each.cells)} |" for each in differences), "", SEED_LEGEND])
