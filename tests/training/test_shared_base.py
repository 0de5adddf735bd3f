"""Sampler and trainer on one copy of the base's weights: what training does to a model, sampling never sees."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from runtime_fixtures import tiny_adapter, tiny_model
from sample_requests import requests

from optimizers.core.records import Checkpoint, PreferencePair, SFTExample
from optimizers.sgt.teleprompter import SGTTeleprompter
from optimizers.training.trainer import LoRASettings, TrainingSettings
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules.errors import TrainingError
from sgt_modules.generator import SupplementGenerator
from sgt_modules.local.engine import LocalEngine

# PEFT 0.21 asks transformers 5.23 by a deprecated name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

PROMPTS = ["one", "two words", "a third"]
ROWS = [SFTExample("q", "cot", f"What is {n} + 1?", f"[cot] It is {n + 1}, as {n} and one.") for n in range(6)]
PAIRS = [PreferencePair("q", "inter", row.prompt, f"yes {n}", "it is not so") for n, row in enumerate(ROWS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def adapter(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_adapter(folder, tmp_path_factory.mktemp("adapter") / "one")


@pytest.fixture
def engine(folder: Path) -> Iterator[LocalEngine]:
    yield LocalEngine(folder, dtype="float32", device="cpu", max_new_tokens=12)
    gc.collect()


def settings(**changes: object) -> TrainingSettings:
    small = {
        "lora": LoRASettings(rank=4, alpha=8, dropout=0.1),
        "batch_size": 2,
        "gradient_accumulation": 1,
        "sft_epochs": 1,
        "sft_learning_rate": 1e-2,
        "dpo_learning_rate": 1e-2,
        "warmup": 0.0,
        "gradient_checkpointing": True,
    }
    return TrainingSettings(**{**small, **changes})


def draws(engine: LocalEngine) -> list[tuple[str, float]]:
    return [(each.text, each.logprob) for each in engine.sample(requests(PROMPTS, seeds=range(3)))]


def weights_of(engine: LocalEngine) -> dict[int, tuple[int, ...]]:
    """Where the weights of an engine's base stand in memory, and their shapes."""
    model = engine._get_decoder()._model._base._model
    return {each.data_ptr(): tuple(each.shape) for name, each in model.named_parameters() if "lora" not in name}


MODELS_OF_OTHER_TESTS: weakref.WeakSet[PeftModel] = weakref.WeakSet()


@pytest.fixture(autouse=True)
def _no_models_of_other_tests() -> None:
    gc.collect()
    MODELS_OF_OTHER_TESTS.update(models_in_training())


def models_in_training() -> list[PeftModel]:
    return [each for each in gc.get_objects() if issubclass(type(each), PeftModel) and each.training]


def in_training() -> dict[int, tuple[int, ...]]:
    """The same of all models with an adapter that this test trains; a failed test's traceback may hold others."""
    alive = [each for each in models_in_training() if each not in MODELS_OF_OTHER_TESTS]
    assert alive
    named = [item for model in alive for item in model.named_parameters() if "lora" not in item[0]]
    return {each.data_ptr(): tuple(each.shape) for _, each in named}


def two_rounds(folder: Path, room: Path) -> list[Checkpoint]:
    trainer, start = TRLTrainer(folder, settings()), None
    stages = [trainer.sft(ROWS, start=None, output=room / "sft", seed=0)]
    for round_ in (1, 2):
        start = trainer.dpo(PAIRS, start=start or stages[0], output=room / f"dpo{round_}", seed=round_)
        stages.append(start)
    return stages


@pytest.mark.slow
def test_while_training_the_base_is_the_one_that_the_engine_samples_from(
    engine: LocalEngine, folder: Path, tmp_path: Path
) -> None:
    seen: list[bool] = []
    expected = weights_of(engine)

    def look(step: int, steps: int, loss: float) -> None:
        seen.append(in_training() == expected)

    trainer = TRLTrainer(folder, settings())
    sft = trainer.sft(ROWS, start=None, output=tmp_path / "sft", seed=0, on_step=look)
    trainer.dpo(PAIRS, start=sft, output=tmp_path / "dpo", seed=0, on_step=look)
    assert seen == [True] * 6


def test_a_generator_and_the_trainer_it_gets_by_default_share_their_base(folder: Path, tmp_path: Path) -> None:
    generator, seen = SupplementGenerator(folder), list[bool]()
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("half precision there asks for a longer training to say anything")
    expected = weights_of(generator.engine)

    def look(step: int, steps: int, loss: float) -> None:
        seen.append(in_training() == expected)

    trainer = SGTTeleprompter(lambda example, prediction: True, generator).settings.trainer_or_default()
    trainer.sft(ROWS, start=None, output=tmp_path / "sft", seed=0, on_step=look)
    assert seen
    assert all(seen)


def test_an_engine_in_another_precision_keeps_its_own_copy(folder: Path, tmp_path: Path) -> None:
    engine, seen = LocalEngine(folder, dtype="float64", device="cpu"), list[bool]()
    expected = weights_of(engine)

    def look(step: int, steps: int, loss: float) -> None:
        seen.append(bool(in_training().keys() & expected.keys()))

    TRLTrainer(folder, settings()).sft(ROWS, start=None, output=tmp_path / "sft", seed=0, on_step=look)
    assert seen == [False] * 3


def test_after_training_every_engine_says_what_it_said_before(
    engine: LocalEngine, folder: Path, adapter: Path, tmp_path: Path
) -> None:
    adapted = engine.with_adapter(adapter)
    before = draws(engine), draws(adapted)
    model = engine._get_decoder()._model._base._model
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    two_rounds(folder, tmp_path)
    assert (draws(adapted), draws(engine)) == before[::-1]
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    assert not model.training
    assert not any(each.requires_grad for each in model.parameters())


def test_after_a_training_that_failed_every_engine_says_what_it_said_before(
    engine: LocalEngine, folder: Path, adapter: Path, tmp_path: Path
) -> None:
    adapted = engine.with_adapter(adapter)
    before = draws(engine), draws(adapted)
    broken = TRLTrainer(folder, settings(dpo_learning_rate=1e30))
    with pytest.raises(TrainingError):
        broken.dpo(PAIRS, start=Checkpoint("sft", adapter, ""), output=tmp_path / "dpo", seed=0)
    assert (draws(adapted), draws(engine)) == before[::-1]


def test_an_engine_answers_while_its_base_is_trained_on(
    engine: LocalEngine, folder: Path, adapter: Path, tmp_path: Path
) -> None:
    adapted, answers = engine.with_adapter(adapter), list[object]()
    expected = draws(engine), draws(adapted)

    def ask(step: int, steps: int, loss: float) -> None:
        answers.append((draws(engine), draws(adapted)))

    TRLTrainer(folder, settings()).sft(ROWS, start=None, output=tmp_path / "sft", seed=0, on_step=ask)
    assert answers == [expected] * 3


@pytest.mark.slow
def test_a_shared_base_gives_the_weights_that_one_of_its_own_gives(
    engine: LocalEngine, folder: Path, adapter: Path, tmp_path: Path
) -> None:
    """The engine's base has worn adapters by then, and the trainer's own has none."""
    alone = two_rounds(folder, tmp_path / "alone")
    draws(engine.with_adapter(adapter))
    shared = two_rounds(folder, tmp_path / "shared")
    assert [each.fingerprint for each in shared] == [each.fingerprint for each in alone]
    assert [each.metrics["loss"] for each in shared] == [each.metrics["loss"] for each in alone]
    assert len({each.fingerprint for each in shared}) == 3


@pytest.mark.slow
def test_training_leaves_no_weights_behind_in_memory(engine: LocalEngine, folder: Path, tmp_path: Path) -> None:
    draws(engine)
    trainer, held = TRLTrainer(folder, settings()), list[int]()
    for seed in range(2):
        trainer.sft(ROWS, start=None, output=tmp_path / "sft", seed=seed)
        held.append(_held())
    assert held[1] <= held[0] + 1000


def test_training_all_weights_leaves_the_engines_base_alone(engine: LocalEngine, folder: Path, tmp_path: Path) -> None:
    before = draws(engine)
    whole = TRLTrainer(folder, settings(lora=None)).sft(ROWS, start=None, output=tmp_path / "sft", seed=0)
    assert draws(engine) == before
    assert draws(engine.with_model(whole.path)) != before


def _held() -> int:
    """Bytes of all tensors alive, without first collecting what nobody holds."""
    storages = [each.untyped_storage() for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
