"""Rows to three splits: seeded, and no question (or gold query) in two of them."""

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
"""Where a split's rows are drawn from: the first of these that a task has. The test set chooses first."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many examples each split has, at most.

    `parts` are the proportions of train, val and test where a pool has too few rows; the sizes' own by default.

    >>> Sizes().limited(20)
    Sizes(train=20, val=20, test=20)
    """

    train: int = 300
    val: int = 300
    test: int = 1000
    parts: tuple[int, int, int] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if min(self.train, self.val, self.test, *(self.parts or ())) < 1:
            raise SetupError(f"Expected at least one example a split, got {self}.")

    def limited(self, limit: int | None) -> Sizes:
        """The same with at most `limit` examples in each split."""
        if limit is None:
            return self
        return replace(self, train=min(self.train, limit), val=min(self.val, limit), test=min(self.test, limit))

    def of(self, split: Split) -> int:
        """A split's size."""
        return {"train": self.train, "val": self.val, "test": self.test}[split]

    def shared(self, rows: int, splits: Sequence[Split]) -> dict[Split, int]:
        """The sizes of splits that draw from one pool of `rows` rows: in proportion where these are too few.

        >>> Sizes(300, 300, 1034, parts=(9, 5, 8)).shared(220, ["train", "val", "test"])
        {'train': 90, 'val': 50, 'test': 80}
        """
        wanted: dict[Split, int] = {split: self.of(split) for split in splits}
        if sum(wanted.values()) <= rows:
            return wanted
        parts = self if self.parts is None else Sizes(*self.parts)
        whole = sum(parts.of(split) for split in splits)
        return {split: min(size, max(1, parts.of(split) * rows // whole)) for split, size in wanted.items()}


@dataclass(frozen=True)
class Splits:
    """Three splits that share no question. `record` tells how they were drawn, as a run's folder keeps it."""

    train: Sequence[dspy.Example]
    val: Sequence[dspy.Example]
    test: Sequence[dspy.Example]
    record: Mapping[str, Any]
    notes: Sequence[str] = ()


def drawn(pools: Pools, sizes: Sizes, *, seed: int, asks: str | Sequence[str] = "question") -> Splits:
    """Draw the splits; the same rows, sizes and seed give the same ones.

    `asks` names the fields of which no text may stand in two splits, however it is cased or spaced; an example that
    lacks all of them is known by its inputs. Where a pool has too few rows, its splits are cut in proportion, and
    `notes` say so. Raises `TaskDataError` for fewer than three different questions, or where a pool has none left.

    >>> examples = [dspy.Example(question=str(n)).with_inputs("question") for n in range(10)]
    >>> splits = drawn(Pools.of(examples), Sizes(train=4, val=2, test=14), seed=0)
    >>> len(splits.train), len(splits.val), len(splits.test)
    (2, 1, 7)
    >>> splits.notes[0]
    'test: 7 of 14, as the pool train has 10 questions left for 20 wanted.'
    """
    names = [asks] if isinstance(asks, str) else list(asks)
    found: dict[Split, list[Placed]] = {}
    taken: set[str] = set()
    notes: list[str] = []
    homes: dict[Split, Split] = {
        split: next(home for home in order if pools.rows.get(home)) for split, order in _HOMES.items()
    }
    for home in dict.fromkeys(homes.values()):
        sharing: list[Split] = [split for split in homes if homes[split] == home]
        groups = _grouped(pools.rows[home], names, taken)
        random.Random(f"{home}-{seed}").shuffle(groups)
        have, asked = sum(len(each.rows) for each in groups), sum(sizes.of(split) for split in sharing)
        for place, (split, wanted) in enumerate(sizes.shared(have, sharing).items(), 1):
            found[split] = _filled(groups, wanted, taken, spared=len(sharing) - place)
            if asked > have:
                got = f"{split}: {len(found[split])} of {sizes.of(split)}"
                notes.append(f"{got}, as the pool {home} has {have} questions left for {asked} wanted.")
    if empty := sorted({"train", "val", "test"} - {split for split, rows in found.items() if rows}):
        raise TaskDataError(f"Expected rows for three splits, but {pools.origin} leaves none for {', '.join(empty)}.")
    return _recorded(found, pools, seed, notes)


@dataclass(eq=False)
class _Group:
    """Rows that must stand in one split, as they share a text, and the texts that they have."""

    texts: set[str]
    rows: list[Placed]


def _grouped(rows: Sequence[Placed], names: Sequence[str], taken: set[str]) -> list[_Group]:
    """The rows in groups that share no text, without the groups of which a text is taken."""
    groups: list[_Group] = []
    home: dict[str, _Group] = {}
    for each in rows:
        texts = _texts(each.example, names)
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
    return [group for group in groups if group.rows and not group.texts & taken]


def _texts(example: dspy.Example, names: Sequence[str]) -> set[str]:
    """The example's texts, each behind the name of its field, without case and white space."""
    named = {name: str(example[name]) for name in names if example.get(name) is not None}
    named = named or {"": str(sorted(example.inputs().items()))}
    return {f"{name} {' '.join(text.casefold().split())}" for name, text in named.items()}


def _filled(groups: list[_Group], wanted: int, taken: set[str], *, spared: int) -> list[Placed]:
    """Rows of groups that are drawn until there are enough, of the last one perhaps a part; `spared` groups stay."""
    rows: list[Placed] = []
    while len(rows) < wanted and len(groups) > spared:
        fits = (place for place in reversed(range(len(groups))) if len(rows) + len(groups[place].rows) <= wanted)
        group = groups.pop(next(fits, -1))
        rows += group.rows[: wanted - len(rows)]
        taken |= group.texts
    return rows


def _recorded(found: Mapping[Split, Sequence[Placed]], pools: Pools, seed: int, notes: Sequence[str]) -> Splits:
    examples = {split: [each.example for each in rows] for split, rows in found.items()}
    record = {
        "origin": pools.origin,
        "seed": seed,
        **{
            split: {"fingerprint": fingerprint(examples[split]), "rows": [each.place for each in found[split]]}
            for split in ("train", "val", "test")
        },
    }
    return Splits(examples["train"], examples["val"], examples["test"], record, (*pools.notes, *notes))
