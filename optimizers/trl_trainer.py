"""Training with TRL and PEFT: the only file that imports them.

    rows -> token ids (encoding.py) -> TRL's trainer with our loss (losses.py) -> the weights alone, renamed into place

TRL's loops, collators and reference bookkeeping are used as they are. What is ours: rows come tokenised, so that no
token crosses the end of a prompt; the loss of a preference round; an output head that sees only what is trained on;
batches of similar length; no metrics a step, which cost a small model more than they are worth; a loss that is a mean
over the whole step, so that several processes (`accelerate launch`) take the steps that one would.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar, cast

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, set_seed
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from optimizers.dealing import Portion
from optimizers.encoding import Row, Texts, encode, end_of_turn, fitting, said_of_length
from optimizers.lineage import lineage
from optimizers.losses import IGNORED, dpo_loss, score_labels_only, sequence_nll
from optimizers.microbatches import said_of_memory, until_it_fits
from optimizers.processes import Team, gathered, sharded
from optimizers.quiet import QuietTrainer, StepMean, Steps, random_states_kept, replacing, silence
from optimizers.records import Checkpoint, PreferencePair, SFTExample
from optimizers.shared_dpo import SharedTrainer
from optimizers.sharing import distinct
from optimizers.training import OnStep, TrainingSettings
from sgt_modules.errors import NoPreferencePairsError, TrainingError
from sgt_modules.loading import Base, base_of, load_model, place, release
from sgt_modules.weights import ADAPTER, WHOLE_MODEL, fingerprint_of, origin_of, record_base, resolve

Config = TypeVar("Config", SFTConfig, DPOConfig)


class TRLTrainer:
    """Trains a generator with TRL: LoRA adapters or, with `settings.lora=None`, all weights.

    `model` is a hub id or a folder, the same as the generator's. Runs on CUDA if there is one and else on the CPU. The
    caller's random states are left as they were. A model that brings code of its own needs `trust_remote_code=True`.

    With LoRA the frozen base is the one in memory that engines of the same files sample from, where both are on one
    device in one precision: bfloat16 on a GPU (single with `bf16=False`), single on a CPU. So it is by default; an
    engine in another precision (the embedded generator samples in double) or on another device keeps its own copy.

    Where several processes were launched, each of them makes the same calls: the rows of a step are dealt out, the main
    process alone writes, and every process returns the checkpoint. Weights sharded over processes are no engine's.

    >>> TRLTrainer("Qwen/Qwen3-1.7B").settings.beta
    0.1
    """

    def __init__(
        self, model: str | Path, settings: TrainingSettings | None = None, *, trust_remote_code: bool = False
    ) -> None:
        self.model = model
        self.settings = settings or TrainingSettings()
        self.trust_remote_code = trust_remote_code

    def sft(
        self,
        rows: Sequence[SFTExample],
        *,
        start: Checkpoint | None,
        output: Path,
        seed: int,
        on_step: OnStep | None = None,
    ) -> Checkpoint:
        """Cross-entropy on the supplement and its end token, averaged over the tokens of a step.

        Raises `TrainingError` without rows, or when the loss is no number.
        """
        if not rows:
            reason = "Expected supplements that worked, got none, so there is nothing to imitate. "
            raise TrainingError(reason + "Sample more, use easier examples, or lower the threshold.")
        texts = [(row.prompt, (row.completion,)) for row in rows]
        return self._train(_Stage(_SFT, texts, start, seed, on_step), output)

    def dpo(
        self,
        pairs: Sequence[PreferencePair],
        *,
        start: Checkpoint | None,
        output: Path,
        seed: int,
        on_step: OnStep | None = None,
    ) -> Checkpoint:
        """L_DPO + alpha * L_NLL. The reference is the model at `start`; its log-probabilities are computed once.

        Raises `NoPreferencePairsError` without pairs, `TrainingError` when the loss is no number.
        """
        if not pairs:
            reason = "Expected preference pairs, got none: no query has both a winner and a loser. "
            raise NoPreferencePairsError(reason + "Sample more, or use harder (or easier) examples.")
        texts = [(pair.prompt, (pair.chosen, pair.rejected)) for pair in pairs]
        kind = _SharedDPO if self.settings.dpo_forward == "shared" else _DPO
        return self._train(_Stage(kind, texts, start, seed, on_step), output)

    def _train(self, stage: _Stage, output: Path) -> Checkpoint:
        began, team, asked = time.perf_counter(), gathered(), self.settings
        with team.leading(), silence(), random_states_kept(), replacing(output, write=team.main) as scratch:
            self._check(stage.start)
            folder = resolve(self.model, code=self.trust_remote_code)
            base = self._base(folder)  # held here: an attempt that runs out of memory need not load it again
            trained, used = until_it_fits(
                asked,
                lambda settings: self._fit(stage, base, folder, settings, scratch, team),
                release=release,
                processes=team.size,
            )
            if team.main:
                record = lineage(output.name, stage.texts, trained.settings, start=stage.start, seed=stage.seed)
                record_base(scratch / "weights", folder, record)
        release()
        notes = [*said_of_length(trained.rows, asked.max_length), *said_of_memory(asked, used)]
        metrics = {**trained.metrics, "seconds": time.perf_counter() - began}
        return team.once(lambda: Checkpoint(output.name, output, fingerprint_of(output), metrics, notes))

    def _fit(
        self, stage: _Stage, base: Base | None, folder: Path, settings: TrainingSettings, scratch: Path, team: Team
    ) -> _Trained:
        """Train once, with these micro-batches; the main process saves the weights in the scratch folder."""
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=self.trust_remote_code)
        model, steps = self._model(base, folder, stage.start), Steps(stage.on_step)
        settings = replace(settings, gradient_checkpointing=settings.checkpoints(_size(model)))
        encoded = encode(stage.texts, tokenizer, end_of_turn(model.generation_config.eos_token_id, tokenizer))
        rows = fitting(encoded, settings.max_length)
        job = _Job(model, tokenizer, rows, settings, scratch, stage.seed, team.size)
        trainer = stage.kind.of(job)
        trainer.observe(steps, [row.length for row in rows], self.settings.batch_size, job.portion)
        trainer.train()
        weights = trainer.gathered_weights()
        if team.main:
            _save(trainer, tokenizer, scratch / "weights", origin_of(folder), weights)
        return _Trained(settings, encoded, steps.losses, int(trainer.args.num_train_epochs))

    def _check(self, start: Checkpoint | None) -> None:
        """Raise `TrainingError` for a checkpoint of the other sort."""
        lora = self.settings.lora is not None
        if start is not None and not (start.path / (ADAPTER if lora else WHOLE_MODEL)).is_file():
            wanted = "an adapter's folder" if lora else "a whole model's folder, as lora=None trains all weights"
            raise TrainingError(
                f"Expected the checkpoint {start.stage!r} to be {wanted}, got {str(start.path)!r}. "
                "Go on with the settings it was trained with, or begin with start=None."
            )

    def _base(self, folder: Path) -> Base | None:
        """The frozen base, shared with who samples from it; None where training takes the model for itself: to train
        all weights, or to shard them over processes.
        """
        if self.settings.lora is None or sharded(os.environ):
            return None
        return base_of(folder, *self._place(), trust_remote_code=self.trust_remote_code)

    def _model(self, base: Base | None, folder: Path, start: Checkpoint | None) -> PreTrainedModel | PeftModel:
        """The model to go on with: the base, the base with the checkpoint's adapter, or the checkpoint's weights."""
        lora = self.settings.lora is not None
        if base is not None:
            model = base.twin()
        else:
            source = folder if lora or start is None else start.path
            model = load_model(source, *self._place(), trust_remote_code=self.trust_remote_code)
        if not lora or start is None:
            return model
        return PeftModel.from_pretrained(model, start.path, is_trainable=True)

    def _place(self) -> tuple[torch.device, torch.dtype]:
        """Frozen weights may rest in the precision they are used in; trained ones would lose small updates."""
        half = self.settings.lora is not None and torch.cuda.is_available() and _mixed(self.settings)
        return place(_device(), "bfloat16" if half else "float32")


@dataclass(frozen=True, slots=True)
class _Stage:
    """One stage of training as it was asked for."""

    kind: type[_SFT | _DPO | _SharedDPO]
    texts: Texts
    start: Checkpoint | None
    seed: int
    on_step: OnStep | None


@dataclass(frozen=True, slots=True)
class _Trained:
    """How a stage went: the settings it fitted in memory with, all its rows, each step's loss."""

    settings: TrainingSettings
    rows: Sequence[Row]
    losses: Sequence[float]
    epochs: int

    @property
    def metrics(self) -> dict[str, float]:
        kept = fitting(self.rows, self.settings.max_length)
        return {
            "rows": len(kept),
            "dropped": len(self.rows) - len(kept),
            "longest": max(row.length for row in self.rows),
            "loss": sum(self.losses) / len(self.losses),
            "tokens": self.epochs * sum(row.tokens for row in kept),
            "steps": len(self.losses),
            "batch_size": self.settings.batch_size,
            "gradient_accumulation": self.settings.gradient_accumulation,
        }


@dataclass(frozen=True, slots=True)
class _Job:
    """What one stage of training needs."""

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    rows: Sequence[Row]
    settings: TrainingSettings
    folder: Path
    seed: int
    processes: int = 1

    @property
    def portion(self) -> Portion:
        """What one process reads of a step."""
        settings = self.settings
        step = settings.batch_size * settings.gradient_accumulation
        return Portion.of(step, most=settings.batch_size, processes=self.processes)

    @property
    def blank(self) -> list[Row]:
        """A row without a completion, last of the rows, where processes may need one: see `dealing`."""
        return [Row(min((row.prompt for row in self.rows), key=len), ([], []))] if self.processes > 1 else []

    def config(self, kind: type[Config], epochs: int, learning_rate: float) -> Config:
        """TRL's arguments: no evaluation, no reports, no files, and no limit of length (long rows are gone by now)."""
        settings, cuda = self.settings, torch.cuda.is_available()
        config = kind(
            output_dir=str(self.folder / "trainer"),
            num_train_epochs=epochs,
            learning_rate=learning_rate,
            per_device_train_batch_size=self.portion.batch,
            gradient_accumulation_steps=self.portion.times,
            lr_scheduler_type=settings.schedule,
            warmup_steps=settings.warmup,
            max_grad_norm=settings.max_grad_norm,
            activation_checkpointing=settings.gradient_checkpointing is True,
            bf16=_mixed(settings),
            use_cpu=not cuda,
            dataloader_pin_memory=cuda,
            max_length=None,
            seed=self.seed,
            save_strategy="no",
            logging_strategy="no",
            logging_nan_inf_filter=False,
            report_to="none",
            disable_tqdm=True,
            ddp_find_unused_parameters=False,
        )
        config._n_gpu = min(config.n_gpu, 1)  # one process, one GPU: no DataParallel, which TRL refuses
        return config

    def adapter(self) -> LoraConfig | None:
        """A fresh adapter, unless the model has one already or all weights are trained."""
        lora = self.settings.lora
        if lora is None or isinstance(self.model, PeftModel):
            return None
        return LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
            task_type="CAUSAL_LM",
        )


class _SFT(StepMean, SFTTrainer):
    """TRL's supervised trainer on rows that are tokenised already."""

    @classmethod
    def of(cls, job: _Job) -> _SFT:
        config = job.config(SFTConfig, job.settings.sft_epochs, job.settings.sft_learning_rate)
        config.dataset_kwargs = {"skip_prepare_dataset": True}
        every = [*job.rows, *job.blank]
        rows = Dataset.from_dict(
            {
                "input_ids": [row.prompt + row.completions[0] for row in every],
                "labels": [[IGNORED] * len(row.prompt) + row.completions[0] for row in every],
            }
        )
        trainer = cls(job.model, config, train_dataset=rows, processing_class=job.tokenizer, peft_config=job.adapter())
        score_labels_only(_bare(trainer.model))
        return trainer

    def items(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Tokens that are trained on."""
        return (batch["labels"] != IGNORED).sum()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        assert num_items_in_batch is not None
        log_probs = model(**inputs, use_cache=False, fused_lm_head=True).log_probs
        return -log_probs.sum() / num_items_in_batch * self.args.world_size


class _DPO(StepMean, DPOTrainer):
    """TRL's preference trainer on rows that are tokenised already, with the method's loss."""

    alpha: float

    @classmethod
    def of(cls, job: _Job) -> _DPO:
        config = job.config(DPOConfig, job.settings.dpo_epochs, job.settings.dpo_learning_rate)
        # Sharded weights are in no process before training starts: their reference is computed step by step.
        config.beta, config.precompute_ref_log_probs = job.settings.beta, not sharded(os.environ)
        every = [*job.rows, *job.blank]
        rows = Dataset.from_dict(
            {
                "prompt_ids": [row.prompt for row in every],
                "chosen_ids": [row.completions[0] for row in every],
                "rejected_ids": [row.completions[1] for row in every],
            }
        )
        trainer = cls(
            job.model, args=config, train_dataset=rows, processing_class=job.tokenizer, peft_config=job.adapter()
        )
        trainer.alpha = job.settings.alpha
        score_labels_only(_bare(trainer.model))
        if config.precompute_ref_log_probs:
            trainer.train_dataset = trainer._with_reference(rows, [row.length for row in every])
        return trainer

    def _prepare_dataset(  # pyright: ignore[reportIncompatibleMethodOverride]  (TRL streams too; we do not)
        self, dataset: Dataset, processing_class: object, args: object, dataset_name: str
    ) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Left to `_with_reference`, which writes no cache file and pads less."""
        return dataset

    def _with_reference(self, rows: Dataset, lengths: Sequence[int]) -> Dataset:
        """The rows with the log-probabilities of their completions under the model as it is now; each process computes
        those of some batches.
        """
        size, processes = self.args.train_batch_size, self.args.world_size
        scores = torch.zeros(len(lengths), 2, device=self.args.device)
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        batches = [order[first : first + size] for first in range(0, len(order), size)]
        for batch in batches[self.args.process_index :: processes]:
            inputs = self._prepare_inputs(self.data_collator([rows[index] for index in batch]))
            scores[batch] = torch.stack(self.compute_ref_log_probs(self.model, inputs), dim=1).float()
        if processes > 1:
            scores = cast("Tensor", self.accelerator.reduce(scores, reduction="sum"))
        chosen, rejected = scores.T.tolist()
        return rows.add_column("ref_chosen_logps", chosen).add_column("ref_rejected_logps", rejected)

    def items(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Pairs, without blank ones."""
        return batch["completion_mask"].any(1).chunk(2)[0].sum()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        assert num_items_in_batch is not None
        ids, mask, completion = inputs["input_ids"], inputs["attention_mask"], inputs["completion_mask"]
        labels = ids.masked_fill(completion == 0, IGNORED)
        if "ref_chosen_logps" in inputs:
            reference = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        else:
            reference = self.compute_ref_log_probs(self.ref_model or model, inputs)
        outputs = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False, fused_lm_head=True)
        chosen, rejected = outputs.log_probs.sum(1).chunk(2)
        lengths = completion.sum(1)[: len(chosen)]
        real = lengths > 0
        if not real.any():
            return 0.0 * chosen.sum()
        better, worse = reference[0][real], reference[1][real]
        loss = dpo_loss(chosen[real], rejected[real], better, worse, self.beta)
        loss = loss + self.alpha * sequence_nll(chosen[real], lengths[real])
        return loss * real.sum() / num_items_in_batch * self.args.world_size


class _SharedDPO(SharedTrainer):
    """The same loss with each distinct completion of a step read once; none of it is TRL's but the arguments."""

    @classmethod
    def of(cls, job: _Job) -> _SharedDPO:
        settings, adapter = job.settings, job.adapter()
        config = job.config(DPOConfig, settings.dpo_epochs, settings.dpo_learning_rate)
        config.per_device_train_batch_size = settings.batch_size * settings.gradient_accumulation
        config.gradient_accumulation_steps, config.remove_unused_columns = 1, False
        set_seed(job.seed)
        model = job.model if adapter is None else get_peft_model(cast("PreTrainedModel", job.model), adapter)
        if isinstance(model, PeftModel) and settings.gradient_checkpointing:
            model.enable_input_require_grads()
        padding = cast("int | None", job.tokenizer.pad_token_id) or 0
        return cls(model, config, bare=_bare(model), pairs=distinct(job.rows), settings=settings, padding=padding)


def _bare(model: object) -> PreTrainedModel:
    """The model under its adapter."""
    return cast("PreTrainedModel", model.base_model.model if isinstance(model, PeftModel) else model)


def _size(model: PreTrainedModel | PeftModel) -> int:
    return sum(each.numel() for each in cast("nn.Module", model).parameters())


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _mixed(settings: TrainingSettings) -> bool:
    if settings.bf16 is None:
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return settings.bf16


def _save(
    trainer: QuietTrainer,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    origin: tuple[str | None, str | None],
    weights: dict[str, Tensor] | None,
) -> None:
    """The adapter alone (without TRL's copy of it, `ref`), or the whole model with its tokenizer.

    `origin` is the base's hub id and commit, by which an adapter names it; another one is named by its folder.
    `weights` are the model's, where it does not hold all of them itself.
    """
    model = trainer.accelerator.unwrap_model(cast("nn.Module", trainer.model))
    if isinstance(model, PeftModel):
        name, commit = origin
        if commit is not None:
            config = model.peft_config["default"]
            config.base_model_name_or_path, config.revision = name, commit
        model.save_pretrained(
            str(folder), selected_adapters=["default"], save_embedding_layers=False, state_dict=weights
        )
        (folder / "README.md").unlink(missing_ok=True)
    else:
        bare = _bare(model)
        if weights is not None:
            weights = {name: each for name, each in weights.items() if name not in bare.all_tied_weights_keys}
        bare.save_pretrained(folder, state_dict=weights)
        tokenizer.save_pretrained(folder)
