"""Spreads program runs over a Ray cluster. The only file that imports Ray, which comes with `dspy-sgt[ray]`.

    driver: a thread for each run -> the least busy worker -> judged_run()      a worker: a process of many threads
            store, budget         <- JudgedRun when done     <-

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
from typing import Any

import dspy

from optimizers.core.closing import Closing
from optimizers.core.reward import Scorer
from optimizers.rollouts.judging import JudgedRun, failed_run, run_and_score
from optimizers.rollouts.pickling import StageTask, pickle_task, unpickle_task
from sgt_modules.episode import SupplementSource
from sgt_modules.errors import SetupError, SGTError

MAX_DEATHS = 3
"""A run whose worker died this often is not tried again."""

_MAX_TASKS = 4
"""How many tasks a worker keeps unpickled: one for each split, as the splits take turns."""


class RayRunner(Closing):
    """Does program runs in worker processes of a Ray cluster; each worker has many runs at once.

    Uses the Ray that is initialised, else the cluster of `RAY_ADDRESS`, else one that it starts on this machine without
    dashboard and usage statistics; `close` stops only what this object started. Nothing starts before the first run.
    The machines need Python, this package and the program's imports in the driver's versions. LMs are sent with their
    API keys, inside the cluster. DSPy's callbacks and caches are not sent, and each worker loads a local model itself.

    A worker that dies is replaced and its runs are done again, so at most the unfinished runs are paid twice. The third
    attempt has a worker to itself, as another run may have killed the first two; after that the run has no reward.

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
    ) -> Callable[[int, SupplementSource], JudgedRun]:
        """As `Runner`; raises `SetupError` as `check` does."""
        task = _SharedTask(pickle_task(program, scorer, examples))

        def judge(index: int, given: SupplementSource) -> JudgedRun:
            with self._use_pool(at_once) as pool:
                died = ""
                for attempt in range(1, MAX_DEATHS + 1):
                    try:
                        return pool.run(task, index, given, alone=attempt == MAX_DEATHS)
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

    @contextmanager
    def _use_pool(self, at_once: int) -> Iterator[_Pool]:
        """Yields the workers, which the first run starts; `close` waits until this context ends."""
        with self._changed:
            if self._closed:
                raise SGTError("This RayRunner is closed and does no more runs. Make a new one.")
            if self._pool is None:
                self._pool = self._start_pool(at_once)
            pool = self._pool
            self._under_way += 1
        try:
            yield pool
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def _start_pool(self, at_once: int) -> _Pool:
        if not self._ray.is_initialized():
            _join_or_start(self._ray)
            self._started_ray = True
        workers = self._workers or min(at_once, int(self._ray.cluster_resources().get("CPU", 1))) or 1
        return _Pool(self._ray, workers, threads=at_once, num_gpus=self._num_gpus)


class _WorkerDiedError(Exception):
    """The worker of a run died before it returned a result."""


@dataclass(eq=False, slots=True)
class _Worker:
    """A worker as the driver sees it: `ready` resolves once it has started, `runs` counts its unfinished runs."""

    actor: Any
    ready: Any
    started: bool = False
    reserved: bool = False
    runs: int = 0


class _Pool:
    """Workers, of which dead ones are replaced. Thread-safe."""

    def __init__(self, ray: Any, size: int, *, threads: int, num_gpus: float) -> None:
        self._ray = ray
        self._remote = ray.remote(_WorkerProcess).options(
            max_concurrency=threads, num_gpus=num_gpus, scheduling_strategy="SPREAD"
        )
        self._changed = threading.Condition()
        self._workers = [self._start() for _ in range(size)]

    def run(self, task: _SharedTask, index: int, given: SupplementSource, *, alone: bool) -> JudgedRun:
        """Do one run and return its result; `alone`: with no other run in the same worker.

        Raises `_WorkerDiedError`; `SetupError` if the task cannot be unpickled; `SGTError` if no worker starts.
        """
        worker, ray = self._acquire(alone=alone), self._ray
        try:
            return ray.get(worker.actor.judge.remote([task.reference(ray)], index, given))
        except ray.exceptions.RayTaskError as raised:  # `run_and_score` does not raise, so the task could not be loaded
            raise raised.cause from None
        except ray.exceptions.RayError as died:
            self._replace(worker)
            raise _WorkerDiedError(_first_line(died)) from died
        finally:
            self._release(worker)

    def close(self) -> None:
        """Stop the workers."""
        with self._changed:
            for worker in self._workers:
                self._ray.kill(worker.actor)
            self._workers.clear()

    def _start(self) -> _Worker:
        actor = self._remote.remote()
        return _Worker(actor, actor.hello.remote())

    def _acquire(self, *, alone: bool) -> _Worker:
        """Adds a run to the least busy worker; if `alone`, reserves the worker and waits until its other runs end."""
        with self._changed:
            while True:
                free = [worker for worker in self._started_workers() if not worker.reserved]
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

    def _release(self, worker: _Worker) -> None:
        with self._changed:
            worker.runs -= 1
            worker.reserved = worker.reserved and bool(worker.runs)
            self._changed.notify_all()

    def _replace(self, dead: _Worker) -> None:
        with self._changed:
            if dead in self._workers:
                self._workers[self._workers.index(dead)] = self._start()
                self._ray.kill(dead.actor)

    def _started_workers(self) -> list[_Worker]:
        """The workers that have started; waits for the first one, and drops those that cannot start."""
        problem = "all workers are gone"
        while self._workers:
            starting = [worker for worker in self._workers if not worker.started]
            for worker in self._ready_workers(starting, wait=len(starting) == len(self._workers)):
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

    def _ready_workers(self, starting: Sequence[_Worker], *, wait: bool) -> list[_Worker]:
        """The workers whose start has succeeded or failed; with `wait`, waits for the first."""
        if not starting:
            return []
        count, timeout = (1, None) if wait else (len(starting), 0)
        ready, _ = self._ray.wait([worker.ready for worker in starting], num_returns=count, timeout=timeout)
        return [worker for worker in starting if worker.ready in ready]


class _SharedTask:
    """A pickled task, which is put into Ray's object store when the first run needs it."""

    def __init__(self, pickled: bytes) -> None:
        self._pickled = pickled
        self._reference: Any = None
        self._lock = threading.Lock()

    def reference(self, ray: Any) -> Any:
        """The reference to the task in Ray's object store."""
        with self._lock:
            if self._reference is None:
                self._reference, self._pickled = ray.put(self._pickled), b""
            return self._reference


class _WorkerProcess:
    """The part in a worker's process, called from many threads."""

    def __init__(self) -> None:
        self._tasks: dict[Any, StageTask] = {}
        self._loading = threading.Lock()

    def hello(self) -> None:
        """Returns once the worker has started."""

    def judge(self, task: Sequence[Any], index: int, given: SupplementSource) -> JudgedRun:
        """Do one run. The task's reference is in a list, as Ray would fetch a bare reference for each run."""
        stage_task = self._load(task[0])
        with dspy.context(**stage_task.settings):
            return run_and_score(stage_task.program, stage_task.examples[index], index, given, stage_task.scorer)

    def _load(self, reference: Any) -> StageTask:
        with self._loading:
            if reference not in self._tasks:
                pickled = import_ray().get(reference)
                while len(self._tasks) >= _MAX_TASKS:
                    del self._tasks[next(iter(self._tasks))]
                self._tasks[reference] = unpickle_task(pickled)
            return self._tasks[reference]


def _join_or_start(ray: Any) -> None:
    """Connect to the cluster of `RAY_ADDRESS`, or start one here without usage statistics."""
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
    """Import `ray`; raises `SetupError` if it is not installed."""
    try:
        import ray
    except ImportError as missing:
        raise SetupError(
            f"runner='ray' needs Ray, which cannot be imported ({missing}). Install it: pip install 'dspy-sgt[ray]'."
        ) from missing
    return ray


def _first_line(error: Exception) -> str:
    """An error of Ray's in one line: the first line of its long text says what happened."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
