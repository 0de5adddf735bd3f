"""A worker: a process that has everything imported, and forks a child for each check."""

from __future__ import annotations

import gc
import importlib
import os
import secrets
import signal
import tempfile
from collections.abc import Iterable
from typing import Any, NamedTuple

from . import namespaces, seccomp, syscalls
from .child import Place, become
from .folders import is_full, remove
from .line import Line, standard
from .watching import Watched, outcome, watch

_SCRATCH, _OTHER = "/tmp", "/scratch"


def prepared(names: list[str]) -> list[str]:
    """Import modules, so that no check pays for it; those that are not there are left out."""
    imported: list[str] = []
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:  # noqa: BLE001 - a check that needs it tells why it cannot be imported
            continue
        imported.append(name)
    return imported


class Station(NamedTuple):
    """What every check of a worker has in common."""

    layers: frozenset[str]
    readable: tuple[str, ...]
    scratch: str
    caller: int
    world: namespaces.World

    @property
    def apart(self) -> bool:
        """Whether each check has a process namespace and a file system of its own."""
        return "namespaces" in self.layers

    def mapped(self) -> int:
        """How many bytes this process maps: what limits of a check begin at."""
        pages = os.pread(self.world.size, 100, 0).split()[0]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Serve checks until nobody asks any more."""
    ours = standard()
    asked = ours.receive()
    if asked is None:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller's Ctrl-C is the caller's to handle
    try:
        station = _settled(asked, ours)
    except OSError as refused:
        ours.send({"problem": str(refused), "preloaded": []})
        return
    os.environ.clear()
    os.environ.update(asked["environment"])
    imported = prepared(asked["preload"])
    ours.send({"problem": "", "preloaded": imported})
    if station.apart and "seccomp" in station.layers:
        seccomp.compiled(1)  # each check is the first process of its world
    gc.collect()
    gc.freeze()
    while (request := ours.receive()) is not None:
        ours.send(checked(request, station))


def _settled(asked: dict[str, Any], ours: Line) -> Station:
    layers, readable = frozenset(asked["layers"]), tuple(asked["readable"])
    if "namespaces" in layers:
        scratch = scratch_for(readable)
        world = namespaces.enter(readable, scratch)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        return Station(layers, readable, scratch, ours.reading, world)
    world = namespaces.World(-1, os.open(namespaces.SIZE, os.O_RDONLY | os.O_CLOEXEC))
    return Station(layers, readable, asked["scratch"], ours.reading, world)


def scratch_for(readable: Iterable[str]) -> str:
    """Where a program's own folder stands in a world of its own: not over what it may read.

    >>> scratch_for(["/usr/lib/python3"]), scratch_for(["/tmp/project/.venv/lib"])
    ('/tmp', '/scratch')
    """
    below = any(os.path.commonpath([_SCRATCH, each]) == _SCRATCH for each in readable)
    return _OTHER if below else _SCRATCH


def checked(request: dict[str, Any], station: Station) -> dict[str, Any]:
    """Run one check in a process of its own, and say how it ended."""
    limits, token = request["limits"], secrets.token_hex(16)
    scratch = station.scratch if station.apart else tempfile.mkdtemp(prefix="sgt-check-", dir=station.scratch)
    place = Place(station.layers, station.readable, scratch, station.mapped())
    (reading, output), (hearing, report) = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
    if station.apart:
        namespaces.apart()
    pid = os.fork()
    if pid == 0:
        become(request["code"], limits, place, token, output, report)
    process = os.pidfd_open(pid)
    os.close(output)
    os.close(report)
    try:
        if station.apart:
            namespaces.together(station.world.own)
        for each in (reading, hearing):
            os.set_blocking(each, False)
        filled = (lambda: False) if station.apart else (lambda: is_full(scratch, limits))
        ending = watch(Watched(pid, process, reading, hearing, station.caller), limits, filled)
        return outcome(ending, token, limits)
    finally:
        for each in (reading, hearing, process):
            os.close(each)
        if not station.apart:
            remove(scratch)
