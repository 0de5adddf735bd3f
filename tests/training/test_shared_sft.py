"""SFT that reads each prompt once: loss, gradients and what is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runtime_fixtures import tiny_model
from safetensors.torch import load_file

from optimizers import TrainingSettings
from optimizers.core.records import SFTExample
from optimizers.training import shared_sft
from optimizers.training.shared_sft import SharedSFTTrainer
from optimizers.training.trainer import LoRASettings
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules.saving.weights import ADAPTER_WEIGHTS

ROWS = [
    SFTExample("q", "cot", f"{'A long question. ' * 8}What is {n % 3} + 1?", f"[cot] {'x' * n} {n % 3 + 1}", n % 4 == 3)
    for n in range(9)
]
"""Three prompts with three winners each, of different lengths, some of them cut."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def settings(**changes: object) -> TrainingSettings:
    small = {
        "lora": LoRASettings(rank=4, alpha=8),
        "batch_size": len(ROWS),
        "gradient_accumulation": 1,
        "sft_epochs": 3,
        "sft_learning_rate": 1e-2,
        "schedule": "constant",
        "warmup": 0.0,
        "gradient_checkpointing": False,
    }
    return TrainingSettings(**{**small, **changes})


def train(
    model: Path, output: Path, *, seed: int = 0, **changes: object
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The loss of each step, and the adapter's weights."""
    losses: list[float] = []
    trainer = TRLTrainer(model, settings(**changes))
    made = trainer.sft(
        ROWS, start=None, output=output, seed=seed, on_step=lambda _step, _steps, loss: losses.append(loss)
    )
    return losses, load_file(made.path / ADAPTER_WEIGHTS)


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sharing for a model of any size; the list notes each trainer that shared."""
    used: list[str] = []
    build = SharedSFTTrainer.of.__func__

    def note(cls: type[SharedSFTTrainer], stage: object) -> SharedSFTTrainer:
        used.append("shared")
        return build(cls, stage)

    monkeypatch.setattr(shared_sft, "SHARING_SIZE", 0)
    monkeypatch.setattr(SharedSFTTrainer, "of", classmethod(note))
    return used


def test_losses_and_weights_are_those_of_rows_read_by_themselves(
    model: Path, tmp_path: Path, shares: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step holds all rows, so that their order has no effect; later losses depend on the first step's gradient."""
    found = train(model, tmp_path / "shared")
    assert shares == ["shared"]
    monkeypatch.setattr(shared_sft, "SHARING_SIZE", 10**12)
    expected = train(model, tmp_path / "alone")
    assert shares == ["shared"]
    assert found[0] == pytest.approx(expected[0], rel=1e-4)
    assert found[0][-1] < found[0][0] - 0.01
    for name, weights in expected[1].items():
        assert torch.allclose(found[1][name], weights, rtol=1e-2, atol=2e-4), name


def test_a_step_in_parts_has_the_loss_of_the_whole(model: Path, tmp_path: Path, shares: list[str]) -> None:
    whole, _ = train(model, tmp_path / "whole")
    parts, _ = train(model, tmp_path / "parts", batch_size=1, gradient_accumulation=len(ROWS))
    assert parts == pytest.approx(whole, rel=1e-4)
    assert len(shares) == 2


def test_a_seed_gives_the_same_weights(model: Path, tmp_path: Path, shares: list[str]) -> None:
    one, other, third = (
        train(model, tmp_path / name, seed=seed, batch_size=4) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert all(torch.equal(one[1][name], each) for name, each in other[1].items())
    assert any(not torch.equal(one[1][name], each) for name, each in third[1].items())


def test_an_adapter_with_dropout_keeps_its_rows_apart(model: Path, tmp_path: Path, shares: list[str]) -> None:
    train(model, tmp_path / "dropout", lora=LoRASettings(rank=4, alpha=8, dropout=0.1), sft_epochs=1)
    assert not shares


def test_a_small_model_trains_as_before(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SharedSFTTrainer, "of", lambda stage: pytest.fail("a small model shared"))
    train(model, tmp_path / "small", sft_epochs=1)
