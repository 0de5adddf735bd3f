"""Training without side effects: no half-written folder, no changed random states, no noise, no reports."""

from __future__ import annotations

import logging
import math
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from optimizers.training.step_sampler import Dealt, Portion
from optimizers.training.trainer import LengthGrouped, OnStep
from sgt_modules.errors import DivergedError
from sgt_modules.local.loading import quietly

_LIBRARIES = ("transformers", "trl", "peft", "accelerate")


@contextmanager
def replacing(output: Path, *, write: bool = True) -> Iterator[Path]:
    """A scratch folder beside `output`, whose subfolder `weights` takes `output`'s place at the end, in one rename.

    After an error `output` is as it was before; and without `write`, in a process that helps another to train. What a
    process that was killed left behind is cleared away by the next that writes there.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{output.name}-written-" if write else f".{output.name}-"
    if write:
        for left in output.parent.glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=output.parent) as scratch:
        yield Path(scratch)
        if write:
            if output.exists():
                shutil.rmtree(output)
            (Path(scratch) / "weights").rename(output)


@contextmanager
def random_states_kept() -> Iterator[None]:
    """The global generators of Python, NumPy and torch, which TRL seeds, are given back as they were.

    >>> random.seed(1)
    >>> with random_states_kept():
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
    """No progress bars and no notes of the training libraries; their errors still come through."""
    loggers = [logging.getLogger(name) for name in _LIBRARIES]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with quietly():
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class Steps(TrainerCallback):
    """Keeps each step's loss, tells it to the caller, and stops with `DivergedError` at one that is no number."""

    def __init__(self, on_step: OnStep | None) -> None:
        self.losses: list[float] = []
        self.mean: Callable[[Tensor], Tensor] = Tensor.detach
        """Over the processes that train together."""
        self._on_step = on_step
        self._pending: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        """A micro-batch's share of the step's loss."""
        self._pending.append(loss)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Close the step."""
        loss = float(self.mean(torch.stack(self._pending).sum()))
        self._pending = []
        if not math.isfinite(loss):
            raise DivergedError(
                f"Expected a finite loss, got {loss} at step {state.global_step} of {state.max_steps} with learning "
                f"rate {args.learning_rate:g}. Lower the learning rate, or set bf16=False."
            )
        self.losses.append(loss)
        if self._on_step is not None:
            self._on_step(state.global_step, state.max_steps, loss)


class Rehearsal(TrainerCallback):
    """Has a trainer try its longest rows before its first step; not where several processes train together, as those
    that have memory left would wait for the one that has not.
    """

    def __init__(self, trainer: QuietTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Everything is in its place by now: adapter, precision, checkpointing."""
        if args.world_size == 1:
            self._trainer.rehearse()


class QuietTrainer(Trainer):
    """A base for TRL's trainers that reports to `Steps` alone and groups rows by length.

    A loss is a micro-batch's share of the step's. With several processes it is multiplied by their number, as gradients
    and reported losses are then means over the processes.
    """

    loss_is_scaled_for_ga = True
    _steps: Steps
    _lengths: Sequence[int]
    _group: int
    _portion: Portion

    def observe(self, steps: Steps, lengths: Sequence[int], group: int, portion: Portion) -> None:
        """Report to `steps`, group rows by their `lengths` in tokens, `group` of them together, read a `portion` of
        each step, and print nothing.
        """
        self._steps, self._lengths, self._group, self._portion = steps, lengths, group, portion
        if self.args.world_size > 1:
            steps.mean = self._mean
        self.remove_callback(PrinterCallback)
        self.add_callback(steps)
        self.add_callback(Rehearsal(self))

    def training_step(
        self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """As in `Trainer`, whose loss is this micro-batch's share of the step's."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._steps.add(loss)
        return loss

    def rehearse(self) -> None:
        """The longest rows forwards and backwards once, and nothing kept of it: where that much does not fit in memory,
        it shows before the first step and not hours later.
        """
        model = cast("nn.Module", self.model_wrapped)
        model.train()
        with random_states_kept():
            inputs = cast("dict[str, Tensor]", self._prepare_inputs(self.heaviest()))
            loss = cast("Tensor", self.compute_loss(model, inputs, num_items_in_batch=1))
            self.accelerator.backward(loss)
        model.zero_grad()

    def heaviest(self) -> dict[str, Tensor]:
        """A micro-batch of the longest rows."""
        data = cast("Dataset[dict[str, Any]]", self.train_dataset)
        return self.data_collator([data[index] for index in self.longest(self.args.train_batch_size)])

    def longest(self, count: int) -> list[int]:
        """The indices of the longest rows."""
        return sorted(range(len(self._lengths)), key=self._lengths.__getitem__)[-count:]

    def check_weights(self) -> None:
        """Raise `DivergedError` unless every trained weight is a number, in every process."""
        trained = [each.detach() for each in cast("nn.Module", self.model).parameters() if each.requires_grad]
        parts = [cast("Tensor", getattr(each, "to_local", lambda each=each: each)()) for each in trained]  # of shards
        broken = torch.stack([~torch.isfinite(each).all() for each in parts]).any().float()
        if self.args.world_size > 1:
            broken = cast("Tensor", self.accelerator.reduce(broken, reduction="sum"))
        if broken:
            raise DivergedError(
                f"Expected weights that are numbers, got others after {self.state.global_step} steps with learning "
                f"rate {self.args.learning_rate:g}. Lower the learning rate, or set bf16=False."
            )

    def gathered_weights(self) -> dict[str, Tensor] | None:
        """All weights, if each process holds a part of them (FSDP); every process has to ask."""
        if not self.is_fsdp_enabled:
            return None
        return cast("dict[str, Tensor]", self.accelerator.get_state_dict(cast("nn.Module", self.model)))

    def floating_point_ops(self, inputs: Mapping[str, Tensor]) -> int:
        """Not counted: it would walk over all parameters at every step."""
        return 0

    def _get_train_sampler(self, train_dataset: object = None) -> Sampler[int]:
        order = Dealt(LengthGrouped(self._lengths, self._group, random.Random(self.args.seed)), self._portion)
        return cast("Sampler[int]", order)  # it iterates and has a length, which is all a sampler needs

    def _mean(self, loss: Tensor) -> Tensor:
        return cast("Tensor", self.accelerator.reduce(loss, reduction="mean"))

    def _send_telemetry(self) -> None:
        """Nothing about a run leaves the machine."""


class StepMean(QuietTrainer):
    """A base for trainers whose loss is a mean over all items of a step, however the step is cut and dealt out."""

    def items(self, batch: Mapping[str, Tensor]) -> Tensor:
        """How many items a micro-batch holds."""
        raise NotImplementedError

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: torch.device) -> Tensor:
        """The step's items in all processes, which `compute_loss` is given."""
        own = torch.stack([self.items(batch) for batch in batch_samples]).sum().to(device)
        return cast("Tensor", self.accelerator.reduce(own, reduction="sum")) if self.args.world_size > 1 else own
