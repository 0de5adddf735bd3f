"""Draws three splits: seeded, with no question (or gold query) in two of them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import dspy

from optimizers.core.fingerprints import fingerprint
from optimizers.tasks.rows import Placed, Pools, Split
from sgt_modules.errors import SetupError, TaskDataError

_HOMES: Mapping[Split, Sequence[Split]] = {
    "test": ("test", "val", "train"),
    "val": ("val", "train", "test"),
    "train": ("train", "val", "test"),
}
"""Pools that a split may draw from: the first one that a task has. The test set draws first."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Maximum number of examples per split.

    `parts` are the proportions of train, val and test for a pool with too few rows; the sizes themselves by default.

    >>> Sizes().with_limit(20)
    Sizes(train=20, val=20, test=20)
    """

    train: int = 300
    val: int = 300
    test: int = 1000
    parts: tuple[int, int, int] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if min(self.train, self.val, self.test, *(self.parts or ())) < 1:
            raise SetupError(f"Expected at least one example per split, got {self}.")

    def with_limit(self, limit: Sizes | int | None) -> Sizes:
        """Return the same sizes, each at most `limit`, or at most the limit's own size of that split.

        >>> Sizes().with_limit(Sizes(24, 24, 80))
        Sizes(train=24, val=24, test=80)
        """
        if limit is None:
            return self
        most = Sizes(limit, limit, limit) if isinstance(limit, int) else limit
        train, val, test = min(self.train, most.train), min(self.val, most.val), min(self.test, most.test)
        return replace(self, train=train, val=val, test=test)

    def size_of(self, split: Split) -> int:
        """Return the size of a split."""
        return {"train": self.train, "val": self.val, "test": self.test}[split]

    def divide(self, rows: int, splits: Sequence[Split]) -> dict[Split, int]:
        """Return the sizes of splits that share a pool of `rows` rows: in proportion if there are too few.

        >>> Sizes(300, 300, 1034, parts=(9, 5, 8)).divide(220, ["train", "val", "test"])
        {'train': 90, 'val': 50, 'test': 80}
        """
        wanted: dict[Split, int] = {split: self.size_of(split) for split in splits}
        if sum(wanted.values()) <= rows:
            return wanted
        parts = self if self.parts is None else Sizes(*self.parts)
        whole = sum(parts.size_of(split) for split in splits)
        return {split: min(size, max(1, parts.size_of(split) * rows // whole)) for split, size in wanted.items()}


@dataclass(frozen=True)
class Splits:
    """Three splits that share no question. `record` describes how they were drawn, for the run's folder."""

    train: Sequence[dspy.Example]
    val: Sequence[dspy.Example]
    test: Sequence[dspy.Example]
    record: Mapping[str, Any]
    notes: Sequence[str] = ()


def draw_splits(pools: Pools, sizes: Sizes, *, seed: int, question_fields: str | Sequence[str] = "question") -> Splits:
    """Draw the splits; the same rows, sizes and seed give the same splits.

    `question_fields` names the fields whose texts never occur in two splits, whatever their case and spacing; an
    example without any of them is identified by its inputs. If a pool has too few rows, its splits shrink in
    proportion, and `notes` say so. Raises `TaskDataError` for fewer than three different questions, or if a pool has
    none left.

    >>> examples = [dspy.Example(question=str(n)).with_inputs("question") for n in range(10)]
    >>> splits = draw_splits(Pools.of(examples), Sizes(train=4, val=2, test=14), seed=0)
    >>> len(splits.train), len(splits.val), len(splits.test)
    (2, 1, 7)
    >>> splits.notes[0]
    'test: 7 of 14, as the pool train has 10 questions left for 20 wanted.'
    """
    names = [question_fields] if isinstance(question_fields, str) else list(question_fields)
    drawn: dict[Split, list[Placed]] = {}
    used_texts: set[str] = set()
    notes: list[str] = []
    homes: dict[Split, Split] = {
        split: next(home for home in order if pools.rows.get(home)) for split, order in _HOMES.items()
    }
    for home in dict.fromkeys(homes.values()):
        sharing: list[Split] = [split for split in homes if homes[split] == home]
        groups = _group_by_text(pools.rows[home], names, used_texts)
        random.Random(f"{home}-{seed}").shuffle(groups)
        have, asked = sum(len(each.rows) for each in groups), sum(sizes.size_of(split) for split in sharing)
        for place, (split, wanted) in enumerate(sizes.divide(have, sharing).items(), 1):
            drawn[split] = _fill_split(groups, wanted, used_texts, spared=len(sharing) - place)
            if asked > have:
                got = f"{split}: {len(drawn[split])} of {sizes.size_of(split)}"
                notes.append(f"{got}, as the pool {home} has {have} questions left for {asked} wanted.")
    if empty := sorted({"train", "val", "test"} - {split for split, rows in drawn.items() if rows}):
        raise TaskDataError(f"Expected rows for three splits, but {pools.origin} leaves none for {', '.join(empty)}.")
    return _build_splits(drawn, pools, seed, notes)


@dataclass(eq=False)
class _Group:
    """Rows that must stay in one split because they share a text, and their texts."""

    texts: set[str]
    rows: list[Placed]


def _group_by_text(rows: Sequence[Placed], names: Sequence[str], used_texts: set[str]) -> list[_Group]:
    """Group rows that share a text, and drop the groups with a text that another pool uses."""
    groups: list[_Group] = []
    home: dict[str, _Group] = {}
    for each in rows:
        texts = _normalized_texts(each.example, names)
        first, *others = {home[text]: None for text in sorted(texts) if text in home} or {_Group(set(), []): None}
        if not first.rows:
            groups.append(first)
        first.rows.append(each)
        first.texts |= texts
        for other in others:
            first.rows += other.rows
            first.texts |= other.texts
            other.rows.clear()
            texts |= other.texts
        home.update(dict.fromkeys(texts, first))
    return [group for group in groups if group.rows and not group.texts & used_texts]


def _normalized_texts(example: dspy.Example, names: Sequence[str]) -> set[str]:
    """Return the example's texts with their field names, without case and extra white space."""
    named = {name: str(example[name]) for name in names if example.get(name) is not None}
    named = named or {"": str(sorted(example.inputs().items()))}
    return {f"{name} {' '.join(text.casefold().split())}" for name, text in named.items()}


def _fill_split(groups: list[_Group], wanted: int, used_texts: set[str], *, spared: int) -> list[Placed]:
    """Draw groups until the split is full, cutting the last one if needed; `spared` groups stay in the pool."""
    rows: list[Placed] = []
    while len(rows) < wanted and len(groups) > spared:
        fits = (place for place in reversed(range(len(groups))) if len(rows) + len(groups[place].rows) <= wanted)
        group = groups.pop(next(fits, -1))
        rows += group.rows[: wanted - len(rows)]
        used_texts |= group.texts
    return rows


def _build_splits(drawn: Mapping[Split, Sequence[Placed]], pools: Pools, seed: int, notes: Sequence[str]) -> Splits:
    examples = {split: [each.example for each in rows] for split, rows in drawn.items()}
    record = {
        "origin": pools.origin,
        "seed": seed,
        **{
            split: {"fingerprint": fingerprint(examples[split]), "rows": [each.place for each in drawn[split]]}
            for split in ("train", "val", "test")
        },
    }
    return Splits(examples["train"], examples["val"], examples["test"], record, (*pools.notes, *notes))
