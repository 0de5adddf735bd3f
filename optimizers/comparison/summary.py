"""`summary.json`, the public format of a run that scripts read: the figures, and the whole of an SGT run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dspy

from optimizers.comparison.control_rows import Controls
from optimizers.comparison.setup import Problem
from optimizers.core.paired_scores import pair_rewards
from optimizers.core.peak_memory import MARK
from optimizers.core.records import Rollout
from optimizers.core.result import SGTResult, StageResult
from optimizers.core.statistics import mcnemar
from optimizers.rollouts.evaluation import mean_score

Leaks = Callable[[dspy.Example, str], bool]
"""Whether a supplement (as text) contains the gold answer of its example."""


def contains_label(example: dspy.Example, supplement: str) -> bool:
    """Whether a supplement contains a label of the example as a whole word or phrase; case does not matter.

    >>> example = dspy.Example(question="2+2?", answer="4").with_inputs("question")
    >>> contains_label(example, "[answer] It is 4."), contains_label(example, "[cot] Think of 14.")
    (True, False)
    """
    text = _normalize(supplement)
    labels = (_normalize(str(value)) for value in example.labels().toDict().values())
    return any(label.strip() and label in text for label in labels)


def _normalize(text: str) -> str:
    """Folds the case, and separates words by single spaces, with one at each end."""
    return f" {' '.join(''.join(each if each.isalnum() else ' ' for each in text.casefold()).split())} "


def summarize_run(
    result: SGTResult,
    controls: Controls,
    problem: Problem,
    *,
    task: str,
    seed: int,
    actor: str,
    leaks: Leaks = contains_label,
) -> dict[str, Any]:
    """Returns an SGT run and its controls in the public format of `docs/run-folder.md`."""
    test = _select_stages(result, controls)
    spent = result.spent
    helped = {name: rollouts for name, rollouts in test.items() if name != "none"}
    scores: dict[str, dict[str, float]] = {
        name: compute_mean_scores({"test": rollouts}) for name, rollouts in test.items()
    }
    for stage in result.stages:
        scores[stage.name] = compute_mean_scores({"val": stage.rollouts}) | scores.get(stage.name, {})
    return {
        "task": task,
        "seed": seed,
        "actor": actor,
        "generator": result.generator.name,
        "splits": {"train": len(problem.trainset), "val": len(problem.valset), "test": len(problem.testset)},
        "scores": scores,
        "selected": result.selected,
        "p_value": {
            name: compute_mcnemar_p(test[name], controls.scored["selected"]) for name in ("none", "sft") if name in test
        },
        "kinds": {name: compute_kind_shares(rollouts) for name, rollouts in helped.items()},
        "leakage": {name: compute_leak_share(rollouts, problem.testset, leaks) for name, rollouts in helped.items()},
        "controls": {
            row.name: {"score": row.score, "gain": row.gain, "interval": row.gain_interval, "p_value": row.p_none}
            for row in controls.rows
            if not row.skipped
        },
        "actor_calls": spent.actor_calls,
        "generator_calls": spent.generator_calls,
        "tokens": spent.tokens,
        "seconds": spent.seconds.rounded(),
        "peak_rss_mb": MARK.highest,
        "peak_mb": collect_peak_memory(result.stages),
        "notes": list(result.notes),
    }


def _select_stages(result: SGTResult, controls: Controls) -> Mapping[str, Sequence[Rollout]]:
    """Selects the rollouts on the test set of no supplement, the untrained generator and every stage, if scored."""
    names = dict.fromkeys(["none", "untrained", *(stage.name for stage in result.stages)])
    return {name: controls.scored[name] for name in names if name in controls.scored}


def compute_kind_shares(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Returns the share of each kind among the supplements, the most frequent first, rounded to four places."""
    counts = Counter(rollout.supplement.kind for rollout in rollouts)
    return {kind: round(count / len(rollouts), 4) for kind, count in counts.most_common()}


def compute_mean_length(rollouts: Sequence[Rollout]) -> float:
    """Returns the mean length of the supplements as the actor reads them, in characters; an empty one counts as 0."""
    return round(sum(len(each.supplement.render()) for each in rollouts) / len(rollouts), 1) if rollouts else 0.0


def compute_gated_share(rollouts: Sequence[Rollout]) -> float:
    """Returns the share of examples whose supplement a gate dropped."""
    return round(sum(each.source == "gated" for each in rollouts) / len(rollouts), 4) if rollouts else 0.0


def compute_leak_share(rollouts: Sequence[Rollout], examples: Sequence[dspy.Example], leaks: Leaks) -> float:
    """Returns the share of supplements that contain the gold answer of their example."""
    leaking = [leaks(examples[rollout.query.index], rollout.supplement.render()) for rollout in rollouts]
    return round(sum(leaking) / len(leaking), 4) if leaking else 0.0


def compute_mcnemar_p(before: Sequence[Rollout], after: Sequence[Rollout], threshold: float = 1.0) -> float:
    """Returns the exact two-sided McNemar p-value of two stages on the same examples.

    Examples on which either stage has no reward are left out.
    """
    pairs = pair_rewards(before, after, threshold)
    return mcnemar(pairs.right, pairs.wrong)


def compute_mean_scores(splits: Mapping[str, Sequence[Rollout]]) -> dict[str, float]:
    """Returns the mean reward per split, rounded to four places."""
    return {split: round(mean_score(rollouts), 4) for split, rollouts in splits.items()}


def collect_peak_memory(stages: Sequence[StageResult]) -> dict[str, dict[str, float]]:
    """Returns the peak memory of each stage in megabytes: of the process, and of the fullest GPU if one was used."""
    peaks = {stage.name: stage.memory for stage in stages}
    cuda = {name: peak.cuda_mb for name, peak in peaks.items() if peak.cuda_mb is not None}
    return {"rss": {name: peak.rss_mb for name, peak in peaks.items()}, **({"cuda": cuda} if cuda else {})}
