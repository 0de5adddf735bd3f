"""A run in experiment trackers: MLflow, Weights & Biases, TensorBoard, or one of the user's own."""

from optimizers.observe.tracking.report_to import Destination, ReportTo, TrackerName, check_report_to
from optimizers.observe.tracking.tracker import Point, TrackedRun, Tracker

__all__ = ["Destination", "Point", "ReportTo", "TrackedRun", "Tracker", "TrackerName", "check_report_to"]
