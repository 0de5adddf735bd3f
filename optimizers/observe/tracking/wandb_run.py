"""A run as Weights & Biases keeps it; the only file that imports wandb, when asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from optimizers.core.events import Ending
from optimizers.observe.tracking.tracker import Point, TrackedRun

PROJECT = "dspy-sgt"
"""Where `WANDB_PROJECT` names no other."""

_EXIT = {"finished": 0, "failed": 1, "stopped": 130}


class WandbRun:
    """Writes to the W&B run that is under way (and leaves its end to its owner), else to a run of its own.

    Values by stage have `stage` as their axis, losses their optimizer step. The process's output, its command line,
    its source and its machine stay out of W&B.

    >>> WandbRun().name
    'wandb'
    """

    name = "wandb"

    def __init__(self) -> None:
        self._run: Any = None
        self._own = False
        self._axes: set[str] = set()

    def begin(self, run: TrackedRun) -> str:
        """As `Tracker`."""
        import wandb

        active: Any = wandb.run
        self._own = active is None or (run.known is not None and active.id != run.known)
        if self._own:
            settings = wandb.Settings(
                silent=True,
                show_warnings=False,
                console="off",
                disable_code=True,
                disable_git=True,
                save_code=False,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            )
            active = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                id=run.known or run.id,
                name=run.name,
                resume="allow",
                reinit="create_new",
                dir=str(run.folder),
                settings=settings,
            )
        self._run = active
        self._run.config.update(dict(run.parameters), allow_val_change=True)
        return self._run.id

    def points(self, points: Sequence[Point]) -> None:
        """As `Tracker`."""
        for (axis, step), some in groupby(points, key=lambda each: (_axis(each.name), each.step)):
            values = {each.name: each.value for each in some}
            self._measure(axis, list(values))
            self._run.log({**values, axis: step})

    def _measure(self, axis: str, names: Sequence[str]) -> None:
        if axis not in self._axes:
            self._run.define_metric(axis, hidden=True)
        for name in {*names} - self._axes:
            self._run.define_metric(name, step_metric=axis)
        self._axes |= {axis, *names}

    def label(self, name: str, text: str) -> None:
        """As `Tracker`: in the run's summary."""
        self._run.summary[f"sgt/{name}"] = text

    def file(self, path: Path, place: str) -> None:
        """As `Tracker`: an artifact a folder, and a single file as it is."""
        import wandb

        if not path.is_dir():
            self._run.save(str(path), base_path=str(path.parent), policy="now")
            return
        artifact = wandb.Artifact(f"{self._run.id}-{place.replace('/', '-')}", type="model")
        artifact.add_dir(str(path))
        self._run.log_artifact(artifact)

    def end(self, ending: Ending) -> None:
        """As `Tracker`."""
        if self._own:
            self._run.finish(exit_code=_EXIT[ending])


def _axis(name: str) -> str:
    """What a curve's values are drawn over.

    >>> _axis("val/score"), _axis("dpo1/loss_2")
    ('stage', 'dpo1/step')
    """
    owner, _, what = name.partition("/")
    return f"{owner}/step" if what.startswith("loss") else "stage"
