"""A run as MLflow keeps it; the only file that imports mlflow, when asked for."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optimizers.core.concurrency import map_in_threads
from optimizers.core.events import Ending
from optimizers.observe.tracking.tracker import Point, TrackedRun

_MOST = 100
"""Parameters, and far fewer metrics than MLflow's 1000, a request."""

_LONGEST = 500
"""Letters of a parameter's value that every MLflow store takes."""

_STATUS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


class MLflowRun:
    """Writes to the MLflow run that is active where this is made (and leaves its end to its owner), else to a
    run of its own in MLflow's current experiment, at its current tracking URI.

    >>> MLflowRun().name
    'mlflow'
    """

    name = "mlflow"

    def __init__(self) -> None:
        mlflow: Any = sys.modules.get("mlflow")  # who has not imported it has no run under way
        active = mlflow.active_run() if hasattr(mlflow, "active_run") else None
        self._joined: str | None = None if active is None else active.info.run_id
        self._client: Any = None
        self._run = ""
        self._own = False

    def begin(self, run: TrackedRun) -> str:
        """As `Tracker`; where this MLflow does not have `run.known`, begins another run."""
        from mlflow import MlflowClient

        self._client = MlflowClient()
        known = None if run.known is None else self._found(run.known)
        self._run = known or self._joined or self._new(run)
        self._own = self._run != self._joined
        if known is None:
            self._describe(run)
        elif self._own:
            self._client.update_run(self._run, status="RUNNING")
        return self._run

    def points(self, points: Sequence[Point]) -> None:
        """As `Tracker`, some at a time."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(each.name, float(each.value), now, each.step) for each in points]
        for first in range(0, len(metrics), _MOST):
            self._client.log_batch(self._run, metrics=metrics[first : first + _MOST])

    def label(self, name: str, text: str) -> None:
        """As `Tracker`: a tag."""
        self._client.set_tag(self._run, f"sgt.{name}", text)

    def file(self, path: Path, place: str) -> None:
        """As `Tracker`: an artifact."""
        log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        log(self._run, str(path), place or None)

    def end(self, ending: Ending) -> None:
        """As `Tracker`."""
        if self._own:
            self._client.set_terminated(self._run, _STATUS[ending])

    def _found(self, run: str) -> str | None:
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_run(run)
        except MlflowException as problem:
            if problem.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run if found.info.lifecycle_stage == "active" else None

    def _new(self, run: TrackedRun) -> str:
        """A new run, made as MLflow's own loggers make theirs: in the current experiment, with the user's tags."""
        import mlflow

        # In a thread of its own, as a run is active in the thread that starts it.
        [begun] = map_in_threads(lambda _: mlflow.start_run(run_name=run.name), [0], threads=1)
        return begun.info.run_id

    def _describe(self, run: TrackedRun) -> None:
        from mlflow.entities import Param

        self._client.set_tag(self._run, "sgt.run", run.id)
        params = [Param(name, text[:_LONGEST]) for name, text in run.parameters.items()]
        for first in range(0, len(params), _MOST):
            self._client.log_batch(self._run, params=params[first : first + _MOST])
