"""Retries of a stage: with smaller micro-batches when memory runs out, with a lower learning rate when it diverges.

Training never writes to the weights that a stage starts from, so each retry starts where the stage did. Pure.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from optimizers.training.step_sampler import BatchPlan
from optimizers.training.trainer import TrainingSettings
from sgt_modules.errors import DivergedError, TrainingError
from sgt_modules.local.batching import is_out_of_memory

Result = TypeVar("Result")


def halve_micro_batches(settings: TrainingSettings) -> TrainingSettings | None:
    """Settings for the same steps in micro-batches of at most half the rows; None if a micro-batch has one row already.

    >>> smaller = halve_micro_batches(TrainingSettings(batch_size=8, gradient_accumulation=2))
    >>> smaller.batch_size, smaller.gradient_accumulation
    (4, 4)
    >>> smaller = halve_micro_batches(TrainingSettings(batch_size=7, gradient_accumulation=2))  # 3 does not divide 14
    >>> smaller.batch_size, smaller.gradient_accumulation
    (2, 7)
    """
    return _limit_micro_batches(settings, settings.batch_size // 2)


def _limit_micro_batches(settings: TrainingSettings, most: int) -> TrainingSettings | None:
    step = settings.batch_size * settings.gradient_accumulation
    rows = next((rows for rows in range(most, 0, -1) if step % rows == 0), None)
    return None if rows is None else replace(settings, batch_size=rows, gradient_accumulation=step // rows)


def halve_learning_rates(settings: TrainingSettings) -> TrainingSettings:
    """The same settings with half of every learning rate.

    >>> halve_learning_rates(TrainingSettings(dpo_learning_rate=2e-5)).dpo_learning_rate
    1e-05
    """
    return replace(
        settings,
        sft_learning_rate=settings.sft_learning_rate / 2,
        dpo_learning_rate=settings.dpo_learning_rate / 2,
        grpo_learning_rate=settings.grpo_learning_rate / 2,
    )


def retry_with_smaller_batches(
    settings: TrainingSettings,
    train: Callable[[TrainingSettings], Result],
    *,
    release: Callable[[], None] = lambda: None,
    processes: int = 1,
) -> tuple[Result, TrainingSettings]:
    """Call `train` until it fits in memory; return its result, and the settings that fitted.

    When memory runs out, calls `release` and retries with smaller micro-batches: the same steps of the same rows, more
    slowly. Raises `TrainingError` if one row at a time does not fit; and at the first attempt if several `processes`
    train together, as the others would wait for ever for the process that retries.
    """
    while True:
        try:
            return train(settings), settings
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0]
        release()  # outside the handler, so that the error's frames no longer hold the batch's tensors
        if processes > 1:
            raise TrainingError(_describe_exhausted_process(processes, settings, reason))
        smaller = halve_micro_batches(settings)
        if smaller is None:
            raise TrainingError(
                f"Expected memory for one row at a time, of at most max_length={settings.max_length} tokens, got: "
                f"{reason} Lower max_length, set gradient_checkpointing=True, or lower the rank of LoRASettings "
                "(lora=None needs most); on a GPU leave bf16 on."
            )
        rows = (settings.batch_size, smaller.batch_size)
        logging.getLogger(__name__).warning(
            "Out of memory with micro-batches of %d rows; the stage starts again with %d.", *rows
        )
        settings = smaller


def _describe_exhausted_process(processes: int, settings: TrainingSettings, reason: str) -> str:
    step = settings.batch_size * settings.gradient_accumulation
    rows = BatchPlan.of(step, most=settings.batch_size, processes=processes).batch
    smaller = _limit_micro_batches(settings, rows // 2)
    cure = "Lower max_length, or set gradient_checkpointing=True."
    if smaller is not None:
        less = f"batch_size={smaller.batch_size}, gradient_accumulation={smaller.gradient_accumulation}"
        cure = f"Set {less}, which takes the same steps."
    return f"Expected memory for {rows} rows at a time in each of {processes} processes, got: {reason} {cure}"


def describe_smaller_batches(asked: TrainingSettings, used: TrainingSettings) -> list[str]:
    """A note for the run if memory ran out, none otherwise.

    >>> describe_smaller_batches(TrainingSettings(), TrainingSettings())
    []
    """
    if asked.batch_size == used.batch_size:
        return []
    note = (
        f"Memory ran out with micro-batches of {asked.batch_size} rows. The stage started again and took the same "
        f"steps in smaller ones. To use those from the start, set batch_size={used.batch_size}, "
        f"gradient_accumulation={used.gradient_accumulation}."
    )
    return [note]


def retry_with_lower_rate(
    settings: TrainingSettings, train: Callable[[TrainingSettings], Result]
) -> tuple[Result, list[str]]:
    """Call `train`, and once more with half of the learning rates if it diverges; return its result, and notes.

    The second `DivergedError` is raised. Several processes retry together, as each of them sees the same loss.
    """
    try:
        return train(settings), []
    except DivergedError as error:
        reason = str(error).partition(". ")[0]
    note = f"{reason}. The stage started again from the same weights, with half of the learning rate."
    logging.getLogger(__name__).warning(note)
    return train(halve_learning_rates(settings)), [note]
