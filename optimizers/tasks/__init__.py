"""The papers' data sets as DSPy tasks, with their metrics and the sandbox that some metrics run in."""

from optimizers.tasks.checking import Check, check_task
from optimizers.tasks.definition import Source, Task
from optimizers.tasks.loading import HubData, Nested
from optimizers.tasks.registry import names, register, task
from optimizers.tasks.rows import BadRow, Placed, Pools
from optimizers.tasks.splitting import Sizes, Splits

__all__ = [
    "BadRow",
    "Check",
    "HubData",
    "Nested",
    "Placed",
    "Pools",
    "Sizes",
    "Source",
    "Splits",
    "Task",
    "check_task",
    "names",
    "register",
    "task",
]
