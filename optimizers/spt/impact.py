"""Measures the impact of each sentence of a prompt on the score: which prompts to run, and how to compare them. Pure.

prompt -> sentences -> prompts to run -> scores of the same examples -> a `SentenceImpact` a sentence

Source: impact scores of SPT (arXiv 2403.18051); their errors and intervals are ours.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from optimizers.core.clusters import Clusters, estimate_mean, number_clusters
from optimizers.core.statistics import gain_interval

Way = Literal["prefix", "leave-one-out"]
"""`prefix`: the gain of a sentence over those before it; `leave-one-out`: the loss without it."""

Scores = Sequence[float | None]
"""Scores of a prompt on the examples, in their order; None after an outage."""

_MARK = re.compile(r"(?:\n|[ \t]+)?\[impact [^\[\]\n]*\]")


@dataclass(frozen=True, slots=True)
class SentenceImpact:
    """The gain in mean score by a sentence, in [-1, 1], on the examples that were scored with and without it.

    `error` is the standard error of the mean of the paired differences (0.0 for fewer than two examples); `low` and
    `high` are the 95 % interval of [`gain_interval`][optimizers.core.statistics.gain_interval], which is also valid if
    all differences are equal.
    """

    sentence: str
    impact: float
    error: float
    low: float
    high: float
    examples: int

    @property
    def distinguishable(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    @property
    def mark(self) -> str:
        """The text that the corrector reads after the sentence.

        >>> SentenceImpact("Think.", 0.25, 0.1, 0.05, 0.45, 20).mark
        '[impact +0.25 ± 0.10]'
        >>> SentenceImpact("Hi.", 0.05, 0.1, -0.2, 0.2, 20).mark
        '[impact +0.05 ± 0.10, not distinguishable from 0]'
        """
        doubt = "" if self.distinguishable else ", not distinguishable from 0"
        return f"[impact {self.impact:+.2f} ± {self.error:.2f}{doubt}]"


def subsample(count: int, size: int, rng: random.Random) -> list[int]:
    """The positions of at most `size` of `count` examples, in their order.

    >>> subsample(3, 5, random.Random(0)), len(subsample(100, 5, random.Random(0)))
    ([0, 1, 2], 5)
    """
    return list(range(count)) if count <= size else sorted(rng.sample(range(count), size))


def prompts_to_run(parts: Sequence[str], way: Way) -> list[str]:
    """The prompts whose scores give each sentence's impact.

    `prefix`: the empty prompt, then each with one more sentence. `leave-one-out`: the whole prompt, then each without
    one sentence.

    >>> prompts_to_run(["Add. ", "Check."], "prefix")
    ['', 'Add. ', 'Add. Check.']
    >>> prompts_to_run(["Add. ", "Check."], "leave-one-out")
    ['Add. Check.', 'Check.', 'Add. ']
    """
    if way == "prefix":
        return ["".join(parts[:count]) for count in range(len(parts) + 1)]
    return ["".join(parts), *("".join([*parts[:left], *parts[left + 1 :]]) for left in range(len(parts)))]


def compute_impacts(
    parts: Sequence[str], scores: Sequence[Scores], way: Way, clusters: Clusters | None = None
) -> list[SentenceImpact]:
    """Compute each sentence's impact from the scores of `prompts_to_run` on the same examples.

    `clusters` are the examples' own; without them they are independent.

    >>> found = compute_impacts(["Add. ", "Check."], [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, None]], "prefix")
    >>> [(each.impact, round(each.error, 3), each.examples) for each in found]  # .5 +- sqrt(4 * .25 / 3 / 4)
    [(0.5, 0.289, 4), (0.0, 0.0, 3)]
    """
    if len(scores) != len(parts) + 1:
        raise ValueError(f"Expected the scores of {len(parts) + 1} prompts, got those of {len(scores)}.")
    if way == "prefix":
        return [_impact(part, scores[n], scores[n + 1], clusters) for n, part in enumerate(parts)]
    return [_impact(part, scores[n + 1], scores[0], clusters) for n, part in enumerate(parts)]


def _impact(sentence: str, without: Scores, with_it: Scores, clusters: Clusters | None) -> SentenceImpact:
    own = [None] * len(without) if clusters is None else clusters
    known = [(a, b, c) for a, b, c in zip(without, with_it, own, strict=True) if a is not None and b is not None]
    before, after = [a for a, _, _ in known], [b for _, b, _ in known]
    differences, shared = [b - a for a, b, _ in known], [c for _, _, c in known]
    count = len(differences)
    variance = 0.0 if count < 2 else estimate_mean(differences, number_clusters(shared)).variance
    low, high = gain_interval(before, after, clusters=shared)
    mean = sum(differences) / count if count else 0.0
    return SentenceImpact(sentence, mean, math.sqrt(variance), low, high, count)


def annotate(measured: Sequence[SentenceImpact]) -> str:
    """Add its impact after each sentence of the prompt, for the corrector.

    >>> print(annotate([SentenceImpact("Think. ", 0.25, 0.1, 0.05, 0.45, 20), SentenceImpact("Go.", 0, 0, -1, 1, 0)]))
    Think. [impact +0.25 ± 0.10] Go. [impact +0.00 ± 0.00, not distinguishable from 0]
    """
    written: list[str] = []
    for each in measured:
        said = each.sentence.rstrip()
        behind = each.sentence[len(said) :]
        gap = "\n" if said.endswith(("```", "~~~")) and "\n" in said else " "
        written.append(f"{said}{gap}{each.mark}{behind}")
    return "".join(written)


def strip_impacts(prompt: str) -> str:
    """Remove the impacts that a corrector copied into a prompt.

    >>> strip_impacts("Think. [impact +0.25 ± 0.10] Go.")
    'Think. Go.'
    """
    return _MARK.sub("", prompt)


def count_tokens(text: str) -> int:
    """Estimate the tokens of a text, rather too high: a third of its bytes.

    >>> count_tokens("Think before you answer."), count_tokens("请先思考。")
    (8, 5)
    """
    return -(-len(text.encode()) // 3)


def prune_prompt(parts: Sequence[str], known: Mapping[str, float], most: int) -> str:
    """Shorten a prompt to `most` tokens: drops the sentences of the lowest impact, the last one on a tie.

    `known` has impacts by stripped sentence; one without a measurement counts as 0. One sentence always remains.

    >>> parts = ["Add. ", "Never guess. ", "Carry the one. ", "Be nice."]
    >>> prune_prompt(parts, {"Add.": 0.5, "Never guess.": -0.1}, 9)
    'Add. Carry the one.'
    """
    kept = dict(enumerate(parts))
    falling = sorted(kept, key=lambda n: (known.get(kept[n].strip(), 0.0), -n))
    while falling[1:] and count_tokens("".join(kept.values()).strip()) > most:
        del kept[falling.pop(0)]
    return "".join(kept.values()).strip()
