"""Finds tasks by name, and a user's own task by its file or module."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from optimizers.core.user_files import did_you_mean
from optimizers.tasks.definition import Task
from optimizers.tasks.ds1000 import DS1000
from optimizers.tasks.gsm8k import GSM8K
from optimizers.tasks.hle import HLE
from optimizers.tasks.hotpotqa import HOTPOTQA
from optimizers.tasks.house_terms import HOUSE_TERMS
from optimizers.tasks.medqa import MEDQA
from optimizers.tasks.mmlu import MMLU
from optimizers.tasks.reasoning_gym import REASONING_GYM
from optimizers.tasks.spider import SPIDER
from optimizers.tasks.supergpqa import SUPERGPQA
from optimizers.tasks.truthfulqa import TRUTHFULQA, TRUTHFULQA_MC2
from sgt_modules.errors import SetupError

_TASKS: dict[str, Task] = {
    each.name: each
    for each in (
        *(SPIDER, DS1000, HOTPOTQA, HLE, SUPERGPQA, GSM8K, TRUTHFULQA, TRUTHFULQA_MC2, MMLU, MEDQA),
        *(HOUSE_TERMS, REASONING_GYM),
    )
}


def names() -> list[str]:
    """Return the names of the registered tasks.

    >>> names()[:3]
    ['spider', 'ds1000', 'hotpotqa']
    """
    return list(_TASKS)


def register(mine: Task) -> Task:
    """Register a task under its name and return it; raise `SetupError` if another task has that name.

    >>> from dataclasses import replace
    >>> mine = register(replace(task("gsm8k"), name="my_sums"))
    >>> task("my_sums") is mine
    True
    """
    if _TASKS.setdefault(mine.name, mine) is not mine:
        raise SetupError(f"A task {mine.name!r} already exists. Choose another name.")
    return mine


def task(which: str) -> Task:
    """Return the task of a name, or import your own: `path/to/file.py:ATTRIBUTE` or `module:ATTRIBUTE`.

    Raises:
        SetupError: the task does not exist, or is no `Task`.

    >>> task("gsm8k").loader.hub
    'openai/gsm8k'
    >>> try:  # doctest: +ELLIPSIS
    ...     task("gsm8000")
    ... except SetupError as error:
    ...     print(error)
    There is no task 'gsm8000'. There are spider, ...
    """
    if which in _TASKS:
        return _TASKS[which]
    place, colon, attribute = which.rpartition(":")
    if not colon:
        raise SetupError(
            f"There is no task {which!r}. There are {', '.join(_TASKS)}; your own is path/to/file.py:TASK or "
            f"module:TASK. {did_you_mean(which, _TASKS)}".rstrip()
        )
    module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    value = getattr(module, attribute, None)
    if not isinstance(value, Task):
        problem = "the name does not exist" if value is None else f"it is a {type(value).__name__}"
        raise SetupError(f"Expected {attribute} of {place} to be a Task, but {problem}.")
    return value


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as problem:
        raise SetupError(f"There is no module {name!r} to import a task from: {problem}.") from problem


def _import_file(file: Path) -> ModuleType:
    """Import a file as a module, under its own name: Ray and pickle look it up there."""
    if not file.is_file():
        raise SetupError(f"Expected a file with a task, but there is no {file}.")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(file.stem, module)
    spec.loader.exec_module(module)
    return module
