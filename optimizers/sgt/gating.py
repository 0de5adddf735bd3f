"""Validation rollouts -> a gate's thresholds: how far supplements may be trusted. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from optimizers.core.records import Rollout
from optimizers.rollouts.evaluation import Scored
from sgt_modules.gate import Gate

MAX_THRESHOLDS = 64
"""The most thresholds of either sort that are compared."""


@dataclass(frozen=True, slots=True)
class GateExample:
    """One validation example with and without its supplement: both scores in [0, 1], and what a gate looks at.

    `novelty` in [0, 1] and `logprob` (natural, mean a token) are the worst of the example's calls.
    """

    score: float
    without: float
    novelty: float
    logprob: float


def fit_gate(gate: Gate, judged: Sequence[GateExample]) -> Gate:
    """The gate with its thresholds set: none of them costs anything on validation.

    What is unlike the training inputs has little to say for it, so `most_novel` is the strictest threshold that scores
    best, a gated example scoring as without supplement. What is familiar has been validated as it is, so `least_sure`
    is the most lenient one that scores best.

    >>> fit_gate(Gate.of(["a b"]), [GateExample(1, 0, 0.1, -0.2), GateExample(0, 1, 0.4, -0.9), GateExample(0, 1, 0.0, -0.7)])
    Gate(seen={'a': 1, 'b': 1}, inputs=1, most_novel=0.1, least_sure=-0.2)
    """
    novelties = _thresholds({0.0, *(each.novelty for each in judged)})
    logprobs = _thresholds({-math.inf, *(each.logprob for each in judged)})
    most_novel, least_sure = max(
        itertools.product(novelties, logprobs), key=lambda bars: (_score(judged, *bars), -bars[0], -bars[1])
    )
    return replace(gate, most_novel=most_novel, least_sure=least_sure)


def _thresholds(values: set[float]) -> list[float]:
    """The values in order; of very many, some that are spread evenly over them, the first and last included."""
    ordered = sorted(values)
    last, count = len(ordered) - 1, min(len(ordered), MAX_THRESHOLDS)
    return [ordered[round(last * number / max(1, count - 1))] for number in range(count)]


def gate_examples(gate: Gate, aided: Scored, unaided: Iterable[Rollout]) -> list[GateExample]:
    """A stage beside no supplements, on the same examples in the same order.

    An example without a reward in either is left out, and so is one for which the generator stayed silent.
    """
    found: list[GateExample] = []
    for with_, calls, without in zip(*aided, unaided, strict=True):
        spoken = [call for call in calls if call.supplement]
        if with_.reward is not None and without.reward is not None and spoken:
            novelty = max(gate.novelty(call.prompt) for call in spoken)
            logprob = min(call.logprob for call in spoken)
            found.append(GateExample(with_.reward.score, without.reward.score, novelty, logprob))
    return found


def _score(judged: Sequence[GateExample], most_novel: float, least_sure: float) -> float:
    return sum(
        each.score if each.novelty <= most_novel and each.logprob >= least_sure else each.without for each in judged
    )
