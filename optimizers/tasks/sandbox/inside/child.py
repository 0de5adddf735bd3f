"""A check's own process: it gives up everything it does not need, runs the program, and says how that ended."""

from __future__ import annotations

import contextlib
import json
import linecache
import os
import resource
import sys
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, TextIO

from . import landlock, namespaces, seccomp, syscalls

NAME = "<program>"
_REPORT = 3


class Place(NamedTuple):
    """Where a check runs: its layers, the folders it may read, its own folder, and what the process maps already."""

    layers: frozenset[str]
    readable: tuple[str, ...]
    scratch: str
    mapped: int


def become(code: str, limits: Mapping[str, Any], place: Place, token: str, output: int, report: int) -> None:
    """Turn this process into the program's. Never returns."""
    status = 1
    try:
        _wire(output, report)
        os.setsid()  # what it starts, where nothing keeps it from that, ends with its group
        _confine(limits, place)
        written = _streams()
        said = _run(code, limits)
        with contextlib.suppress(ValueError, OSError, RecursionError):  # where the program closed it
            written.flush()
        os.write(_REPORT, json.dumps({**said, "token": token}).encode())
        status = 0
    finally:
        os._exit(status)


def _wire(output: int, report: int) -> None:
    """No input, one output, one report, and no other descriptor."""
    nothing = os.open("/dev/null", os.O_RDWR)
    spare = os.dup(report)
    for descriptor, place in ((nothing, 0), (output, 1), (nothing, 2), (spare, _REPORT)):
        os.dup2(descriptor, place)
    os.closerange(_REPORT + 1, 4096)


def _confine(limits: Mapping[str, Any], place: Place) -> None:
    """All layers, the strongest last: what sets one up would be refused by the next."""
    if "namespaces" in place.layers:
        namespaces.own_scratch(place.scratch, limits["disk_bytes"], limits["files"])
    os.chdir(place.scratch)
    os.umask(0o077)
    rules = None
    if "landlock" in place.layers:
        everything = ("/",) if "namespaces" in place.layers else place.readable  # a world of its own holds no more
        rules = landlock.rules(everything, (place.scratch, "/dev/null"))
    if "namespaces" in place.layers:
        namespaces.become_nobody()
    _limit(limits, place)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 9)
    if place.layers:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        syscalls.drop_capabilities()
    if rules is not None:
        landlock.restrict(rules)
        os.close(rules)
    if "seccomp" in place.layers:
        seccomp.restrict()


def _limit(limits: Mapping[str, Any], place: Place) -> None:
    seconds = max(1, int(limits["seconds"] + 0.999))
    bounds = {
        resource.RLIMIT_AS: place.mapped + limits["memory_bytes"],
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: limits["disk_bytes"],
        resource.RLIMIT_NOFILE: 128,
        resource.RLIMIT_CORE: 0,
    }
    if "namespaces" in place.layers:  # elsewhere it would count the user's other processes
        bounds[resource.RLIMIT_NPROC] = limits["threads"]
    for which, most in bounds.items():
        hard = resource.getrlimit(which)[1]
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (bound, bound))


def _streams() -> TextIO:
    """No input, an output, and nothing for what is written aside."""
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    return sys.stdout


def _run(code: str, limits: Mapping[str, Any]) -> dict[str, str]:
    """Run the program as `__main__`; how it ended, and what it raised."""
    os.environ["HOME"] = os.environ["TMPDIR"] = os.getcwd()
    sys.argv = [NAME]
    main = type(sys)("__main__")
    sys.modules["__main__"] = main
    linecache.cache[NAME] = (len(code), None, code.splitlines(keepends=True), NAME)
    try:
        exec(compile(code, NAME, "exec", dont_inherit=True), main.__dict__)
    except MemoryError:
        return {"reason": "memory", "error": "MemoryError"}
    except SystemExit as asked:
        return {"reason": "exit", "error": f"SystemExit: {asked.code}"[:200]}
    except BaseException as raised:  # noqa: BLE001 - whatever a program raises is its outcome
        return {"reason": "exception", "error": _told(raised)[-limits["error_chars"] :]}
    return {"reason": "ended", "error": ""}


def _told(raised: BaseException) -> str:
    """The exception with the program's own lines, the ones below it left out."""
    try:
        frames: TracebackType | None = raised.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename != NAME:
            frames = frames.tb_next
        told = traceback.format_exception(type(raised), raised, frames, limit=-8, chain=False)
        return "".join(told).strip()
    except Exception:  # noqa: BLE001 - an exception that cannot be told is named
        return type(raised).__name__
