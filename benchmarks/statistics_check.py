"""Coverage of the 95 % intervals, false positives and power of the tests, on simulated clustered questions.

    python benchmarks/statistics_check.py                # the tables of docs/statistics.md, a few minutes on one core
    python benchmarks/statistics_check.py --trials 300   # rougher, in less than a minute
    python benchmarks/statistics_check.py --tables seeds # one of the tables: clusters, intervals or seeds

A design has seeds, clusters (terms) within a seed, and questions within a cluster. A cluster's chance of a right answer
is drawn from a beta distribution, so that answers within a cluster have the design's intraclass correlation; with
`of_seeds` above 0, a seed's mean chance is drawn likewise. Contenders that are compared have independent chances: under
the null hypothesis their means are equal, but whole clusters differ. Every table also shows the simulation's own error.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from optimizers.core.statistics import (
    SeedTest,
    compare_seeds,
    gain_interval,
    mean_interval,
    paired_p_value,
    smallest_difference,
)

Scores = NDArray[np.float64]
"""Right (1) or wrong (0) answers: seeds x clusters x questions."""

Interval = Callable[[Scores], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Design:
    """Seeds, clusters in each, questions in each, and the correlation of answers within clusters and within seeds."""

    seeds: int
    clusters: int
    questions: int
    correlation: float
    of_seeds: float = 0.0

    def __str__(self) -> str:
        seeds = f", within seeds {self.of_seeds:g}" if self.of_seeds else ""
        return f"{self.seeds} x {self.clusters} x {self.questions}, correlation {self.correlation:g}{seeds}"

    @property
    def labels(self) -> list[int]:
        """The cluster of each question."""
        return [number for number in range(self.seeds * self.clusters) for _ in range(self.questions)]

    def draw(self, mean: float, rng: np.random.Generator) -> Scores:
        """Draws one contender's answers, with this expected share of right ones."""
        means = _draw_chances(np.full((self.seeds, 1, 1), mean), self.of_seeds, rng)
        chances = _draw_chances(np.repeat(means, self.clusters, axis=1), self.correlation, rng)
        return (rng.random((self.seeds, self.clusters, self.questions)) < chances).astype(np.float64)


def _draw_chances(means: Scores, correlation: float, rng: np.random.Generator) -> Scores:
    if not correlation:
        return means
    scale, inner = 1 / correlation - 1, np.clip(means, 1e-3, 1 - 1e-3)
    return rng.beta(inner * scale, (1 - inner) * scale)


DESIGNS = tuple(
    Design(seeds, clusters, questions, correlation)
    for seeds, clusters, questions in ((3, 20, 9), (5, 20, 9), (1, 30, 9), (1, 30, 2))
    for correlation in (0.0, 0.5)
)
"""Terms of three and of five worlds, and thirty databases or queries; without and with a strong correlation."""

SHARES = (0.3, 0.5, 0.8)
"""The true shares of right answers, in turn."""


def cover_means(
    design: Design, interval: Interval, trials: int, rng: np.random.Generator, shares: Sequence[float]
) -> float:
    """Returns how often an interval holds the true mean."""
    held = 0
    for trial in range(trials):
        share = shares[trial % len(shares)]
        low, high = interval(design.draw(share, rng))
        held += low <= share <= high
    return held / trials


def draw_pairs(
    design: Design, trials: int, rng: np.random.Generator, *, gain: float = 0.0
) -> Iterator[tuple[float, list[float], list[float]]]:
    """Yields the true gain and both contenders' answers; the first one's share is .3, or .3 and .5 in turn."""
    for trial in range(trials):
        share = (0.3, 0.5)[trial % 2]
        before, after = design.draw(share, rng), design.draw(share + gain, rng)
        yield gain, before.ravel().tolist(), after.ravel().tolist()


def cover_gains(design: Design, trials: int, rng: np.random.Generator, *, clustered: bool = True) -> float:
    """Returns how often the interval holds the true gain, which is 0 or .3."""
    held, clusters = 0, design.labels if clustered else None
    for gain in (0.0, 0.3):
        for truth, before, after in draw_pairs(design, trials // 2, rng, gain=gain):
            low, high = gain_interval(before, after, clusters=clusters)
            held += low <= truth <= high
    return held / (2 * (trials // 2))


def count_false_positives(design: Design, trials: int, rng: np.random.Generator, *, clustered: bool = True) -> float:
    """Returns the share of null comparisons with a p-value below .05."""
    clusters = design.labels if clustered else None
    pairs = draw_pairs(design, trials, rng)
    return sum(paired_p_value(before, after, clusters=clusters) < 0.05 for _, before, after in pairs) / trials


def measure_power(design: Design, trials: int, rng: np.random.Generator) -> tuple[float, float]:
    """Returns the typical smallest difference that a design can see, and how often such a true gain is found."""
    clusters = design.labels
    seen = [smallest_difference(before, after, clusters=clusters) for _, before, after in draw_pairs(design, 200, rng)]
    gain = median(each for each in seen if each is not None)
    pairs = draw_pairs(design, trials, rng, gain=gain)
    return gain, sum(paired_p_value(before, after, clusters=clusters) < 0.05 for _, before, after in pairs) / trials


def simulate_seed_tests(design: Design, trials: int, rng: np.random.Generator, *, gain: float = 0.0) -> list[SeedTest]:
    """Tests contenders by their means of each seed."""
    found: list[SeedTest] = []
    for trial in range(trials):
        share = (0.3, 0.5)[trial % 2]
        apart = design.draw(share + gain, rng).mean(axis=(1, 2)) - design.draw(share, rng).mean(axis=(1, 2))
        found.append(compare_seeds(apart.tolist()))
    return found


def bootstrap(levels: Sequence[bool], rng: np.random.Generator, *, samples: int = 200) -> Interval:
    """Returns a percentile bootstrap that resamples seeds, clusters within, and questions within, as `levels` says."""

    def interval(scores: Scores) -> tuple[float, float]:
        seeds, clusters, questions = scores.shape
        shapes = ((samples, seeds, 1, 1), (samples, seeds, clusters, 1), (samples, seeds, clusters, questions))
        drawn = [
            rng.integers(0, size, shape)
            if resampled
            else np.arange(size).reshape([-1 if n == at else 1 for n in range(4)])
            for at, (resampled, size, shape) in enumerate(zip(levels, scores.shape, shapes, strict=True), start=1)
        ]
        means = scores[drawn[0], drawn[1], drawn[2]].mean(axis=(1, 2, 3))
        low, high = np.quantile(means, [0.025, 0.975])
        return float(low), float(high)

    return interval


def clustered_interval(design: Design) -> Interval:
    """Returns the package's interval with the design's clusters."""
    labels = design.labels
    return lambda scores: mean_interval(scores.ravel().tolist(), clusters=labels)


def independent_interval(scores: Scores) -> tuple[float, float]:
    """The package's interval as if every question were independent."""
    return mean_interval(scores.ravel().tolist())


def seed_interval(scores: Scores) -> tuple[float, float]:
    """Student's t over the means of the seeds."""
    return compare_seeds(scores.mean(axis=(1, 2)).tolist()).interval


def error_of(share: float, trials: int) -> float:
    """Returns the standard error of a simulated share."""
    return math.sqrt(share * (1 - share) / trials)


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows as Markdown, each when it is known."""
    print(f"\n| {' | '.join(head)} |\n|---|{'---:|' * (len(head) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def _format(share: float) -> str:
    return f"{share:.1%}"


def print_cluster_checks(trials: int, rng: np.random.Generator) -> None:
    """Print coverage, false positives and power of what the package uses, with and without clusters."""

    def rows() -> Iterator[list[str]]:
        for design in DESIGNS:
            gain, power = measure_power(design, trials, rng)
            figures = (
                cover_means(design, clustered_interval(design), trials, rng, SHARES),
                cover_means(design, independent_interval, trials, rng, SHARES),
                cover_gains(design, trials, rng),
                cover_gains(design, trials, rng, clustered=False),
                count_false_positives(design, trials, rng),
                count_false_positives(design, trials, rng, clustered=False),
            )
            yield [str(design), *map(_format, figures), f"{gain:.3f}", _format(power)]

    print_table(
        (
            "seeds x clusters x questions",
            "score's interval holds it",
            "as if independent",
            "gain's interval holds it",
            "as if independent",
            "false positives",
            "as if independent",
            "smallest gain seen",
            "found",
        ),
        rows(),
    )


def print_intervals(trials: int, rng: np.random.Generator) -> None:
    """Print the coverage of several intervals for a mean, also near 1 and with a correlation within seeds."""

    def rows() -> Iterator[list[str]]:
        for design in (*DESIGNS[:6], Design(3, 20, 9, 0.5, 0.1), Design(8, 20, 9, 0.5, 0.1)):
            for shares in (SHARES, (0.95,)) if design.correlation else (SHARES,):
                boots = ((True, True, True), (True, True, False), (False, True, True), (False, True, False))
                intervals = [clustered_interval(design), *(bootstrap(levels, rng) for levels in boots)]
                if design.seeds > 1:
                    intervals.append(seed_interval)
                coverage = [_format(cover_means(design, each, trials, rng, shares)) for each in intervals]
                coverage += [""] * (6 - len(coverage))
                yield [str(design), ", ".join(f"{share:g}" for share in shares), *coverage]

    names = ("seeds, clusters, questions", "seeds, clusters", "clusters, questions", "clusters")
    print_table(
        ("design", "true score", "used here", *(f"bootstrap of {name}" for name in names), "t over seeds"), rows()
    )


def print_seed_checks(trials: int, rng: np.random.Generator) -> None:
    """Print false positives and coverage of the paired test by seed."""

    def rows() -> Iterator[list[str]]:
        for seeds in (3, 5, 8, 12):
            for of_seeds in (0.0, 0.1):
                design = Design(seeds, 8, 5, 0.5, of_seeds)
                tests = simulate_seed_tests(design, trials, rng)
                false = sum(each.p_value < 0.05 for each in tests) / trials
                held = sum(each.interval[0] <= 0 <= each.interval[1] for each in tests) / trials
                gain = median(each.smallest for each in tests if each.smallest is not None)
                real = simulate_seed_tests(design, trials, rng, gain=gain) if gain <= LARGEST_GAIN else []
                found = _format(sum(each.p_value < 0.05 for each in real) / trials) if real else ""
                yield [str(design), _format(false), _format(held), f"{gain:.3f}", found]

    print_table(("design", "false positives", "interval holds 0", "smallest difference seen", "found"), rows())


LARGEST_GAIN = 0.45
"""A larger gain does not fit above the simulated scores."""

TABLES: Mapping[str, tuple[Callable[[int, np.random.Generator], None], int]] = {
    "clusters": (print_cluster_checks, 1),
    "intervals": (print_intervals, 4),
    "seeds": (print_seed_checks, 1),
}
"""What prints each table, and by how much to divide the number of simulations: a bootstrap takes long."""


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2_000, help="simulations for each figure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    options = parser.parse_args()
    for name in options.tables:
        show, divisor = TABLES[name]
        trials = max(1, options.trials // divisor)
        error, wider = error_of(0.95, trials), error_of(0.8, trials)
        print(f"\n{name}: {trials:,} simulations a figure, seed {options.seed}; standard error {error:.1%} ", end="")
        print(f"at 5 % and 95 %, {wider:.1%} at 80 %.")
        show(trials, np.random.default_rng([options.seed, list(TABLES).index(name) + 1]))


if __name__ == "__main__":
    main()
