"""Feedback teaches: some samples of later rounds see a note that failed, and the metric's words on it. Pure.

failed rollouts -> `show_failures` -> requests whose exploration prompt shows one -> `Shown.without_copies` -> samples

Only the exploration prompt holds the feedback. A candidate keeps its query's plain prompt, on which it is trained, and
the actor reads the note alone. A note that repeats the feedback could carry the gold answer to both, so it is left out.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from optimizers.core.records import Rollout
from optimizers.sgt.candidates import QueryRequest
from sgt_modules.episode import Place
from sgt_modules.kinds import BetterThan
from sgt_modules.samples import SILENT, Sample, SampleRequest

SHARE = 4
"""One of so many samples of a query, at most, is shown a failed note."""

COPIED = 8
"""A note copies feedback if it repeats so many words in a row; all of them where the feedback has 3 to 7."""

_LEAST_COPIED = 3


def show_failures(
    requests: Sequence[QueryRequest], tried: Iterable[Rollout], *, threshold: float, rng: random.Random
) -> list[QueryRequest]:
    """The requests, of which at most a quarter of a query's, its last ones, are shown one failed note each.

    A note failed if its reward is below `threshold`; without feedback it is not shown. The notes of a query are drawn
    without repetition, and there are as many requests as before.

    >>> from optimizers.core.records import Query, Reward
    >>> from sgt_modules.kinds import Supplement
    >>> query = Query("q", 0, "self", "2*2?")
    >>> lost = Rollout(query, "warm", "free", Supplement("cot", "Add."), Reward(0.0, "No sum."), {"answer": "5"})
    >>> requests = [(query, SampleRequest(query.prompt, seed)) for seed in range(4)]
    >>> shown = show_failures(requests, [lost], threshold=1.0, rng=random.Random(0))
    >>> [request.kind for _, request in shown][-2:]
    [None, BetterThan(name='', instruction='', example='', text='', note='[cot] Add.', answer='5', feedback='No sum.')]
    """
    failures: dict[tuple[int, Place], dict[str, BetterThan]] = defaultdict(dict)
    for each in tried:
        if each.supplement and each.lost(threshold) and each.reward is not None and each.reward.feedback.strip():
            failures[each.query.index, each.query.place][each.supplement.render()] = _record(each)
    positions: dict[tuple[int, Place], list[int]] = defaultdict(list)
    for position, (query, _) in enumerate(requests):
        positions[query.index, query.place].append(position)
    base, shown = rng.getrandbits(64), list(requests)
    for (index, place), own in positions.items():
        known = failures.get((index, place), {})
        notes = [known[note] for note in sorted(known)]
        count = min(len(notes), len(own) // SHARE)
        drawn = random.Random(f"{base}/{index}/{place.role}/{place.turn}").sample(notes, count)
        for position, failed in zip(own[len(own) - count :], drawn, strict=True):
            query, request = requests[position]
            shown[position] = (query, replace(request, kind=failed))
    return shown


def _record(rollout: Rollout) -> BetterThan:
    outputs = rollout.output
    answer = next(iter(outputs.values())) if len(outputs) == 1 else "; ".join(f"{k}: {v}" for k, v in outputs.items())
    feedback = rollout.reward.feedback if rollout.reward else ""
    return BetterThan(note=rollout.supplement.render(), answer=answer or rollout.error, feedback=feedback)


def copies(note: str, feedback: str) -> bool:
    """Whether a note repeats a long run of the feedback's words, whatever their case and the signs between them.

    >>> copies("[answer] As the judge said: THE GOLD is forty-two!", "The gold is forty-two.")
    True
    >>> copies("Look for the gold.", "The gold is forty-two."), copies("Wrong.", "Wrong.")
    (False, False)
    """
    words, given = _words(note), _words(feedback)
    if len(given) < _LEAST_COPIED:
        return False
    length = min(COPIED, len(given))
    runs = {tuple(given[start : start + length]) for start in range(len(given) - length + 1)}
    return any(tuple(words[start : start + length]) in runs for start in range(len(words) - length + 1))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


@dataclass
class Shown:
    """Counts the samples that were shown a failed note, and those of them that copied its feedback."""

    samples: int = 0
    copied: int = 0

    def without_copies(self, requests: Sequence[SampleRequest], samples: Iterable[Sample]) -> Iterator[Sample]:
        """The samples in order; one that copies the feedback it was shown is empty, so that nothing reads it."""
        for request, sample in zip(requests, samples, strict=True):
            copied = False
            if isinstance(request.kind, BetterThan):
                copied = copies(sample.text, request.kind.feedback)
                self.samples += 1
                self.copied += copied
            yield SILENT if copied else sample


def describe_shown(stage: str, shown: Shown) -> str:
    """A sentence on how many samples of a stage were shown feedback, and how many copied it; or that none was.

    >>> describe_shown("round 2", Shown(8, 1))
    'In round 2, 8 samples were shown feedback on a failed note; 1 of them copied it and was left out.'
    """
    if not shown.samples:
        return (
            f"Feedback did nothing in {stage}: no failed supplement of a query with four samples or more has any. "
            "Return dspy.Prediction(score=..., feedback=...) from the metric."
        )
    left = "was" if shown.copied == 1 else "were"
    return (
        f"In {stage}, {shown.samples:,} samples were shown feedback on a failed note; {shown.copied:,} of them copied "
        f"it and {left} left out."
    )
