"""Training without side effects: no half-written folder, no changed random states, no output of the libraries."""

from __future__ import annotations

import errno
import logging
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError

from sgt_modules.errors import TrainingError
from sgt_modules.local.loading import silence_libraries

_LIBRARIES = ("transformers", "trl", "peft", "accelerate")


@contextmanager
def replace_folder(output: Path, *, write: bool = True) -> Iterator[Path]:
    """Yield a scratch folder next to `output`; at the end rename its subfolder `weights` to `output`, in one step.

    After an error `output` is as it was before. Without `write`, as in a process that helps another to train, it always
    is. A process that writes first deletes the scratch folders that killed processes left.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{output.name}-written-" if write else f".{output.name}-"
    if write:
        for abandoned in output.parent.glob(f"{prefix}*"):
            shutil.rmtree(abandoned, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=output.parent) as scratch:
        yield Path(scratch)
        if write:
            if output.exists():
                shutil.rmtree(output)
            (Path(scratch) / "weights").rename(output)


@contextmanager
def keep_random_states() -> Iterator[None]:
    """Restore the global random states of Python, NumPy and torch at the end: TRL seeds them.

    >>> random.seed(1)
    >>> with keep_random_states():
    ...     random.seed(2)
    >>> random.random() == random.Random(1).random()
    True
    """
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if devices:
            torch.cuda.set_rng_state_all(devices)


@contextmanager
def silence() -> Iterator[None]:
    """Hide the progress bars, notes and warnings of the training libraries; their errors are still logged."""
    loggers = [logging.getLogger(name) for name in _LIBRARIES]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with silence_libraries():
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def explain_full_disk(output: Path) -> Iterator[None]:
    """Raise a `TrainingError` that says what to do if the disk is full."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = error.errno == errno.ENOSPC if isinstance(error, OSError) else "os error 28" in str(error)
        if not full:
            raise
        raise TrainingError(
            f"Expected space on the disk for the weights of {output.name!r}, got none left at {str(output.parent)!r}. "
            "Nothing half-written stays and every earlier stage is intact: free some space, and start again with the "
            "same log_dir."
        ) from error
