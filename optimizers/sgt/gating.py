"""Sets the thresholds of a gate from validation rollouts. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from optimizers.core.records import Rollout
from optimizers.rollouts.evaluation import Scored
from sgt_modules.gate import Gate

MAX_THRESHOLDS = 64
"""The most thresholds of each sort that are compared."""


@dataclass(frozen=True, slots=True)
class GateExample:
    """One validation example: its net scores with and without its supplement, and the measures of a gate.

    `novelty` in [0, 1] and `logprob` (natural, mean a token) are the worst over the example's calls.
    """

    score: float
    without: float
    novelty: float
    logprob: float


def fit_gate(gate: Gate, examples: Sequence[GateExample]) -> Gate:
    """Set the gate's thresholds to those with the best validation score; a gated example scores as without supplement.

    Among the best, `most_novel` is the strictest, as inputs unlike the training inputs are hardly tested, and
    `least_sure` is the most lenient, as familiar inputs were tested as they are.

    >>> examples = [GateExample(1, 0, 0.1, -0.2), GateExample(0, 1, 0.4, -0.9), GateExample(0, 1, 0.0, -0.7)]
    >>> fit_gate(Gate.of(["a b"]), examples)
    Gate(seen={'a': 1, 'b': 1}, inputs=1, most_novel=0.1, least_sure=-0.2)
    """
    novelties = _thresholds({0.0, *(each.novelty for each in examples)})
    logprobs = _thresholds({-math.inf, *(each.logprob for each in examples)})
    most_novel, least_sure = max(
        itertools.product(novelties, logprobs),
        key=lambda thresholds: (_score(examples, *thresholds), -thresholds[0], -thresholds[1]),
    )
    return replace(gate, most_novel=most_novel, least_sure=least_sure)


def _thresholds(values: set[float]) -> list[float]:
    """The values in order; if there are too many, an evenly spaced part with the first and the last."""
    ordered = sorted(values)
    last, count = len(ordered) - 1, min(len(ordered), MAX_THRESHOLDS)
    return [ordered[round(last * number / max(1, count - 1))] for number in range(count)]


def gate_examples(gate: Gate, aided: Scored, unaided: Iterable[Rollout]) -> list[GateExample]:
    """Compares a stage with no supplements on the same examples, in the same order.

    An example without a reward in either, or for which the generator stayed silent, is left out.
    """
    examples: list[GateExample] = []
    for with_, calls, without in zip(*aided, unaided, strict=True):
        spoken = [call for call in calls if call.supplement]
        if with_.reward is not None and without.reward is not None and spoken:
            novelty = max(gate.novelty(call.prompt) for call in spoken)
            logprob = min(call.logprob for call in spoken)
            score, alone = with_.reward.score - with_.price, without.reward.score - without.price
            examples.append(GateExample(score, alone, novelty, logprob))
    return examples


def _score(examples: Sequence[GateExample], most_novel: float, least_sure: float) -> float:
    return sum(
        each.score if each.novelty <= most_novel and each.logprob >= least_sure else each.without for each in examples
    )
