"""A preference round in which each distinct completion is read once a step, and each prompt once for all of its own.

The objective of a step is the mean over its pairs, as if each pair had been read by itself: pairs index the
log-probabilities of their completions. A step is read in parts of at most twice `batch_size` completions, as many as
that many pairs would have, and their gradients add up. Of several processes each gets the whole step and reads a share.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedModel, TrainingArguments

from optimizers.training.base_trainer import QuietTrainer
from optimizers.training.losses import dpo_loss, sequence_nll
from optimizers.training.shared_forward import laid_out, score_completions, shares_prompts
from optimizers.training.shared_pairs import Couple, Distinct, PromptGrouped, blocks, parts
from optimizers.training.step_sampler import Dealt, Whole, own_part
from optimizers.training.trainer import TrainingSettings

BLOCK = 4096
"""Tokens of a prompt and its completions that are read as one sequence at least: attention and mask grow with the
square, and prompts of a thousand tokens leave room for all completions of a query."""

UNTRAINED = 8
"""How much more a pass reads at once that keeps nothing for a backward pass."""

_MODEL = ("input_ids", "position_ids", "segments", "sources", "targets")
Part = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Numbers(Dataset[int]):
    """The numbers below `size`, as a data set: what a batch holds is looked up when it is put together."""

    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        return index


class SharedTrainer(QuietTrainer):
    """Trains `model`, with its adapter if it has one, on `pairs`; `bare` is the model under the adapter.

    A batch of `arguments` is a step: accumulation happens inside it.
    """

    def __init__(
        self,
        model: nn.Module,
        arguments: TrainingArguments,
        *,
        bare: PreTrainedModel,
        pairs: Distinct,
        settings: TrainingSettings,
        padding: int,
    ) -> None:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # as TRL does: dropout would make the policy differ from its reference at the start
        numbers = Numbers(len(pairs.pairs) + (arguments.world_size > 1))  # the last stands for no pair: see `Whole`
        super().__init__(model, arguments, train_dataset=numbers, data_collator=self._collate)
        self._pairs, self._settings, self._padding = pairs, settings, padding
        self._longest = max(BLOCK, settings.max_length) if shares_prompts(bare) else 0
        score_completions(bare)
        # Sharded weights are in no process before training starts: the first step asks for the reference.
        self._scores: Tensor | None = None if self.is_fsdp_enabled else self._scored()

    @property
    def _reference(self) -> Tensor:
        if self._scores is None:
            self._scores = self._scored()
        return self._scores

    def step_of(self, indices: Sequence[int]) -> list[Part]:
        """This process's inputs of a step over the pairs of these indices, in parts that fit in memory.

        Each process has as many parts as the others, some of them without a share in the loss: where weights are
        sharded, no process reads its part without the others.
        """
        couples = [self._pairs.pairs[index] for index in indices if index < len(self._pairs.pairs)]
        rank, processes, most = self.args.process_index, self.args.world_size, 2 * self._settings.batch_size
        cut = [parts(own_part(couples, each, processes), most) for each in range(processes)]
        found = [self._part(part, len(part) / len(couples) * processes) for part in cut[rank]]
        return found + [self._part(couples[:1], 0.0)] * (max(map(len, cut)) - len(found))

    def heaviest(self) -> Part:
        """The inputs of a part with the longest pairs."""
        return self.step_of(self.longest(self._settings.batch_size))[0]

    def _part(self, couples: Sequence[Couple], share: float) -> Part:
        rows, order = blocks(self._pairs, {number for couple in couples for number in couple}, self._longest)
        place = {number: at for at, number in enumerate(order)}
        return {
            **laid_out(rows, self._padding),
            "pairs": torch.tensor([[place[number] for number in couple] for couple in couples]),
            "reference": self._reference[torch.tensor(order)],
            "share": torch.tensor(share),
        }

    def _collate(self, indices: list[int]) -> dict[str, list[Part]]:
        return {"parts": self.step_of(indices)}

    def training_step(
        self, model: nn.Module, inputs: Mapping[str, object], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """The step's loss; the gradients of its parts add up, and are averaged over processes with the last part."""
        *earlier, last = cast("list[Part]", inputs["parts"])
        if not model.training:  # asked once and not, as in `Trainer`, of every module at every step
            model.train()
        losses: list[Tensor] = []
        for part in earlier:
            with self.accelerator.no_sync(model):
                losses.append(self._read(model, part))
        return torch.stack([*losses, self._read(model, last)]).sum()

    def _read(self, model: nn.Module, part: Part) -> Tensor:
        """A part's loss; its gradients are added to the step's."""
        inputs = cast("Part", self._prepare_inputs(part))
        with self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        self.accelerator.backward(loss)
        self._steps.add(loss.detach())
        return loss.detach()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Part,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The part's share of the step's mean over pairs."""
        logps = model(**{name: inputs[name] for name in _MODEL}).log_probs
        (chosen, rejected), reference = inputs["pairs"].T, inputs["reference"]
        lengths = (inputs["targets"] >= 0).sum(1)[chosen]
        margin = dpo_loss(logps[chosen], logps[rejected], reference[chosen], reference[rejected], self._settings.beta)
        return inputs["share"] * (margin + self._settings.alpha * sequence_nll(logps[chosen], lengths))

    def _scored(self) -> Tensor:
        """The log-probability of each completion under the model as it is now, before training: the reference."""
        found = torch.zeros(len(self._pairs.completions), device=self.args.device)
        model, size = cast("nn.Module", self.model), UNTRAINED * 2 * self._settings.batch_size
        order = sorted(range(len(found)), key=self._sort_key)
        batches = [order[first : first + size] for first in range(0, len(order), size)]
        with torch.no_grad(), self.accelerator.autocast():
            model.eval()
            for first in range(0, len(batches), self.args.world_size):  # as many passes in each process
                at = first + self.args.process_index
                rows, numbers = blocks(self._pairs, batches[min(at, len(batches) - 1)], self._longest)
                inputs = cast("Part", self._prepare_inputs(laid_out(rows, self._padding)))
                logps = model(**inputs).log_probs.float()
                if at < len(batches):
                    found[torch.tensor(numbers)] = logps
        if self.args.world_size > 1:
            found = cast("Tensor", self.accelerator.reduce(found, reduction="sum"))
        return found.cpu()

    def _sort_key(self, number: int) -> tuple[int, int]:
        """Completions of a prompt together, prompts of a length side by side."""
        prompt = self._pairs.completions[number].prompt
        return len(self._pairs.prompts[prompt]), prompt

    def _get_train_sampler(self, train_dataset: object = None) -> Sampler[int]:
        step = self.args.train_batch_size
        rows = PromptGrouped(self._pairs, step, random.Random(self.args.seed))
        order = Dealt(rows, Whole(step, self.args.world_size))
        return cast("Sampler[int]", order)  # it iterates and has a length, which is all a sampler needs
