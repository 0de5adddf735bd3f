"""A run told to experiment trackers: MLflow, Weights & Biases, TensorBoard, or one of the user's own."""

from optimizers.tracking.naming import ReportTo, TrackerName, check_report_to
from optimizers.tracking.telling import Tracking
from optimizers.tracking.tracker import Ending, Point, TrackedRun, Tracker

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
