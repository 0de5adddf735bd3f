"""What a loader gives: examples with the places of their rows, rows that do not fit, and where all of it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import dspy

from sgt_modules.errors import SetupError, TaskDataError

Split = Literal["train", "val", "test"]
"""To learn from, to choose on, and to score once, at the end."""

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Placed:
    """An example, and the place of its row: the file (or the hub's split) with the row's index in it, from 0."""

    example: dspy.Example
    place: str


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that does not fit its task, and why."""

    place: str
    problem: str


@dataclass(frozen=True)
class Pools:
    """Rows by the split they are meant for, before any are drawn. Splits that have no rows of their own share.

    `origin` is the data set with its revision, or a folder; `notes` tell what was left out, and why.

    >>> Pools.of([dspy.Example(question="2+2?").with_inputs("question")]).rows["train"][0].place
    'row[0]'
    """

    rows: Mapping[Split, Sequence[Placed]]
    origin: str = "the task's own loader"
    bad: Sequence[BadRow] = ()
    notes: Sequence[str] = field(default=())

    @staticmethod
    def of(loaded: Loaded) -> Pools:
        """What any loader gave as pools: examples by split, or a mere list of them.

        Raises:
            SetupError: it is neither.
        """
        if isinstance(loaded, Pools):
            return loaded
        if not isinstance(loaded, Mapping):
            return Pools({"train": _placed("row", loaded)})
        if unknown := sorted(set(loaded) - set(get_args(Split))):
            raise SetupError(f"Expected a loader's splits to be train, val and test, got {', '.join(unknown)}.")
        return Pools({split: _placed(split, examples) for split, examples in loaded.items()})

    @property
    def every(self) -> list[Placed]:
        """All rows that fit."""
        return [each for placed in self.rows.values() for each in placed]

    def check(self) -> None:
        """Raise `TaskDataError` where rows do not fit, or there are none."""
        if self.bad:
            told = "; ".join(f"{each.place}: {each.problem}" for each in self.bad[:_SHOWN])
            more = f"; and {len(self.bad) - _SHOWN} more" if len(self.bad) > _SHOWN else ""
            raise TaskDataError(
                f"{len(self.bad)} rows of {self.origin} do not fit: {told}{more}. Mend them or take them out."
            )
        if not self.every:
            raise TaskDataError(f"{self.origin} holds no rows.")


Loaded = Pools | Mapping[Split, Sequence[dspy.Example]] | Sequence[dspy.Example]
"""What a loader may give; a task of your own needs no more than examples."""


def _placed(name: str, examples: Sequence[dspy.Example]) -> list[Placed]:
    return [Placed(example, f"{name}[{index}]") for index, example in enumerate(examples)]
