"""Training with TRL and PEFT: rows and settings in, a checkpoint on disk out.

    rows -> token ids (encoding.py) -> a stage's trainer (trl_stages.py) -> the weights alone, renamed into place

Around TRL's loops: the base shared with the engine that samples; batches of similar length; no metrics a step, which
cost a small model more than they are worth; a loss that is a mean over the whole step, so that several processes
(`accelerate launch`) take the steps that one would; an attempt with less at a time where memory runs out.
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

from optimizers.core.records import Checkpoint, PreferencePair, SFTExample
from optimizers.training.base_trainer import QuietTrainer, Steps, random_states_kept, replacing, silence
from optimizers.training.faults import disk_full_named, files_in, intact, until_it_converges
from optimizers.training.microbatches import said_of_memory, until_it_fits
from optimizers.training.processes import Team, gathered, sharded
from optimizers.training.provenance import lineage
from optimizers.training.tokenisation import Row, Target, Texts, encode, end_of_turn, fitting, said_of_length
from optimizers.training.trainer import CHECKPOINTED, OnStep, TrainingSettings
from optimizers.training.trl_arguments import Job, mixed, unadapted
from optimizers.training.trl_stages import SFT, SharedDPO
from sgt_modules.errors import NoPreferencePairsError, SetupError, TrainingError
from sgt_modules.local.activity import check, loading
from sgt_modules.local.loading import Base, base_of, load_model, place, release
from sgt_modules.local.runnable import check_runnable, quantised_by
from sgt_modules.local.watching import stoppable
from sgt_modules.saving.weights import ADAPTER, WHOLE_MODEL, fingerprint_of, origin_of, record_base, resolve


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

    def check(self) -> None:
        """Raise `GeneratorNotFoundError` unless the model can be loaded here, and `SetupError` where its weights cannot
        be trained. No weight is read.
        """
        folder = resolve(self.model, code=self.trust_remote_code)
        check_runnable(folder, trust_remote_code=self.trust_remote_code)
        method = quantised_by(folder)
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
        """Cross-entropy on the supplement and, unless it was cut, its end token, averaged over the tokens of a step.

        Raises `TrainingError` without rows; when the loss is no number twice; when the disk is full.
        """
        if not rows:
            reason = "Expected supplements that worked, got none, so there is nothing to imitate. "
            raise TrainingError(reason + "Sample more, use easier examples, or lower the threshold.")
        texts = [(row.prompt, (Target(row.completion, row.cut),)) for row in rows]
        return self._train(_Stage(SFT, texts, start, seed, on_step), output)

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

        Raises `NoPreferencePairsError` without pairs, and `TrainingError` as `sft` does.
        """
        if not pairs:
            reason = "Expected preference pairs, got none: no query has both a winner and a loser. "
            raise NoPreferencePairsError(reason + "Sample more, or use harder (or easier) examples.")
        texts = [
            (pair.prompt, (Target(pair.chosen, pair.chosen_cut), Target(pair.rejected, pair.rejected_cut)))
            for pair in pairs
        ]
        return self._train(_Stage(SharedDPO, texts, start, seed, on_step), output)

    def _train(self, stage: _Stage, output: Path) -> Checkpoint:
        began, team, asked = time.perf_counter(), gathered(), self.settings
        with (
            team.leading(),
            silence(),
            random_states_kept(),
            disk_full_named(output),
            replacing(output, write=team.main) as scratch,
        ):
            self._check(stage.start)
            folder = resolve(self.model, code=self.trust_remote_code)
            with loading(Path(self.model).name):
                base = self._base(folder)  # held here: an attempt that runs out of memory need not load it again
            fit = partial(self._fit, stage, base, folder, scratch=scratch, team=team)
            (trained, used), said_of_rate = until_it_converges(
                asked,
                lambda settings: until_it_fits(settings, fit, release=release, processes=team.size),
            )
            if team.main:
                weights = scratch / "weights"
                record = lineage(output.name, stage.texts, trained.settings, start=stage.start, seed=stage.seed)
                record_base(weights, folder, {**record, "files": files_in(weights)})
        if trained.size >= CHECKPOINTED:  # collecting a small model's remains takes longer than they are worth
            release()
        notes = [*said_of_length(trained.rows, asked.max_length), *said_of_memory(asked, used), *said_of_rate]
        metrics = {**trained.metrics, "seconds": time.perf_counter() - began}
        return team.once(lambda: Checkpoint(output.name, output, fingerprint_of(output), metrics, notes))

    def _fit(
        self, stage: _Stage, base: Base | None, folder: Path, settings: TrainingSettings, scratch: Path, team: Team
    ) -> _Trained:
        """Train once, with these micro-batches; the main process saves the weights in the scratch folder."""
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=self.trust_remote_code)
        model, steps = self._model(base, folder, stage.start), Steps(stage.on_step)
        size = sum(each.numel() for each in cast("nn.Module", model).parameters())
        settings = replace(settings, gradient_checkpointing=settings.checkpoints(size))
        encoded = encode(stage.texts, tokenizer, end_of_turn(model.generation_config.eos_token_id, tokenizer))
        rows = fitting(encoded, settings.max_length)
        job = Job(model, tokenizer, rows, settings, scratch, stage.seed, team.size)
        trainer = stage.kind.of(job)
        trainer.observe(steps, [row.length for row in rows], self.settings.batch_size, job.portion)
        with stoppable(cast("nn.Module", model), check) if team.size == 1 else nullcontext():
            trainer.train()
        trainer.check_weights()
        weights = trainer.gathered_weights()
        if team.main:
            _save(trainer, tokenizer, scratch / "weights", origin_of(folder), weights)
        return _Trained(settings, encoded, steps.losses, int(trainer.args.num_train_epochs), size)

    def _check(self, start: Checkpoint | None) -> None:
        """Raise `TrainingError` for a checkpoint of the other sort, or one that is not what training wrote."""
        lora = self.settings.lora is not None
        if start is not None and not (start.path / (ADAPTER if lora else WHOLE_MODEL)).is_file():
            wanted = "an adapter's folder" if lora else "a whole model's folder, as lora=None trains all weights"
            raise TrainingError(
                f"Expected the checkpoint {start.stage!r} to be {wanted}, got {str(start.path)!r}. "
                "Go on with the settings it was trained with, or begin with start=None."
            )
        if start is not None and not intact(start.path, start.fingerprint):
            raise TrainingError(
                f"Expected the checkpoint {start.stage!r} in {str(start.path)!r} as training wrote it, got files that "
                "are missing, cut or changed. Restore them, or train that stage again."
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
        """Where the model is trained, or where it waits to be sharded; and in which precision: frozen weights may rest
        in the one they are used in, trained ones would lose small updates.
        """
        half = self.settings.lora is not None and torch.cuda.is_available() and mixed(self.settings)
        gpu = torch.cuda.is_available() and not sharded(os.environ)
        return place("cuda" if gpu else "cpu", "bfloat16" if half else "float32")


@dataclass(frozen=True, slots=True)
class _Stage:
    """One stage of training as it was asked for."""

    kind: type[SFT | SharedDPO]
    texts: Texts
    start: Checkpoint | None
    seed: int
    on_step: OnStep | None


@dataclass(frozen=True, slots=True)
class _Trained:
    """How a stage went: the settings it fitted in memory with, all its rows, each step's loss, how many parameters."""

    settings: TrainingSettings
    rows: Sequence[Row]
    losses: Sequence[float]
    epochs: int
    size: int

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
        bare = unadapted(model)
        if weights is not None:
            weights = {name: each for name, each in weights.items() if name not in bare.all_tied_weights_keys}
        bare.save_pretrained(folder, state_dict=weights)
        tokenizer.save_pretrained(folder)
