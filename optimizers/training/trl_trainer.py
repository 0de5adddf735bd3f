"""Training with TRL and PEFT: rows and settings in, a checkpoint on disk out.

    rows -> token ids (tokenisation.py) -> a trainer (supervised.py, shared_dpo.py, shared_grpo.py)
    -> weights, renamed into place

What we add to TRL's loop: a base model shared with the engine that samples; batches of similar length; no metrics a
step, which would slow a small model down; a loss that is a mean over a whole step, so that several processes
(`accelerate launch`) take the same steps as one; retries (retries.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from optimizers.core.records import Checkpoint, PreferencePair, ScoredSample, SFTExample
from optimizers.training.adapters import settings_in_use
from optimizers.training.advantages import group_advantages
from optimizers.training.base_trainer import BaseTrainer, LossRecorder
from optimizers.training.processes import Team, is_sharded, join_team
from optimizers.training.provenance import describe_training, hash_files, is_intact
from optimizers.training.retries import describe_smaller_batches, retry_with_lower_rate, retry_with_smaller_batches
from optimizers.training.shared_dpo import SharedDPOTrainer
from optimizers.training.shared_grpo import SharedGRPOTrainer
from optimizers.training.shared_sft import SharedSFTTrainer, is_worth_sharing
from optimizers.training.side_effects import explain_full_disk, keep_random_states, replace_folder, silence
from optimizers.training.supervised import SupervisedTrainer
from optimizers.training.tokenisation import (
    Target,
    Texts,
    TokenRow,
    describe_long_rows,
    drop_long_rows,
    encode,
    find_end_token,
)
from optimizers.training.trainer import CHECKPOINTING_SIZE, OnStep, TrainingSettings
from optimizers.training.trl_arguments import StageInputs, unwrap_adapter, uses_bfloat16
from sgt_modules.errors import NoPreferencePairsError, SetupError, TrainingError
from sgt_modules.local.activity import track_loading
from sgt_modules.local.cancellation import check_cancelled
from sgt_modules.local.devices import choose_device_and_dtype, free_memory
from sgt_modules.local.forward_hooks import check_during_passes
from sgt_modules.local.load_checks import check_loadable, read_quantisation_method
from sgt_modules.local.loading import SharedBase, get_base, load_model
from sgt_modules.saving.weights import ADAPTER, LOCAL, WHOLE_MODEL, fingerprint_of, origin_of, record_base, resolve


class TRLTrainer:
    """Trains a generator with TRL: LoRA adapters or, with `settings.lora=None`, all weights.

    `model` is a hub id or a folder, the same as the generator's. Uses CUDA if there is a GPU, else the CPU. Leaves the
    caller's random states unchanged. A model that comes with its own code needs `trust_remote_code=True`.

    With LoRA, the trainer uses the frozen base that engines of the same files have in memory, if both have one device
    and one precision: bfloat16 on a GPU (float32 with `bf16=False`), float32 on a CPU. This is the default; an engine
    in another precision (the embedded generator samples in float64) or on another device keeps its own copy.

    If several processes were launched, each of them makes the same calls: they share the rows of each step, only the
    main process writes, and every process returns the checkpoint. Weights sharded over processes are shared with no
    engine.

    >>> TRLTrainer("Qwen/Qwen3-1.7B").settings.beta
    0.1
    """

    def __init__(
        self, model: str | Path, settings: TrainingSettings | None = None, *, trust_remote_code: bool = False
    ) -> None:
        self.model = model.removeprefix(LOCAL) if isinstance(model, str) else model
        self.settings = settings or TrainingSettings()
        self.trust_remote_code = trust_remote_code

    def check(self) -> None:
        """Check that the model can be loaded and trained, without reading a weight.

        Raises `GeneratorNotFoundError` if it cannot be loaded here, `SetupError` if its weights cannot be trained.
        """
        folder = resolve(self.model, code=self.trust_remote_code)
        check_loadable(folder, trust_remote_code=self.trust_remote_code)
        method = read_quantisation_method(folder)
        if self.settings.lora is None and method is not None:
            raise SetupError(
                f"Expected whole weights to train, got {str(folder)!r}, which is quantised by {method}. Use "
                "lora=LoRASettings(), or the same model without quantisation."
            )

    def sft(
        self,
        rows: Sequence[SFTExample],
        *,
        start: Checkpoint | None,
        output: Path,
        seed: int,
        on_step: OnStep | None = None,
    ) -> Checkpoint:
        """Train with cross-entropy on the supplement and, unless it was cut, its end token: the mean over a step's
        tokens.

        Raises `TrainingError` without rows; if the loss is not finite, also at half the learning rate; and if the disk
        is full.
        """
        if not rows:
            reason = "Expected supplements that worked, got none, so there is nothing to imitate. "
            raise TrainingError(reason + "Sample more, use easier examples, or lower the threshold.")
        texts = [(row.prompt, (Target(row.completion, row.cut),)) for row in rows]
        return self._train(_StageRequest(SupervisedTrainer, texts, start, seed, on_step), output)

    def dpo(
        self,
        pairs: Sequence[PreferencePair],
        *,
        start: Checkpoint | None,
        output: Path,
        seed: int,
        on_step: OnStep | None = None,
    ) -> Checkpoint:
        """Train with L_DPO + alpha * L_NLL. The reference is the model at `start`; it is computed once.

        Raises `NoPreferencePairsError` without pairs, and `TrainingError` as `sft` does.
        """
        if not pairs:
            reason = "Expected preference pairs, got none: no query has both a winner and a loser. "
            raise NoPreferencePairsError(reason + "Sample more, or use harder (or easier) examples.")
        texts = [
            (pair.prompt, (Target(pair.chosen, pair.chosen_cut), Target(pair.rejected, pair.rejected_cut)))
            for pair in pairs
        ]
        return self._train(_StageRequest(SharedDPOTrainer, texts, start, seed, on_step), output)

    def grpo(
        self,
        rows: Sequence[ScoredSample],
        *,
        start: Checkpoint | None,
        output: Path,
        seed: int,
        on_step: OnStep | None = None,
    ) -> Checkpoint:
        """Train with GRPO. The model at `start` is the sampling policy of all rows and the reference of the KL.

        A row without an advantage, as in a group of equal rewards, is left out. Raises `TrainingError` if no row is
        left, and as `sft` does.
        """
        advantages = group_advantages(rows, divide_by_std=self.settings.divide_by_std)
        texts = [
            (row.prompt, (Target(row.completion, row.cut, advantage),))
            for row, advantage in zip(rows, advantages, strict=True)
            if advantage
        ]
        if not texts:
            reason = f"Expected groups of samples with different rewards, got none in {len(rows)} samples. "
            raise TrainingError(reason + "Sample more a query, or use harder (or easier) examples.")
        return self._train(_StageRequest(SharedGRPOTrainer, texts, start, seed, on_step), output)

    def _train(self, request: _StageRequest, output: Path) -> Checkpoint:
        began, team, asked = time.perf_counter(), join_team(), self.settings
        with (
            team.send_failure(),
            silence(),
            keep_random_states(),
            explain_full_disk(output),
            replace_folder(output, write=team.is_main) as scratch,
        ):
            self._check_start(request.start)
            folder = resolve(self.model, code=self.trust_remote_code)
            with track_loading(Path(self.model).name):
                base = self._load_base(folder)  # held here, so that no retry has to load it again
            fit = partial(self._fit, request, base, folder, scratch=scratch, team=team)
            (result, used), rate_notes = retry_with_lower_rate(
                asked,
                lambda settings: retry_with_smaller_batches(settings, fit, release=free_memory, processes=team.size),
            )
            if team.is_main:
                weights = scratch / "weights"
                in_use = settings_in_use(result.settings, request.start)
                record = describe_training(output.name, request.texts, in_use, start=request.start, seed=request.seed)
                record_base(weights, folder, {**record, "files": hash_files(weights)})
        if (
            result.parameters >= CHECKPOINTING_SIZE
        ):  # for a small model, collecting garbage takes longer than it is worth
            free_memory()
        notes = [
            *describe_long_rows(result.rows, asked.max_length),
            *describe_smaller_batches(asked, used),
            *rate_notes,
        ]
        metrics = {**result.metrics, "seconds": time.perf_counter() - began}
        return team.run_once(lambda: Checkpoint(output.name, output, fingerprint_of(output), metrics, notes))

    def _fit(
        self,
        request: _StageRequest,
        base: SharedBase | None,
        folder: Path,
        settings: TrainingSettings,
        scratch: Path,
        team: Team,
    ) -> _StageResult:
        """Train once with these settings; the main process saves the weights in the scratch folder."""
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=self.trust_remote_code)
        model, recorder = self._load_model(base, folder, request.start), LossRecorder(request.on_step)
        parameters = sum(each.numel() for each in cast("nn.Module", model).parameters())
        settings = replace(settings, gradient_checkpointing=settings.uses_checkpointing(parameters))
        end = find_end_token(model.generation_config.eos_token_id, tokenizer)
        encoded = encode(request.texts, tokenizer, end)
        rows = drop_long_rows(encoded, settings.max_length)
        stage = StageInputs(model, tokenizer, rows, settings, scratch, request.seed, team.size)
        shares = request.kind is SupervisedTrainer and is_worth_sharing(rows, parameters, settings)
        trainer = (SharedSFTTrainer if shares else request.kind).of(stage)
        # Groups have the batch size that the caller set, so that a retry takes the same steps of the same rows.
        trainer.configure(recorder, [row.length for row in rows], self.settings.batch_size, stage.plan)
        with check_during_passes(cast("nn.Module", model), check_cancelled) if team.size == 1 else nullcontext():
            trainer.train()
        trainer.check_weights()
        weights = trainer.gather_weights()
        if team.is_main:
            _save_weights(trainer, tokenizer, scratch / "weights", origin_of(folder), weights)
        return _StageResult(settings, encoded, recorder.losses, int(trainer.args.num_train_epochs), parameters)

    def _check_start(self, start: Checkpoint | None) -> None:
        """Raise `TrainingError` for a checkpoint of the other kind, or one that is not as training wrote it."""
        lora = self.settings.lora is not None
        if start is not None and not (start.path / (ADAPTER if lora else WHOLE_MODEL)).is_file():
            expected = "an adapter's folder" if lora else "a whole model's folder, as lora=None trains all weights"
            raise TrainingError(
                f"Expected the checkpoint {start.stage!r} to be {expected}, got {str(start.path)!r}. "
                "Use the settings it was trained with, or start from the base model with start=None."
            )
        if start is not None and not is_intact(start.path, start.fingerprint):
            raise TrainingError(
                f"Expected the checkpoint {start.stage!r} in {str(start.path)!r} as training wrote it, got files that "
                "are missing, cut or changed. Restore them, or train that stage again."
            )

    def _load_base(self, folder: Path) -> SharedBase | None:
        """The frozen base, shared with engines that sample from it; None if training needs the model for itself: to
        train all weights, or to shard them over processes.
        """
        if self.settings.lora is None or is_sharded(os.environ):
            return None
        return get_base(folder, *self._choose_place(), trust_remote_code=self.trust_remote_code)

    def _load_model(
        self, base: SharedBase | None, folder: Path, start: Checkpoint | None
    ) -> PreTrainedModel | PeftModel:
        """The model to train: the base, the base with the checkpoint's adapter, or the checkpoint's own weights."""
        lora = self.settings.lora is not None
        if base is not None:
            model = base.make_twin()
        else:
            source = folder if lora or start is None else start.path
            model = load_model(source, *self._choose_place(), trust_remote_code=self.trust_remote_code)
        if not lora or start is None:
            return model
        return PeftModel.from_pretrained(model, start.path, is_trainable=True)

    def _choose_place(self) -> tuple[torch.device, torch.dtype]:
        """The device and precision to load the model in. Weights that will be sharded are loaded on the CPU. Frozen
        weights may have the precision of their use; trained ones would lose small updates in bfloat16.
        """
        half = self.settings.lora is not None and torch.cuda.is_available() and uses_bfloat16(self.settings)
        gpu = torch.cuda.is_available() and not is_sharded(os.environ)
        return choose_device_and_dtype("cuda" if gpu else "cpu", "bfloat16" if half else "float32")


@dataclass(frozen=True, slots=True)
class _StageRequest:
    """One stage of training, as the caller asked for it."""

    kind: type[SupervisedTrainer | SharedSFTTrainer | SharedDPOTrainer | SharedGRPOTrainer]
    texts: Texts
    start: Checkpoint | None
    seed: int
    on_step: OnStep | None


@dataclass(frozen=True, slots=True)
class _StageResult:
    """A finished stage: the settings that fitted in memory, all rows with the dropped ones, each step's loss, the
    number of epochs and of the model's parameters.
    """

    settings: TrainingSettings
    rows: Sequence[TokenRow]
    losses: Sequence[float]
    epochs: int
    parameters: int

    @property
    def metrics(self) -> dict[str, float]:
        kept = drop_long_rows(self.rows, self.settings.max_length)
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


def _save_weights(
    trainer: BaseTrainer,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    origin: tuple[str | None, str | None],
    weights: dict[str, Tensor] | None,
) -> None:
    """Save the adapter alone, or the whole model with its tokenizer.

    `origin` is the base's hub id and commit, which an adapter's config names; without a commit it names the base's
    folder. `weights` are the gathered ones if the model holds only a shard of them.
    """
    model = trainer.accelerator.unwrap_model(cast("nn.Module", trainer.model))
    if isinstance(model, PeftModel):
        name, commit = origin
        if commit is not None:
            config = model.peft_config["default"]
            config.base_model_name_or_path, config.revision = name, commit
        model.save_pretrained(str(folder), save_embedding_layers=False, state_dict=weights)
        (folder / "README.md").unlink(missing_ok=True)
    else:
        bare = unwrap_adapter(model)
        if weights is not None:
            weights = {name: each for name, each in weights.items() if name not in bare.all_tied_weights_keys}
        bare.save_pretrained(folder, state_dict=weights)
        tokenizer.save_pretrained(folder)
