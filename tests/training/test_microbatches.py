"""Training that runs out of memory goes on in smaller micro-batches, and takes the same steps."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runtime_fixtures import tiny_model
from safetensors.torch import load_file
from torch.nn.modules.module import register_module_forward_pre_hook

from optimizers.core.records import Checkpoint, PreferencePair, SFTExample
from optimizers.training.retries import describe_smaller_batches, halve_micro_batches, retry_with_smaller_batches
from optimizers.training.trainer import CHECKPOINTING_SIZE, LoRASettings, TrainingSettings
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules.errors import TrainingError
from sgt_modules.saving.weights import TRAINED_FROM

ROWS = [SFTExample("q", "cot", f"What is {n} + 1?", f"[cot] {'So ' * n}it is {n + 1}.") for n in range(8)]
PAIRS = [PreferencePair("q", "inter", row.prompt, f"yes {'!' * n}", "it is not so") for n, row in enumerate(ROWS)]
FULL = "CUDA out of memory. Tried to allocate 2.00 GiB."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@contextmanager
def room_for(most: int = 10**9, size: Callable[[torch.Tensor], int] = len) -> Iterator[list[int]]:
    """A machine on which every pass that keeps something for a backward pass runs out of memory above a size (rows, or
    with `torch.numel` tokens, padding included); the size of each."""
    seen: list[int] = []

    def limited(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, torch.nn.Embedding) and torch.is_grad_enabled():
            seen.append(size(inputs[0]))
            if seen[-1] > most:
                raise torch.OutOfMemoryError(FULL)

    hook = register_module_forward_pre_hook(limited)
    try:
        yield seen
    finally:
        hook.remove()


def settings(**changes: object) -> TrainingSettings:
    small = {
        "lora": LoRASettings(rank=4, alpha=8),
        "batch_size": 4,
        "gradient_accumulation": 1,
        "sft_epochs": 2,
        "sft_learning_rate": 1e-2,
        "dpo_epochs": 2,
        "dpo_learning_rate": 1e-2,
        "warmup": 0.0,
    }
    return TrainingSettings(**{**small, **changes})


def distance(one: Checkpoint, other: Checkpoint) -> float:
    """The largest difference of two adapters' weights."""
    first, second = (load_file(each.path / "adapter_model.safetensors") for each in (one, other))
    return max((first[name] - second[name]).abs().max().item() for name in first)


@given(st.integers(1, 64), st.integers(1, 8))
def test_halving_keeps_the_rows_of_a_step_and_ends_at_one(batch: int, accumulation: int) -> None:
    found, step = TrainingSettings(batch_size=batch, gradient_accumulation=accumulation), batch * accumulation
    while (smaller := halve_micro_batches(found)) is not None:
        assert smaller.batch_size <= found.batch_size / 2
        assert smaller.batch_size * smaller.gradient_accumulation == step
        found = smaller
    assert found.batch_size == 1


@pytest.mark.slow
def test_supervised_training_that_runs_out_of_memory_takes_the_same_steps_in_parts(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    steps_seen: list[tuple[int, int]] = []
    whole = TRLTrainer(folder, settings()).sft(ROWS, start=None, output=tmp_path / "whole", seed=0)
    with room_for(1) as seen, caplog.at_level(logging.WARNING, "optimizers.training.retries"):
        parts = TRLTrainer(folder, settings()).sft(
            ROWS,
            start=None,
            output=tmp_path / "parts",
            seed=0,
            on_step=lambda step, steps, _: steps_seen.append((step, steps)),
        )
    assert seen[:2] == [4, 2], "the rehearsal of each attempt"
    assert steps_seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert parts.metrics["loss"] == pytest.approx(whole.metrics["loss"], rel=1e-4)
    assert distance(parts, whole) < 1e-3
    assert distance(parts, TRLTrainer(folder, settings()).sft(ROWS, start=None, output=tmp_path / "o", seed=1)) > 1e-2
    assert caplog.messages == [
        "Out of memory with micro-batches of 4 rows; the stage starts again with 2.",
        "Out of memory with micro-batches of 2 rows; the stage starts again with 1.",
    ]


@pytest.mark.slow
def test_a_preference_round_that_runs_out_of_memory_takes_the_same_steps_in_parts(folder: Path, tmp_path: Path) -> None:
    """A pair is two sequences; its reference is what it is, however few of them are read at a time."""
    trainer = TRLTrainer(folder, settings())
    whole = trainer.dpo(PAIRS, start=None, output=tmp_path / "whole", seed=0)
    with room_for(2):
        parts = trainer.dpo(PAIRS, start=None, output=tmp_path / "parts", seed=0)
    assert parts.metrics["batch_size"] < whole.metrics["batch_size"]
    assert parts.metrics["loss"] == pytest.approx(whole.metrics["loss"], rel=1e-4)
    assert distance(parts, whole) < 1e-3


@pytest.mark.slow
def test_the_longest_rows_run_out_of_memory_before_the_first_step(folder: Path, tmp_path: Path) -> None:
    """One pair of 20 is much longer than the others, and stands somewhere in the middle of the steps."""
    rows = [*PAIRS, *PAIRS, replace(PAIRS[0], chosen="so " * 40), *PAIRS[:3]]
    small, large = (settings(batch_size=2 // n, gradient_accumulation=n) for n in (2, 1))
    with room_for(size=torch.numel) as seen:
        TRLTrainer(folder, replace(small, dpo_epochs=1)).dpo(rows, start=None, output=tmp_path / "dpo", seed=1)
    assert seen[0] == max(seen)
    steps_seen: list[int] = []
    with room_for(seen[0], torch.numel) as tried:
        found = TRLTrainer(folder, replace(large, dpo_epochs=1)).dpo(
            rows, start=None, output=tmp_path / "dpo", seed=1, on_step=lambda step, steps, loss: steps_seen.append(step)
        )
    assert tried[0] == max(tried) > tried[1]
    assert found.metrics["batch_size"] == 1
    assert steps_seen == list(range(1, 11))


def test_a_checkpoint_says_with_what_it_fitted_in_memory(folder: Path, tmp_path: Path) -> None:
    trainer = TRLTrainer(folder, settings())
    assert not trainer.sft(ROWS, start=None, output=tmp_path / "sft", seed=0).notes
    with room_for(2):
        found = trainer.sft(ROWS, start=None, output=tmp_path / "sft", seed=0)
    assert (found.metrics["batch_size"], found.metrics["gradient_accumulation"]) == (2, 2)
    assert found.metrics["steps"] == 4
    (note,) = found.notes
    assert note.startswith("Memory ran out with micro-batches of 4 rows.")
    assert "batch_size=2, gradient_accumulation=2" in note
    recorded = json.loads((found.path / TRAINED_FROM).read_text())["settings"]
    assert (recorded["batch_size"], recorded["gradient_accumulation"]) == (2, 2)
    assert not describe_smaller_batches(settings(), settings())


@pytest.mark.slow
def test_one_row_that_does_not_fit_is_an_error_that_says_what_to_lower(folder: Path, tmp_path: Path) -> None:
    with (
        room_for(0),
        pytest.raises(TrainingError, match=r"one row at a time.*Tried to.*max_length.*checkpointing.*rank"),
    ):
        TRLTrainer(folder, settings()).sft(ROWS, start=None, output=tmp_path / "sft", seed=0)
    assert list(tmp_path.iterdir()) == []


def test_what_memory_is_held_is_given_back_before_the_next_attempt_and_other_errors_are_raised() -> None:
    events: list[object] = []

    def train(tried: TrainingSettings) -> str:
        events.append(tried.batch_size)
        if tried.batch_size > 2:
            raise RuntimeError(FULL)
        return "trained"

    assert retry_with_smaller_batches(settings(), train, release=lambda: events.append("released"))[0] == "trained"
    assert events == [4, "released", 2]

    def broken(tried: TrainingSettings) -> str:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        retry_with_smaller_batches(settings(), broken)


def test_checkpointing_is_for_large_models_unless_one_says() -> None:
    assert not TrainingSettings().uses_checkpointing(CHECKPOINTING_SIZE - 1)
    assert TrainingSettings().uses_checkpointing(CHECKPOINTING_SIZE)
    assert TrainingSettings(gradient_checkpointing=True).uses_checkpointing(1)
    assert not TrainingSettings(gradient_checkpointing=False).uses_checkpointing(10**12)


@pytest.mark.parametrize(
    ("batch", "accumulation", "processes", "cure"),
    [
        (8, 2, 2, "Expected memory for 8 rows .* 2 processes.* Set batch_size=4, gradient_accumulation=4,"),
        (8, 2, 4, "Expected memory for 4 rows .* 4 processes.* Set batch_size=2, gradient_accumulation=8,"),
        (7, 2, 2, "Expected memory for 7 rows .* 2 processes.* Set batch_size=2, gradient_accumulation=7,"),
        (4, 1, 4, "Expected memory for 1 rows .* 4 processes.* Lower max_length"),
    ],
)
def test_of_several_processes_none_retries_alone_and_the_error_says_what_fits(
    batch: int, accumulation: int, processes: int, cure: str
) -> None:
    tried: list[TrainingSettings] = []

    def train(settings: TrainingSettings) -> None:
        tried.append(settings)
        raise torch.OutOfMemoryError(FULL)

    asked = settings(batch_size=batch, gradient_accumulation=accumulation)
    with pytest.raises(TrainingError, match=cure):
        retry_with_smaller_batches(asked, train, processes=processes)
    assert tried == [asked]
