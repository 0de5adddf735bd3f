"""Which modules are a user's own, and which modules a piece of code or a file imports. Nothing is imported or run."""

from __future__ import annotations

import ast
import dis
import functools
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

_OURS = ("optimizers.tasks", "sgt_modules.embedded")
"""Where this package has metrics of its own, which are read like a user's."""

_LIBRARIES = frozenset(sys.stdlib_module_names) | {"dspy", "optimizers", "sgt_modules"}


@functools.cache
def is_library(module: str) -> bool:
    """Whether a module is the standard library's, an installed package's, or this package's own.

    >>> is_library("json"), is_library("dspy.predict"), is_library("__main__")
    (True, True, False)
    """
    if module == "__main__" or module.startswith(_OURS):  # a notebook's `__main__` is a file of a library
        return False
    if module.partition(".")[0] in _LIBRARIES:
        return True
    return _is_installed(getattr(sys.modules.get(module), "__file__", None) or "")


def read_modules_of(metric: Any) -> frozenset[str]:
    """The module of a metric, to be read even if it is a library's."""
    while isinstance(metric, functools.partial):
        metric = metric.func
    metric = getattr(metric, "__func__", metric)
    own = metric if hasattr(metric, "__qualname__") else type(metric)
    return frozenset({str(own.__module__)})


def is_wrapper(function: FunctionType) -> bool:
    """Whether the function is a wrapper by a library's decorator, which may count its calls in an attribute."""
    return "__wrapped__" in vars(function) and is_library(str(function.__globals__.get("__name__", "")))


@functools.lru_cache(maxsize=4096)
def code_imports(code: CodeType, package: str) -> tuple[str, ...]:
    """The full names of the modules that a function's code may import."""
    steps = list(dis.get_instructions(code))
    return tuple(
        name
        for n, step in enumerate(steps)
        if step.opname == "IMPORT_NAME"  # the two instructions before it load the level and the names of `from`
        for name in _module_names(str(step.argval), package, steps[n - 2].argval or 0, steps[n - 1].argval or ())
    )


def file_imports(file: Path, module: str) -> Iterator[str]:
    """The full names of the modules that a file may import, from its text."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    try:
        text = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return
    for each in ast.walk(text):
        if isinstance(each, ast.Import):
            for name in each.names:
                yield from _module_names(name.name, package)
        if isinstance(each, ast.ImportFrom):
            yield from _module_names(each.module or "", package, each.level, [name.name for name in each.names])


def _module_names(name: str, package: str, level: int = 0, names: Sequence[str] = ()) -> Iterator[str]:
    """The full names of an imported module, the packages around it, and the `names` that may be modules in it.

    >>> list(_module_names("rules", "users.own", 2, ["near"]))
    ['users', 'users.rules', 'users.rules.near']
    """
    base = package.split(".")[: len(package.split(".")) - level + 1] if level else []
    parts = [each for each in [*base, *name.split(".")] if each]
    yield from (".".join(parts[: n + 1]) for n in range(len(parts)))
    yield from (".".join([*parts, each]) for each in names if each != "*")


def user_file(module: str) -> Path | None:
    """The Python file of a module that is not installed; None for any other."""
    try:
        spec = find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    origin = None if spec is None else spec.origin
    return Path(origin) if origin is not None and origin.endswith(".py") and not _is_installed(origin) else None


def _is_installed(file: str) -> bool:
    return bool({"site-packages", "dist-packages"} & set(Path(file).parts))
