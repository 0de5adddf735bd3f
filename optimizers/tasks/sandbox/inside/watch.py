"""Watches a program's process from outside: what it writes, how long it takes, how it ends."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

_REPORT_BYTES = 1 << 16  # a pipe holds as much, so that a process need not wait to report
_TICK = 0.05
_REPORTED = ("ended", "exception", "exit", "memory")  # the ends after which a process can still report


class Watched(NamedTuple):
    """A running program: its process id, and the descriptors of its process, its pipes and its caller."""

    pid: int
    process: int
    output: int
    report: int
    caller: int


class Ending(NamedTuple):
    """How a program ended: the limit that stopped it, its wait status, and what it wrote."""

    stopped: str
    status: int
    cpu_seconds: float
    output: bytes
    report: bytes
    seconds: float


def watch(program: Watched, limits: Mapping[str, Any], is_full: Callable[[], bool]) -> Ending:
    """Reads until the program ends; stops it at a limit, or when its caller has ended."""
    began = time.monotonic()
    texts = {program.output: bytearray(), program.report: bytearray()}
    most = {program.output: limits["output_bytes"], program.report: _REPORT_BYTES}
    poll = select.poll()
    for descriptor in (program.process, *texts):
        poll.register(descriptor, select.POLLIN)
    poll.register(program.caller, 0)  # poll reports a hang-up in any case
    stopped, ended = "", False
    while not ended and not stopped:
        left = began + limits["seconds"] - time.monotonic()
        ready = {each for each, _ in poll.poll(1000 * min(max(left, 0.0), _TICK))}
        for descriptor in ready & texts.keys():
            if not _read(descriptor, texts[descriptor], most[descriptor]):
                poll.unregister(descriptor)
        ended = program.process in ready
        stopped = "" if ended else _find_limit(program, left, ready, texts, most, is_full)
    if stopped:
        signal.pidfd_send_signal(program.process, signal.SIGKILL)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(program.pid, signal.SIGKILL)
    _, status, used = os.wait4(program.pid, 0)
    seconds = time.monotonic() - began
    for descriptor, text in texts.items():
        while _read(descriptor, text, most[descriptor]):
            pass
    cpu = used.ru_utime + used.ru_stime
    return Ending(stopped, status, cpu, bytes(texts[program.output]), bytes(texts[program.report]), seconds)


def _find_limit(
    program: Watched,
    left: float,
    ready: set[int],
    texts: Mapping[int, bytearray],
    most: Mapping[int, int],
    is_full: Callable[[], bool],
) -> str:
    """Returns what stops the program now; empty while it may go on."""
    if left <= 0:
        return "time"
    if any(len(text) >= most[each] for each, text in texts.items()):
        return "output"
    if program.caller in ready:
        return "caller"
    return "disk" if is_full() else ""


def _read(descriptor: int, text: bytearray, most: int) -> bool:
    """Reads what has come, within the bound; returns False at the end of the text or of the bound."""
    try:
        new = os.read(descriptor, min(_REPORT_BYTES, max(0, most - len(text))))
    except BlockingIOError:
        return False
    text.extend(new)
    return bool(new)


def describe(ending: Ending, token: str, limits: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of an `Outcome`."""
    reason, error = ending.stopped, ""
    if not reason:
        reason, error = _read_report(ending.report, token)
    if not reason:
        reason, error = _explain_status(
            os.waitstatus_to_exitcode(ending.status), ending.cpu_seconds >= limits["seconds"]
        )
    return {
        "ok": reason == "ended",
        "reason": reason,
        "error": error[-limits["error_chars"] :],
        "stdout": ending.output.decode("utf-8", "replace"),
        "seconds": ending.seconds,
    }


def _read_report(report: bytes, token: str) -> tuple[str, str]:
    """Returns what the program's process reported at its end; nothing where the report is forged or missing."""
    try:
        fields = json.loads(report)
        if fields["token"] == token and fields["reason"] in _REPORTED:
            return fields["reason"], str(fields["error"])
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return "", ""


def _explain_status(code: int, was_busy: bool) -> tuple[str, str]:
    """Explains an end without a report. A negative code is a signal."""
    if code >= 0:
        return "exit", f"The process ended with status {code} before the program did."
    name = signal.Signals(-code).name if -code in {each.value for each in signal.Signals} else str(-code)
    if -code == signal.SIGXCPU or (-code == signal.SIGKILL and was_busy):
        return "time", f"{name}: its processor time was used up."
    if -code == signal.SIGKILL:
        return "memory", f"{name}: the system had no memory left for it."
    return "crash", f"{name} ended the process."
