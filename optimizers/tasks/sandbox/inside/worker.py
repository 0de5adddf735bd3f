"""A worker for Python: a process with every module imported, which forks a child for each program."""

from __future__ import annotations

import gc
import importlib
import os
import secrets
import tempfile
from contextlib import suppress
from typing import Any

from .child import become
from .folders import is_full, remove
from .serving import AnswerFunction, serve
from .watch import Watched, describe, watch


def prepare(settings: dict[str, Any], caller: int) -> AnswerFunction:
    """Imports modules, so that no program waits for it, and tries an empty program.

    Raises:
        OSError: the kernel refuses a layer of the isolation.
    """
    os.environ.clear()
    os.environ.update(settings["environment"])
    for name in settings["preload"]:
        with suppress(Exception):  # the program that needs a missing module says why it cannot be imported
            importlib.import_module(name)
    gc.collect()
    gc.freeze()

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        return run_program(request["code"], settings, caller)

    if not (tried := answer({"code": ""}))["ok"]:
        raise OSError(tried["error"])
    return answer


def run_program(code: str, settings: dict[str, Any], caller: int) -> dict[str, Any]:
    """Runs a program in a process of its own, and says how it ended."""
    limits, token = settings["limits"], secrets.token_hex(16)
    folder = tempfile.mkdtemp(prefix="sgt-check-", dir=settings["scratch"])
    (output, printed), (report, written) = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        become(code, settings, folder, token, printed, written)
    process = os.pidfd_open(pid)
    os.close(printed)
    os.close(written)
    try:
        for each in (output, report):
            os.set_blocking(each, False)
        ending = watch(Watched(pid, process, output, report, caller), limits, lambda: is_full(folder, limits))
        return describe(ending, token, limits)
    finally:
        for each in (output, report, process):
            os.close(each)
        remove(folder)


def start_serving() -> None:
    """Runs programs until the caller ends."""
    serve(prepare)
