"""Tasks by name, and a user's own by where they stand."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from optimizers.core.user_files import did_you_mean
from optimizers.tasks import ds1000, gsm8k, hle, hotpotqa, house_terms, medqa, mmlu, spider, supergpqa, truthfulqa
from optimizers.tasks.definition import Task
from sgt_modules.errors import SetupError

_TASKS: dict[str, Task] = {
    each.name: each
    for each in (
        spider.TASK,
        ds1000.TASK,
        hotpotqa.TASK,
        hle.TASK,
        supergpqa.TASK,
        gsm8k.TASK,
        truthfulqa.TASK,
        truthfulqa.MC2,
        mmlu.TASK,
        medqa.TASK,
        house_terms.TASK,
    )
}


def names() -> list[str]:
    """The names that `task` knows.

    >>> names()[:3]
    ['spider', 'ds1000', 'hotpotqa']
    """
    return list(_TASKS)


def register(mine: Task) -> Task:
    """Make a task known by its name; gives it back. Raises `SetupError` where another one has that name.

    >>> from dataclasses import replace
    >>> mine = register(replace(task("gsm8k"), name="my_sums"))
    >>> task("my_sums") is mine
    True
    """
    if _TASKS.setdefault(mine.name, mine) is not mine:
        raise SetupError(f"There is a task {mine.name!r} already. Give yours another name.")
    return mine


def task(which: str) -> Task:
    """The task of a name, or one of your own: `path/to/file.py:ATTRIBUTE` or `module:ATTRIBUTE`, which is imported.

    Raises:
        SetupError: there is none, or it is no `Task`.

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
    module = _of_file(Path(place)) if place.endswith(".py") else _of_name(place)
    found = getattr(module, attribute, None)
    if not isinstance(found, Task):
        came = "no such name stands there" if found is None else f"it is a {type(found).__name__}"
        raise SetupError(f"Expected {attribute} of {place} to be a Task, but {came}.")
    return found


def _of_name(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as problem:
        raise SetupError(f"There is no module {name!r} to take a task from: {problem}.") from problem


def _of_file(file: Path) -> ModuleType:
    """A file as a module, found again by its name: Ray and pickle look there."""
    if not file.is_file():
        raise SetupError(f"Expected a file with a task, but there is no {file}.")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(file.stem, module)
    spec.loader.exec_module(module)
    return module
