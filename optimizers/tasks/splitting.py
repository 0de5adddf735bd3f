"""Rows to three splits: seeded, and no question in two of them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dspy

from optimizers.fingerprints import fingerprint
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
    """How many examples each split shall have, at most.

    >>> Sizes().limited(20)
    Sizes(train=20, val=20, test=20)
    """

    train: int = 300
    val: int = 300
    test: int = 1000

    def __post_init__(self) -> None:
        if min(self.train, self.val, self.test) < 1:
            raise SetupError(f"Expected at least one example a split, got {self}.")

    def limited(self, limit: int | None) -> Sizes:
        """The same with at most `limit` examples in each split."""
        if limit is None:
            return self
        return replace(self, train=min(self.train, limit), val=min(self.val, limit), test=min(self.test, limit))

    def of(self, split: Split) -> int:
        """A split's size."""
        return {"train": self.train, "val": self.val, "test": self.test}[split]


@dataclass(frozen=True)
class Splits:
    """Three splits that share no question. `record` tells how they were drawn, as a run's folder keeps it."""

    train: Sequence[dspy.Example]
    val: Sequence[dspy.Example]
    test: Sequence[dspy.Example]
    record: Mapping[str, Any]
    notes: Sequence[str] = ()


def drawn(pools: Pools, sizes: Sizes, *, seed: int, asks: str = "question") -> Splits:
    """Draw the splits; the same rows, sizes and seed give the same ones.

    `asks` names the field whose text may stand in one split only, however it is cased or spaced; where an example lacks
    it, that is all of its inputs. Where a pool has too few rows, its splits are cut in proportion, and `notes` say so.
    Raises `TaskDataError` where there are fewer than three different questions, or a pool has none left.

    >>> examples = [dspy.Example(question=str(n)).with_inputs("question") for n in range(10)]
    >>> splits = drawn(Pools.of(examples), Sizes(train=4, val=2, test=14), seed=0)
    >>> len(splits.train), len(splits.val), len(splits.test)
    (2, 1, 7)
    >>> splits.notes[0]
    'test: 7 of 14, as the pool train has 10 questions left for 20 wanted.'
    """
    found: dict[Split, list[Placed]] = {}
    taken: set[str] = set()
    notes: list[str] = []
    homes: dict[Split, Split] = {
        split: next(home for home in order if pools.rows.get(home)) for split, order in _HOMES.items()
    }
    for home in dict.fromkeys(homes.values()):
        sharing: list[Split] = [split for split in homes if homes[split] == home]
        groups = _grouped(pools.rows[home], asks, taken)
        random.Random(f"{home}-{seed}").shuffle(groups)
        for split, wanted in _wanted(groups, sharing, sizes, home, notes).items():
            found[split] = []
            while len(found[split]) < wanted and groups:
                question, rows = groups.pop()
                found[split] += rows[: wanted - len(found[split])]
                taken.add(question)
    if empty := sorted({"train", "val", "test"} - {split for split, rows in found.items() if rows}):
        raise TaskDataError(f"Expected rows for three splits, but {pools.origin} leaves none for {', '.join(empty)}.")
    return _recorded(found, pools, seed, notes)


def _grouped(rows: Sequence[Placed], asks: str, taken: set[str]) -> list[tuple[str, list[Placed]]]:
    """The rows by question, without those of the questions that are taken."""
    groups: dict[str, list[Placed]] = {}
    for each in rows:
        asked = each.example.get(asks)
        text = str(sorted(each.example.inputs().items())) if asked is None else str(asked)
        groups.setdefault(" ".join(text.casefold().split()), []).append(each)
    return [(question, same) for question, same in groups.items() if question not in taken]


def _wanted(
    groups: Sequence[tuple[str, Sequence[Placed]]], sharing: Sequence[Split], sizes: Sizes, home: str, notes: list[str]
) -> dict[Split, int]:
    """How many rows each of the splits of one pool gets."""
    have, asked = len(groups), sum(sizes.of(split) for split in sharing)
    wanted: dict[Split, int] = {split: sizes.of(split) for split in sharing}
    if asked > have:
        wanted = {split: max(1, size * have // asked) for split, size in wanted.items()}
        left = f"as the pool {home} has {have} questions left for {asked} wanted."
        notes += [f"{split}: {size} of {sizes.of(split)}, {left}" for split, size in wanted.items()]
    return wanted


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
