"""Calls of the Linux kernel that Python has no function for."""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV = 1, 2, 4
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH = 2

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
SECCOMP_MODE_FILTER = 2

# The same on x86_64 and aarch64, as are all calls since Linux 5.0 (asm-generic/unistd.h).
_MOUNT_SETATTR = 442
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_AT_EMPTY_PATH, _AT_RECURSIVE = 0x1000, 0x8000
_READ_ONLY = 1 | 2 | 4  # MOUNT_ATTR_RDONLY, _NOSUID, _NODEV
_CAPABILITY_VERSION_3 = 0x20080522

libc = ctypes.CDLL(None, use_errno=True)


class _MountAttributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns_fd")]


def checked(result: int, what: str) -> int:
    """What a call returned; raises `OSError` with the kernel's reason where it is negative."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(number: int, *arguments: object, what: str) -> int:
    """A call by its number. Integers are passed as C longs."""
    longs = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return checked(libc.syscall(ctypes.c_long(number), *longs), what)


def unshare(flags: int) -> None:
    """New namespaces for this process, or for its next child where `flags` is `CLONE_NEWPID`."""
    checked(libc.unshare(flags), "unshare")


def enter_namespace(descriptor: int, kind: int) -> None:
    """Join the namespace that `descriptor` stands for."""
    checked(libc.setns(descriptor, kind), "setns")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Put a file system, or another view of a folder, at `target`."""
    arguments = (source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), options.encode())
    checked(libc.mount(*arguments), f"mount {target}")


def make_read_only(target: str) -> None:
    """A mount and all below it: read-only, without devices and set-uid files (Linux 5.12)."""
    attributes = _MountAttributes(set=_READ_ONLY)
    size = ctypes.sizeof(attributes)
    call = (-100, target.encode(), _AT_RECURSIVE, ctypes.byref(attributes), size)
    syscall(_MOUNT_SETATTR, *call, what=f"mount_setattr {target}")


def change_root(folder: str) -> None:
    """Make `folder`, a mount, the root of this mount namespace, and let go of the old one."""
    os.chdir(folder)
    syscall(_PIVOT_ROOT[os.uname().machine], b".", b".", what="pivot_root")
    checked(libc.umount2(b".", MNT_DETACH), "umount2")
    os.chdir("/")


def prctl(option: int, value: int, more: object = 0) -> None:
    """One setting of this process."""
    third = more if not isinstance(more, int) else ctypes.c_ulong(more)
    checked(libc.prctl(option, ctypes.c_ulong(value), third, ctypes.c_ulong(0), ctypes.c_ulong(0)), f"prctl {option}")


def drop_capabilities() -> None:
    """Give up every capability, for good."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    checked(libc.capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)())), "capset")
