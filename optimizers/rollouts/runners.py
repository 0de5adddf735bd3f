"""Where the program's runs are worked: in this process's threads, or wherever another `Runner` takes them.

A runner does the pure part, running and judging. Looking up what is known, saving and counting stay with the `RolloutEngine`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol

import dspy

from optimizers.core.concurrency import in_context
from optimizers.core.reward import Scorer
from optimizers.rollouts.judging import JudgedRun, failed_run, run_and_score
from sgt_modules.episode import Given
from sgt_modules.errors import SetupError

RunFunction = Callable[[int, Given], JudgedRun]
"""Runs the program on the example of that number under the given supplements, and waits until it is judged."""

RunnerName = Literal["threads", "ray"]


class Runner(Protocol):
    """Works program runs for many threads at once; a thread waits for its own run."""

    def check(self, program: dspy.Module, scorer: Scorer, examples: Sequence[dspy.Example]) -> None:
        """Raise `SetupError` where these cannot be worked; nothing is started or paid for."""
        ...

    def judge(
        self, program: dspy.Module, scorer: Scorer, examples: Sequence[dspy.Example], *, at_once: int
    ) -> RunFunction:
        """How one run on one of these examples is worked, under DSPy's settings as they are here and now.

        `at_once`: how many threads will call it at the same time.
        """
        ...


class ThreadRunner:
    """Works each run in the thread that waits for it, which is right for models behind HTTP and on this machine."""

    def check(self, program: dspy.Module, scorer: Scorer, examples: Sequence[dspy.Example]) -> None:
        """Nothing to check: threads share what they are given."""

    def judge(
        self, program: dspy.Module, scorer: Scorer, examples: Sequence[dspy.Example], *, at_once: int
    ) -> RunFunction:
        """As `Runner`."""

        def judge(index: int, given: Given) -> JudgedRun:
            return run_and_score(program, examples[index], index, given, scorer)

        return judge


def with_time_limit(judge: RunFunction, examples: Sequence[dspy.Example], seconds: float | None) -> RunFunction:
    """The same, but a run of more than so many seconds is given up: no reward, and what it costs is not known.

    It goes on in its thread, which keeps neither the caller nor the process from ending, and what it gives then is
    dropped. None: each run takes as long as it takes, in the caller's own thread.
    """
    if seconds is None:
        return judge
    error = (
        f"RunTimeoutError: the run took longer than max_run_seconds={seconds:g} and was given up. Set the LM's own "
        "timeout to have its call tried again, or raise max_run_seconds."
    )

    def timed(index: int, given: Given) -> JudgedRun:
        ended: list[JudgedRun | BaseException] = []

        def work() -> None:
            try:
                ended.append(judge(index, given))
            except BaseException as problem:  # noqa: BLE001 - raised again below, in the caller's thread
                ended.append(problem)

        thread = in_context(work, "sgt-run")
        thread.start()
        thread.join(seconds)
        if not ended:
            return failed_run(examples[index], index, error)
        if isinstance(ended[0], BaseException):
            raise ended[0]
        return ended[0]

    return timed


def check_seconds(seconds: float | None) -> float | None:
    """The limit itself; raises `SetupError` unless it is above 0.

    >>> try:
    ...     check_seconds(0)
    ... except SetupError as error:
    ...     print(error)
    Expected max_run_seconds above 0 or None, got 0.
    """
    if seconds is not None and not seconds > 0:
        raise SetupError(f"Expected max_run_seconds above 0 or None, got {seconds!r}.")
    return seconds


def check_runner(runner: RunnerName | Runner) -> RunnerName | Runner:
    """The runner itself; raises `SetupError` for a word that names none, and for `ray` where Ray is not installed."""
    if runner == "ray":
        from optimizers.rollouts.ray_runner import import_ray

        import_ray()
    elif runner != "threads" and (isinstance(runner, str) or not hasattr(runner, "judge")):
        raise SetupError(f"Expected runner 'threads', 'ray' or an object such as RayRunner(), got {runner!r}.")
    return runner


@contextmanager
def open_runner(runner: RunnerName | Runner) -> Iterator[Runner]:
    """Inside, a runner of that name, which is closed after; one that the caller made is left open.

    >>> with open_runner("threads") as runner:
    ...     type(runner).__name__
    'ThreadRunner'
    """
    if not isinstance(runner, str):
        yield runner
    elif runner == "threads":
        yield ThreadRunner()
    else:
        from optimizers.rollouts.ray_runner import RayRunner

        with RayRunner() as ours:
            yield ours
