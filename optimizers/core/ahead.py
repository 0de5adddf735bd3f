"""Items made by one thread while others work on those before them."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import NamedTuple, TypeVar

from optimizers.core.concurrency import in_context

_T = TypeVar("_T")


class _End(NamedTuple):
    """After the last item: what stopped their making, if something did."""

    problem: BaseException | None


@contextmanager
def made_ahead(items: Generator[_T]) -> Iterator[Iterator[_T]]:
    """Inside, the items come in order from a thread that makes them ahead of whoever reads them.

    What their making raises is raised in their reader, after the items before it. The thread sees the caller's
    `dspy.context`. Leaving early ends the making after the item under way, and `items` is closed.

    >>> with made_ahead(number * number for number in range(3)) as squares:
    ...     list(squares)
    [0, 1, 4]
    """
    made = SimpleQueue[_T | _End]()
    left = threading.Event()

    def make() -> None:
        problem: BaseException | None = None
        try:
            for item in items:
                made.put(item)
                if left.is_set():
                    break
            items.close()
        except BaseException as error:  # noqa: BLE001 - raised again below, in the reader's thread
            problem = error
        made.put(_End(problem))

    in_context(make, "sgt-ahead").start()
    try:
        yield _read(made)
    finally:
        left.set()


def _read(made: SimpleQueue[_T | _End]) -> Iterator[_T]:
    while not isinstance(item := made.get(), _End):
        yield item
    if item.problem is not None:
        raise item.problem
