"""Save a program to a file and load it again; paths that a state keeps are relative to the file's folder.

DSPy asks a parameter for its state, and gives it back, without naming the file. `save_program` and `load_program` name
it in a context variable. For a plain `program.save`, `program.load` or `dspy.load` the call stack is searched for these
functions, whose local variables hold the path. `tests/sgt_modules/saving/test_saving.py` fails if DSPy changes them.
"""

from __future__ import annotations

import inspect
import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Literal, cast
from uuid import uuid4

import dspy
from dspy.primitives.base_module import BaseModule

from sgt_modules.errors import SavedStateError

WHOLE_PROGRAM = "program.pkl"
"""The file that `save(folder, save_program=True)` writes and `dspy.load(folder)` reads."""

_HERE = "./"
"""How a relative path begins in a state; no hub id begins so."""


@dataclass(frozen=True, slots=True)
class StateFile:
    """A saved state: its absolute path, and whether it is being written or read."""

    path: Path
    access: Literal["write", "read"]


_named_file: ContextVar[StateFile | None] = ContextVar("_named_file", default=None)
"""The file that `save_program` or `load_program` works on."""


def save_program(
    program: dspy.Module,
    path: str | Path,
    *,
    save_program: bool = False,
    modules_to_serialize: Sequence[ModuleType] | None = None,
) -> None:
    """Save a program as `program.save(path)` does, and name the file, so that the call stack is not searched for it.

    Use it where the search can fail: the program has a `save` of its own that does not call DSPy's, it collects its
    state in other threads that run in a copy of this context, or it is compiled code without Python's call stack.

    Args:
        program: The program.
        path: A `.json` or `.pkl` file; with `save_program` a folder.
        save_program: Whether the whole program is saved, not just its state. Load it with `dspy.load(path)`.
        modules_to_serialize: The modules to save by value with the whole program.

    Raises:
        GeneratorNotFoundError: files of the generator are missing, or changed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_program(dspy.Predict("question -> answer"), f"{folder}/program.json")
    ...     [each.name for each in Path(folder).iterdir()]
    ['program.json']
    """
    with _name_file(_written_file(path, save_program), "write"):
        if save_program:
            modules = None if modules_to_serialize is None else [*modules_to_serialize]
            program.save(path, save_program=True, modules_to_serialize=modules)
        else:
            program.save(path)


def load_program(
    program: dspy.Module, path: str | Path, *, allow_pickle: bool = False, allow_unsafe_lm_state: bool = False
) -> None:
    """Load a saved state into a program as `program.load(path)` does, and name the file, as `save_program` does.

    Args:
        program: The program, wrapped by `supplement` if the saved one was.
        path: The `.json` or `.pkl` file.
        allow_pickle: Whether a `.pkl` file is read, which can run code.
        allow_unsafe_lm_state: Whether the addresses of LMs in the file are used.

    Raises:
        SavedStateError: the state refers to weights outside of the file's folder.

    >>> import tempfile
    >>> new = dspy.Predict("question -> answer")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_program(dspy.Predict("question -> answer", "Add."), f"{folder}/program.json")
    ...     load_program(new, f"{folder}/program.json")
    """
    with _name_file(Path(path), "read"):
        program.load(path, allow_pickle=allow_pickle, allow_unsafe_lm_state=allow_unsafe_lm_state)


def file_being_written() -> Path | None:
    """The file that a program is being saved to in this context.

    >>> file_being_written() is None
    True
    """
    return _path_for("write")


def file_being_read() -> Path | None:
    """The file that a program is being loaded from in this context.

    >>> file_being_read() is None
    True
    """
    return _path_for("read")


def lies_within(folder: Path, home: Path) -> bool:
    """Whether a folder and its files lie in another folder or are that folder; symbolic links are followed."""
    try:
        home = home.resolve()
        files = folder.iterdir() if folder.is_dir() else ()
        return all(each.resolve().is_relative_to(home) for each in (folder, *files))
    except (OSError, RuntimeError, ValueError):  # an invalid name, or links in a circle
        return False


def relative_path(folder: Path, home: Path) -> str:
    """Return the path of a folder relative to one that contains it, in the form of a saved state.

    >>> relative_path(Path("runs/demo/checkpoints/sft"), Path("runs/demo"))
    './checkpoints/sft'
    """
    return _HERE + folder.resolve().relative_to(home.resolve()).as_posix()


def is_relative(path: str) -> bool:
    """Whether a path in a state is relative to the state's folder.

    >>> is_relative("./sft"), is_relative("../sft"), is_relative("Qwen/Qwen3-1.7B")
    (True, True, False)
    """
    return path.startswith((_HERE, "../"))


def follow_path(path: str) -> Path:
    """Return the absolute path for one that is relative to the file being read, or else to the working directory.

    Raises `SavedStateError` if the path leads out of that folder: a saved program brings its own files.
    """
    file = file_being_read()
    home = Path.cwd() if file is None else file.parent
    target = home / path
    if Path(path).is_absolute() or ".." in Path(path).parts or not lies_within(target, home):
        raise SavedStateError(
            f"Expected weights inside the folder of {str(file or home)!r}, got the path {path!r}, which leads out of "
            "it. Copy those weights into the folder and save the program again, or load one that you trust."
        )
    if file is None and not target.exists():
        raise SavedStateError(
            f"Expected the folder of the saved state, to which its path {path!r} is relative, got only the state; "
            f"nothing of that name is in {str(home)!r}. Use program.load(file), which knows the folder, or "
            "load_program(program, file)."
        )
    return target


def copy_folder(source: Path, target: Path, patterns: Sequence[str]) -> None:
    """Copy a folder's files that match one of the patterns; the target appears complete or not at all.

    If another process creates the target in the meantime, that one stays.
    """
    scratch = target.with_name(f".{target.name}-{uuid4().hex[:8]}")
    scratch.mkdir(parents=True)
    try:
        for file in sorted({file for pattern in patterns for file in source.glob(pattern) if file.is_file()}):
            shutil.copyfile(file, scratch / file.name)
        try:
            scratch.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _name_file(path: Path, access: Literal["write", "read"]) -> Iterator[None]:
    token = _named_file.set(StateFile(path.absolute(), access))
    try:
        yield
    finally:
        _named_file.reset(token)


def _path_for(access: Literal["write", "read"]) -> Path | None:
    file = _named_file.get() or _search_stack()
    return file.path if file is not None and file.access == access else None


def _search_stack() -> StateFile | None:
    """Return the file of the innermost of DSPy's functions on this thread's call stack."""
    frame = sys._getframe(1)
    while frame is not None:
        read_file = _FUNCTIONS.get(frame.f_code)
        if read_file is not None:
            file = read_file(frame.f_locals)
            _log_search(file)
            return file
        frame = frame.f_back
    return None


@lru_cache(maxsize=256)
def _log_search(file: StateFile) -> None:
    """Log once for each file that the call stack was searched."""
    name = "save_program" if file.access == "write" else "load_program"
    logging.getLogger(__name__).debug(
        "Found %s by searching the call stack. Call sgt_modules.%s to name the file.", file.path, name
    )


def _written_file(path: str | Path, whole: bool) -> Path:
    return Path(path) / WHOLE_PROGRAM if whole else Path(path)


def _file_of_save(names: Mapping[str, object]) -> StateFile:
    return StateFile(_written_file(str(names["path"]), bool(names["save_program"])).absolute(), "write")


def _file_of_load(names: Mapping[str, object]) -> StateFile:
    return StateFile(Path(str(names["path"])).absolute(), "read")


def _file_of_whole_load(names: Mapping[str, object]) -> StateFile:
    return StateFile(Path(str(names["path"])).absolute() / WHOLE_PROGRAM, "read")


def _code_of(function: object) -> CodeType:
    """The code of a function, also where decorators are around it."""
    return inspect.unwrap(cast("Any", function)).__code__


_FUNCTIONS: dict[CodeType, Callable[[Mapping[str, object]], StateFile]] = {
    _code_of(BaseModule.save): _file_of_save,
    _code_of(BaseModule.load): _file_of_load,
    _code_of(dspy.load): _file_of_whole_load,
}
