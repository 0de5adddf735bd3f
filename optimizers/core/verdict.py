"""Rollouts of a run -> one verdict: what was gained, or why nothing was learned and what to change. Pure.

The causes of failed runs come first, by the share of runs that they explain, then those of a training that had too
little to learn from, then what happened to each question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from optimizers.core.error_types import (
    REFUSED,
    UNREADABLE,
    ErrorType,
    Failure,
    advise_on_adapter,
    count_refused_scores,
    error_name,
    explain_refused_scores,
    group_errors,
    is_unreadable,
)
from optimizers.core.records import Rollout
from optimizers.core.statistics import gain_interval

NOTE = "Verdict: "
"""How the note begins that holds a run's verdict."""

ENOUGH_ROWS = 50
"""SFT rows that give about ten optimizer steps: 16 rows a step in three epochs are the trainer's defaults. With fewer
steps the learning rate has hardly risen before it falls, and a validation score moves by luck."""

ENOUGH_PAIRS = 160
"""Preference pairs that give ten optimizer steps: 16 pairs a step in one epoch are the trainer's defaults."""

MOST = 0.5
"""The share of runs from which on an error is why nothing was learned."""

NOTABLE = 0.1
"""The share of runs from which on an error is worth a sentence of its own."""

SEVERAL = 10
"""Supplements from which on it tells something that all of them are of one kind."""

REFUSALS = ("ContextWindowExceededError", "LMInvalidRequestError", "LMUnsupportedFeatureError", "LMAuthError")
"""Errors with which a provider refuses a prompt: too long, filtered, or with a feature that it lacks."""

CAUSES = 2
"""Causes that a verdict names at most."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a run found, as far as it came.

    `before` are the validation rollouts of the program as it came in, `stages` those of each later stage, all in the
    examples' order; `selected` is the stage that is returned. `unaided` are training questions without help, `tried`
    with it, `unfinished` runs of a stage that did not end. `rows` counts what each stage was trained on,
    `kinds_asked` the kinds that were asked for. `stopped` says where a budget ended the run. `adapter` and `max_tokens`
    are the actor's. With `instructions`, those were rewritten (SPT), and no supplement written. `refused` counts the
    scores of the metric that were refused, by what they were, among all `met` rollouts; by default those known here.
    """

    before: Sequence[Rollout] = ()
    stages: Mapping[str, Sequence[Rollout]] = field(default_factory=dict[str, Sequence[Rollout]])
    selected: str = "none"
    unaided: Sequence[Rollout] = ()
    tried: Sequence[Rollout] = ()
    unfinished: Sequence[Rollout] = ()
    rows: Mapping[str, int] = field(default_factory=dict[str, int])
    kinds_asked: int = 2
    threshold: float = 1.0
    stopped: str = ""
    adapter: str = "ChatAdapter"
    max_tokens: frozenset[int] = frozenset()
    instructions: bool = False
    refused: Mapping[str, int] = field(default_factory=dict[str, int])
    met: int = 0

    @property
    def refusals(self) -> str:
        """What to know of scores that were refused; empty where none was."""
        if self.refused:
            return explain_refused_scores(self.refused, self.met)
        runs = self.runs
        return explain_refused_scores(count_refused_scores(each.error for each in runs), len(runs))

    @property
    def runs(self) -> list[Rollout]:
        """The distinct runs of the program: one for each query and supplement, and where instructions differ each."""
        scored = (each for own in (self.before, *self.stages.values()) for each in own)
        every = [*self.unfinished, *scored, *self.unaided, *self.tried]
        once = {(r.query.id, r.supplement.render(), r.stage if self.instructions else ""): r for r in every}
        return list(once.values())

    @property
    def gained(self) -> bool:
        """Whether the stage that is returned was learned in the run."""
        return self.selected in self.stages and self.selected != "student"

    @property
    def helped(self) -> str:
        """What the runs had that were to do better."""
        return "under new instructions" if self.instructions else "with a supplement"

    @property
    def base(self) -> str:
        """What the stages are measured against."""
        return "the instructions that came in" if self.instructions else "no supplement"


class PairedRewards(NamedTuple):
    """Two stages on the questions that both answered: rewards in the same order, and how many turned."""

    before: list[float]
    after: list[float]
    right: int
    wrong: int


class _Cause(NamedTuple):
    """A reason with its remedy, and the share of the runs that it explains."""

    share: float
    text: str


def write_verdict(found: Evidence) -> str:
    """What a run came to, in a few sentences.

    >>> from optimizers.core.records import Query, Reward
    >>> from sgt_modules.kinds import SILENCE, Supplement
    >>> def run(n, score, text=""):
    ...     supplement = Supplement("cot", text) if text else SILENCE
    ...     return Rollout(Query(f"q{n}", n, "self", "?"), "", "", supplement, Reward(score))
    >>> before, after = [run(n, 0.0) for n in range(10)], [run(n, 1.0 if n < 6 else 0.0, "Add.") for n in range(10)]
    >>> print(write_verdict(Evidence(before, {"sft": after}, "sft")).partition(". ")[0])
    Stage sft raises the score on validation from 0.000 to 0.600 against no supplement
    """
    so_far = "The run was stopped before its end, so this is what there is so far. " if found.stopped else ""
    if found.gained:
        errors = [each.text for each in _failed(found, found.runs) if each.share >= NOTABLE]
        return so_far + " ".join(_with_refusals([_gain(found), *errors[:1]], found))
    causes = _causes(found)
    chosen = [*causes.leading, *causes.training, *causes.errors][:CAUSES]
    if not found.before and not chosen:
        return f"{so_far}Nothing has been validated yet."
    return so_far + " ".join(_with_refusals([_nothing(found), *(chosen or [_unclear(found)])], found))


def _with_refusals(texts: Sequence[str], found: Evidence) -> list[str]:
    """The sentences, and that scores were refused, however few they are."""
    said = found.refusals
    return [*texts, *([said] if said and said not in texts else [])]


def explain_unrewarded(stage: str, rollouts: Sequence[Rollout]) -> str:
    """In words, how many of a stage's validation rollouts have no reward, and why; empty where all have one.

    >>> from optimizers.core.records import Query
    >>> from sgt_modules.kinds import SILENCE
    >>> print(explain_unrewarded("sft", [Rollout(Query("q", 0, "", ""), "", "", SILENCE, None, error="LMServerError: 503")]))
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


def pair_rewards(before: Iterable[Rollout], after: Iterable[Rollout], threshold: float = 1.0) -> PairedRewards:
    """Two stages' rollouts in the same order -> the rewards of the questions that both answered."""
    both = [
        (first.reward.score, second.reward.score)
        for first, second in zip(before, after, strict=True)
        if first.reward is not None and second.reward is not None
    ]
    right = sum(one < threshold <= other for one, other in both)
    wrong = sum(other < threshold <= one for one, other in both)
    return PairedRewards([one for one, _ in both], [other for _, other in both], right, wrong)


def _gain(found: Evidence) -> str:
    pairs = pair_rewards(found.before, found.stages[found.selected], found.threshold)
    if not pairs.before:
        return f"Stage {found.selected} is returned, but no question has a reward both with and without it."
    low, high = gain_interval(pairs.before, pairs.after)
    before, after = _mean(pairs.before), _mean(pairs.after)
    raises = "raises" if after > before else "takes"
    many = _many(pairs.before)
    said = (
        f"Stage {found.selected} {raises} the score on validation from {before:.3f} to {after:.3f} against "
        f"{found.base}. The gain is {after - before:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}, on {many} "
        f"(n = {len(pairs.before)}); {pairs.right} turned right, {pairs.wrong} wrong."
    )
    if low <= 0:
        return f"{said} The interval holds 0, so this may be luck: use more validation questions."
    return f"{said} These questions also chose the stage, so score it on a test set before you quote the gain."


def _nothing(found: Evidence) -> str:
    """That nothing was gained, with the score that stays."""
    if found.stopped and not found.before:
        return "Nothing has been validated yet."
    scores = [each.reward.score for each in found.before if each.reward is not None]
    where = f"{_mean(scores):.3f} on {_many(scores)}" if scores else "without a reward on any question"
    if any(name != "student" for name in found.stages):
        told = f"Nothing was gained: no stage scores above {found.base} on validation ({where})"
    else:
        told = f"Nothing was learned: no stage was trained, and validation is at {where}"
        if found.instructions:
            told = f"Nothing was learned: no new instructions were accepted, and validation is at {where}"
    return f"{told}, so the program comes back as it was."


class _Causes(NamedTuple):
    """Texts: `leading` explain the whole run, `training` what training lacked, `errors` some of the runs."""

    leading: list[str]
    training: list[str]
    errors: list[str]


def _causes(found: Evidence) -> _Causes:
    runs = found.runs
    failed = _failed(found, runs)
    whole = [each for each in failed if each.share >= MOST]
    leading = [*whole, *_won_or_lost(found, runs)]
    training = [_cut(found), "" if leading else _too_few(found), _one_kind(found), "" if leading else _turned(found)]
    errors = [each.text for each in failed if NOTABLE <= each.share < MOST]
    ranked = [each.text for each in sorted(leading, key=lambda one: -one.share)]
    return _Causes(ranked, [text for text in training if text], errors)


def _failed(found: Evidence, runs: Sequence[Rollout]) -> list[_Cause]:
    """A cause for each type of error."""
    failures = (Failure(each.stage, each.error, each.reward is not None) for each in runs)
    return [
        _Cause(
            _share_of(found, runs, each),
            _words_of(found, runs, each),
        )
        for each in group_errors(failures)
    ]


def _share_of(found: Evidence, runs: Sequence[Rollout], each: ErrorType) -> float:
    """The share of the runs that an error explains; of refused prompts, that of the stage which had most of them."""
    parts = [runs, *(found.stages.values() if each.name in REFUSALS else ())]
    return max(sum(error_name(one.error) == each.name for one in own) / len(own) for own in parts if own)


def _words_of(found: Evidence, runs: Sequence[Rollout], each: ErrorType) -> str:
    if each.name == UNREADABLE:
        return _unreadable(found, runs, each)
    if each.name == REFUSED:
        return found.refusals
    if each.name in REFUSALS and each.unrewarded < each.count:
        return _refused_prompts(found, each, len(runs))
    return _raised(each, len(runs))


def _refused_prompts(found: Evidence, each: ErrorType, runs: int) -> str:
    remedy = (
        "Ask for shorter instructions (the recipe's prompt_tokens)"
        if found.instructions
        else "Ask for shorter supplements (the generator's max_new_tokens, or the words in its prompt)"
    )
    return (
        f"The provider refused the prompt in {each.count:,} of {runs:,} runs ({each.name}): {each.quoted}. "
        f"{each.count - each.unrewarded:,} of these count as lost, as it answered the same questions {_bare(found)}. "
        f"{remedy}, or use an actor with a longer context."
    )


def _unreadable(found: Evidence, runs: Sequence[Rollout], each: ErrorType) -> str:
    unread = [run for run in runs if is_unreadable(run.error)]
    cut = sum(any(run.tokens_out and run.tokens_out % most == 0 for most in found.max_tokens) for run in unread)
    said = (
        f"The adapter could not read the answer in {each.count:,} of {len(runs):,} runs ({each.name}), and each counts "
        f"as lost. One such answer: {each.quoted}."
    )
    if cut and cut >= MOST * len(unread):
        limits = " or ".join(f"{most:,}" for most in sorted(found.max_tokens))
        said += (
            f" {cut:,} of them end at the actor's limit of {limits} tokens: give the actor's dspy.LM a larger "
            "max_tokens."
        )
    return f"{said} {advise_on_adapter(found.adapter)}"


def _raised(each: ErrorType, runs: int) -> str:
    said = f"{each.count:,} of {runs:,} runs failed with {each.name}: {each.quoted}"
    if each.unrewarded == each.count:
        return (
            f"{said}, and have no reward. Mend its cause (provider, network, metric) and compile again with the same "
            "log_dir: only these runs are paid again."
        )
    return (
        f"{said}, raised after the actor had answered, so they count as lost. "
        "Mend the program or the signature so that it copes with such an answer."
    )


def _won_or_lost(found: Evidence, runs: Sequence[Rollout]) -> list[_Cause]:
    """Where all runs that were to do better ended alike, or nothing can be better."""
    judged = [each for each in found.tried if each.reward is not None] or _judged(found.unaided)
    won = sum(each.won(found.threshold) for each in judged)
    share = sum(not each.error for each in runs) / len(runs) if runs else 0.0
    if judged and won == len(judged):
        return [_Cause(share, _all_won(found, won))]
    if judged and not won and (answered := [each for each in judged if not each.error]):
        return [_Cause(share, _all_lost(found, len(answered), len(judged)))]
    known = _judged(found.before)
    if known and all(each.won(found.threshold) for each in known):
        text = f"It wins all {len(known):,} validation questions {_bare(found)}: use harder ones, or leave it as it is."
        return [_Cause(share, text)]
    return []


def _all_won(found: Evidence, won: int) -> str:
    unaided = _judged(found.unaided)
    alone = sum(each.won(found.threshold) for each in unaided)
    if found.tried:
        said = f"All {won:,} runs {found.helped} won, and {_bare(found)} {alone:,} of {_questions(unaided)} did"
    else:
        said = f"All {won:,} runs on training questions won {_bare(found)}"
    more = "" if found.instructions else ", or leave the program as it is: it needs no supplement"
    return f"{said}, so there is nothing to tell apart. Use harder examples or a stricter threshold{more}."


def _all_lost(found: Evidence, lost: int, judged: int) -> str:
    unaided = _judged(found.unaided)
    alone = sum(each.won(found.threshold) for each in unaided)
    of = "" if lost == judged else f" whose answer could be read (of {judged:,})"
    if not found.tried:
        said = f"All {lost:,} runs on training questions{of} lost {_bare(found)}"
    else:
        said = f"All {lost:,} runs {found.helped}{of} lost"
    if alone and found.instructions:
        return f"{said} on questions that the first ones fail. Use a stronger corrector, or more candidates and rounds."
    if alone:
        return (
            f"{said}, while {_bare(found)} {alone:,} of {_questions(unaided)} won: the texts harm. Look at them with "
            "sgt inspect, and use a stronger generator."
        )
    none = f", and {_bare(found)} 0 of {_questions(unaided)} won" if found.tried and unaided else ""
    return (
        f"{said}{none}. Check that the metric accepts a correct answer; then use a stronger actor, easier examples, or "
        "a metric with partial credit and a lower threshold."
    )


def _cut(found: Evidence) -> str:
    written = _written(found)
    cut = sum(each.supplement.cut for each in written)
    if not cut or cut < MOST * len(written):
        return ""
    return (
        f"The token limit cut {cut:,} of {len(written):,} supplements, so the actor read texts without an end. "
        "Give the generator a larger max_new_tokens, or ask for fewer words in its prompt."
    )


def _too_few(found: Evidence) -> str:
    enough = {name: ENOUGH_ROWS if name == "sft" else ENOUGH_PAIRS for name in found.rows}
    few = [
        f"{name} had {count:,} {'rows' if name == 'sft' else 'pairs'} (about {enough[name]:,} would do)"
        for name, count in found.rows.items()
        if count < enough[name]
    ]
    if not few:
        return ""
    return (
        f"There was too little to learn from: {', '.join(few)}. Use more training examples or more samples a query "
        "(auto='heavy', or the recipe's warm_samples, pool_samples and direct_samples)."
    )


def _one_kind(found: Evidence) -> str:
    kinds = Counter(each.supplement.kind for each in _written(found))
    if len(kinds) != 1 or kinds.total() < SEVERAL or found.kinds_asked < 2 or found.instructions:
        return ""
    [(kind, count)] = kinds.items()
    return (
        f"All {count:,} of {count:,} supplements tried are of kind {kind}, though {found.kinds_asked} kinds were asked "
        "for, so the generator could not learn which kind helps. Use a generator that keeps the form `[kind] text`."
    )


def _turned(found: Evidence) -> str:
    """What the best trained stage did to each question; empty without one."""
    trained = {name: own for name, own in found.stages.items() if name != "student" and len(own) == len(found.before)}
    pairs = {name: pair_rewards(found.before, own, found.threshold) for name, own in trained.items()}
    known = {name: each for name, each in pairs.items() if each.before}
    if not known:
        return ""
    name = max(known, key=lambda one: _mean(known[one].after) - _mean(known[one].before))
    best = known[name]
    text = f"The best stage, {name}, turned {best.right} of {_many(best.before)} right and {best.wrong} wrong"
    if best.right and best.wrong:
        way = (
            "its instructions help on some questions and hurt on others. Use more training examples."
            if found.instructions
            else "its supplements help on some questions and hurt on others. Let a gate keep it silent where it is "
            "unsure (Recipe(gate=True)), or train on more examples."
        )
        return f"{text}: {way}"
    return f"{text}. Use more training and validation examples, or a stronger generator."


def _unclear(found: Evidence) -> str:
    """Where no cause is known."""
    if found.instructions:
        return "Use more training examples, a stronger corrector, or more candidates and rounds."
    return "The notes and the report say how far each stage came."


def _written(found: Evidence) -> list[Rollout]:
    """One rollout for each distinct supplement tried."""
    return list({(each.query.id, each.supplement.render()): each for each in found.tried if each.supplement}.values())


def _judged(rollouts: Iterable[Rollout]) -> list[Rollout]:
    return [each for each in rollouts if each.reward is not None]


def _bare(found: Evidence) -> str:
    return "under the first instructions" if found.instructions else "without a supplement"


def _questions(rollouts: Sequence[object]) -> str:
    return f"{len(rollouts):,} training questions"


def _many(rewards: Sequence[float]) -> str:
    return f"{len(rewards):,} question{'' if len(rewards) == 1 else 's'}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
