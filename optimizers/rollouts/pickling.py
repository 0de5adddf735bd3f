"""Pickles what the runs of a stage share, for another process; an error names the part that cannot be pickled."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple

import cloudpickle
import dspy

from optimizers.core.reward import Scorer
from sgt_modules.errors import SetupError

_DRIVER_SETTINGS = (
    "branch_idx",
    "caller_modules",
    "caller_predict",
    "callbacks",
    "send_stream",
    "stream_listeners",
    "trace",
    "usage_tracker",
)
"""Settings of DSPy that stay in the driver's process: they observe it, or track its current call."""


class StageTask(NamedTuple):
    """What all runs of a stage share."""

    program: dspy.Module
    scorer: Scorer
    examples: Sequence[dspy.Example]
    settings: Mapping[str, object]


def pickle_task(program: dspy.Module, scorer: Scorer, examples: Sequence[dspy.Example]) -> bytes:
    """Pickle a task with DSPy's current settings; raises `SetupError` with the part that cannot be pickled."""
    settings = {name: value for name, value in dspy.settings.copy().items() if name not in _DRIVER_SETTINGS}
    try:
        return _pickle(StageTask(program, scorer, list(examples), settings))
    except Exception as problem:
        parts = {
            f"The metric {scorer.name}": scorer,
            **{f"The LM of predictor {name!r}": each.lm for name, each in program.named_predictors()},
            f"The program {type(program).__name__}": program,
            **{f"Example {index}": example for index, example in enumerate(examples)},
            **{f"DSPy's setting {name!r}": value for name, value in settings.items()},
        }
        name = next((name for name, part in parts.items() if not _can_pickle(part)), "What the runs need")
        raise SetupError(
            f"{name} must be pickled to reach the Ray workers, but that gave {type(problem).__name__}: {problem}. Keep "
            "locks, files and connections out of it (open them where they are used), or take runner='threads'."
        ) from problem


def unpickle_task(pickled: bytes) -> StageTask:
    """Restore a task from `pickle_task` in another process; raises `SetupError` if that fails."""
    try:
        return cloudpickle.loads(pickled)
    except Exception as problem:
        raise SetupError(
            f"A Ray worker cannot unpickle the program, its metric or its examples ({type(problem).__name__}: "
            f"{problem}). Install your own modules there too, or have them sent along: call "
            "cloudpickle.register_pickle_by_value(your_module) before compile()."
        ) from problem


class _Pickler(cloudpickle.Pickler):
    """Pickles an LM without its history and callbacks, as DSPy's modules do by themselves."""

    def reducer_override(self, obj: object) -> Any:
        if isinstance(obj, dspy.BaseLM) and (obj.history or obj.callbacks):
            bare = copy(obj)
            bare.history, bare.callbacks = [], []
            return bare.__reduce_ex__(4)
        return super().reducer_override(obj)


def _pickle(value: object) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer).dump(value)
    return buffer.getvalue()


def _can_pickle(value: object) -> bool:
    try:
        _pickle(value)
    except Exception:  # noqa: BLE001 - whatever a user's object raises
        return False
    return True
