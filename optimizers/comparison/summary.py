"""A run in numbers: `summary.json`, the public format that scripts read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import dspy

from optimizers.core.records import Rollout
from optimizers.core.result import StageResult
from optimizers.core.statistics import mcnemar
from optimizers.rollouts.evaluation import mean_score

Leaks = Callable[[dspy.Example, str], bool]
"""Whether a supplement (as text) holds the gold answer of its example."""


def label_in_supplement(example: dspy.Example, supplement: str) -> bool:
    """Whether any label of the example stands in the supplement as a whole word or phrase, whatever its case.

    >>> example = dspy.Example(question="2+2?", answer="4").with_inputs("question")
    >>> label_in_supplement(example, "[answer] It is 4."), label_in_supplement(example, "[cot] Think of 14.")
    (True, False)
    """
    text = _words(supplement)
    labels = (_words(str(value)) for value in example.labels().toDict().values())
    return any(label.strip() and label in text for label in labels)


def _words(text: str) -> str:
    return f" {' '.join(''.join(each if each.isalnum() else ' ' for each in text.casefold()).split())} "


def kind_shares(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """The share of each kind among the supplements, the most frequent first, rounded to four places."""
    counted = Counter(rollout.supplement.kind for rollout in rollouts)
    return {kind: round(count / len(rollouts), 4) for kind, count in counted.most_common()}


def mean_length(rollouts: Sequence[Rollout]) -> float:
    """The mean length of the supplements as the actor reads them, in characters; an empty one counts as 0."""
    return round(sum(len(each.supplement.render()) for each in rollouts) / len(rollouts), 1) if rollouts else 0.0


def gated_share(rollouts: Sequence[Rollout]) -> float:
    """The share of examples whose supplement a gate dropped."""
    return round(sum(each.source == "gated" for each in rollouts) / len(rollouts), 4) if rollouts else 0.0


def leakage(rollouts: Sequence[Rollout], examples: Sequence[dspy.Example], leaks: Leaks) -> float:
    """The share of supplements that hold their example's gold answer."""
    held = [leaks(examples[rollout.query.index], rollout.supplement.render()) for rollout in rollouts]
    return round(sum(held) / len(held), 4) if held else 0.0


def paired_p_value(before: Sequence[Rollout], after: Sequence[Rollout], threshold: float = 1.0) -> float:
    """Exact McNemar p-value (two-sided) of two stages on the same examples, over those where both have a reward."""
    pairs = [
        (first.won(threshold), second.won(threshold))
        for first, second in zip(before, after, strict=True)
        if first.reward is not None and second.reward is not None
    ]
    gained = sum(second and not first for first, second in pairs)
    lost = sum(first and not second for first, second in pairs)
    return mcnemar(gained, lost)


def scores(splits: Mapping[str, Sequence[Rollout]]) -> dict[str, float]:
    """Mean reward a split, rounded to four places."""
    return {split: round(mean_score(rollouts), 4) for split, rollouts in splits.items()}


def peak_memory(stages: Sequence[StageResult]) -> dict[str, dict[str, float]]:
    """The most megabytes each stage held: of the process in RAM, and of the GPU that held most where one was used."""
    found = {stage.name: stage.memory for stage in stages}
    cuda = {name: peak.cuda_mb for name, peak in found.items() if peak.cuda_mb is not None}
    return {"rss": {name: peak.rss_mb for name, peak in found.items()}, **({"cuda": cuda} if cuda else {})}
