from __future__ import annotations

import threading
from collections.abc import Generator

import dspy
import pytest

from optimizers.core.ahead import made_ahead


def test_items_are_made_while_those_before_them_are_worked_on() -> None:
    made = threading.Event()

    def items() -> Generator[int]:
        yield 1
        made.set()
        yield 2

    with made_ahead(items()) as ahead:
        assert next(ahead) == 1
        assert made.wait(10)
        assert list(ahead) == [2]


def test_what_their_making_raises_comes_after_the_items_before_it() -> None:
    def items() -> Generator[int]:
        yield 1
        raise ValueError("no more")

    with made_ahead(items()) as ahead:
        assert next(ahead) == 1
        with pytest.raises(ValueError, match="no more"):
            next(ahead)
        assert list(ahead) == []


def test_leaving_early_makes_no_more_and_closes_the_making() -> None:
    going, closed, made = threading.Event(), threading.Event(), []

    def items() -> Generator[int]:
        try:
            for number in range(1000):
                made.append(number)
                yield number
                going.wait(10)
        finally:
            closed.set()

    with made_ahead(items()) as ahead:
        next(ahead)
    going.set()
    assert closed.wait(10)
    assert len(made) <= 2


def test_items_are_made_under_the_reader_s_settings() -> None:
    def items() -> Generator[object]:
        yield dspy.settings.num_threads

    with dspy.context(num_threads=77), made_ahead(items()) as ahead:
        assert list(ahead) == [77]
