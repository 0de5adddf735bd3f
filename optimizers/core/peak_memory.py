"""Measures the peak memory of this process and its GPUs during some work. Does not import torch."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

_MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Peak:
    """The peak of memory since the mark was restarted, in megabytes (2**20 bytes).

    `rss_mb` is the resident memory of the whole process, with memory-mapped files and the work of all threads. If the
    system cannot restart its mark (`restarted` is False; only Linux can), it is the peak since the process began, which
    is an upper bound. `cuda_mb` is the memory of PyTorch's tensors on the fullest GPU, None if no GPU is used; CUDA's
    own few hundred megabytes and PyTorch's reserve are not counted.
    """

    rss_mb: float = 0.0
    cuda_mb: float | None = None
    restarted: bool = False


class HighWaterMark:
    """The system's high-water mark of this process's memory; `process` is its folder under `/proc`.

    Linux has one mark per process, so a restart affects every reader: `highest` keeps the peak from before.

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
        """Start a new measurement: `peak` then counts from here, if the system can do that."""
        self._before = self.highest
        try:
            (self._process / "clear_refs").write_text("5", encoding="ascii")  # man 5 proc: resets VmHWM
            self._restarted = True
        except OSError:
            self._restarted = False
        for cuda, device in _devices():
            cuda.reset_peak_memory_stats(device)

    def peak(self) -> Peak:
        """The peak since `restart`."""
        by_device = [cuda.max_memory_allocated(device) / _MB for cuda, device in _devices()]
        return Peak(round(self._rss_mb(), 1), round(max(by_device), 1) if by_device else None, self._restarted)

    @property
    def highest(self) -> float:
        """The process's peak of resident megabytes; right if nothing else resets the kernel's peak counter."""
        return max(self._before, round(self._rss_mb(), 1))

    def _rss_mb(self) -> float:
        try:
            lines = (self._process / "status").read_text(encoding="ascii", errors="replace").splitlines()
            return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))
        except (OSError, StopIteration):
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return most / _MB if sys.platform == "darwin" else most / 1024


MARK = HighWaterMark()
"""The mark of this process."""


def _devices() -> list[tuple[Any, int]]:
    """PyTorch's CUDA module with each GPU; empty if no GPU is used."""
    torch = cast("Any", sys.modules.get("torch"))
    if torch is None or not torch.cuda.is_initialized():
        return []
    return [(torch.cuda, device) for device in range(torch.cuda.device_count())]
