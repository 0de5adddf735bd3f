"""Rollouts of stages -> the figures of a report: scores with intervals, kinds, lengths, and what turned. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from optimizers.core.clusters import count_clusters
from optimizers.core.paired_scores import find_paired, pair_scores_by_example
from optimizers.core.statistics import gain_interval, mean_interval, paired_p_value
from optimizers.observe.report.stage_rollouts import StageRollout, first_on_split

NONE = "none"
"""The stage and the kind of no supplement."""

BASELINES = (NONE, "student")
"""What a stage is measured against: no supplement, or in a run that rewrites prompts the student's own."""

BINS = 8
"""Groups of supplements by length, besides the empty ones."""

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class StageScore:
    """A stage on a split: its mean score in [0, 1] with a 95 % interval, over the questions with a reward.

    `gain`, with its interval and p-value, is against the baseline on the questions that both answered; all three are
    None for the baseline itself, and where there is none. `right` and `wrong` count the questions that turned,
    `clusters` the clusters of all.
    """

    stage: str
    score: float
    interval: Interval
    questions: int
    unanswered: int
    gain: float | None = None
    gain_interval: Interval | None = None
    p_value: float | None = None
    right: int = 0
    wrong: int = 0
    clusters: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """Rollouts that share something, such as a kind or a length: how many, their mean score and its 95 % interval."""

    name: str
    runs: int
    score: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Flipped:
    """Positions, in what was met, of a question's rollout before and after: those that turned right, and wrong."""

    right: Sequence[tuple[int, int]]
    wrong: Sequence[tuple[int, int]]


def splits_of(found: Iterable[StageRollout]) -> list[str]:
    """The splits on which stages and a baseline are scored, the most telling first: test, validation, the others."""
    named = list(dict.fromkeys(each.split for each in found if each.stage in BASELINES and each.split != "train"))
    return sorted(named, key=lambda name: {"test": 0, "val": 1}.get(name, 2))


def stage_scores(
    found: Sequence[StageRollout], split: str, *, threshold: float = 1.0, clusters: Sequence[int] = ()
) -> list[StageScore]:
    """Every stage on a split, in the order in which they were scored there.

    `clusters` has the number of each question's cluster by its position; without them questions are independent.

    >>> one = StageRollout("none", "val", "none", "none", "q", 0, "self", "2+2?", "", "", "5", 0.0, "", "")
    >>> from dataclasses import replace
    >>> after = replace(one, stage="sft", source="direct", kind="cot", answer="4", score=1.0)
    >>> [(each.stage, each.score, each.gain, each.right) for each in stage_scores([one, after], "val")]
    [('none', 0.0, None, 0), ('sft', 1.0, 1.0, 1)]
    """
    stages: dict[str, dict[int, float | None]] = {}
    for each in first_on_split(found, split):
        stages.setdefault(each.stage, {})[each.position] = each.score
    base = baseline_of(stages)
    ordered = sorted(stages, key=lambda name: (name != base, name != "untrained"))
    of_position = dict(enumerate(clusters))
    return [
        _score(name, stages[name], stages[base] if base and name != base else None, threshold, of_position)
        for name in ordered
    ]


def baseline_of(stages: Iterable[str]) -> str:
    """What the others are measured against; empty where no stage is it."""
    known = set(stages)
    return next((name for name in BASELINES if name in known), "")


def _score(
    stage: str,
    scores: Mapping[int, float | None],
    base: Mapping[int, float | None] | None,
    threshold: float,
    of_position: Mapping[int, int],
) -> StageScore:
    known = {position: score for position, score in scores.items() if score is not None}
    mean = sum(known.values()) / len(known) if known else 0.0
    own = [of_position.get(position) for position in known]
    interval = mean_interval(list(known.values()), clusters=own)
    row = (stage, mean, interval, len(known), len(scores) - len(known))
    before, after = ([], []) if base is None else pair_scores_by_example(base, scores)
    if not before:
        return StageScore(*row, clusters=count_clusters(own))
    shared = [of_position.get(position) for position in find_paired(base or {}, scores)]
    return StageScore(
        *row,
        gain=(sum(after) - sum(before)) / len(before),
        gain_interval=gain_interval(before, after, clusters=shared),
        p_value=paired_p_value(before, after, clusters=shared),
        right=sum(one < threshold <= other for one, other in zip(before, after, strict=True)),
        wrong=sum(other < threshold <= one for one, other in zip(before, after, strict=True)),
        clusters=count_clusters(own),
    )


def best_stage(scores: Sequence[StageScore]) -> str:
    """The stage that validation selects: the best gain, the gated one on a tie, else the earliest; empty for none.

    Where there is no baseline, the best score.
    """
    chosen = [each for each in scores if each.stage != "untrained"]
    measured = any(each.gain is not None for each in chosen)
    ranked = [
        (each.gain or 0.0 if measured else each.score, each.stage == "gated", -n) for n, each in enumerate(chosen)
    ]
    return chosen[-max(ranked)[-1]].stage if chosen else ""


def kind_shares(found: Sequence[StageRollout], split: str, stages: Sequence[str]) -> dict[str, dict[str, float]]:
    """The share of each kind by stage on a split, the most frequent kind of all stages first."""
    counted = {stage: Counter[str]() for stage in stages if stage != NONE}
    for each in first_on_split(found, split):
        if each.stage in counted:
            counted[each.stage][each.kind] += 1
    ranked = [kind for kind, _ in sum(counted.values(), Counter[str]()).most_common()]
    return {
        stage: {kind: own[kind] / own.total() for kind in ranked if own[kind]}
        for stage, own in counted.items()
        if own.total() and set(own) != {NONE}
    }


def success_by_kind(found: Iterable[StageRollout]) -> list[Group]:
    """How supplements of each kind fared, the most frequent kind first; one without a reward counts nowhere."""
    return grouped((each.kind, each.score, each.query) for each in found if each.score is not None)


def grouped(scores: Iterable[tuple[str, float, Hashable]]) -> list[Group]:
    """Scores by name, the most frequent name first; each comes with its question, whose runs are a cluster.

    >>> found = grouped([("cot", 1.0, 0), ("pairs", 1.0, 0), ("cot", 0.0, 1)])
    >>> [(each.name, each.runs, each.score) for each in found]
    [('cot', 2, 0.5), ('pairs', 1, 1.0)]
    """
    of_name: dict[str, list[tuple[float, Hashable]]] = {}
    for name, score, question in scores:
        of_name.setdefault(name, []).append((score, question))
    return [_group(name, own) for name, own in sorted(of_name.items(), key=lambda one: (-len(one[1]), one[0]))]


def reward_by_length(found: Iterable[StageRollout]) -> list[Group]:
    """How supplements fared by their length in characters: the empty ones, then `BINS` groups of about equal size."""
    scored = sorted((len(each.supplement), each.score, each.query) for each in found if each.score is not None)
    empty = [(score, query) for length, score, query in scored if not length]
    spoken = [each for each in scored if each[0]]
    edges = sorted({spoken[len(spoken) * part // BINS][0] for part in range(BINS)} if spoken else set[int]())
    groups = [_group("0", empty)] if empty else []
    for number, low in enumerate(edges):
        end = edges[number + 1] if number + 1 < len(edges) else spoken[-1][0] + 1
        name = str(low) if end - 1 == low else f"{low}-{end - 1}"
        groups.append(_group(name, [(score, query) for length, score, query in spoken if low <= length < end]))
    return groups


def _group(name: str, found: Sequence[tuple[float, Hashable]]) -> Group:
    scores, questions = [score for score, _ in found], [question for _, question in found]
    return Group(name, len(scores), sum(scores) / len(scores), mean_interval(scores, clusters=questions))


def flipped(found: Sequence[StageRollout], split: str, stage: str, *, threshold: float = 1.0) -> Flipped:
    """Which questions of a split turned between the baseline and a stage."""
    places: dict[str, dict[int, int]] = {}
    for number, each in enumerate(found):
        if each.split == split:
            places.setdefault(each.stage, {}).setdefault(each.position, number)
    before, after = places.get(baseline_of(places), {}), places.get(stage, {})
    right: list[tuple[int, int]] = []
    wrong: list[tuple[int, int]] = []
    for position, first in before.items():
        second = after.get(position, first)
        one, other = found[first].score, found[second].score
        if one is not None and other is not None and (one >= threshold) != (other >= threshold):
            (right if other >= threshold else wrong).append((first, second))
    return Flipped(right, wrong)
