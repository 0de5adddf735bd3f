"""The papers' data sets as DSPy tasks, their metrics, and the sandbox that some of these run in."""

from optimizers.tasks.checking import Check, checked
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
    "checked",
    "names",
    "register",
    "task",
]
