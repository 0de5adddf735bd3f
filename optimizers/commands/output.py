"""What commands have in common: options, and how they print what was found."""

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

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]

Size = Literal["light", "medium", "heavy"]
"""A recipe's sizes, spelled here as the recipe's own room brings DSPy along."""

AUTO: Size = "light"
"""The same as `optimizers.sgt.recipe.AUTO`, spelled here for the same reason."""

Dtype = Literal["auto", "float32", "bfloat16", "float16", "int8"]
"""How a model on this machine is run."""

_MODEL = "openai/gpt-4.1-mini, a model's folder, local:HUB_ID, or embedded"
Actor = Annotated[str, typer.Option("--lm", help=f"The frozen model: {_MODEL}.")]
BenchActor = Annotated[str, typer.Option("--actor", help=f"The frozen model: {_MODEL}.")]
Precision = Annotated[Dtype, typer.Option("--lm-dtype", help="Of a frozen model on this machine: int8 on a CPU.")]
ActorPrecision = Annotated[
    Dtype, typer.Option("--actor-dtype", help="Of a frozen model on this machine: int8 on a CPU.")
]

STOPPED = 3
"""Exit code of a run that a budget ended before its end."""


def tell(content: object, *shown: RenderableType, as_json: bool) -> None:
    """Print the content as JSON, or else what is to be shown."""
    if as_json:
        print(_json(content))
    else:
        console = Console(markup=False, emoji=False, highlight=False)
        for each in shown:
            console.print(each, soft_wrap=isinstance(each, str))


def lenient(*streams: object) -> None:
    """Let streams write what their encoding lacks as `\\xe9` or `\\u2264`, and raise nothing.

    So are the bytes of a file's name that are no text, whatever the encoding is.
    """
    for stream in streams:
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def writable(file: Path | None, *, what: str) -> None:
    """Raise `SetupError` now if a file cannot be written at a path, before anything is computed for it.

    >>> writable(None, what="the page")
    >>> try:
    ...     writable(Path("x" * 300), what="the page")
    ... except SetupError as error:
    ...     print(str(error)[:55], str(error)[-44:])
    Expected a path that can be written for the page, got ' has a name that is too long. Choose another.
    """
    if file is not None and (reason := _hindrance(file)):
        raise SetupError(f"Expected a path that can be written for {what}, got {str(file)!r}, which {reason}")


def _hindrance(file: Path) -> str:
    try:
        if file.is_dir():
            return "is a folder. Name a file in it."
        file.lstat()
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        return "lies below something that is no folder. Choose another."
    except OSError as problem:  # a name that is too long, or a folder that may not be looked into
        long = (
            "has a name that is too long" if "too long" in str(problem) else f"cannot be looked at ({problem.strerror})"
        )
        return f"{long}. Choose another."
    there = file if file.exists() else next(each for each in file.absolute().parents if each.exists())
    return "" if os.access(there, os.W_OK) else f"may not be written: {str(there)!r} is read-only. Choose another."


def _json(content: object) -> str:
    """JSON in the letters themselves, or in escapes where standard output cannot write them."""
    text = json.dumps(content, indent=2, ensure_ascii=False, default=str)
    with suppress(UnicodeEncodeError):
        text.encode(sys.stdout.encoding or "utf-8")
        return text
    return json.dumps(content, indent=2, default=str)
