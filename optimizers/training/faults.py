"""What is done when training goes wrong: once more, slower; a full disk named; broken weights refused.

The weights that a round starts from are never written to, so each attempt begins where the round did.
"""

from __future__ import annotations

import errno
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError

from optimizers.core.safe_reading import object_in
from optimizers.training.trainer import TrainingSettings
from sgt_modules.errors import DivergedError, SGTError, TrainingError
from sgt_modules.saving.weights import ADAPTER, TRAINED_FROM, WHOLE_MODEL, fingerprint_of

logger = logging.getLogger(__name__)

Trained = TypeVar("Trained")


def slower(settings: TrainingSettings) -> TrainingSettings:
    """The same with half of both learning rates.

    >>> slower(TrainingSettings(dpo_learning_rate=2e-5)).dpo_learning_rate
    1e-05
    """
    return replace(
        settings,
        sft_learning_rate=settings.sft_learning_rate / 2,
        dpo_learning_rate=settings.dpo_learning_rate / 2,
    )


def until_it_converges(
    settings: TrainingSettings, train: Callable[[TrainingSettings], Trained]
) -> tuple[Trained, list[str]]:
    """What `train` gives, and a sentence where it had to begin anew.

    Where the loss or a weight is no number, `train` begins anew with half of the learning rate, once; then the
    `DivergedError` is raised. Several processes do so together: each of them sees the same loss.
    """
    try:
        return train(settings), []
    except DivergedError as error:
        reason = str(error).partition(". ")[0]
    said = f"{reason}. The stage began anew from the weights before it, with half of the learning rate."
    logger.warning(said)
    return train(slower(settings)), [said]


@contextmanager
def disk_full_named(output: Path) -> Iterator[None]:
    """Inside, a disk that is full is a `TrainingError` that says so."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = error.errno == errno.ENOSPC if isinstance(error, OSError) else "os error 28" in str(error)
        if not full:
            raise
        raise TrainingError(
            f"Expected room on the disk for the weights of {output.name!r}, got none left at {str(output.parent)!r}. "
            "Nothing half-written stays and every earlier stage stands: make room, and start again with the same "
            "log_dir."
        ) from error


def files_in(folder: Path) -> dict[str, str]:
    """sha256 (hex) of each file in a folder of weights by its name, without the record that keeps them."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name != TRAINED_FROM)
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.suffix != ".safetensors"}


def intact(folder: Path, fingerprint: str) -> bool:
    """Whether a checkpoint's folder still holds what training wrote: its weights by their fingerprint, and every other
    file as `trained_from.json` has it, where there is such a record: earlier versions and other trainers write none.

    >>> intact(Path("runs/none/checkpoints/sft"), "0" * 64)
    False
    """
    try:
        if (
            not any((folder / name).is_file() for name in (ADAPTER, WHOLE_MODEL))
            or fingerprint_of(folder) != fingerprint
        ):
            return False
        known = (object_in(folder / TRAINED_FROM, home=folder) or {}).get("files", {})
        return isinstance(known, Mapping) and (not known or files_in(folder) == known)
    except (OSError, SGTError):
        return False
