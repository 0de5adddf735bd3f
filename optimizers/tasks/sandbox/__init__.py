"""Runs SQL and Python that a model wrote, without your files, network or time."""

from optimizers.tasks.sandbox.isolation import Isolation, Layer, isolation
from optimizers.tasks.sandbox.limits import Limits, Outcome, Reason, SqlLimits, SqlOutcome, SqlReason
from optimizers.tasks.sandbox.python import PythonSandbox
from optimizers.tasks.sandbox.sql import SqlSandbox, run_sql, shared_sandbox

__all__ = [
    "Isolation",
    "Layer",
    "Limits",
    "Outcome",
    "PythonSandbox",
    "Reason",
    "SqlLimits",
    "SqlOutcome",
    "SqlReason",
    "SqlSandbox",
    "isolation",
    "run_sql",
    "shared_sandbox",
]
