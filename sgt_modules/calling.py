"""Call a program from synchronous code, also if it has only `aforward`."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar, cast

import dspy

_Returned = TypeVar("_Returned")


def call_program(program: dspy.Module, inputs: Mapping[str, object]) -> object:
    """Call a program and return its result; a program with only `aforward` is run to its end.

    >>> class Awaited(dspy.Module):
    ...     async def aforward(self, number: int) -> int:
    ...         return number + 1
    >>> call_program(Awaited(), {"number": 1})
    2
    """
    if _is_async_only(program):
        return _run_coroutine(lambda: cast("Coroutine[Any, Any, object]", program.acall(**inputs)))
    return program(**inputs)


def find_entry(program: dspy.Module) -> Callable[..., object]:
    """Return the method that a call of the program runs: `forward`, or `aforward` if there is no other."""
    # DSPy warns of a forward that is looked up without a call
    return object.__getattribute__(program, "aforward" if _is_async_only(program) else "forward")


def _is_async_only(program: dspy.Module) -> bool:
    has = [hasattr(type(program), name) or name in vars(program) for name in ("forward", "aforward")]
    return has == [False, True]


def _run_coroutine(work: Callable[[], Coroutine[Any, Any, _Returned]]) -> _Returned:
    """Run a coroutine in the caller's context; in a new thread if an event loop is running here."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    ended: list[_Returned] = []
    problems: list[BaseException] = []

    def run() -> None:
        try:
            ended.append(asyncio.run(work()))
        except BaseException as problem:  # noqa: BLE001 - raised again below, in the caller's thread
            problems.append(problem)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), name="sgt-loop", daemon=True)
    thread.start()
    thread.join()
    if problems:
        raise problems[0]
    return ended[0]
