"""Where the program's runs are worked: in this process's threads, or wherever another `Runner` takes them.

A runner does the pure part, running and judging. Looking up what is known, saving and counting stay with the `Actor`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol

import dspy

from optimizers.judging import JudgedRun, judged_run
from optimizers.reward import Scorer
from sgt_modules.episode import Given
from sgt_modules.errors import SetupError

Judge = Callable[[int, Given], JudgedRun]
"""Runs the program on the example of that number under the given supplements, and waits until it is judged."""

RunnerName = Literal["threads", "ray"]


class Runner(Protocol):
    """Works program runs for many threads at once; a thread waits for its own run."""

    def check(self, program: dspy.Module, scorer: Scorer, examples: Sequence[dspy.Example]) -> None:
        """Raise `SetupError` where these cannot be worked; nothing is started or paid for."""
        ...

    def judge(self, program: dspy.Module, scorer: Scorer, examples: Sequence[dspy.Example], *, at_once: int) -> Judge:
        """How one run on one of these examples is worked, under DSPy's settings as they are here and now.

        `at_once`: how many threads will call it at the same time.
        """
        ...


class ThreadRunner:
    """Works each run in the thread that waits for it, which is right for models behind HTTP and on this machine."""

    def check(self, program: dspy.Module, scorer: Scorer, examples: Sequence[dspy.Example]) -> None:
        """Nothing to check: threads share what they are given."""

    def judge(self, program: dspy.Module, scorer: Scorer, examples: Sequence[dspy.Example], *, at_once: int) -> Judge:
        """As `Runner`."""

        def judge(index: int, given: Given) -> JudgedRun:
            return judged_run(program, examples[index], index, given, scorer)

        return judge


def check_runner(runner: RunnerName | Runner) -> RunnerName | Runner:
    """The runner itself; raises `SetupError` for a word that names none, and for `ray` where Ray is not installed."""
    if runner == "ray":
        from optimizers.ray_runner import installed_ray

        installed_ray()
    elif runner != "threads" and (isinstance(runner, str) or not hasattr(runner, "judge")):
        raise SetupError(f"Expected runner 'threads', 'ray' or an object such as RayRunner(), got {runner!r}.")
    return runner


@contextmanager
def opened(runner: RunnerName | Runner) -> Iterator[Runner]:
    """Inside, a runner of that name, which is closed after; one that the caller made is left open.

    >>> with opened("threads") as runner:
    ...     type(runner).__name__
    'ThreadRunner'
    """
    if not isinstance(runner, str):
        yield runner
    elif runner == "threads":
        yield ThreadRunner()
    else:
        from optimizers.ray_runner import RayRunner

        with RayRunner() as ours:
            yield ours
