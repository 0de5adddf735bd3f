"""What this machine's kernel can keep a program from."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Literal

from optimizers.tasks.sandbox.limits import Limits
from optimizers.tasks.sandbox.pool import Worker, WorkerLostError
from sgt_modules.errors import SandboxError

Layer = Literal["namespaces", "landlock", "seccomp"]
"""A world without network, other processes or files; rules for files; a filter of system calls."""

LAYERS: tuple[Layer, ...] = ("namespaces", "landlock", "seccomp")
_SYSTEM = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache", "/etc/localtime")
_DEVICES = ("/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


@dataclass(frozen=True, slots=True)
class Isolation:
    """The layers that hold on this machine, and why the others do not.

    >>> Isolation(("landlock", "seccomp")).is_enough, Isolation(("landlock",)).is_enough
    (True, False)
    """

    layers: tuple[Layer, ...]
    missing: Mapping[Layer, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def is_enough(self) -> bool:
        """Whether a program is kept from files, the network and other processes."""
        return "seccomp" in self.layers and ("namespaces" in self.layers or "landlock" in self.layers)

    def __str__(self) -> str:
        held = " + ".join(self.layers) or "nothing"
        return held + "".join(f"; no {layer}: {why}" for layer, why in self.missing.items())


@cache
def isolation() -> Isolation:
    """What holds on this machine, found out by running an empty program under it: a fifth of a second, once."""
    missing: dict[Layer, str] = {layer: why for layer in LAYERS if (why := _absence(layer))}
    rest: list[Layer] = [layer for layer in LAYERS if layer not in missing]
    if rest and _refusal(rest):
        for layer in rest:
            if why := _refusal([layer]):
                missing[layer] = why
    return Isolation(tuple(layer for layer in LAYERS if layer not in missing), MappingProxyType(missing))


def _absence(layer: Layer) -> str:
    """Why a layer cannot be had at all; empty where it may be tried."""
    if sys.platform != "linux":
        return f"it is Linux's, and this is {sys.platform}"
    from optimizers.tasks.sandbox.inside import landlock, seccomp

    if layer == "landlock" and not landlock.version():
        return "the kernel has none (it came with Linux 5.13), or it is switched off"
    if layer == "seccomp" and not seccomp.is_known_machine():
        return f"the system calls of {os.uname().machine} are not listed"
    return ""


def _refusal(layers: Sequence[Layer]) -> str:
    """Why no program can be run under these layers; empty where one can."""
    settings = {"layers": layers, "readable": readable(), "scratch": "/tmp", "preload": [], "environment": {}}
    try:
        worker = Worker("worker", settings, {})
        try:
            tried = {"code": "", "limits": asdict(Limits())}
            return worker.hello["problem"] or worker.ask(tried, Limits().seconds)["error"]
        finally:
            worker.end()
    except (SandboxError, WorkerLostError) as problem:
        return str(problem)


def require(found: Isolation, *, allow_weak: bool) -> Isolation:
    """The same, if it is enough or the caller takes less; raises `SandboxError` with what to do."""
    if sys.platform != "linux":
        raise SandboxError(
            f"Python programs are only run on Linux, and this is {sys.platform}. Use a container or a virtual machine."
        )
    if found.is_enough or allow_weak:
        return found
    raise SandboxError(
        "A program that a model wrote needs seccomp, and namespaces or Landlock, to be kept from your files and the "
        f"network; here there is {found}. Use a kernel from 5.13 on, allow user namespaces "
        "(sysctl kernel.apparmor_restrict_unprivileged_userns=0, or a container with its own seccomp profile), or pass "
        "allow_weak=True on a machine that holds nothing of worth."
    )


@cache
def readable() -> tuple[str, ...]:
    """What a program may read: Python, its installed packages, the system's libraries, time zones; four devices.

    Not what else is on `sys.path`, such as the folder of a project that is installed for editing.
    """
    paths = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), *site.getsitepackages()]
    paths += [os.path.join(prefix, name) for prefix in (sys.base_prefix, sys.prefix) for name in ("lib", "lib64")]  # noqa: PTH118
    there = [os.path.abspath(each) for each in (*paths, *_SYSTEM, *_DEVICES) if os.path.exists(each)]  # noqa: PTH100, PTH110
    return tuple(dict.fromkeys(there))
