"""What our trainers have in common: they report losses to one recorder, group rows by length, and check for NaN."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from optimizers.training.side_effects import keep_random_states
from optimizers.training.step_sampler import BatchPlan, LengthGrouped, StepSampler
from optimizers.training.trainer import OnStep
from sgt_modules.errors import DivergedError


class LossRecorder(TrainerCallback):
    """Records each step's loss and passes it to `on_step`; raises `DivergedError` if it is not finite."""

    def __init__(self, on_step: OnStep | None) -> None:
        self.losses: list[float] = []
        self.mean: Callable[[Tensor], Tensor] = Tensor.detach
        """The mean over the processes that train together."""
        self._on_step = on_step
        self._pending: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        """Add a micro-batch's share of the step's loss."""
        self._pending.append(loss)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Sum the shares of the step that ended."""
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


class MemoryRehearsal(TrainerCallback):
    """Has a trainer read its longest rows before the first step, so that too little memory shows at once.

    Not if several processes train together: a process with too little memory would leave the others waiting.
    """

    def __init__(self, trainer: BaseTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Adapter, precision and checkpointing are all set up at this point."""
        if args.world_size == 1:
            self._trainer.rehearse()


class BaseTrainer(Trainer):
    """A base for trainers that report only to a `LossRecorder` and group rows by length.

    A micro-batch's loss is its share of the step's loss. With several processes the share is multiplied by their
    number, because gradients and reported losses are then means over the processes.
    """

    loss_is_scaled_for_ga = True
    _recorder: LossRecorder
    _lengths: Sequence[int]
    _group: int
    _plan: BatchPlan
    _trained: Sequence[nn.Parameter]

    def configure(self, recorder: LossRecorder, lengths: Sequence[int], group: int, plan: BatchPlan) -> None:
        """Report to `recorder`; put rows of similar `lengths` (in tokens) into groups of `group`; read each step as
        `plan` says; print nothing.
        """
        self._recorder, self._lengths, self._group, self._plan = recorder, lengths, group, plan
        if self.args.world_size > 1:
            recorder.mean = self._average_over_processes
        else:
            self._shorten_steps()
        self.remove_callback(PrinterCallback)
        self.add_callback(recorder)
        self.add_callback(MemoryRehearsal(self))

    def _shorten_steps(self) -> None:
        """Skip visits to all modules of the model in each step, which take time and change no weight."""
        model = cast("nn.Module", self.model)
        self._trained = [each for each in model.parameters() if each.requires_grad]
        model.zero_grad = self._zero_grad

    def _zero_grad(self, set_to_none: bool = True) -> None:
        for each in self._trained:
            each.grad = None

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        if self.args.world_size > 1:
            return cast("Tensor", super()._clip_grad_norm(model))
        return cast("Tensor", self.accelerator.clip_grad_norm_(self._trained, self.args.max_grad_norm))

    def training_step(
        self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """As in `Trainer`; the loss is this micro-batch's share of the step's."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._recorder.add(loss)
        return loss

    def rehearse(self) -> None:
        """Read the longest rows forwards and backwards, and discard the gradients."""
        model = cast("nn.Module", self.model_wrapped)
        model.train()
        with keep_random_states():
            inputs = cast("dict[str, Tensor]", self._prepare_inputs(self.build_longest_batch()))
            loss = cast("Tensor", self.compute_loss(model, inputs, num_items_in_batch=1))
            self.accelerator.backward(loss)
        model.zero_grad()

    def build_longest_batch(self) -> dict[str, Tensor]:
        """A micro-batch of the longest rows."""
        data = cast("Dataset[dict[str, Any]]", self.train_dataset)
        return self.data_collator([data[index] for index in self.find_longest(self.args.train_batch_size)])

    def find_longest(self, count: int) -> list[int]:
        """The indices of the longest rows."""
        return sorted(range(len(self._lengths)), key=self._lengths.__getitem__)[-count:]

    def check_weights(self) -> None:
        """Raise `DivergedError` unless every trained weight is finite, in every process."""
        trained = [each.detach() for each in cast("nn.Module", self.model).parameters() if each.requires_grad]
        local = [cast("Tensor", getattr(each, "to_local", lambda each=each: each)()) for each in trained]  # of shards
        broken = torch.stack([~torch.isfinite(each).all() for each in local]).any().float()
        if self.args.world_size > 1:
            broken = cast("Tensor", self.accelerator.reduce(broken, reduction="sum"))
        if broken:
            raise DivergedError(
                f"Expected finite weights, got others after {self.state.global_step} steps with learning "
                f"rate {self.args.learning_rate:g}. Lower the learning rate, or set bf16=False."
            )

    def gather_weights(self) -> dict[str, Tensor] | None:
        """All weights, if they are sharded over processes (FSDP), else None; every process has to call this."""
        if not self.is_fsdp_enabled:
            return None
        return cast("dict[str, Tensor]", self.accelerator.get_state_dict(cast("nn.Module", self.model)))

    def floating_point_ops(self, inputs: Mapping[str, Tensor]) -> int:
        """0: counting would walk over all parameters at every step."""
        return 0

    def _get_train_sampler(self, train_dataset: object = None) -> Sampler[int]:
        order = LengthGrouped(self._lengths, self._group, random.Random(self.args.seed))
        return cast("Sampler[int]", StepSampler(order, self._plan))  # it iterates and has a length: all that is needed

    def _average_over_processes(self, loss: Tensor) -> Tensor:
        return cast("Tensor", self.accelerator.reduce(loss, reduction="mean"))

    def _send_telemetry(self) -> None:
        """Do nothing: no information about a run leaves the machine."""
