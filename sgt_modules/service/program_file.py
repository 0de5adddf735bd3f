"""Load a saved program: wrap the predictors for which the file has supplements, then load the state."""

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
    """Return a copy of the program with the saved state of a file, which can have supplements or not.

    With `trust`, the addresses of LMs in the file are used. Raises `SavedStateError` if the file is not such a state.
    """
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise SavedStateError(f"Expected a program's state in {file}: {problem}.") from problem
    if not isinstance(state, dict):
        raise SavedStateError(f"Expected a program's state in {file}, got a {type(state).__name__}.")
    names = [name for name, _ in program.named_predictors()]
    states = cast("dict[str, Any]", state)
    of_name = {"self": states} if names == ["self"] else states
    supplemented = [name for name in names if isinstance(each := of_name.get(name), dict) and "generator" in each]
    loaded = supplement(program, generator=_UNREAD, only=supplemented) if supplemented else program.deepcopy()
    try:
        load_program(loaded, file, allow_unsafe_lm_state=trust)
    except (KeyError, ValueError, TypeError, AttributeError) as problem:
        raise SavedStateError(f"{file} is no state of this program: {problem}.") from problem
    return loaded
