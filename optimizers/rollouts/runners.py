"""What a runner must do, and which one a name means: the program's runs in threads of this process, or elsewhere.

A runner only runs and scores. Looking up known runs, saving and counting stay with the `RolloutEngine`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol

import dspy

from optimizers.core.concurrency import in_context
from optimizers.core.reward import Scorer
from optimizers.rollouts.judging import JudgedRun, RunFunction, ThreadRunner, failed_run
from sgt_modules.episode import SupplementSource
from sgt_modules.errors import SetupError

RunnerName = Literal["threads", "ray"]


class Runner(Protocol):
    """Does program runs for many threads at once; each thread waits for its own run."""

    def check(self, program: dspy.Module, scorer: Scorer, examples: Sequence[dspy.Example]) -> None:
        """Raise `SetupError` if this runner cannot run these; starts nothing and costs nothing."""
        ...

    def judge(
        self, program: dspy.Module, scorer: Scorer, examples: Sequence[dspy.Example], *, at_once: int
    ) -> RunFunction:
        """The function that does one run on one of these examples, under DSPy's current settings.

        `at_once`: how many threads will call it at the same time.
        """
        ...


def with_time_limit(judge: RunFunction, examples: Sequence[dspy.Example], seconds: float | None) -> RunFunction:
    """Wraps `judge` so that a run of more than `seconds` is abandoned, with no reward and unknown cost.

    An abandoned run continues in a background thread, and its result is dropped. None: no limit.
    """
    if seconds is None:
        return judge
    error = (
        f"RunTimeoutError: the run took longer than max_run_seconds={seconds:g} and was given up. Set the LM's own "
        "timeout to have its call tried again, or raise max_run_seconds."
    )

    def judge_in_time(index: int, given: SupplementSource) -> JudgedRun:
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

    return judge_in_time


def check_seconds(seconds: float | None) -> float | None:
    """Returns the limit; raises `SetupError` unless it is above 0 or None.

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
    """Returns the runner; raises `SetupError` for an unknown name, and for `ray` if Ray is not installed."""
    if runner == "ray":
        from optimizers.rollouts.ray_runner import import_ray

        import_ray()
    elif runner != "threads" and (isinstance(runner, str) or not hasattr(runner, "judge")):
        raise SetupError(f"Expected runner 'threads', 'ray' or an object such as RayRunner(), got {runner!r}.")
    return runner


@contextmanager
def open_runner(runner: RunnerName | Runner) -> Iterator[Runner]:
    """Yields the runner of a name and closes it afterwards; a runner object is yielded and stays open.

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

        with RayRunner() as created:
            yield created
