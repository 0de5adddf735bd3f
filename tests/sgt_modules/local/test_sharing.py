from __future__ import annotations

import gc
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from runtime_fixtures import tiny_adapter, tiny_engine, tiny_model
from sample_requests import requests

from sgt_modules.local.engine import LocalEngine

# PEFT 0.21 asks transformers 5.23 by a deprecated name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

PROMPTS = ["one", "two words", "a third"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def adapters(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    room = tmp_path_factory.mktemp("adapters")
    return [tiny_adapter(folder, room / str(seed), seed=seed) for seed in range(6)]


def held() -> int:
    """Bytes of all tensors alive."""
    gc.collect()
    storages = [each.untyped_storage() for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def draws(engine: LocalEngine) -> list[str]:
    return [each.text for each in engine.sample(requests(PROMPTS, seeds=range(3)))]


@pytest.mark.slow
def test_another_adapter_costs_its_own_memory_and_gives_it_back(folder: Path, adapters: list[Path]) -> None:
    empty = held()
    engine = tiny_engine(folder)
    plain = draws(engine)
    base = held() - empty
    others = [engine.with_adapter(adapter) for adapter in adapters]
    assert len({*map(tuple, map(draws, others)), tuple(plain)}) == 7
    each = (held() - empty - base) / 6
    assert 0 < each < base / 4
    del others
    gc.collect()
    assert draws(engine) == plain
    assert held() - empty - base < each


def test_engines_made_apart_share_a_base_of_one_dtype(folder: Path, adapters: list[Path]) -> None:
    engine = tiny_engine(folder)
    draws(engine)
    before = held()
    twin = pickle.loads(pickle.dumps(tiny_engine(folder)))
    assert draws(twin) == draws(engine)
    assert held() - before < 20_000
    LocalEngine(folder, dtype="float32", device="cpu").sample(requests(["one"], seeds=[0], max_new_tokens=1))
    single = LocalEngine(folder, dtype="float32", device="cpu")
    single.sample(requests(["one"], seeds=[0], max_new_tokens=1))
    assert held() - before > 20_000


def test_threads_with_different_adapters_get_replies_of_their_own_adapter(folder: Path, adapters: list[Path]) -> None:
    engine = tiny_engine(folder)
    engines = [engine, *(engine.with_adapter(adapter) for adapter in adapters)]
    expected = [draws(each) for each in engines]
    with ThreadPoolExecutor(7) as pool:
        for _ in range(3):
            assert list(pool.map(draws, engines)) == expected


def test_an_adapter_that_changes_the_base_has_one_for_itself(folder: Path, tmp_path: Path) -> None:
    engine = tiny_engine(folder)
    plain = draws(engine)
    biased = engine.with_adapter(tiny_adapter(folder, tmp_path / "biased", bias="all"))
    assert draws(biased) != plain
    assert draws(engine) == plain
    assert biased._get_decoder()._model._base is not engine._get_decoder()._model._base


def test_another_adapter_has_another_name_and_the_base_is_read_once(folder: Path, adapters: list[Path]) -> None:
    engine = tiny_engine(folder)
    names = {engine.model_name, *(engine.with_adapter(adapter).model_name for adapter in adapters)}
    assert len(names) == 7
    adapted = engine.with_adapter(adapters[0])
    assert adapted.tokenizer is engine.tokenizer
    assert adapted.fingerprint == LocalEngine(folder, adapter=adapters[0]).fingerprint


def test_a_base_whose_files_changed_is_loaded_again(tmp_path: Path) -> None:
    first = tiny_engine(tiny_model(tmp_path / "tiny", seed=1))
    said = draws(first)
    assert draws(tiny_engine(tiny_model(tmp_path / "tiny", seed=2))) != said
