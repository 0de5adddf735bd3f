"""What a loader returns: examples with the places of their rows, rows that do not fit, and their origin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import dspy

from sgt_modules.errors import SetupError, TaskDataError

Split = Literal["train", "val", "test"]
"""For learning, for choosing, and for scoring once at the end."""

_MAX_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Placed:
    """An example, and the place of its row: the file or hub split, with the row's index from 0."""

    example: dspy.Example
    place: str


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that does not fit its task, and why."""

    place: str
    problem: str


@dataclass(frozen=True)
class Pools:
    """Rows by their intended split, before any are drawn. Splits without rows of their own share a pool.

    `origin` is the data set with its revision, or a folder; `notes` name skipped rows, and why.

    >>> Pools.of([dspy.Example(question="2+2?").with_inputs("question")]).rows["train"][0].place
    'row[0]'
    """

    rows: Mapping[Split, Sequence[Placed]]
    origin: str = "the task's own loader"
    bad: Sequence[BadRow] = ()
    notes: Sequence[str] = ()

    @staticmethod
    def of(loaded: LoaderResult) -> Pools:
        """Turn what any loader returns into pools: examples by split, or a plain list of them.

        Raises:
            SetupError: the value is neither.
        """
        if isinstance(loaded, Pools):
            return loaded
        if not isinstance(loaded, Mapping):
            return Pools({"train": _place("row", loaded)})
        if unknown := sorted(set(loaded) - set(get_args(Split))):
            raise SetupError(f"Expected a loader's splits to be train, val and test, got {', '.join(unknown)}.")
        return Pools({split: _place(split, examples) for split, examples in loaded.items()})

    @property
    def all_rows(self) -> list[Placed]:
        """All rows that fit."""
        return [each for placed in self.rows.values() for each in placed]

    def check(self) -> None:
        """Raise `TaskDataError` if some rows do not fit, or if there are none."""
        if self.bad:
            faults = "; ".join(f"{each.place}: {each.problem}" for each in self.bad[:_MAX_SHOWN])
            more = f"; and {len(self.bad) - _MAX_SHOWN} more" if len(self.bad) > _MAX_SHOWN else ""
            raise TaskDataError(
                f"{len(self.bad)} rows of {self.origin} do not fit: {faults}{more}. Fix or remove them."
            )
        if not self.all_rows:
            raise TaskDataError(f"{self.origin} holds no rows.")


LoaderResult = Pools | Mapping[Split, Sequence[dspy.Example]] | Sequence[dspy.Example]
"""What a loader may return; your own task only needs a list of examples."""


def _place(name: str, examples: Sequence[dspy.Example]) -> list[Placed]:
    return [Placed(example, f"{name}[{index}]") for index, example in enumerate(examples)]
