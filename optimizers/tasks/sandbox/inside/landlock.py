"""Landlock: which files a process may touch, whoever it runs as. Needs no privilege (Linux 5.13)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

from .syscalls import syscall

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
_READ_FILE, _READ_DIR, _WRITE_FILE, _TRUNCATE = 1 << 2, 1 << 3, 1 << 1, 1 << 14
_ON_A_FILE = _READ_FILE | _WRITE_FILE | _TRUNCATE
# Rights by the version of Landlock that knows them: files; moving files; truncating; ioctl on devices.
_FILES = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_EXECUTE, _DEVICES = 1, (1 << 6) | (1 << 9) | (1 << 10) | (1 << 11) | (1 << 15)  # device nodes, sockets, pipes
_TCP = 3  # bind and connect, from version 4
_SCOPES = 3  # abstract sockets and signals stay within, from version 6


class _Ruleset(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("files", "network", "scopes")]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def version() -> int:
    """Which Landlock this kernel has; 0 where it has none or it is switched off."""
    try:
        return syscall(_CREATE, None, 0, 1, what="landlock_create_ruleset")
    except OSError:
        return 0


def rules(readable: Iterable[str], writable: Iterable[str]) -> int:
    """A ruleset's descriptor: nothing but reading beneath `readable`, reading and writing beneath `writable`.

    A path that is not there is left out. Nothing may be executed anywhere.
    """
    known = version()
    handled = sum(bits for since, bits in _FILES.items() if since <= known)
    asked = _Ruleset(handled, _TCP if known >= 4 else 0, _SCOPES if known >= 6 else 0)
    size = 24 if known >= 6 else 16 if known >= 4 else 8
    ruleset = syscall(_CREATE, ctypes.byref(asked), size, 0, what="landlock_create_ruleset")
    for path in readable:
        _allow(ruleset, path, _READ_FILE | _READ_DIR)
    for path in writable:
        _allow(ruleset, path, handled & ~_EXECUTE & ~_DEVICES)
    return ruleset


def _allow(ruleset: int, path: str, rights: int) -> None:
    if not os.path.exists(path):
        return
    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        allowed = rights if os.path.isdir(path) else rights & _ON_A_FILE
        rule = _Beneath(allowed, parent)
        syscall(_ADD_RULE, ruleset, 1, ctypes.byref(rule), 0, what=f"landlock_add_rule {path}")
    finally:
        os.close(parent)


def restrict(ruleset: int) -> None:
    """Hold this process to the rules, for good; `PR_SET_NO_NEW_PRIVS` must be set."""
    syscall(_RESTRICT, ruleset, 0, what="landlock_restrict_self")
