"""A program as it was saved: its predictors wrapped where the file has supplements for them, its state loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import dspy

from sgt_modules.errors import SavedStateError
from sgt_modules.saving.state_file import load_program
from sgt_modules.wrapping import supplement

_UNREAD = "the generator that the file names"


def open_program(program: dspy.Module, file: Path, *, trust: bool = False) -> dspy.Module:
    """The program with the state that `save` wrote to a file, whether it was compiled to read supplements or not.

    `trust` follows the addresses of LMs in the file, too. Raises `SavedStateError` for a file that is no such state.
    """
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise SavedStateError(f"Expected a program's state in {file}: {problem}.") from problem
    if not isinstance(state, dict):
        raise SavedStateError(f"Expected a program's state in {file}, got a {type(state).__name__}.")
    named = [name for name, _ in program.named_predictors()]
    found = cast("dict[str, Any]", state)
    of_name = {"self": found} if named == ["self"] else found
    supplemented = [name for name in named if isinstance(each := of_name.get(name), dict) and "generator" in each]
    opened = supplement(program, generator=_UNREAD, only=supplemented) if supplemented else program.deepcopy()
    try:
        load_program(opened, file, allow_unsafe_lm_state=trust)
    except (KeyError, ValueError, TypeError, AttributeError) as problem:
        raise SavedStateError(f"{file} is no state of this program: {problem}.") from problem
    return opened
