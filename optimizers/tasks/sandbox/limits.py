"""The limits of a program or a query, and its outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from sgt_modules.errors import SandboxError

MiB = 1 << 20

Reason = Literal["ended", "exception", "exit", "crash", "time", "memory", "output", "disk"]
"""How a program ended: it ran to its end, raised, left early, crashed, or reached a limit."""

Cell = int | float | str | bytes | None
"""One value of a query's result."""


def _check(limits: Limits | SqlLimits) -> None:
    for name, most in asdict(limits).items():
        if not most > 0:
            raise SandboxError(f"Expected {name} of {type(limits).__name__} to be more than 0, got {most!r}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a Python program may use.

    `seconds` bounds its wall time, and its processor time rounded up to a whole second. `memory_bytes` bounds what it
    maps beyond what its worker maps already, the stacks of its threads among it. `disk_bytes` bounds its folder, and
    each file in it. `files` bounds how many files its folder holds.

    >>> Limits(seconds=2).seconds
    2
    """

    seconds: float = 10.0
    memory_bytes: int = 1024 * MiB
    disk_bytes: int = 64 * MiB
    output_bytes: int = MiB
    files: int = 1024
    error_chars: int = 4000

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended.

    `ok` is True where it ran to its end without an exception. `error` is its traceback, without the sandbox's frames,
    or what ended it. `stdout` is what it printed, cut at the limit; `seconds` is its wall time.
    """

    ok: bool
    stdout: str
    error: str
    seconds: float
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlLimits:
    """What a query may use: wall time, rows, bytes of one value or of the query, bytes of the whole result, memory."""

    seconds: float = 10.0
    rows: int = 100_000
    value_bytes: int = MiB
    result_bytes: int = 32 * MiB
    memory_bytes: int = 256 * MiB

    def __post_init__(self) -> None:
        _check(self)


SqlReason = Literal["rows", "refused", "error", "time", "limit"]
"""How a query ended: with rows; refused, as it does not only read; with SQLite's error; at a limit."""


@dataclass(frozen=True, slots=True)
class SqlOutcome:
    """A query's rows in SQLite's order, or why there are none.

    `columns` are the names that SQLite gives them; `error` is SQLite's message, or what the sandbox refuses.
    """

    rows: Sequence[tuple[Cell, ...]]
    columns: Sequence[str]
    error: str
    seconds: float
    reason: SqlReason

    @property
    def ok(self) -> bool:
        """Whether the query has a result, even one without a row."""
        return self.reason == "rows"
