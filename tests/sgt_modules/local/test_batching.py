from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT
from runtime_fixtures import tiny_engine, tiny_model
from sample_requests import requests

from sgt_modules.errors import GeneratorNotFoundError
from sgt_modules.local.batching import TokenRequest, count_batch_tokens, cut_batches, run_in_batches
from sgt_modules.local.devices import choose_device, choose_dtype
from sgt_modules.local.engine import LocalEngine
from sgt_modules.local.loading import LoadedModel
from sgt_modules.samples import Sample

JOBS = st.lists(
    st.builds(TokenRequest, st.integers(1, 40).map(lambda n: (1,) * n), st.integers(0, 9), st.just(1.0), st.just(5))
)


class Machine:
    """A decoder with room for so many tokens, which keeps what it was asked for."""

    def __init__(self, room: int, error: Exception) -> None:
        self.room, self.error = room, error
        self.asked: list[int] = []

    def run(self, token_requests: Sequence[TokenRequest]) -> list[Sample]:
        self.asked.append(count_batch_tokens(token_requests))
        if self.asked[-1] > self.room:
            raise self.error
        return [Sample(str(request.seed), tokens=len(request.ids)) for request in token_requests]


@given(JOBS, st.integers(46, 2000), st.sampled_from(["CUDA out of memory. Tried to", "can't allocate memory: you"]))
def test_whatever_the_memory_every_request_is_done_once_if_each_fits_alone(
    token_requests: list[TokenRequest], room: int, says: str
) -> None:
    machine = Machine(room, torch.OutOfMemoryError(says))
    done, held = run_in_batches(token_requests, 4000, machine.run)
    assert done == {request: Sample(str(request.seed), tokens=len(request.ids)) for request in token_requests}
    assert held == 4000 or held <= max(machine.asked) // 2


def test_running_out_of_memory_halves_the_budget_and_keeps_what_is_done(caplog: pytest.LogCaptureFixture) -> None:
    token_requests = [TokenRequest((1,) * 6, seed, 1.0, 4) for seed in range(12)]
    machine, released = Machine(40, RuntimeError("MPS backend out of memory")), list[int]()
    with caplog.at_level(logging.WARNING, "sgt_modules.local.batching"):
        _, held = run_in_batches(token_requests, 80, machine.run, free_memory=lambda: released.append(1))
    assert machine.asked == [80, 40, 40, 40]
    assert (held, released) == (40, [1])
    assert caplog.messages == ["Out of memory on 8 rows; going on with 40 tokens a batch."]


def test_the_error_of_a_single_request_that_does_not_fit_and_other_errors_are_raised() -> None:
    token_requests = [TokenRequest((1,), seed, 1.0, 4) for seed in range(4)]
    with pytest.raises(RuntimeError, match="out of memory"):
        run_in_batches(token_requests, 80, Machine(3, RuntimeError("out of memory")).run)
    other = Machine(3, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        run_in_batches(token_requests, 80, other.run)
    assert len(other.asked) == 1


@given(JOBS, st.integers(50, 400))
def test_batches_of_one_length_need_no_padding(token_requests: list[TokenRequest], budget: int) -> None:
    cut = cut_batches(token_requests, budget, equal_lengths=True)
    assert all(
        len({len(request.ids) for request in batch}) == 1 and count_batch_tokens(batch) <= budget for batch in cut
    )
    assert sorted(request.seed for batch in cut for request in batch) == sorted(
        request.seed for request in token_requests
    )


def test_a_model_that_runs_out_of_memory_gives_the_replies_it_would_have_given(tmp_path: Path) -> None:
    engine = tiny_engine(tiny_model(tmp_path / "tiny"))
    prompts = [f"prompt {place}" for place in range(12)]
    expected = engine.sample(requests(prompts, seeds=range(12)))
    rows: list[int] = []

    def limited(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        rows.append(len(inputs[0]))
        if len(inputs[0]) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    decoder = engine._get_decoder()
    with decoder._model.borrow() as model, model.get_input_embeddings().register_forward_pre_hook(limited):
        assert engine.sample(requests(prompts, seeds=range(12))) == expected
        assert max(rows) > 5
        rows.clear()
        assert engine.sample(requests(prompts, seeds=range(12))) == expected
        assert max(rows) <= 5


@pytest.mark.parametrize(
    ("cuda", "mps", "bfloat16", "expected"),
    [
        (True, False, True, ("cuda", "bfloat16")),
        (True, False, False, ("cuda", "float16")),
        (False, True, True, ("mps", "float16")),
        (False, False, False, ("cpu", "float32")),
    ],
)
def test_device_and_precision_are_what_the_machine_does_best(
    cuda: bool, mps: bool, bfloat16: bool, expected: tuple[str, str]
) -> None:
    device = choose_device("auto", cuda=cuda, mps=mps)
    assert (device, choose_dtype("auto", device, bfloat16=bfloat16)) == expected


def test_device_and_precision_can_be_named() -> None:
    assert choose_device("cuda:1", cuda=True, mps=False) == "cuda:1"
    assert choose_dtype("float32", "cuda:1") == "float32"
    with pytest.raises(ValueError, match="of this machine \\(cpu\\), got 'cuda'"):
        choose_device("cuda", cuda=False, mps=False)
    with pytest.raises(ValueError, match="float7"):
        choose_dtype("float7", "cpu")
    with pytest.raises(ValueError, match="float32"):
        choose_dtype("float64", "mps")


def test_a_loaded_model_has_the_device_and_the_precision_of_its_settings(tmp_path: Path) -> None:
    loaded = LoadedModel([tiny_model(tmp_path / "tiny")], device="cpu", dtype="bfloat16")
    with loaded.borrow() as model:
        assert {(each.dtype, each.device.type) for each in model.parameters()} == {(torch.bfloat16, "cpu")}


def test_a_models_own_code_is_refused_unless_asked_for(tmp_path: Path) -> None:
    folder = own_code(tiny_model(tmp_path / "tiny"))
    with pytest.raises(GeneratorNotFoundError, match="trust_remote_code=True"):
        tiny_engine(folder).sample(requests(["one"], seeds=[0]))


@pytest.mark.slow
def test_a_models_own_code_runs_for_who_asks_and_travels_with_a_pickle_but_not_with_a_saved_state(
    tmp_path: Path,
) -> None:
    folder = own_code(tiny_model(tmp_path / "tiny"))
    engine = LocalEngine(folder, dtype="float64", device="cpu", trust_remote_code=True)
    assert pickle.loads(pickle.dumps(engine)).with_adapter(None).trust_remote_code
    assert not LocalEngine.load_state(engine.dump_state()).trust_remote_code
    code = (
        "import sys; from sgt_modules.local.engine import LocalEngine; from sgt_modules.samples import SampleRequest; "
        "engine = LocalEngine(sys.argv[1], dtype='float64', device='cpu', trust_remote_code=True); "
        "print(engine.sample([SampleRequest('one', temperature=1.0, max_new_tokens=4)])[0].tokens)"
    )
    alone = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": str(ROOT)}
    said = subprocess.run(
        [sys.executable, "-c", code, str(folder)], check=True, env=alone, capture_output=True, text=True
    )
    assert said.stdout == "4\n"


def own_code(folder: Path) -> Path:
    """A tiny model's folder, turned into one whose class is in a file of its own."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    config |= {"model_type": "own_shape", "architectures": ["OwnModel"], "auto_map": classes}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "own.py").write_text(
        "from transformers import Qwen3Config, Qwen3ForCausalLM\n\n\n"
        "class OwnConfig(Qwen3Config):\n    model_type = 'own_shape'\n\n\n"
        "class OwnModel(Qwen3ForCausalLM):\n    config_class = OwnConfig\n",
        encoding="utf-8",
    )
    return folder
