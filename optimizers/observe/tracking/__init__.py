"""A run told to experiment trackers: MLflow, Weights & Biases, TensorBoard, or one of the user's own."""

from optimizers.observe.tracking.dispatcher import Tracking
from optimizers.observe.tracking.naming import ReportTo, TrackerName, check_report_to
from optimizers.observe.tracking.tracker import Ending, Point, TrackedRun, Tracker

__all__ = [
    "Ending",
    "Point",
    "ReportTo",
    "TrackedRun",
    "Tracker",
    "TrackerName",
    "Tracking",
    "check_report_to",
]
