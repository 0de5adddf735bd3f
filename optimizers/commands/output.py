"""Options that commands share, and how commands print their results."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console, RenderableType

from sgt_modules.errors import SetupError

JsonOption = Annotated[bool, typer.Option("--json", help="Print only JSON.")]

Size = Literal["light", "medium", "heavy"]
"""A recipe's sizes; repeated here because the recipe's module imports DSPy."""

AUTO: Size = "light"
"""Equal to `optimizers.sgt.recipe.AUTO`; repeated here for the same reason."""

Dtype = Literal["auto", "float32", "bfloat16", "float16", "int8"]
"""Number format of a model on this machine."""

_MODEL = "openai/gpt-4.1-mini, a model's folder, local:HUB_ID, or embedded"
ActorOption = Annotated[str, typer.Option("--lm", help=f"The frozen model: {_MODEL}.")]
BenchActorOption = Annotated[str, typer.Option("--actor", help=f"The frozen model: {_MODEL}.")]
PrecisionOption = Annotated[
    Dtype, typer.Option("--lm-dtype", help="Number format of a frozen model on this machine, such as int8 on a CPU.")
]
ActorPrecisionOption = Annotated[
    Dtype, typer.Option("--actor-dtype", help="Number format of a frozen model on this machine, such as int8 on a CPU.")
]

_FILE_WIDTH = 120
"""Characters of a line in a file or a pipe, which have no width of their own."""

EXIT_STOPPED = 3
"""Exit code of a run that stopped at its budget."""


def print_output(content: object, *shown: RenderableType, as_json: bool) -> None:
    """Print `content` as JSON, or else the `shown` texts and tables."""
    if as_json:
        print(_format_json(content))
    else:
        console = Console(markup=False, emoji=False, highlight=False)
        if not console.is_terminal and "COLUMNS" not in os.environ:
            console.width = _FILE_WIDTH
        for each in shown:
            console.print(each, soft_wrap=isinstance(each, str))


def escape_unencodable(*streams: object) -> None:
    """Make streams write characters that their encoding lacks as `\\xe9` or `\\u2264`, instead of raising.

    This also covers bytes of file names that are no text.
    """
    for stream in streams:
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def check_writable(file: Path | None, *, what: str) -> None:
    """Raise `SetupError` if a path cannot be written, before anything is computed for it.

    >>> check_writable(None, what="the page")
    >>> try:
    ...     check_writable(Path("x" * 300), what="the page")
    ... except SetupError as error:
    ...     print(str(error)[:55], str(error)[-44:])
    Expected a path that can be written for the page, got ' has a name that is too long. Choose another.
    """
    if file is not None and (reason := _find_hindrance(file)):
        raise SetupError(f"Expected a path that can be written for {what}, got {str(file)!r}, which {reason}")


def _find_hindrance(file: Path) -> str:
    """Return why a file cannot be written at a path; empty if it can."""
    try:
        if file.is_dir():
            return "is a folder. Name a file in it."
        file.lstat()
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        return "is below a path that is no folder. Choose another."
    except OSError as problem:  # a name that is too long, or a folder without permission
        reason = "has a name that is too long" if "too long" in str(problem) else f"cannot be read ({problem.strerror})"
        return f"{reason}. Choose another."
    existing = file if file.exists() else next(each for each in file.absolute().parents if each.exists())
    return "" if os.access(existing, os.W_OK) else f"cannot be written: {str(existing)!r} is read-only. Choose another."


def _format_json(content: object) -> str:
    """Format JSON with the characters themselves, or with escapes if standard output cannot write them."""
    text = json.dumps(content, indent=2, ensure_ascii=False, default=str)
    with suppress(UnicodeEncodeError):
        text.encode(sys.stdout.encoding or "utf-8")
        return text
    return json.dumps(content, indent=2, default=str)
