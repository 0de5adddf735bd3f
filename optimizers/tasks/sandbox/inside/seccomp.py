"""Seccomp: a filter of system calls. The kernel refuses each call that the filter does not allow."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Sequence

from .allowed_calls import MACHINES, NEWEST_KNOWN, Machine
from .kernel import PR_SET_SECCOMP, prctl

_FILTER = 2  # the mode of PR_SET_SECCOMP that takes a filter
_LOAD, _EQUAL, _GREATER, _AT_LEAST, _SET, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16

_CLONE_THREAD, _X32, _AF_UNIX = 0x10000, 0x40000000, 1
# Of ioctl: terminals' settings read (so that isatty answers), bytes waiting, blocking or not, closed on exec or not.
_IOCTLS = (0x5401, 0x541B, 0x5421, 0x5450, 0x5451)
# Of fcntl: all but those that send signals to others or watch folders.
_FCNTLS = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)
# Of prctl: a thread's name, and names of memory.
_PRCTLS = (15, 16, 0x53564D41)

_Instruction = tuple[int, int, int, int]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def _refuse(number: int) -> _Instruction:
    return (_RETURN, 0, 0, 0x00050000 | number)


def _load_argument(place: int, *, high: bool = False) -> _Instruction:
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * place + (4 if high else 0))


def _if_call(number: int, then: Sequence[_Instruction]) -> list[_Instruction]:
    """Does `then`, which returns, where the call is `number`; else goes on."""
    return [(_EQUAL, 0, len(then), number), *then]


def join_ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Joins neighbouring numbers to runs from first to last: the kernel runs a filter of fewer steps faster.

    >>> join_ranges([3, 0, 1, 7, 2])
    [(0, 3), (7, 7)]
    """
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


def _if_between(first: int, last: int, then: _Instruction) -> list[_Instruction]:
    return [(_AT_LEAST, 0, 2, first), (_GREATER, 1, 0, last), then]


def _allow_one_of(place: int, values: Iterable[int]) -> list[_Instruction]:
    """Allows the call where an argument is one of the values, else refuses it."""
    each = [step for value in values for step in ((_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW))]
    return [_load_argument(place), *each, _refuse(errno.EPERM)]


def build_filter(machine: Machine, pid: int) -> list[_Instruction]:
    """Returns the filter for process `pid`.

    A call for another kind of machine kills the process; a call newer than the table does not exist; each other call
    is allowed or refused.
    """
    depends = machine.restricted
    allow: _Instruction = (_RETURN, 0, 0, _ALLOW)
    no_address = [_load_argument(4), (_EQUAL, 0, 3, 0), _load_argument(4, high=True), (_EQUAL, 0, 1, 0), allow]
    thread = [_load_argument(0), (_SET, 0, 1, _CLONE_THREAD), allow, _refuse(errno.EPERM)]
    return [
        (_LOAD, 0, 0, _MACHINE),
        (_EQUAL, 1, 0, machine.audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_SET, 0, 1, _X32),
        (_RETURN, 0, 0, _KILL),
        *(step for first, last in join_ranges(machine.allowed) for step in _if_between(first, last, allow)),
        *_if_call(depends.clone, thread),
        *_if_call(depends.clone3, [_refuse(errno.ENOSYS)]),
        *_if_call(depends.kill, _allow_one_of(0, [pid])),
        *_if_call(depends.tgkill, _allow_one_of(0, [pid])),
        *_if_call(depends.ioctl, _allow_one_of(1, _IOCTLS)),
        *_if_call(depends.fcntl, _allow_one_of(1, _FCNTLS)),
        *_if_call(depends.prctl, _allow_one_of(0, _PRCTLS)),
        *_if_call(depends.prlimit64, _allow_one_of(0, [0])),
        *_if_call(depends.socketpair, _allow_one_of(0, [_AF_UNIX])),
        *_if_call(depends.sendto, [*no_address, _refuse(errno.EPERM)]),
        (_GREATER, 0, 1, NEWEST_KNOWN),
        _refuse(errno.ENOSYS),
        _refuse(errno.EPERM),
    ]


def find_absence() -> str:
    """Says why this process can have no filter; empty where it can."""
    if os.uname().machine not in MACHINES:
        return f"the system calls of {os.uname().machine} are not listed"
    try:
        prctl(PR_SET_SECCOMP, _FILTER, None)  # a kernel with filters looks for one at this address, and finds none
    except OSError as refused:
        return "" if refused.errno == errno.EFAULT else str(refused)
    return ""


def restrict() -> None:
    """Holds this process to the allowed calls, for good; `PR_SET_NO_NEW_PRIVS` must be set."""
    steps = build_filter(MACHINES[os.uname().machine], os.getpid())
    packed = b"".join(struct.pack("HBBI", *step) for step in steps)
    program = _Program(len(steps), ctypes.cast(ctypes.c_char_p(packed), ctypes.c_void_p))
    prctl(PR_SET_SECCOMP, _FILTER, ctypes.byref(program))
