from __future__ import annotations

import threading
from collections.abc import Generator

import dspy
import pytest

from optimizers.core.concurrency import parallel_map, prefetch


def test_items_are_prefetched_while_earlier_ones_are_in_use() -> None:
    reached = threading.Event()

    def items() -> Generator[int]:
        yield 1
        reached.set()
        yield 2

    with prefetch(items()) as numbers:
        assert next(numbers) == 1
        assert reached.wait(10)
        assert list(numbers) == [2]


def test_an_exception_of_the_generator_is_raised_after_the_items_before_it() -> None:
    def items() -> Generator[int]:
        yield 1
        raise ValueError("no more")

    with prefetch(items()) as numbers:
        assert next(numbers) == 1
        with pytest.raises(ValueError, match="no more"):
            next(numbers)
        assert list(numbers) == []


def test_leaving_early_stops_and_closes_the_generator() -> None:
    proceed, closed, numbers = threading.Event(), threading.Event(), []

    def items() -> Generator[int]:
        try:
            for number in range(1000):
                numbers.append(number)
                yield number
                proceed.wait(10)
        finally:
            closed.set()

    with prefetch(items()) as prefetched:
        next(prefetched)
    proceed.set()
    assert closed.wait(10)
    assert len(numbers) <= 2


def test_the_generator_runs_under_the_reader_s_settings() -> None:
    def items() -> Generator[object]:
        yield dspy.settings.num_threads

    with dspy.context(num_threads=77), prefetch(items()) as settings:
        assert list(settings) == [77]


def test_results_come_in_the_positions_order_under_the_caller_s_settings() -> None:
    with dspy.context(num_threads=77):
        results = parallel_map(lambda n: n + dspy.settings.num_threads, iter([[2, 0], [1], [3]]), threads=3)
    assert results == [77, 78, 79, 80]


def test_the_first_exception_stops_the_other_threads_and_is_raised() -> None:
    worked: list[int] = []

    def work(position: int) -> int:
        worked.append(position)
        if position == 1:
            raise ValueError("one")
        return position

    with pytest.raises(ValueError, match="one"):
        parallel_map(work, iter([n] for n in range(1000)), threads=1)
    assert worked == [0, 1]
