"""Why a run learned nothing, each cause with its remedy. Pure.

Three groups: errors that ended runs, by the share of runs that they explain; a training that had too little to learn
from; and what happened to each question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from optimizers.core.error_types import (
    REFUSED,
    UNREADABLE,
    ErrorType,
    Failure,
    advise_on_adapter,
    error_name,
    group_errors,
    is_unreadable,
)
from optimizers.core.evidence import Evidence, count_questions, mean, without_help
from optimizers.core.paired_scores import pair_rewards
from optimizers.core.records import Rollout
from optimizers.core.stages import AS_IT_CAME, SFT, name_rows

ENOUGH_ROWS = 50
"""SFT rows that give about ten optimizer steps: 16 rows a step in three epochs are the trainer's defaults. With fewer
steps the learning rate has hardly risen before it falls, and a validation score moves by luck."""

ENOUGH_PAIRS = 160
"""Preference pairs, or samples of GRPO, that give ten optimizer steps: 16 a step in one epoch are the defaults."""

MOST = 0.5
"""An error that ends at least this share of the runs is the reason why nothing was learned."""

NOTABLE = 0.1
"""An error that ends at least this share of the runs gets a sentence."""

SEVERAL = 10
"""With at least this many supplements, all of one kind, the kind gets a sentence."""

REFUSALS = ("ContextWindowExceededError", "LMInvalidRequestError", "LMUnsupportedFeatureError", "LMAuthError")
"""Errors with which a provider refuses a prompt: too long, filtered, or with a feature that it lacks."""


class Cause(NamedTuple):
    """A sentence on a cause and its remedy, and the share of the runs that it explains."""

    share: float
    text: str


class Causes(NamedTuple):
    """Sentences that explain the whole run (`leading`), a training that lacked data, or some of the runs (`errors`)."""

    leading: list[str]
    training: list[str]
    errors: list[str]


def find_causes(evidence: Evidence) -> Causes:
    """All causes that the evidence supports."""
    runs = evidence.runs
    failed = error_causes(evidence, runs)
    whole = [each for each in failed if each.share >= MOST]
    leading = [*whole, *_uniform_outcome(evidence, runs)]
    training = [
        _explain_cut(evidence),
        "" if leading else _explain_too_few(evidence),
        _explain_one_kind(evidence),
        "" if leading else _explain_best_stage(evidence),
    ]
    errors = [each.text for each in failed if NOTABLE <= each.share < MOST]
    ranked = [each.text for each in sorted(leading, key=lambda one: -one.share)]
    return Causes(ranked, [text for text in training if text], errors)


def error_causes(evidence: Evidence, runs: Sequence[Rollout]) -> list[Cause]:
    """A cause for each type of error."""
    failures = (Failure(each.stage, each.error, each.reward is not None) for each in runs)
    return [
        Cause(
            _share_explained(evidence, runs, each),
            _explain_error(evidence, runs, each),
        )
        for each in group_errors(failures)
    ]


def _share_explained(evidence: Evidence, runs: Sequence[Rollout], each: ErrorType) -> float:
    """The share of runs that ended with an error; for refused prompts, the largest share of any stage."""
    parts = [runs, *(evidence.stages.values() if each.name in REFUSALS else ())]
    return max(sum(error_name(one.error) == each.name for one in own) / len(own) for own in parts if own)


def _explain_error(evidence: Evidence, runs: Sequence[Rollout], each: ErrorType) -> str:
    if each.name == UNREADABLE:
        return _explain_unreadable(evidence, runs, each)
    if each.name == REFUSED:
        return evidence.refusals
    if each.name in REFUSALS and each.unrewarded < each.count:
        return _explain_refused_prompts(evidence, each, len(runs))
    return _explain_raised(each, len(runs))


def _explain_refused_prompts(evidence: Evidence, each: ErrorType, runs: int) -> str:
    remedy = (
        "Ask for shorter instructions (the recipe's prompt_tokens)"
        if evidence.instructions
        else "Ask for shorter supplements (the generator's max_new_tokens, or the words in its prompt)"
    )
    return (
        f"The provider refused the prompt in {each.count:,} of {runs:,} runs ({each.name}): {each.quoted_example}. "
        f"{each.count - each.unrewarded:,} of these count as lost, as it answered the same questions "
        f"{without_help(evidence)}. {remedy}, or use an actor with a longer context."
    )


def _explain_unreadable(evidence: Evidence, runs: Sequence[Rollout], each: ErrorType) -> str:
    unread = [run for run in runs if is_unreadable(run.error)]
    cut = sum(any(run.tokens_out and run.tokens_out % most == 0 for most in evidence.max_tokens) for run in unread)
    said = (
        f"The adapter could not read the answer in {each.count:,} of {len(runs):,} runs ({each.name}), and each counts "
        f"as lost. One such answer: {each.quoted_example}."
    )
    if cut and cut >= MOST * len(unread):
        limits = " or ".join(f"{most:,}" for most in sorted(evidence.max_tokens))
        said += (
            f" {cut:,} of them end at the actor's limit of {limits} tokens: give the actor's dspy.LM a larger "
            "max_tokens."
        )
    return f"{said} {advise_on_adapter(evidence.adapter)}"


def _explain_raised(each: ErrorType, runs: int) -> str:
    said = f"{each.count:,} of {runs:,} runs failed with {each.name}: {each.quoted_example}"
    if each.unrewarded == each.count:
        return (
            f"{said}, and have no reward. Mend its cause (provider, network, metric) and compile again with the same "
            "log_dir: only these runs are paid again."
        )
    return (
        f"{said}, raised after the actor had answered, so they count as lost. "
        "Mend the program or the signature so that it copes with such an answer."
    )


def _uniform_outcome(evidence: Evidence, runs: Sequence[Rollout]) -> list[Cause]:
    """The cause if all runs with help won or all lost, or if validation is already won without help."""
    judged = [each for each in evidence.tried if each.reward is not None] or _with_reward(evidence.unaided)
    won = sum(each.won(evidence.threshold) for each in judged)
    share = sum(not each.error for each in runs) / len(runs) if runs else 0.0
    if judged and won == len(judged):
        return [Cause(share, _explain_all_won(evidence, won))]
    if judged and not won and (answered := [each for each in judged if not each.error]):
        return [Cause(share, _explain_all_lost(evidence, len(answered), len(judged)))]
    known = _with_reward(evidence.before)
    if known and all(each.won(evidence.threshold) for each in known):
        text = f"It wins all {len(known):,} validation questions {without_help(evidence)}: use harder ones, or leave it"
        return [Cause(share, f"{text} as it is.")]
    return []


def _explain_all_won(evidence: Evidence, won: int) -> str:
    unaided = _with_reward(evidence.unaided)
    alone = sum(each.won(evidence.threshold) for each in unaided)
    if evidence.tried:
        questions = _count_training_questions(unaided)
        said = (
            f"All {won:,} runs {evidence.help_in_words} won, and {without_help(evidence)} {alone:,} of {questions} did"
        )
    else:
        said = f"All {won:,} runs on training questions won {without_help(evidence)}"
    more = "" if evidence.instructions else ", or leave the program as it is: it needs no supplement"
    return f"{said}, so there is nothing to tell apart. Use harder examples or a stricter threshold{more}."


def _explain_all_lost(evidence: Evidence, lost: int, judged: int) -> str:
    unaided = _with_reward(evidence.unaided)
    alone = sum(each.won(evidence.threshold) for each in unaided)
    of = "" if lost == judged else f" whose answer could be read (of {judged:,})"
    if not evidence.tried:
        said = f"All {lost:,} runs on training questions{of} lost {without_help(evidence)}"
    else:
        said = f"All {lost:,} runs {evidence.help_in_words}{of} lost"
    if alone and evidence.instructions:
        return f"{said} on questions that the first ones fail. Use a stronger corrector, or more candidates and rounds."
    if alone:
        return (
            f"{said}, while {without_help(evidence)} {alone:,} of {_count_training_questions(unaided)} won: the texts "
            "harm. Look at them with sgt inspect, and use a stronger generator."
        )
    none = (
        f", and {without_help(evidence)} 0 of {_count_training_questions(unaided)} won"
        if evidence.tried and unaided
        else ""
    )
    return (
        f"{said}{none}. Check that the metric accepts a correct answer; then use a stronger actor, easier examples, or "
        "a metric with partial credit and a lower threshold."
    )


def _explain_cut(evidence: Evidence) -> str:
    written = _distinct_supplements(evidence)
    cut = sum(each.supplement.cut for each in written)
    if not cut or cut < MOST * len(written):
        return ""
    return (
        f"The token limit cut {cut:,} of {len(written):,} supplements, so the actor read texts without an end. "
        "Give the generator a larger max_new_tokens, or ask for fewer words in its prompt."
    )


def _explain_too_few(evidence: Evidence) -> str:
    enough = {name: ENOUGH_ROWS if name == SFT else ENOUGH_PAIRS for name in evidence.rows}
    few = [
        f"{name} had {count:,} {name_rows(name)} (about {enough[name]:,} would do)"
        for name, count in evidence.rows.items()
        if count < enough[name]
    ]
    if not few:
        return ""
    return (
        f"There was too little to learn from: {', '.join(few)}. Use more training examples or more samples a query "
        "(auto='heavy', or the recipe's warm_samples, pool_samples and direct_samples)."
    )


def _explain_one_kind(evidence: Evidence) -> str:
    kinds = Counter(each.supplement.kind for each in _distinct_supplements(evidence))
    if len(kinds) != 1 or kinds.total() < SEVERAL or evidence.kinds_asked < 2 or evidence.instructions:
        return ""
    [(kind, count)] = kinds.items()
    return (
        f"All {count:,} of {count:,} supplements tried are of kind {kind}, though {evidence.kinds_asked} kinds "
        "were asked for, so the generator could not learn which kind helps. Use a generator that keeps the form "
        "`[kind] text`."
    )


def _explain_best_stage(evidence: Evidence) -> str:
    """How many questions the best trained stage turned; empty if no stage was trained."""
    trained = {
        name: own
        for name, own in evidence.stages.items()
        if name not in AS_IT_CAME and len(own) == len(evidence.before)
    }
    pairs = {name: pair_rewards(evidence.before, own, evidence.threshold) for name, own in trained.items()}
    known = {name: each for name, each in pairs.items() if each.before}
    if not known:
        return ""
    name = max(known, key=lambda one: mean(known[one].after) - mean(known[one].before))
    best = known[name]
    text = f"The best stage, {name}, turned {best.right} of {count_questions(best.before)} right and {best.wrong} wrong"
    if best.right and best.wrong:
        way = (
            "its instructions help on some questions and hurt on others. Use more training examples."
            if evidence.instructions
            else "its supplements help on some questions and hurt on others. Let a gate keep it silent where it is "
            "unsure (Recipe(gate=True)), or train on more examples."
        )
        return f"{text}: {way}"
    return f"{text}. Use more training and validation examples, or a stronger generator."


def _distinct_supplements(evidence: Evidence) -> list[Rollout]:
    """One rollout for each distinct supplement that was tried."""
    return list(
        {(each.query.id, each.supplement.render()): each for each in evidence.tried if each.supplement}.values()
    )


def _with_reward(rollouts: Iterable[Rollout]) -> list[Rollout]:
    return [each for each in rollouts if each.reward is not None]


def _count_training_questions(rollouts: Sequence[object]) -> str:
    return f"{len(rollouts):,} training questions"
