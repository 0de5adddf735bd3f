from __future__ import annotations

import threading
import time
from collections.abc import Generator

import dspy
import pytest

from optimizers.core.concurrency import map_in_threads, prefetch


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


def test_results_come_in_the_items_order_under_the_caller_s_settings() -> None:
    with dspy.context(num_threads=77):
        assert map_in_threads(lambda n: n + dspy.settings.num_threads, [2, 0, 1], threads=3) == [79, 77, 78]


def test_an_exception_in_a_thread_is_raised_and_leaves_the_rest_out() -> None:
    worked: list[int] = []

    def work(number: int) -> float:
        worked.append(number)
        time.sleep(0.01)
        return 1 / (1 - number)

    with pytest.raises(ZeroDivisionError):
        map_in_threads(work, range(1000), threads=2)
    assert {0, 1} <= set(worked)
    assert len(worked) < 100
