"""The system calls that a program may make, with their numbers on each kind of machine.

The numbers, in `allowed_calls_*.txt`, come from the kernel's headers asm/unistd_64.h and asm-generic/unistd.h. No call
is listed that reaches beyond the program's process and folder: starting processes and programs, sockets, signals to
others, changing an owner, mode, time or attribute of a file, mounting, tracing, keys, shared memory and queues, and
memory that no limit counts. The calls of `Restricted` are allowed with some arguments only.
"""

from __future__ import annotations

import os
from typing import NamedTuple


class Restricted(NamedTuple):
    """The numbers of the calls that are allowed with some arguments only."""

    clone: int
    clone3: int
    kill: int
    tgkill: int
    ioctl: int
    fcntl: int
    prctl: int
    prlimit64: int
    socketpair: int
    sendto: int


class Machine(NamedTuple):
    """A kind of machine: its number in a filter, the allowed calls, and the calls allowed with some arguments."""

    audit: int
    allowed: tuple[int, ...]
    restricted: Restricted


NEWEST_KNOWN = 450
"""The newest call in the tables. The filter calls a newer one unknown, so that libraries do without it."""


def _read_numbers(machine: str) -> tuple[int, ...]:
    with open(os.path.join(os.path.dirname(__file__), f"allowed_calls_{machine}.txt"), encoding="ascii") as table:
        return tuple(int(each.partition("=")[2]) for each in table.read().split())


MACHINES = {
    "x86_64": Machine(0xC000003E, _read_numbers("x86_64"), Restricted(56, 435, 62, 234, 16, 72, 157, 302, 53, 44)),
    "aarch64": Machine(
        0xC00000B7, _read_numbers("aarch64"), Restricted(220, 435, 129, 131, 29, 25, 167, 261, 199, 206)
    ),
}
