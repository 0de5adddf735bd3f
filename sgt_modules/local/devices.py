"""Chooses the device, the precision and the number of cores that a model on this machine computes with."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import torch

from sgt_modules.errors import SetupError

_DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
INT8 = "int8"
"""The precision of a frozen model on a CPU: linear layers in 8 bits, all else in float32."""


def choose_device(name: str, *, cuda: bool, mps: bool) -> str:
    """The device to compute on: `name`, or the fastest one for `auto`. Raises `ValueError` for one that is not there.

    >>> choose_device("auto", cuda=False, mps=True), choose_device("cpu", cuda=True, mps=False)
    ('mps', 'cpu')
    """
    here = [kind for kind, present in (("cuda", cuda), ("mps", mps), ("cpu", True)) if present]
    if name == "auto":
        return here[0]
    kind = name.partition(":")[0]
    if kind in ("cuda", "mps") and kind not in here:
        raise ValueError(f"Expected a device of this machine ({', '.join(here)}), got {name!r}. Use device='auto'.")
    return name


def choose_dtype(name: str, device: str, *, bfloat16: bool = True) -> str:
    """The precision: `name`, or for `auto` the one that the device computes fast; `bfloat16` is whether a GPU has it.

    >>> [choose_dtype("auto", device) for device in ("cuda:1", "mps", "cpu")]
    ['bfloat16', 'float16', 'float32']
    """
    kind = device.partition(":")[0]
    if name == INT8:
        if kind != "cpu":
            raise SetupError(
                f"Expected a CPU for dtype='int8', got device {device!r}. Use device='cpu', or dtype='auto'."
            )
        return name
    if name == "auto":
        return {"cuda": "bfloat16" if bfloat16 else "float16", "mps": "float16"}.get(kind, "float32")
    if name not in _DTYPES:
        raise ValueError(f"Expected dtype 'auto' or one of {sorted((*_DTYPES, INT8))}, got {name!r}.")
    if (kind, name) == ("mps", "float64"):
        raise ValueError("Expected a dtype that device 'mps' has, got 'float64'. Use 'float32', or device='cpu'.")
    return name


def choose_device_and_dtype(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    """Both choices on this machine; a GPU gets its number. By default int8 runs on the CPU, even with a GPU."""
    if dtype == INT8 and device == "auto":
        device = "cpu"
    cuda = torch.cuda.is_available()
    chosen = torch.device(choose_device(device, cuda=cuda, mps=torch.backends.mps.is_available()))
    numbered = torch.device("cuda", torch.cuda.current_device()) if str(chosen) == "cuda" else chosen
    bfloat16 = not cuda or torch.cuda.is_bf16_supported(including_emulation=False)
    chosen_dtype = choose_dtype(dtype, numbered.type, bfloat16=bfloat16)
    return numbered, torch.int8 if chosen_dtype == INT8 else _DTYPES[chosen_dtype]


def runs_on_cpu(device: str, dtype: str = "auto") -> bool:
    """Whether a model with these settings runs on the CPU of this machine.

    >>> runs_on_cpu("cpu"), runs_on_cpu("cuda"), runs_on_cpu("auto", "int8")
    (True, False, True)
    """
    if device != "auto":
        return device == "cpu"
    return dtype == INT8 or choose_device_and_dtype("auto", "auto")[0].type == "cpu"


def bfloat16_is_fast() -> bool:
    """Whether this machine's CPU has instructions for products in bfloat16, about twice as fast as float32.

    >>> bfloat16_is_fast() in (True, False)
    True
    """
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@contextmanager
def use_one_core() -> Iterator[None]:
    """Inside, this thread computes on one core of a CPU; other threads keep what they have.

    PyTorch sets the number of cores for a whole process, OpenMP for a thread. Without OpenMP, as on macOS and Windows,
    nothing changes.

    >>> with use_one_core():
    ...     torch.ones(2).sum().item()
    2.0
    """
    before = torch.get_num_threads()
    if _SET_CORES is None or before == 1:
        yield
        return
    _SET_CORES(1)
    try:
        yield
    finally:
        _SET_CORES(before)


def _find_core_setter() -> Callable[[int], object] | None:
    """OpenMP's own function, which sets the number of cores for the thread that calls it."""
    try:
        return cast("Callable[[int], object]", ctypes.CDLL(None).omp_set_num_threads)
    except (AttributeError, OSError, TypeError):  # no such function; no such library; Windows, which takes no None
        return None


_SET_CORES = _find_core_setter()


def read_free_memory(device: torch.device) -> int:
    """The free bytes of the device's memory; 0 if the system has no such number, as on Windows and macOS."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0


def free_memory() -> None:
    """Free unreachable objects that hold tensors, and the GPU's cached blocks."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
