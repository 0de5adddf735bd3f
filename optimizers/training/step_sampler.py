"""Which rows of an optimizer step each process reads, so that all of them together read just that step. Pure.

order of rows -> steps -> each step dealt in batches, to one process after the other

Every process reads as many batches as the others, or they would wait for each other for ever; where rows are missing
for that, the number after the last row stands for a blank one, which has no part in any loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Protocol, TypeVar

T = TypeVar("T")


class Order(Iterable[int], Protocol):
    """Numbers of rows, in a new order at each iteration."""

    def __len__(self) -> int:
        """How many rows there are."""
        ...


@dataclass(frozen=True, slots=True)
class Portion:
    """What one of `processes` reads of a step of `step` rows: `batch` rows at a time, `times` times.

    >>> Portion.of(step=16, most=8, processes=1), Portion.of(step=16, most=8, processes=4).batch
    (Portion(batch=8, times=2, step=16, processes=1), 4)
    """

    batch: int
    times: int
    step: int
    processes: int

    @staticmethod
    def of(step: int, *, most: int, processes: int) -> Portion:
        """The fewest batches of at most `most` rows, and among those the smallest."""
        own = ceil(step / processes)
        times = ceil(own / most)
        return Portion(ceil(own / times), times, step, processes)

    def dealt(self, rows: list[int], blank: int) -> list[int]:
        """A step's rows, and as many blank ones as are missing to a batch for each process.

        >>> Portion.of(step=6, most=4, processes=2).dealt([5, 3, 1, 4], blank=9)
        [5, 3, 1, 4, 9, 9]
        """
        missing = 0 if self.processes == 1 else -len(rows) % (self.batch * self.processes)
        return rows + [blank] * missing


@dataclass(frozen=True, slots=True)
class Whole:
    """A step that each of `processes` gets in one batch, to read a part of it."""

    step: int
    processes: int

    def dealt(self, rows: list[int], blank: int) -> list[int]:
        """A step's rows once a process; a last, smaller step with blank ones.

        >>> Whole(step=3, processes=2).dealt([5, 3], blank=9)
        [5, 3, 9, 5, 3, 9]
        """
        missing = 0 if self.processes == 1 else self.step - len(rows)
        return (rows + [blank] * missing) * self.processes


class Dealt:
    """A sampler of rows in an order, dealt step by step.

    >>> list(Dealt([4, 2, 0, 1, 3], Portion.of(step=2, most=2, processes=2)))
    [4, 2, 0, 1, 3, 5]
    """

    def __init__(self, order: Order | Sequence[int], portion: Portion | Whole) -> None:
        self._order, self._portion = order, portion

    def __len__(self) -> int:
        rows, step = len(self._order), self._portion.step
        whole, rest = divmod(rows, step)
        deal, sample = self._portion.dealt, [0] * step
        return whole * len(deal(sample, rows)) + (len(deal(sample[:rest], rows)) if rest else 0)

    def __iter__(self) -> Iterator[int]:
        step: list[int] = []
        for row in self._order:
            step.append(row)
            if len(step) == self._portion.step:
                yield from self._portion.dealt(step, len(self._order))
                step = []
        if step:
            yield from self._portion.dealt(step, len(self._order))


def own_part(rows: Sequence[T], rank: int, processes: int) -> Sequence[T]:
    """The part of a step's rows that a process reads: neighbours, so that what they share stays together.

    >>> [own_part([5, 3, 1], rank, processes=2) for rank in range(2)]
    [[5, 3], [1]]
    """
    size = ceil(len(rows) / processes)
    return rows[rank * size : (rank + 1) * size]
