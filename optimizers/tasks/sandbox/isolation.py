"""What this machine's kernel can keep a program from."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Literal

from sgt_modules.errors import SandboxError

Layer = Literal["landlock", "seccomp"]
"""Rules for files; a filter of system calls."""

LAYERS: tuple[Layer, ...] = ("landlock", "seccomp")
_SYSTEM = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache", "/etc/localtime")
_DEVICES = ("/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


@dataclass(frozen=True, slots=True)
class Isolation:
    """The layers that this machine offers, and why the others are missing.

    >>> Isolation(("landlock", "seccomp")).is_enough, Isolation(("landlock",)).is_enough
    (True, False)
    """

    layers: tuple[Layer, ...]
    missing: Mapping[Layer, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def is_enough(self) -> bool:
        """Whether a program can reach no file, network or process that it should not."""
        return set(self.layers) == set(LAYERS)

    def __str__(self) -> str:
        present = " + ".join(self.layers) or "nothing"
        return present + "".join(f"; no {layer}: {why}" for layer, why in self.missing.items())


@cache
def isolation() -> Isolation:
    """Asks the kernel which layers it offers."""
    missing: dict[Layer, str] = {layer: why for layer in LAYERS if (why := _find_absence(layer))}
    return Isolation(tuple(layer for layer in LAYERS if layer not in missing), MappingProxyType(missing))


def _find_absence(layer: Layer) -> str:
    if sys.platform != "linux":
        return f"it is Linux's, and this is {sys.platform}"
    from optimizers.tasks.sandbox.inside import landlock, seccomp

    if layer == "seccomp":
        return seccomp.find_absence()
    return "" if landlock.read_version() else "the kernel has none (it came with Linux 5.13), or it is switched off"


def require(offered: Isolation, *, allow_weak: bool) -> Isolation:
    """Returns `offered` if it is enough or the caller accepts less; raises `SandboxError` with what to do."""
    if sys.platform != "linux":
        raise SandboxError(
            f"Python programs only run on Linux, and this is {sys.platform}. Use a container or a virtual machine."
        )
    if offered.is_enough or allow_weak:
        return offered
    raise SandboxError(
        "A program that a model wrote needs Landlock and seccomp, which keep it from your files and the network; here "
        f"there is {offered}. Use a kernel from 5.13 on with Landlock switched on (lsm=landlock at boot), a container "
        "whose seccomp profile lets both through, or pass allow_weak=True on a machine that holds nothing of worth."
    )


@cache
def find_readable() -> tuple[str, ...]:
    """Returns what a program may read: Python, its installed packages, the system's libraries, time zones; devices.

    Other entries of `sys.path` are left out, such as the folder of a project that is installed for editing.
    """
    paths = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), *site.getsitepackages()]
    paths += [os.path.join(prefix, name) for prefix in (sys.base_prefix, sys.prefix) for name in ("lib", "lib64")]  # noqa: PTH118
    present = [os.path.abspath(each) for each in (*paths, *_SYSTEM, *_DEVICES) if os.path.exists(each)]  # noqa: PTH100, PTH110
    return tuple(dict.fromkeys(present))
