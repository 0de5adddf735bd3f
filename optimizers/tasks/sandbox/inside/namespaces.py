"""A world with nothing in it: no network, no other process, no file but Python's own."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from . import syscalls

NOBODY = 65534
SIZE = "/proc/self/statm"
_WORLD = "/tmp"
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_CLOSED = syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY | syscalls.MS_NOSUID
_APART = (
    syscalls.CLONE_NEWUSER
    | syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUTS
)


class World(NamedTuple):
    """Two descriptors of the worker in its own world: its process namespace, and the file that tells its size."""

    own: int
    size: int


def enter(readable: Iterable[str], scratch: str) -> World:
    """Put this process's next children into a world of their own, and fork: the child returns, the parent never does.

    The child is the first process of its world, which ends with it; it ends with its parent. It sees `readable`, a few
    devices and an empty folder `scratch`. Root gives itself up for nobody later on (see `become_nobody`).

    Raises:
        OSError: the kernel refuses a namespace or a mount.
    """
    user, group = os.getuid(), os.getgid()
    if user == 0:
        _unshare_as_root()
    else:
        syscalls.unshare(_APART)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{NOBODY} {user} 1")
        _write("/proc/self/gid_map", f"{NOBODY} {group} 1")
    _furnish(list(readable), scratch)
    parent = os.getpid()
    if child := os.fork():
        _wait_for(child)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 9)
    own = os.open(f"/proc/{parent}/ns/pid_for_children", os.O_RDONLY | os.O_CLOEXEC)
    size = os.open(SIZE, os.O_RDONLY | os.O_CLOEXEC)
    _close_the_door()
    return World(own, size)


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _unshare_as_root() -> None:
    """Root stays root in its new world, so that it can read Python's files, and may become nobody.

    Two users can only be mapped by a process that has stayed outside.
    """
    reading, writing = os.pipe()
    mapped = f"0 0 1\n{NOBODY} {NOBODY} 1"
    parent = os.getpid()
    helper = os.fork()
    if helper == 0:
        os.close(writing)
        failed = 1
        try:
            if os.read(reading, 1):
                _write(f"/proc/{parent}/uid_map", mapped)
                _write(f"/proc/{parent}/gid_map", mapped)
                failed = 0
        finally:
            os._exit(failed)
    try:
        syscalls.unshare(_APART)
        os.write(writing, b"1")
    finally:
        os.close(writing)
        os.close(reading)
        failed = os.waitpid(helper, 0)[1]
    if failed:
        raise OSError("The kernel refused to map users into a namespace")


def _wait_for(child: int) -> None:
    """Stay for as long as the child does, and end as it ended."""
    status = os.waitpid(child, 0)[1]
    os._exit(min(255, abs(os.waitstatus_to_exitcode(status))))


def _furnish(readable: list[str], scratch: str) -> None:
    """An empty file system over `/tmp`, with read-only views of what may be read."""
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    sources = {path: os.open(path, os.O_PATH) for path in (*readable, *_DEVICES) if os.path.exists(path)}
    syscalls.mount("sandbox", _WORLD, "tmpfs", syscalls.MS_NOSUID, "size=1m,nr_inodes=4k,mode=0755")
    os.chdir(_WORLD)
    for path, source in sources.items():
        real = os.path.realpath(path)
        _bind(source, _WORLD + real)
        if real != path:
            _link(real, _WORLD + path)
    os.makedirs(_WORLD + scratch, exist_ok=True)


def _bind(source: int, target: str) -> None:
    """A read-only view; devices stay devices."""
    if os.path.exists(target):
        return
    is_folder = os.path.isdir(f"/proc/self/fd/{source}")
    os.makedirs(target if is_folder else os.path.dirname(target), exist_ok=True)
    if not is_folder:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    syscalls.mount(f"/proc/self/fd/{source}", target, flags=syscalls.MS_BIND | syscalls.MS_REC)
    if not target.startswith(f"{_WORLD}/dev/"):
        syscalls.make_read_only(target)


def _link(real: str, link: str) -> None:
    if not os.path.lexists(link):
        os.makedirs(os.path.dirname(link), exist_ok=True)
        os.symlink(real, link)


def _close_the_door() -> None:
    """The furnished folder becomes the root, and what is around it is gone."""
    syscalls.mount("none", _WORLD, flags=_CLOSED)
    syscalls.change_root(_WORLD)


def apart() -> None:
    """Give this worker's next child a process namespace of its own, of which it is the first process."""
    syscalls.unshare(syscalls.CLONE_NEWPID)


def together(own: int) -> None:
    """Make `apart` possible again."""
    syscalls.enter_namespace(own, syscalls.CLONE_NEWPID)


def own_scratch(scratch: str, size: int, files: int) -> None:
    """In a child: an empty folder in memory that no one else sees, of `size` bytes and `files` files at most."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    limits = f"size={size},nr_inodes={files},mode=0700,uid={NOBODY},gid={NOBODY}"
    syscalls.mount("scratch", scratch, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, limits)


def become_nobody() -> None:
    """In a child: give up root, if it was root that started this."""
    if os.getuid() != NOBODY:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
