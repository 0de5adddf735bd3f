"""Writes the verdict of a run: what was gained, or why nothing was learned and what to change. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from optimizers.core.causes import NOTABLE, error_causes, find_causes
from optimizers.core.clusters import count_clusters
from optimizers.core.error_types import Failure, group_errors
from optimizers.core.evidence import Evidence, count_questions, mean
from optimizers.core.paired_scores import pair_rewards, select_clusters
from optimizers.core.records import Rollout
from optimizers.core.stages import ADAPTER_STAGE, AS_IT_CAME
from optimizers.core.statistics import gain_interval

NOTE = "Verdict: "
"""The first word of the note that holds a verdict."""

MAX_CAUSES = 2
"""The most causes that a verdict names."""


def write_verdict(evidence: Evidence) -> str:
    """The verdict of a run, in a few sentences.

    >>> from optimizers.core.records import Query, Reward
    >>> from sgt_modules.kinds import SILENCE, Supplement
    >>> def run(n, score, text=""):
    ...     supplement = Supplement("cot", text) if text else SILENCE
    ...     return Rollout(Query(f"q{n}", n, "self", "?"), "", "", supplement, Reward(score))
    >>> before, after = [run(n, 0.0) for n in range(10)], [run(n, 1.0 if n < 6 else 0.0, "Add.") for n in range(10)]
    >>> print(write_verdict(Evidence(before, {"sft": after}, "sft")).partition(". ")[0])
    Stage sft raises the score on validation from 0.000 to 0.600 against no supplement
    """
    so_far = "The run was stopped before its end, so this is what there is so far. " if evidence.stopped else ""
    if evidence.has_gain:
        errors = [each.text for each in error_causes(evidence, evidence.runs) if each.share >= NOTABLE]
        return so_far + " ".join(_with_refusals([_describe_gain(evidence), *errors[:1]], evidence))
    causes = find_causes(evidence)
    chosen = [*causes.leading, *causes.training, *causes.errors][:MAX_CAUSES]
    if not evidence.before and not chosen:
        return f"{so_far}Nothing has been validated yet."
    return so_far + " ".join(
        _with_refusals([_describe_no_gain(evidence), *(chosen or [_explain_no_cause(evidence)])], evidence)
    )


def _with_refusals(texts: Sequence[str], evidence: Evidence) -> list[str]:
    """Adds the sentence on refused scores if it is not among the texts."""
    said = evidence.refusals
    return [*texts, *([said] if said and said not in texts else [])]


def explain_unrewarded(stage: str, rollouts: Sequence[Rollout]) -> str:
    """A sentence on how many validation rollouts of a stage have no reward, and why; empty if all have one.

    >>> from optimizers.core.records import Query
    >>> from sgt_modules.kinds import SILENCE
    >>> failed = Rollout(Query("q", 0, "", ""), "", "", SILENCE, None, error="LMServerError: 503")
    >>> print(explain_unrewarded("sft", [failed]))
    sft: 1 of 1 validation questions has no reward (1 LMServerError), so other stages are compared with it on the rest.
    """
    lost = [each for each in rollouts if each.reward is None]
    if not lost:
        return ""
    types = group_errors(Failure(each.stage, each.error or "no answer", False) for each in lost)
    why = ", ".join(f"{each.count} {each.name}" for each in types)
    has = "has" if len(lost) == 1 else "have"
    return (
        f"{stage}: {len(lost):,} of {len(rollouts):,} validation questions {has} no reward ({why}), so other stages "
        "are compared with it on the rest."
    )


def _describe_gain(evidence: Evidence) -> str:
    pairs = pair_rewards(evidence.before, evidence.stages[evidence.selected], evidence.threshold)
    if not pairs.before:
        return f"Stage {evidence.selected} is returned, but no question has a reward both with and without it."
    own = select_clusters(evidence.clusters, evidence.before, evidence.stages[evidence.selected])
    low, high = gain_interval(pairs.before, pairs.after, clusters=own)
    before, after = mean(pairs.before), mean(pairs.after)
    raises = "raises" if after > before else "takes"
    many, shared = count_questions(pairs.before), count_clusters(own)
    if shared < len(own):
        many += f" in {shared:,} clusters"
    said = (
        f"Stage {evidence.selected} {raises} the score on validation from {before:.3f} to {after:.3f} against "
        f"{evidence.base}. The gain is {after - before:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}, on {many} "
        f"(n = {len(pairs.before)}); {pairs.right} turned right, {pairs.wrong} wrong."
    )
    if low <= 0:
        return f"{said} The interval holds 0, so this may be luck: use more validation questions."
    return f"{said} These questions also chose the stage, so score it on a test set before you quote the gain."


def _describe_no_gain(evidence: Evidence) -> str:
    """A sentence that nothing was gained, with the score that stays."""
    if evidence.stopped and not evidence.before:
        return "Nothing has been validated yet."
    came = evidence.stages.get(ADAPTER_STAGE) if evidence.selected == ADAPTER_STAGE else None
    scores = [each.reward.score for each in came or evidence.before if each.reward is not None]
    where = f"{mean(scores):.3f} on {count_questions(scores)}" if scores else "without a reward on any question"
    if any(name not in AS_IT_CAME for name in evidence.stages):
        said = f"Nothing was gained: no stage scores above {evidence.base} on validation ({where})"
    else:
        said = f"Nothing was learned: no stage was trained, and validation is at {where}"
        if evidence.instructions:
            said = f"Nothing was learned: no new instructions were accepted, and validation is at {where}"
    if came is not None:
        said = f"Nothing was gained: no stage scores above the adapter as it came on validation ({where})"
        return f"{said}, so the program comes back with that adapter."
    return f"{said}, so the program comes back as it was."


def _explain_no_cause(evidence: Evidence) -> str:
    """The advice if no cause is known."""
    if evidence.instructions:
        return "Use more training examples, a stronger corrector, or more candidates and rounds."
    return "The notes and the report say how far each stage came."
