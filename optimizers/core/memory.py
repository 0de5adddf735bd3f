"""The most memory a span of work held: of this process, and of its GPUs where there are some. Loads no torch."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

_MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Peak:
    """The most memory held since the mark was last restarted, in megabytes (2**20 bytes).

    `rss_mb` is what the process had in RAM, files mapped into memory included. It is of the whole process: what other
    threads did meanwhile is in it. Where the system cannot restart its mark (`restarted` is False; all but Linux) it is
    the most since the process began, so an upper bound. `cuda_mb` is what PyTorch's tensors took of the GPU that held
    most, None without a GPU in use: CUDA's own few hundred megabytes and what PyTorch keeps in reserve are not in it.
    """

    rss_mb: float = 0.0
    cuda_mb: float | None = None
    restarted: bool = False


class HighWaterMark:
    """The system's high-water mark of this process's memory; `process` is its folder under `/proc`.

    Linux has one mark a process, so whoever restarts it does so for all: `highest` remembers what it was before.

    >>> mark = HighWaterMark()
    >>> mark.restart()
    >>> 0 < mark.peak().rss_mb <= mark.highest
    True
    """

    def __init__(self, process: Path = Path("/proc/self")) -> None:
        self._process = process
        self._before = 0.0
        self._restarted = False

    def restart(self) -> None:
        """Begin a span: from here on, `peak` is of what comes, as far as the system allows."""
        self._before = self.highest
        try:
            (self._process / "clear_refs").write_text("5", encoding="ascii")  # man 5 proc: resets VmHWM
            self._restarted = True
        except OSError:
            self._restarted = False
        for cuda, device in _devices():
            cuda.reset_peak_memory_stats(device)

    def peak(self) -> Peak:
        """The most since `restart`."""
        taken = [cuda.max_memory_allocated(device) / _MB for cuda, device in _devices()]
        return Peak(round(self._rss_mb(), 1), round(max(taken), 1) if taken else None, self._restarted)

    @property
    def highest(self) -> float:
        """The most megabytes in RAM since the process began, as far as this mark was the only one to restart it."""
        return max(self._before, round(self._rss_mb(), 1))

    def _rss_mb(self) -> float:
        try:
            lines = (self._process / "status").read_text(encoding="ascii", errors="replace").splitlines()
            return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))
        except (OSError, StopIteration):
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return most / _MB if sys.platform == "darwin" else most / 1024


MARK = HighWaterMark()
"""This process's."""


def _devices() -> list[tuple[Any, int]]:
    """PyTorch's CUDA room and each of its GPUs; none where nobody has used one."""
    torch = cast("Any", sys.modules.get("torch"))
    if torch is None or not torch.cuda.is_initialized():
        return []
    return [(torch.cuda, device) for device in range(torch.cuda.device_count())]
