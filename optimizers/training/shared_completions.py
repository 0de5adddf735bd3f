"""What DPO and GRPO share: a step reads each distinct completion once, and each prompt once for all of its completions.

The loss of a step is the mean over its rows, the same as if each row were read by itself: rows index the
log-probabilities of their completions. A step is read in parts of at most twice `batch_size` completions, as many as
`batch_size` pairs have, and the gradients of the parts add up. With several processes, each gets the whole step and
reads its share.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, Final, Self, cast

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedModel, TrainingArguments, set_seed

from optimizers.training.base_trainer import BaseTrainer
from optimizers.training.forward_passes import build_inputs, can_share_prompts, install_completion_forward
from optimizers.training.shared_pairs import PairIndex, PromptGrouped, build_blocks, index_pairs, split_pairs
from optimizers.training.step_sampler import StepSampler, WholeStepPlan, take_share
from optimizers.training.trainer import TrainingSettings
from optimizers.training.trl_arguments import StageInputs, unwrap_adapter

BLOCK_TOKENS: Final = 4096
"""Tokens that a block of a prompt and its completions may have; more if `max_length` is larger. Attention and its mask
grow with the square of it; with a prompt of a thousand tokens, all completions of a query fit."""

NO_GRAD_BATCHES: Final = 8
"""Batches that a pass reads at once if it keeps nothing for a backward pass."""

_MODEL_INPUTS = ("input_ids", "position_ids", "segments", "sources", "targets")
Part = dict[str, Tensor]
"""Inputs of one pass: those of `build_inputs`, the pairs, their reference, and the part's share of the step's pairs."""


@dataclass(frozen=True, slots=True)
class Indices(Dataset[int]):
    """The indices below `size` as a data set: the inputs of a step are built from its indices."""

    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        return index


class SharedTrainer(BaseTrainer):
    """Trains `model`, with its adapter if it has one, on `pairs`; `bare` is the model under the adapter.

    A batch of `arguments` is a whole step: the parts of a step replace gradient accumulation. A subclass gives the loss
    of a part, and says with `BY_TOKEN` whether it reads the log-probability of each token or of each completion.
    """

    BY_TOKEN: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        arguments: TrainingArguments,
        *,
        bare: PreTrainedModel,
        pairs: PairIndex,
        settings: TrainingSettings,
        padding: int,
    ) -> None:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # as TRL does: with dropout the policy differs from its reference at the start
        indices = Indices(len(pairs.pairs) + (arguments.world_size > 1))  # the last stands for a blank pair
        super().__init__(model, arguments, train_dataset=indices, data_collator=self._collate)
        self._pairs, self._settings, self._padding = pairs, settings, padding
        self._longest = max(BLOCK_TOKENS, settings.max_length) if can_share_prompts(bare) else 0
        install_completion_forward(bare, by_token=self.BY_TOKEN)
        # Sharded weights are in no process before training starts: there the first step computes the reference.
        self._reference_logps: Tensor | None = None if self.is_fsdp_enabled else self._compute_reference()

    @classmethod
    def build(cls, stage: StageInputs, epochs: int, learning_rate: float) -> Self:
        """The trainer of a stage, with a new adapter if the model needs one."""
        settings, adapter = stage.settings, stage.build_adapter()
        arguments = stage.build_arguments(TrainingArguments, epochs, learning_rate)
        arguments.per_device_train_batch_size = settings.batch_size * settings.gradient_accumulation
        arguments.gradient_accumulation_steps, arguments.remove_unused_columns = 1, False
        set_seed(stage.seed)
        model = stage.model if adapter is None else get_peft_model(cast("PreTrainedModel", stage.model), adapter)
        if isinstance(model, PeftModel) and settings.gradient_checkpointing:
            model.enable_input_require_grads()
        return cls(
            model,
            arguments,
            bare=unwrap_adapter(model),
            pairs=index_pairs(stage.rows),
            settings=settings,
            padding=cast("int | None", stage.tokenizer.pad_token_id) or 0,
        )

    @property
    def _reference(self) -> Tensor:
        if self._reference_logps is None:
            self._reference_logps = self._compute_reference()
        return self._reference_logps

    def build_step(self, indices: Sequence[int]) -> list[Part]:
        """This process's inputs of a step over the rows of these indices, in parts that fit in memory.

        Each process gets the same number of parts, some of them without a share in the loss: with sharded weights no
        process can read its part without the others.
        """
        rows = [index for index in indices if index < len(self._pairs.pairs)]
        rank, processes = self.args.process_index, self.args.world_size
        of_rank = [self._split(take_share(rows, each, processes)) for each in range(processes)]
        parts = [self._build_part(part, len(part) / len(rows) * processes) for part in of_rank[rank]]
        return parts + [self._build_part(rows[:1], 0.0)] * (max(map(len, of_rank)) - len(parts))

    def build_longest_batch(self) -> Part:
        """The inputs of a part with the longest rows."""
        return self.build_step(self.find_longest(self._settings.batch_size))[0]

    def _split(self, rows: Sequence[int]) -> list[Sequence[int]]:
        """Rows in their order, in parts with at most twice `batch_size` distinct completions."""
        parts = split_pairs([self._pairs.pairs[row] for row in rows], 2 * self._settings.batch_size)
        ends = list(accumulate(map(len, parts)))
        return [rows[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def _build_part(self, rows: Sequence[int], share: float) -> Part:
        pairs = [self._pairs.pairs[row] for row in rows]
        blocks, order = build_blocks(self._pairs, {index for pair in pairs for index in pair}, self._longest)
        place = {index: at for at, index in enumerate(order)}
        return {
            **build_inputs(blocks, self._padding),
            "pairs": torch.tensor([[place[index] for index in pair] for pair in pairs]),
            "reference": self._reference[torch.tensor(order)],
            "share": torch.tensor(share),
        }

    def _collate(self, indices: list[int]) -> dict[str, list[Part]]:
        return {"parts": self.build_step(indices)}

    def training_step(
        self, model: nn.Module, inputs: Mapping[str, object], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """The step's loss. Gradients of its parts add up; with the last part they are averaged over the processes."""
        *earlier, last = cast("list[Part]", inputs["parts"])
        if not model.training:  # `train()` visits every module; `Trainer` calls it at every step
            model.train()
        losses: list[Tensor] = []
        for part in earlier:
            with self.accelerator.no_sync(model):
                losses.append(self._train_on(model, part))
        return torch.stack([*losses, self._train_on(model, last)]).sum()

    def _train_on(self, model: nn.Module, part: Part) -> Tensor:
        """A part's loss; its gradients are added to the step's."""
        inputs = cast("Part", self._prepare_inputs(part))
        with self.compute_loss_context_manager():
            loss = cast("Tensor", self.compute_loss(model, inputs))
        self.accelerator.backward(loss)
        self._recorder.add(loss.detach())
        return loss.detach()

    def read_logps(self, model: nn.Module, inputs: Part) -> Tensor:
        """The log-probabilities of a part's completions: one each or, with `BY_TOKEN`, (completions, tokens)."""
        return cast("Tensor", model(**{name: inputs[name] for name in _MODEL_INPUTS}).log_probs)

    def _compute_reference(self) -> Tensor:
        """The log-probabilities of each completion under the model as it is before training, padded with 0."""
        longest = [max(len(each.ids) for each in self._pairs.completions)] if self.BY_TOKEN else []
        reference = torch.zeros(len(self._pairs.completions), *longest, device=self.args.device)
        model, size = cast("nn.Module", self.model), NO_GRAD_BATCHES * 2 * self._settings.batch_size
        order = sorted(range(len(reference)), key=self._sort_key)
        batches = [order[first : first + size] for first in range(0, len(order), size)]
        with torch.no_grad(), self.accelerator.autocast():
            model.eval()
            for first in range(0, len(batches), self.args.world_size):  # equally many passes in each process
                at = first + self.args.process_index
                blocks, indices = build_blocks(self._pairs, batches[min(at, len(batches) - 1)], self._longest)
                inputs = cast("Part", self._prepare_inputs(build_inputs(blocks, self._padding)))
                logps = model(**inputs).log_probs.float()
                if at < len(batches):
                    reference[torch.tensor(indices), ...] = _widen(logps, *longest)
        if self.args.world_size > 1:
            reference = cast("Tensor", self.accelerator.reduce(reference, reduction="sum"))
        return reference.cpu()

    def _sort_key(self, completion: int) -> tuple[int, int]:
        """Puts completions of a prompt together, and prompts of similar length next to each other."""
        prompt = self._pairs.completions[completion].prompt
        return len(self._pairs.prompts[prompt]), prompt

    def _get_train_sampler(self, train_dataset: object = None) -> Sampler[int]:
        step = self.args.train_batch_size
        order = PromptGrouped(self._pairs, step, random.Random(self.args.seed))
        plan = WholeStepPlan(step, self.args.world_size)
        return cast("Sampler[int]", StepSampler(order, plan))  # it iterates and has a length: all that is needed


def _widen(logps: Tensor, *width: int) -> Tensor:
    """Log-probabilities of tokens with zeros behind them up to a `width`; those of completions as they are."""
    return pad(logps, (0, width[0] - logps.shape[1])) if width else logps
