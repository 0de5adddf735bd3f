"""Micro-batches that fit in memory: when it runs out, half as many rows at a time and twice as many times. Pure."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from optimizers.training.step_sampler import Portion
from optimizers.training.trainer import TrainingSettings
from sgt_modules.errors import TrainingError
from sgt_modules.local.batching import exhausted

logger = logging.getLogger(__name__)

Trained = TypeVar("Trained")


def halved(settings: TrainingSettings) -> TrainingSettings | None:
    """The same steps in micro-batches of at most half the rows; None where they are of one row already.

    >>> smaller = halved(TrainingSettings(batch_size=8, gradient_accumulation=2))
    >>> smaller.batch_size, smaller.gradient_accumulation
    (4, 4)
    >>> smaller = halved(TrainingSettings(batch_size=7, gradient_accumulation=2))  # 3 does not divide 14
    >>> smaller.batch_size, smaller.gradient_accumulation
    (2, 7)
    """
    return _with_rows(settings, settings.batch_size // 2)


def _with_rows(settings: TrainingSettings, most: int) -> TrainingSettings | None:
    step = settings.batch_size * settings.gradient_accumulation
    rows = next((rows for rows in range(most, 0, -1) if step % rows == 0), None)
    return None if rows is None else replace(settings, batch_size=rows, gradient_accumulation=step // rows)


def until_it_fits(
    settings: TrainingSettings,
    train: Callable[[TrainingSettings], Trained],
    *,
    release: Callable[[], None] = lambda: None,
    processes: int = 1,
) -> tuple[Trained, TrainingSettings]:
    """What `train` gives, and the settings that it fitted in memory with.

    Where memory runs out, `release` is called and `train` begins anew with smaller micro-batches: the same steps of the
    same rows, only slower. Raises `TrainingError` where one row at a time is still too much; and at once where several
    `processes` train together, as the others would wait for ever for the one that begins anew.
    """
    while True:
        try:
            return train(settings), settings
        except (RuntimeError, MemoryError) as error:
            if not exhausted(error):
                raise
            reason = str(error).partition("\n")[0]
        release()  # past the handler, so that the error's frames no longer hold the batch's tensors
        if processes > 1:
            raise TrainingError(_too_much_for_one_of(processes, settings, reason))
        smaller = halved(settings)
        if smaller is None:
            raise TrainingError(
                f"Expected memory for one row at a time, of at most max_length={settings.max_length} tokens, got: "
                f"{reason} Lower max_length, set gradient_checkpointing=True, or lower the rank of LoRASettings "
                "(lora=None needs most); on a GPU leave bf16 on."
            )
        rows = (settings.batch_size, smaller.batch_size)
        logger.warning("Out of memory with micro-batches of %d rows; the stage begins anew with %d.", *rows)
        settings = smaller


def _too_much_for_one_of(processes: int, settings: TrainingSettings, reason: str) -> str:
    step = settings.batch_size * settings.gradient_accumulation
    rows = Portion.of(step, most=settings.batch_size, processes=processes).batch
    smaller = _with_rows(settings, rows // 2)
    cure = "Lower max_length, or set gradient_checkpointing=True."
    if smaller is not None:
        less = f"batch_size={smaller.batch_size}, gradient_accumulation={smaller.gradient_accumulation}"
        cure = f"Set {less}, which takes the same steps."
    return f"Expected memory for {rows} rows at a time in each of {processes} processes, got: {reason} {cure}"


def said_of_memory(asked: TrainingSettings, used: TrainingSettings) -> list[str]:
    """A sentence if memory ran out, none otherwise.

    >>> said_of_memory(TrainingSettings(), TrainingSettings())
    []
    """
    if asked.batch_size == used.batch_size:
        return []
    said = (
        f"Memory ran out with micro-batches of {asked.batch_size} rows. The stage began anew and took the same steps "
        f"in more parts. To begin there, set batch_size={used.batch_size}, "
        f"gradient_accumulation={used.gradient_accumulation}."
    )
    return [said]
