"""Compiled code as JSON: bytecode, names and constants. Another minor version of Python compiles to other bytecode."""

from __future__ import annotations

import dis
import inspect
import sys
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType
from typing import cast

from optimizers.core.canonical import tag, text_of

_HAS_DOCSTRING = 0x4000000  # CO_HAS_DOCSTRING, from Python 3.13 on


def encode_code(code: CodeType) -> object:
    """Bytecode, names and constants of a function; without its docstring and line numbers."""
    constants = [None if n == 0 and _has_docstring(code) else each for n, each in enumerate(code.co_consts)]
    return [
        code.co_code.hex(),
        code.co_exceptiontable.hex(),
        [code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars],
        [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & ~_HAS_DOCSTRING],
        [encode_code(each) if isinstance(each, CodeType) else _encode_constant(each) for each in constants],
    ]


def nested_codes(code: CodeType) -> Iterator[CodeType]:
    """The code of a function and of every function inside it."""
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from nested_codes(each)


@lru_cache(maxsize=4096)
def names_used(code: CodeType, *operations: str) -> tuple[str, ...]:
    """The names that instructions such as `LOAD_GLOBAL` use in a function's code."""
    return tuple(str(each.argval) for each in dis.get_instructions(code) if each.opname in operations)


def _has_docstring(code: CodeType) -> bool:
    if sys.version_info >= (3, 13):
        return bool(code.co_flags & _HAS_DOCSTRING)
    has_text = bool(code.co_consts) and isinstance(code.co_consts[0], str)
    return has_text and bool(code.co_flags & inspect.CO_NEWLOCALS) and not code.co_name.startswith("<")


def _encode_constant(value: object) -> object:
    """A constant of a compiled function."""
    if isinstance(value, tuple):
        return tag("tuple", *map(_encode_constant, cast("tuple[object, ...]", value)))
    if isinstance(value, frozenset):
        return tag("set", *sorted(map(_encode_constant, cast("frozenset[object]", value)), key=text_of))
    return value if value is None or isinstance(value, bool | int | str) else f"{type(value).__name__} {value!r}"
