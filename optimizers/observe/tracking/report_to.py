"""Trackers by the words that TRL's users know."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from optimizers.observe.tracking.tracker import Tracker
from sgt_modules.errors import SetupError

if TYPE_CHECKING:
    from optimizers.core.events import Observer

TrackerName = Literal["mlflow", "wandb", "tensorboard"]
Destination: TypeAlias = "TrackerName | Tracker | Observer"
ReportTo: TypeAlias = "Literal['none'] | Destination | Sequence[Destination] | None"
"""As TRL's `report_to`: a name, several, or none; and observers or trackers of a user's own."""


def check_report_to(report_to: ReportTo) -> tuple[Destination, ...]:
    """Each of what `report_to` names once. Raises `SetupError` for an unknown name, and for a package that is missing.

    >>> check_report_to("none"), check_report_to(None)
    ((), ())
    >>> try:
    ...     check_report_to("excel")
    ... except SetupError as error:
    ...     print(error)
    Expected report_to of mlflow, wandb, tensorboard, 'none', an Observer or a Tracker, got 'excel'.
    """
    if report_to is None or report_to == "none":
        return ()
    from optimizers.core.events import Observer

    asked = report_to if isinstance(report_to, Sequence) and not isinstance(report_to, str) else (report_to,)
    for each in asked:
        if isinstance(each, str) and each in get_args(TrackerName):
            if find_spec(each) is None:
                raise SetupError(
                    f"Expected the package {each} for report_to={each!r}: pip install 'dspy-sgt[trackers]'."
                )
        elif isinstance(each, str) or not isinstance(each, Observer | Tracker):
            names = ", ".join(get_args(TrackerName))
            raise SetupError(f"Expected report_to of {names}, 'none', an Observer or a Tracker, got {each!r}.")
    return tuple(each for n, each in enumerate(asked) if each not in asked[:n])


def open_tracker(named: TrackerName | Tracker) -> Tracker:
    """The tracker of that name, or the tracker itself."""
    if named == "mlflow":
        from optimizers.observe.tracking.mlflow_run import MLflowRun

        return MLflowRun()
    if named == "wandb":
        from optimizers.observe.tracking.wandb_run import WandbRun

        return WandbRun()
    if named == "tensorboard":
        from optimizers.observe.tracking.tensorboard_events import TensorBoardEvents

        return TensorBoardEvents()
    return named
