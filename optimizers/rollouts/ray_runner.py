"""Program runs spread over a Ray cluster. The only file that imports Ray, which comes with `dspy-sgt[ray]`.

    driver: a thread for each run -> the least busy worker -> judged_run()      a worker: a process of many threads
            store, ledger         <- JudgedRun as it is done <-

Program, metric, examples and DSPy's settings travel once, pickled, through Ray's object store.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import dspy

from optimizers.core.reward import Scorer
from optimizers.rollouts.judging import JudgedRun, failed_run, run_and_score
from optimizers.rollouts.pickling import StageTask, pickle_task, unpickle_task
from sgt_modules.episode import Given
from sgt_modules.errors import SetupError, SGTError

MAX_DEATHS = 3
"""A run whose worker has died this often is not tried again."""

_MAX_TASKS = 4
"""How many tasks a worker keeps unpickled: those of the splits, which take turns."""


class RayRunner:
    """Works program runs in processes spread over a Ray cluster, each of which has many runs under way at once.

    Joins the Ray that is initialised, else the cluster of `RAY_ADDRESS`, else one that it starts on this machine,
    without dashboard and usage statistics; `close` stops only what was started here. Nothing is started before the
    first run. The machines need Python, this package and what the program imports in the driver's versions. LMs travel
    with their API keys, inside the cluster; DSPy's callbacks and caches do not travel, and a model that runs locally is
    loaded by each worker.

    When a worker dies, another takes its place and its runs are worked again: at most those under way are paid twice.
    The third time a run has its worker to itself, as it may be a neighbour that kills; after that it is a rollout
    without a reward.

    Args:
        workers: Processes; by default one for each CPU of the cluster, but no more than runs under way at once.
        num_gpus: What each worker reserves, fractions allowed: for a local actor model.

    >>> with RayRunner(workers=2) as runner:
    ...     runner.check(dspy.Predict("question -> answer"), Scorer(lambda example, prediction: True), [])
    """

    def __init__(self, *, workers: int | None = None, num_gpus: float = 0.0) -> None:
        if workers is not None and workers < 1:
            raise SetupError(f"Expected at least one worker, got {workers}.")
        self._ray = import_ray()
        self._workers, self._num_gpus = workers, num_gpus
        self._pool: _Pool | None = None
        self._changed = threading.Condition()
        self._under_way = 0
        self._closed = self._started_ray = False

    def check(self, program: dspy.Module, scorer: Scorer, examples: Sequence[dspy.Example]) -> None:
        """Raise `SetupError` with the name of what cannot be pickled; starts nothing."""
        pickle_task(program, scorer, examples)

    def judge(
        self, program: dspy.Module, scorer: Scorer, examples: Sequence[dspy.Example], *, at_once: int
    ) -> Callable[[int, Given], JudgedRun]:
        """As `Runner`; raises `SetupError` as `check` does."""
        parcel = _SharedTask(pickle_task(program, scorer, examples))

        def judge(index: int, given: Given) -> JudgedRun:
            with self._opened(at_once) as pool:
                died = ""
                for attempt in range(1, MAX_DEATHS + 1):
                    try:
                        return pool.ask(parcel, index, given, alone=attempt == MAX_DEATHS)
                    except _WorkerDiedError as problem:
                        died = str(problem)
                return failed_run(examples[index], index, f"{MAX_DEATHS} workers died in this run; the last: {died}")

        return judge

    def close(self) -> None:
        """Wait for the runs under way, then stop the workers, and Ray if it was started here. It stays closed."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._under_way)
            if self._pool is not None:
                self._pool.close()
                self._pool = None
            if self._started_ray:
                self._ray.shutdown()
                self._started_ray = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _opened(self, at_once: int) -> Iterator[_Pool]:
        """The workers, started by the first run; `close` waits for the block."""
        with self._changed:
            if self._closed:
                raise SGTError("This RayRunner is closed and works no more runs. Make a new one.")
            if self._pool is None:
                self._pool = self._started(at_once)
            pool = self._pool
            self._under_way += 1
        try:
            yield pool
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def _started(self, at_once: int) -> _Pool:
        if not self._ray.is_initialized():
            _join_or_start(self._ray)
            self._started_ray = True
        workers = self._workers or min(at_once, int(self._ray.cluster_resources().get("CPU", 1))) or 1
        return _Pool(self._ray, workers, threads=at_once, num_gpus=self._num_gpus)


class _WorkerDiedError(Exception):
    """The worker of a run is gone, and the run's result with it."""


@dataclass(eq=False, slots=True)
class _Worker:
    """A worker as the driver sees it: `ready` answers once it has started, `runs` are under way in it."""

    actor: Any
    ready: Any
    started: bool = False
    reserved: bool = False
    runs: int = 0


class _Pool:
    """Workers of which the dead are replaced. Asked from many threads."""

    def __init__(self, ray: Any, size: int, *, threads: int, num_gpus: float) -> None:
        self._ray = ray
        self._remote = ray.remote(_WorkerProcess).options(
            max_concurrency=threads, num_gpus=num_gpus, scheduling_strategy="SPREAD"
        )
        self._changed = threading.Condition()
        self._workers = [self._start() for _ in range(size)]

    def ask(self, parcel: _SharedTask, index: int, given: Given, *, alone: bool) -> JudgedRun:
        """One run's result; `alone`: with no other run beside it in its worker.

        Raises `_WorkerDiedError`; `SetupError` where the parcel cannot be opened; `SGTError` where no worker starts.
        """
        worker, ray = self._take(alone=alone), self._ray
        try:
            return ray.get(worker.actor.judge.remote([parcel.reference(ray)], index, given))
        except ray.exceptions.RayTaskError as raised:  # `run_and_score` raises nothing, so the task did not load
            raise raised.cause from None
        except ray.exceptions.RayError as died:
            self._replace(worker)
            raise _WorkerDiedError(_first_line(died)) from died
        finally:
            self._leave(worker)

    def close(self) -> None:
        """Stop the workers."""
        with self._changed:
            for worker in self._workers:
                self._ray.kill(worker.actor)
            self._workers.clear()

    def _start(self) -> _Worker:
        actor = self._remote.remote()
        return _Worker(actor, actor.hello.remote())

    def _take(self, *, alone: bool) -> _Worker:
        """The least busy worker, with one more run; or one that is reserved for this run, once its others are done."""
        with self._changed:
            while True:
                free = [worker for worker in self._started() if not worker.reserved]
                if not free:
                    self._changed.wait()
                    continue
                worker = min(free, key=lambda each: each.runs)
                worker.reserved = alone
                if alone:
                    self._changed.wait_for(lambda worker=worker: not worker.runs or worker not in self._workers)
                if worker in self._workers:
                    worker.runs += 1
                    return worker

    def _leave(self, worker: _Worker) -> None:
        with self._changed:
            worker.runs -= 1
            worker.reserved = worker.reserved and bool(worker.runs)
            self._changed.notify_all()

    def _replace(self, dead: _Worker) -> None:
        with self._changed:
            if dead in self._workers:
                self._workers[self._workers.index(dead)] = self._start()
                self._ray.kill(dead.actor)

    def _started(self) -> list[_Worker]:
        """The workers that have started; waits for the first one, and gives up those that cannot start."""
        problem = "all of them are gone"
        while self._workers:
            starting = [worker for worker in self._workers if not worker.started]
            for worker in self._answered(starting, wait=len(starting) == len(self._workers)):
                try:
                    self._ray.get(worker.ready)
                    worker.started = True
                except self._ray.exceptions.RayError as failed:
                    problem = _first_line(failed)
                    self._workers.remove(worker)
            if started := [worker for worker in self._workers if worker.started]:
                return started
        raise SGTError(
            f"No worker could start on the Ray cluster: {problem}. Its machines need Python "
            f"{sys.version_info.major}.{sys.version_info.minor} and the driver's versions of dspy-sgt and dspy."
        )

    def _answered(self, starting: Sequence[_Worker], *, wait: bool) -> list[_Worker]:
        """Those that have answered whether they started; waits for one if need be."""
        if not starting:
            return []
        count, timeout = (1, None) if wait else (len(starting), 0)
        ready, _ = self._ray.wait([worker.ready for worker in starting], num_returns=count, timeout=timeout)
        return [worker for worker in starting if worker.ready in ready]


class _SharedTask:
    """A pickled task on its way: put into the object store when the first run needs it."""

    def __init__(self, pickled: bytes) -> None:
        self._pickled = pickled
        self._reference: Any = None
        self._lock = threading.Lock()

    def reference(self, ray: Any) -> Any:
        """The object in Ray's store."""
        with self._lock:
            if self._reference is None:
                self._reference, self._pickled = ray.put(self._pickled), b""
            return self._reference


class _WorkerProcess:
    """What runs in a worker's process, in as many threads as it is asked from."""

    def __init__(self) -> None:
        self._tasks: dict[Any, StageTask] = {}
        self._loading = threading.Lock()

    def hello(self) -> None:
        """Answers once the worker has started."""

    def judge(self, parcel: Sequence[Any], index: int, given: Given) -> JudgedRun:
        """Work one run. The parcel's reference comes in a list, as Ray would fetch a bare one for each run."""
        task = self._task(parcel[0])
        with dspy.context(**task.settings):
            return run_and_score(task.program, task.examples[index], index, given, task.scorer)

    def _task(self, reference: Any) -> StageTask:
        with self._loading:
            if reference not in self._tasks:
                pickled = import_ray().get(reference)
                while len(self._tasks) >= _MAX_TASKS:
                    del self._tasks[next(iter(self._tasks))]
                self._tasks[reference] = unpickle_task(pickled)
            return self._tasks[reference]


def _join_or_start(ray: Any) -> None:
    """Connect to the cluster of `RAY_ADDRESS`, or start one here that tells nobody."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as problem:
        address = os.environ.get("RAY_ADDRESS")
        raise SetupError(
            f"Ray could not be {f'reached at RAY_ADDRESS={address}' if address else 'started on this machine'}: "
            f"{problem}. Set RAY_ADDRESS to a running cluster, or to 'local' to start one here."
        ) from problem


def import_ray() -> Any:
    """The package `ray`; raises `SetupError` where it is not installed."""
    try:
        import ray
    except ImportError as missing:
        raise SetupError(
            f"runner='ray' needs Ray, which cannot be imported ({missing}). Install it: pip install 'dspy-sgt[ray]'."
        ) from missing
    return ray


def _first_line(error: Exception) -> str:
    """An error of Ray's in one line: its page-long texts begin with what happened."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
