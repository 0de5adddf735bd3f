"""A check seen from outside: what it writes, how long it takes, how it ends."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

_REPORT_BYTES = 1 << 16  # as much as a pipe holds, so that a process that reports need not wait
_TICK = 0.05
_SAYS = ("ended", "exception", "exit", "memory")  # the ends that a program lives to tell


class Watched(NamedTuple):
    """The descriptors of a running check, and of whoever waits for it."""

    pid: int
    process: int
    output: int
    report: int
    caller: int


class Ending(NamedTuple):
    """How a check ended: why it was stopped, its wait status, and what it wrote."""

    stopped: str
    status: int
    cpu_seconds: float
    output: bytes
    report: bytes
    seconds: float


def watch(check: Watched, limits: Mapping[str, Any], too_much: Callable[[], bool]) -> Ending:
    """Read until the check has ended, or stop it: its time is up, it writes too much, or nobody waits for it."""
    began = time.monotonic()
    texts = {check.output: bytearray(), check.report: bytearray()}
    most = {check.output: limits["output_bytes"], check.report: _REPORT_BYTES}
    poll = select.poll()
    for descriptor in (check.process, *texts):
        poll.register(descriptor, select.POLLIN)
    poll.register(check.caller, 0)  # a hang-up is told without being asked for
    stopped, ended = "", False
    while not ended and not stopped:
        left = began + limits["seconds"] - time.monotonic()
        ready = {each for each, _ in poll.poll(1000 * min(max(left, 0.0), _TICK))}
        for descriptor in ready & texts.keys():
            if not _read(descriptor, texts[descriptor], most[descriptor]):
                poll.unregister(descriptor)
        ended = check.process in ready
        stopped = "" if ended else _why(check, left, ready, texts, most, too_much)
    if stopped:
        signal.pidfd_send_signal(check.process, signal.SIGKILL)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(check.pid, signal.SIGKILL)
    _, status, used = os.wait4(check.pid, 0)
    seconds = time.monotonic() - began
    for descriptor, text in texts.items():
        while _read(descriptor, text, most[descriptor]):
            pass
    cpu = used.ru_utime + used.ru_stime
    return Ending(stopped, status, cpu, bytes(texts[check.output]), bytes(texts[check.report]), seconds)


def _why(
    check: Watched,
    left: float,
    ready: set[int],
    texts: Mapping[int, bytearray],
    most: Mapping[int, int],
    too_much: Callable[[], bool],
) -> str:
    """Why a check is to be stopped now; empty while it may go on."""
    if left <= 0:
        return "time"
    if any(len(text) >= most[each] for each, text in texts.items()):
        return "output"
    if check.caller in ready:
        return "caller"
    return "disk" if too_much() else ""


def _read(descriptor: int, text: bytearray, most: int) -> bool:
    """Read what is there, within the bound; False when there will be no more, or no room for more."""
    try:
        new = os.read(descriptor, min(_REPORT_BYTES, max(0, most - len(text))))
    except BlockingIOError:
        return False
    text.extend(new)
    return bool(new)


def outcome(ending: Ending, token: str, limits: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of a check: its output, and why it ended as it did."""
    reason, error = ending.stopped, ""
    if not reason:
        reason, error = _reported(ending.report, token)
    if not reason:
        reason, error = _by_status(os.waitstatus_to_exitcode(ending.status), ending.cpu_seconds >= limits["seconds"])
    return {
        "ok": reason == "ended",
        "reason": reason,
        "error": error[-limits["error_chars"] :],
        "stdout": ending.output.decode("utf-8", "replace"),
        "seconds": ending.seconds,
    }


def _reported(report: bytes, token: str) -> tuple[str, str]:
    """What the check's process said at its end; nothing where that is no report of this check."""
    try:
        said = json.loads(report)
        if said["token"] == token and said["reason"] in _SAYS:
            return said["reason"], str(said["error"])
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return "", ""


def _by_status(code: int, was_busy: bool) -> tuple[str, str]:
    """An end without a report, by the exit status, or minus the signal."""
    if code >= 0:
        return "exit", f"The process ended with status {code} before the program did."
    name = signal.Signals(-code).name if -code in {each.value for each in signal.Signals} else str(-code)
    if -code == signal.SIGXCPU or (-code == signal.SIGKILL and was_busy):
        return "time", f"{name}: its processor time was used up."
    if -code == signal.SIGKILL:
        return "memory", f"{name}: the system had no memory left for it."
    return "crash", f"{name} ended the process."
