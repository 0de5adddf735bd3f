"""A program's own process: it gives up what the program does not need, runs the program, and reports how that ended."""

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
from typing import Any, TextIO

from . import kernel, landlock, seccomp

NAME = "<program>"
_REPORT = 3


def become(code: str, settings: Mapping[str, Any], folder: str, token: str, output: int, report: int) -> None:
    """Turns this process into the program's. Never returns."""
    status = 1
    try:
        _connect(output, report)
        os.setsid()  # where nothing refuses new processes, they end with this group
        outcome = _confine(settings, folder)
        written = _open_streams()
        outcome = outcome or _run(code, settings["limits"]["error_chars"])
        with contextlib.suppress(ValueError, OSError, RecursionError):  # where the program closed it
            written.flush()
        os.write(_REPORT, json.dumps({**outcome, "token": token}).encode())
        status = 0
    finally:
        os._exit(status)


def _connect(output: int, report: int) -> None:
    """Leaves the process no input, one output, one report, and no other descriptor."""
    nothing = os.open("/dev/null", os.O_RDWR)
    spare = os.dup(report)
    for descriptor, place in ((nothing, 0), (output, 1), (nothing, 2), (spare, _REPORT)):
        os.dup2(descriptor, place)
    os.closerange(_REPORT + 1, 4096)


def _confine(settings: Mapping[str, Any], folder: str) -> dict[str, str]:
    """Applies limits and layers, the strictest last, as it refuses the others; says what the kernel refuses."""
    os.chdir(folder)
    os.umask(0o077)
    layers = settings["layers"]
    try:
        _limit(settings["limits"])
        kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)
        if layers:
            kernel.refuse_new_privileges()
            kernel.drop_capabilities()
        if "landlock" in layers:
            landlock.restrict(settings["readable"], (folder, "/dev/null"))
        if "seccomp" in layers:
            seccomp.restrict()
    except OSError as refused:
        return {"reason": "exit", "error": str(refused)}
    return {}


def _limit(limits: Mapping[str, Any]) -> None:
    with open("/proc/self/statm", encoding="ascii") as sizes:
        mapped = int(sizes.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    bounds = {
        resource.RLIMIT_AS: mapped + limits["memory_bytes"],
        resource.RLIMIT_CPU: max(1, int(limits["seconds"] + 0.999)),
        resource.RLIMIT_FSIZE: limits["disk_bytes"],
        resource.RLIMIT_NOFILE: 128,
        resource.RLIMIT_CORE: 0,
    }
    for which, most in bounds.items():
        hard = resource.getrlimit(which)[1]
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (bound, bound))


def _open_streams() -> TextIO:
    """Opens an empty input, an output, and nothing for standard error."""
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    return sys.stdout


def _run(code: str, error_chars: int) -> dict[str, str]:
    """Runs the program as `__main__`; returns how it ended, and what it raised."""
    os.environ["HOME"] = os.environ["TMPDIR"] = os.getcwd()
    sys.argv = [NAME]
    main = type(sys)("__main__")
    sys.modules["__main__"] = main
    linecache.cache[NAME] = (len(code), None, code.splitlines(keepends=True), NAME)
    try:
        exec(compile(code, NAME, "exec", dont_inherit=True), main.__dict__)
    except MemoryError:
        return {"reason": "memory", "error": "MemoryError"}
    except SystemExit as leaving:
        return {"reason": "exit", "error": f"SystemExit: {leaving.code}"[:200]}
    except BaseException as raised:  # noqa: BLE001 - whatever a program raises is its outcome
        return {"reason": "exception", "error": _describe(raised)[-error_chars:]}
    return {"reason": "ended", "error": ""}


def _describe(raised: BaseException) -> str:
    """Formats the exception with the program's own lines, without the frames that called the program."""
    try:
        frames: TracebackType | None = raised.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename != NAME:
            frames = frames.tb_next
        return "".join(traceback.format_exception(type(raised), raised, frames, limit=-8, chain=False)).strip()
    except Exception:  # noqa: BLE001 - an exception that cannot be formatted is named
        return type(raised).__name__
