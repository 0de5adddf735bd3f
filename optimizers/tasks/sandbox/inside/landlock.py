"""Landlock: which files a process may touch, whichever user it runs as. Needs no privilege (Linux 5.13)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

from .kernel import syscall

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1, 1 << 1, 1 << 2, 1 << 3, 1 << 14
_ON_A_FILE = _READ_FILE | _WRITE_FILE | _TRUNCATE
# Rights by the version of Landlock that adds them: files; moving files; truncating; ioctl on devices.
_RIGHTS = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_DEVICES = (1 << 6) | (1 << 9) | (1 << 10) | (1 << 11) | (1 << 15)  # device nodes, sockets, pipes
_TCP = 3  # bind and connect, from version 4
_SCOPES = 3  # abstract sockets and signals stay within, from version 6


class _Ruleset(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("files", "network", "scopes")]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def read_version() -> int:
    """Returns the version of this kernel's Landlock; 0 where it has none or it is switched off."""
    try:
        return syscall(_CREATE, None, 0, 1, what="landlock_create_ruleset")
    except OSError:
        return 0


def restrict(readable: Iterable[str], writable: Iterable[str]) -> None:
    """Holds this process, for good, to reading beneath `readable`, and reading and writing beneath `writable`.

    A path that does not exist is left out. Nothing may be executed. `PR_SET_NO_NEW_PRIVS` must be set.
    """
    version = read_version()
    handled = sum(bits for since, bits in _RIGHTS.items() if since <= version)
    ruleset = _Ruleset(handled, _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = syscall(_CREATE, ctypes.byref(ruleset), size, 0, what="landlock_create_ruleset")
    for path in readable:
        _allow(rules, path, _READ_FILE | _READ_DIR)
    for path in writable:
        _allow(rules, path, handled & ~_EXECUTE & ~_DEVICES)
    syscall(_RESTRICT, rules, 0, what="landlock_restrict_self")
    os.close(rules)


def _allow(rules: int, path: str, rights: int) -> None:
    if not os.path.exists(path):
        return
    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = _Beneath(rights if os.path.isdir(path) else rights & _ON_A_FILE, parent)
        syscall(_ADD_RULE, rules, 1, ctypes.byref(rule), 0, what=f"landlock_add_rule {path}")
    finally:
        os.close(parent)
