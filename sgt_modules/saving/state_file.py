"""The file that DSPy writes or reads right now, and paths that are kept relative to its folder.

DSPy asks a parameter for its state, and gives it back, without saying which file it is for. The call stack knows:
`save`, `load` and `dspy.load` stand on it, with the path among their locals. Nothing is patched, and each thread has a
stack of its own. `tests/sgt_modules/saving/test_saving.py` fails if DSPy changes those functions.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Literal
from uuid import uuid4

import dspy
from dspy.primitives.base_module import BaseModule

from sgt_modules.errors import SavedStateError

WHOLE_PROGRAM = "program.pkl"
"""The file that `save(folder, save_program=True)` writes and `dspy.load(folder)` reads."""

_HERE = "./"
"""How a relative path begins in a state; no hub id does."""


@dataclass(frozen=True, slots=True)
class StateFile:
    """A saved state: its absolute path, and what is being done with it."""

    path: Path
    doing: Literal["write", "read"]


def being_written() -> Path | None:
    """The file that this thread is in the midst of saving a program to.

    >>> being_written() is None
    True
    """
    file = _current()
    return file.path if file is not None and file.doing == "write" else None


def being_read() -> Path | None:
    """The file that this thread is in the midst of loading a program from.

    >>> being_read() is None
    True
    """
    file = _current()
    return file.path if file is not None and file.doing == "read" else None


def lies_within(folder: Path, home: Path) -> bool:
    """Whether a folder and the files in it lie in another folder, or are it, symbolic links followed."""
    try:
        home = home.resolve()
        files = folder.iterdir() if folder.is_dir() else ()
        return all(each.resolve().is_relative_to(home) for each in (folder, *files))
    except (OSError, RuntimeError, ValueError):  # a name that is none, links in a circle
        return False


def relative(folder: Path, home: Path) -> str:
    """The path of a folder as seen from one that it lies within, in the form that states keep.

    >>> relative(Path("runs/demo/checkpoints/sft"), Path("runs/demo"))
    './checkpoints/sft'
    """
    return _HERE + folder.resolve().relative_to(home.resolve()).as_posix()


def is_relative(path: str) -> bool:
    """Whether a state's path is to be followed from the state's own folder.

    >>> is_relative("./sft"), is_relative("../sft"), is_relative("Qwen/Qwen3-1.7B")
    (True, True, False)
    """
    return path.startswith((_HERE, "../"))


def follow(path: str) -> Path:
    """A relative path from the file that is being read, or from the working directory when none is, as an absolute one.

    Raises `SavedStateError` for a path that is not below that folder: a saved program brings its own files.
    """
    file = being_read()
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
            f"nothing of that name is in {str(home)!r}. Use program.load(file), which knows the folder."
        )
    return target


def copy_folder(source: Path, target: Path, patterns: Sequence[str]) -> None:
    """Copy a folder's files that match one of the patterns; the target appears whole or not at all.

    A target that is there by then is left as it is: someone else was faster.
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


def _current() -> StateFile | None:
    """The innermost of DSPy's functions on this thread's stack."""
    frame = sys._getframe(1)
    while frame is not None:
        known = _FUNCTIONS.get(frame.f_code)
        if known is not None:
            return known(frame.f_locals)
        frame = frame.f_back
    return None


def _saved(names: Mapping[str, object]) -> StateFile:
    path = Path(str(names["path"])).absolute()
    return StateFile(path / WHOLE_PROGRAM if names["save_program"] else path, "write")


def _loaded(names: Mapping[str, object]) -> StateFile:
    return StateFile(Path(str(names["path"])).absolute(), "read")


def _loaded_whole(names: Mapping[str, object]) -> StateFile:
    return StateFile(Path(str(names["path"])).absolute() / WHOLE_PROGRAM, "read")


_FUNCTIONS: dict[CodeType, Callable[[Mapping[str, object]], StateFile]] = {
    BaseModule.save.__code__: _saved,
    BaseModule.load.__code__: _loaded,
    dspy.load.__code__: _loaded_whole,
}
