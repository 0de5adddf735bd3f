from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runtime_fixtures import tiny_adapter, tiny_model
from sample_requests import requests

from sgt_modules import SupplementGenerator
from sgt_modules.errors import SetupError
from sgt_modules.local import quantisation
from sgt_modules.local.devices import choose_dtype
from sgt_modules.local.engine import LocalEngine
from sgt_modules.local.quantisation import Int8Linear

PROMPTS = [f"{question} {note}" for question in ("How many pets are there?", "Who sings?") for note in "abcd"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def engine(folder: Path) -> LocalEngine:
    return LocalEngine(folder, dtype="int8", max_new_tokens=12)


def test_a_layer_in_8_bits_is_near_the_exact_one_and_a_row_does_not_depend_on_the_others() -> None:
    exact = torch.nn.Linear(96, 40)
    rows = torch.randn(9, 96, generator=torch.Generator().manual_seed(0))
    rows[3] *= 1000
    rounded = Int8Linear(exact)
    with torch.inference_mode():
        outputs, expected = rounded(rows), exact(rows)
        assert (outputs - expected).norm(dim=1).div(expected.norm(dim=1)).max() < 0.03
        assert all(torch.equal(outputs[place], rounded(rows[place : place + 1])[0]) for place in range(9))
        assert torch.equal(rounded(torch.zeros(1, 96))[0], exact.bias)


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_a_cpu_without_8_bit_products_gives_the_same_outputs(rows: int) -> None:
    """4,864 inputs are the widest layer of Qwen2.5-0.5B."""
    exact = torch.nn.Linear(4864, 24)
    inputs = torch.randn(rows, 4864, generator=torch.Generator().manual_seed(rows))
    with torch.inference_mode():
        assert torch.equal(Int8Linear(exact, as_int8=True)(inputs), Int8Linear(exact, as_int8=False)(inputs))


def test_a_warning_says_that_8_bits_are_no_faster(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(quantisation, "int8_is_fast", lambda: False)
    with LocalEngine(folder, dtype="int8", max_new_tokens=2)._get_decoder()._model.borrow() as model:
        layers = [each for each in model.modules() if isinstance(each, Int8Linear)]
    assert layers
    assert {each.weight.dtype for each in layers} == {torch.float32}
    assert "as large and as slow as float32" in caplog.text


def test_it_is_another_actor_with_a_name_and_a_fingerprint_of_its_own(engine: LocalEngine, folder: Path) -> None:
    exact = LocalEngine(folder, dtype="float32", device="cpu", max_new_tokens=12)
    assert engine.fingerprint != exact.fingerprint
    assert (engine.name, exact.name) == ("tiny-int8", "tiny")
    assert engine.model_name == f"sgt/tiny-int8-{engine.fingerprint[:12]}"
    assert LocalEngine.load_state(engine.dump_state()).fingerprint == engine.fingerprint
    before = exact.sample(requests(PROMPTS, seeds=range(8)))
    replies = engine.sample(requests(PROMPTS, seeds=range(8)))
    assert replies != before
    assert exact.sample(requests(PROMPTS, seeds=range(8))) == before
    with engine._get_decoder()._model.borrow() as rounded, exact._get_decoder()._model.borrow() as whole:
        assert rounded is not whole
        assert {type(each) for each in rounded.modules()} >= {Int8Linear, torch.nn.Embedding}
        assert not any(type(each) is torch.nn.Linear for each in rounded.modules())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_reply_in_8_bits_does_not_depend_on_its_batch(engine: LocalEngine, temperature: float) -> None:
    together = engine.sample(requests(PROMPTS, seeds=range(8), temperature=temperature))
    alone = [engine.sample(requests([p], seeds=[s], temperature=temperature))[0] for s, p in enumerate(PROMPTS)]
    assert [each.text for each in together] == [each.text for each in alone]


def test_8_bits_are_refused_with_an_adapter_for_training_and_on_a_gpu(
    engine: LocalEngine, folder: Path, tmp_path: Path
) -> None:
    adapter = tiny_adapter(folder, tmp_path / "adapter")
    with pytest.raises(SetupError, match=r"got an adapter .*dtype='auto'"):
        LocalEngine(folder, adapter=adapter, dtype="int8")
    with pytest.raises(SetupError, match="got an adapter"):
        engine.with_adapter(adapter)
    with pytest.raises(SetupError, match="got a generator that is to be trained"):
        SupplementGenerator(engine).check_trainable()
    with pytest.raises(SetupError, match="Expected a CPU for dtype='int8', got device 'cuda:1'"):
        choose_dtype("int8", "cuda:1")
    assert engine.with_adapter(None).fingerprint == engine.fingerprint
