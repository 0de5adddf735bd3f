"""NoteChooser: scores the notes that a generator wrote for one prompt, and chooses one of them or none. Pure."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from sgt_modules.errors import SavedStateError
from sgt_modules.kinds import Supplement
from sgt_modules.samples import SILENT, Sample
from sgt_modules.saving.state_checks import check_mapping
from sgt_modules.sharing import SharedByCopies

MEASURES = ("logprob", "characters", "overlap", "share", "silent share")
"""The measured features: the last one belongs to silence alone, the others to notes alone."""

MOST_DEVIATIONS = 5.0
"""A feature farther from its training mean counts as this many standard deviations from it."""

_LARGEST_NUMBER = 1e9
"""The largest weight, mean or scale of a saved chooser."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """One distinct note of a prompt's samples, or silence; `share` is the part of the samples that equal it."""

    sample: Sample
    share: float


def propose(samples: Sequence[Sample]) -> list[Proposal]:
    """Return each distinct note once, in the samples' order, and silence last, whether a sample is silent or not.

    Notes are equal if their kind and text are; the first sample stands for all of them.

    >>> notes = [Sample("Add.", kind="cot"), Sample("4", kind="answer"), Sample("Add.", kind="cot")]
    >>> [(each.sample.text, round(each.share, 2)) for each in propose(notes)]
    [('Add.', 0.67), ('4', 0.33), ('', 0.0)]
    """
    first: dict[Supplement | None, Sample] = {}
    counts = Counter[Supplement | None]()
    for sample in samples:
        key = sample.supplement or None
        first.setdefault(key, sample)
        counts[key] += 1
    silent = first.pop(None, SILENT)
    notes = [Proposal(sample, counts[key] / len(samples)) for key, sample in first.items()]
    return [*notes, Proposal(silent, counts[None] / max(1, len(samples)))]


def measure(prompt: str, proposal: Proposal) -> list[float]:
    """Return the `MEASURES` of a proposal; NaN for one that its sort does not have.

    `logprob` is the generator's mean log-probability of a token, `characters` the text's length, `overlap` the share of
    the note's words that stand in the prompt.
    """
    sample = proposal.sample
    if not sample.supplement:
        return [math.nan, math.nan, math.nan, math.nan, proposal.share]
    words, known = _words(sample.text), set(_words(prompt))
    overlap = sum(word in known for word in words) / len(words) if words else 0.0
    return [_finite(sample.logprob), float(len(sample.text)), overlap, proposal.share, math.nan]


class NoteChooserState(TypedDict):
    """A chooser as a saved program keeps it."""

    kinds: list[str]
    means: list[float]
    scales: list[float]
    weights: list[float]


@dataclass(frozen=True, slots=True)
class NoteChooser(SharedByCopies):
    """Logistic regression: the probability that the actor is right with a note, or without any.

    `means` and `scales` (positive) standardise the `MEASURES`. `weights` are those of the constant, of silence, of each
    measure, and of each of the `kinds`; a kind that is not among them counts nothing. Silence has a weight of its own
    and one for its share of the samples, and none of the notes' measures: so its probability is the rate at which
    training queries were won unaided, by how often the generator stayed silent. `optimizers.sgt.chooser_fit` fits it.

    >>> sure = NoteChooser((), (0.0,) * 5, (1.0,) * 5, (0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0))
    >>> samples = [Sample("Add.", logprob=-0.5, kind="cot"), Sample("Count.", logprob=-0.1, kind="cot")]
    >>> [round(each, 2) for each in sure.score("2+2?", samples)]
    [0.27, 0.45]
    >>> sure.choose("2+2?", samples).supplement
    Supplement(kind='none', text='')
    """

    kinds: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]

    def score(self, prompt: str, samples: Sequence[Sample]) -> list[float]:
        """Return for each sample the probability, in [0, 1], that its note wins; equal notes score equally."""
        proposals = propose(samples)
        scored = zip(proposals, self.probabilities(prompt, proposals), strict=True)
        by_note = {proposal.sample.supplement or None: probability for proposal, probability in scored}
        return [by_note[sample.supplement or None] for sample in samples]

    def choose(self, prompt: str, samples: Sequence[Sample]) -> Sample:
        """Return the sample that wins most probably, or a silent one if no note is as likely; the earlier on a tie."""
        proposals = propose(samples)
        probabilities = self.probabilities(prompt, proposals)
        return proposals[max(range(len(proposals)), key=probabilities.__getitem__)].sample

    def probabilities(self, prompt: str, proposals: Sequence[Proposal]) -> list[float]:
        """Return the probability of each proposal."""
        rows = design(
            [measure(prompt, each) for each in proposals],
            [each.sample.kind for each in proposals],
            self.kinds,
            self.means,
            self.scales,
        )
        return [float(each) for each in sigmoid(rows @ np.array(self.weights))]

    def dump_state(self) -> NoteChooserState:
        """Return the chooser as JSON."""
        return NoteChooserState(
            kinds=list(self.kinds), means=list(self.means), scales=list(self.scales), weights=list(self.weights)
        )

    @classmethod
    def load_state(cls, state: object) -> NoteChooser:
        """Load the chooser of a saved program. Raises `SavedStateError` if the state is not a chooser's."""
        values = check_mapping(state, "a chooser's state")
        kinds = values.get("kinds")
        texts = cast("list[object]", kinds) if isinstance(kinds, list) else [None]
        if not all(isinstance(each, str) for each in texts) or len(set(map(str, texts))) < len(texts):
            raise SavedStateError(
                f"Expected different names as 'kinds' of a saved chooser, got {repr(kinds)[:60]}. Save it again."
            )
        return cls(
            tuple(map(str, texts)),
            _read_numbers(values, "means", len(MEASURES)),
            _read_numbers(values, "scales", len(MEASURES), positive=True),
            _read_numbers(values, "weights", 2 + len(MEASURES) + len(texts)),
        )


def design(
    measures: Sequence[Sequence[float]],
    named: Sequence[str],
    kinds: Sequence[str],
    means: Sequence[float],
    scales: Sequence[float],
) -> NDArray[np.float64]:
    """Return the rows of the regression, of shape (proposals, 2 + measures + kinds); a missing measure counts nothing.

    `named` has the kind of each proposal. Raises `ValueError` for rows without every measure.

    >>> design([[-0.5, 4.0, 0.0, 1.0, math.nan]], ["cot"], ["cot"], [0.0] * 5, [1.0, 4.0, 1.0, 1.0, 1.0]).tolist()
    [[1.0, 0.0, -0.5, 1.0, 0.0, 1.0, 0.0, 1.0]]
    """
    values = np.array(measures, dtype=float).reshape(len(measures), len(MEASURES))
    silent = ~np.isnan(values[:, -1:])
    standard = np.clip((values - np.array(means)) / np.array(scales), -MOST_DEVIATIONS, MOST_DEVIATIONS)
    of_kind = np.array([[name == kind for kind in kinds] for name in named], dtype=float).reshape(len(values), -1)
    return np.hstack([np.ones((len(values), 1)), silent, np.nan_to_num(standard), of_kind])


def sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 / (1 + exp(-x)) for each value, without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * values))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _finite(value: float) -> float:
    return max(-_LARGEST_NUMBER, min(value, 0.0)) if value == value else 0.0  # a NaN is unknown


def _read_numbers(state: Any, name: str, count: int, *, positive: bool = False) -> tuple[float, ...]:
    values = state.get(name)
    read = cast("list[object]", values) if isinstance(values, list) else []
    given = [cast("float", each) for each in read if _is_number(each)]
    numbers = tuple(float(each) for each in given if each > 0 or not positive)
    if len(numbers) != count or len(read) != count:
        raise SavedStateError(
            f"Expected {count} {'positive ' if positive else ''}numbers up to {_LARGEST_NUMBER:g} as {name!r} of a "
            f"saved chooser, got {repr(values)[:60]}. Save the program again."
        )
    return numbers


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST_NUMBER
