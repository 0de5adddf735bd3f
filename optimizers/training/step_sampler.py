"""Samplers: the order of rows in an epoch, and which rows of an optimizer step each process reads. Pure.

order of rows -> steps -> each step split into batches, one batch for each process in turn

Every process reads the same number of batches: otherwise one process would wait for another for ever. Where rows are
missing, the index after the last row stands for a blank row, which has no part in any loss.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final, Protocol, TypeVar

_Row = TypeVar("_Row")

POOL: Final = 16
"""Batches that are sorted by length together: few enough to keep the order random, enough to save padding."""


class RowOrder(Iterable[int], Protocol):
    """Row indices, in a new order at each iteration."""

    def __len__(self) -> int:
        """The number of rows."""
        ...


class LengthGrouped:
    """A sampler that gives each row index once an iteration; consecutive batches have rows of similar length.

    Shuffles the rows, sorts them by length within pools of `POOL` batches, and shuffles the batches. Rows that fill no
    batch come last.

    >>> list(LengthGrouped([9, 1, 8, 2, 1], batch_size=2, rng=random.Random(0)))
    [4, 1, 3, 0, 2]
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, rng: random.Random) -> None:
        self._lengths, self._batch_size, self._rng = lengths, batch_size, rng

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        size = self._batch_size
        order = self._rng.sample(range(len(self)), len(self))
        whole = len(order) - len(order) % size
        batches: list[list[int]] = []
        for first in range(0, whole, POOL * size):
            pool = sorted(order[first : min(first + POOL * size, whole)], key=self._lengths.__getitem__)
            batches += [pool[at : at + size] for at in range(0, len(pool), size)]
        self._rng.shuffle(batches)
        yield from (index for batch in batches for index in batch)
        yield from order[whole:]


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How `processes` read a step of `step` rows: each reads `batch` rows at a time, `times` times.

    >>> BatchPlan.of(step=16, most=8, processes=1), BatchPlan.of(step=16, most=8, processes=4).batch
    (BatchPlan(batch=8, times=2, step=16, processes=1), 4)
    """

    batch: int
    times: int
    step: int
    processes: int

    @staticmethod
    def of(step: int, *, most: int, processes: int) -> BatchPlan:
        """The plan with the fewest batches of at most `most` rows, and the smallest batches among those."""
        rows_each = ceil(step / processes)
        times = ceil(rows_each / most)
        return BatchPlan(ceil(rows_each / times), times, step, processes)

    def deal(self, rows: list[int], blank: int) -> list[int]:
        """A step's rows, and as many blank rows as it takes to fill a batch for each process.

        >>> BatchPlan.of(step=6, most=4, processes=2).deal([5, 3, 1, 4], blank=9)
        [5, 3, 1, 4, 9, 9]
        """
        missing = 0 if self.processes == 1 else -len(rows) % (self.batch * self.processes)
        return rows + [blank] * missing


@dataclass(frozen=True, slots=True)
class WholeStepPlan:
    """Each of `processes` gets the whole step in one batch, and reads its own share of it."""

    step: int
    processes: int

    def deal(self, rows: list[int], blank: int) -> list[int]:
        """A step's rows, once for each process; a shorter last step is filled with blank rows.

        >>> WholeStepPlan(step=3, processes=2).deal([5, 3], blank=9)
        [5, 3, 9, 5, 3, 9]
        """
        missing = 0 if self.processes == 1 else self.step - len(rows)
        return (rows + [blank] * missing) * self.processes


class StepSampler:
    """A sampler that takes rows in an order and deals them step by step, as a plan says.

    >>> list(StepSampler([4, 2, 0, 1, 3], BatchPlan.of(step=2, most=2, processes=2)))
    [4, 2, 0, 1, 3, 5]
    """

    def __init__(self, order: RowOrder | Sequence[int], plan: BatchPlan | WholeStepPlan) -> None:
        self._order, self._plan = order, plan

    def __len__(self) -> int:
        rows, size = len(self._order), self._plan.step
        steps, rest = divmod(rows, size)
        deal, sample = self._plan.deal, [0] * size
        return steps * len(deal(sample, rows)) + (len(deal(sample[:rest], rows)) if rest else 0)

    def __iter__(self) -> Iterator[int]:
        step: list[int] = []
        for row in self._order:
            step.append(row)
            if len(step) == self._plan.step:
                yield from self._plan.deal(step, len(self._order))
                step = []
        if step:
            yield from self._plan.deal(step, len(self._order))


def take_share(rows: Sequence[_Row], rank: int, processes: int) -> Sequence[_Row]:
    """The share of a step's rows that process `rank` reads: consecutive rows, so that what they share stays together.

    >>> [take_share([5, 3, 1], rank, processes=2) for rank in range(2)]
    [[5, 3], [1]]
    """
    size = ceil(len(rows) / processes)
    return rows[rank * size : (rank + 1) * size]
