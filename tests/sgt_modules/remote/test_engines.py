"""The command lines of the three engines, and which engine is chosen."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgt_modules.errors import SetupError
from sgt_modules.remote.engines import (
    ENGINES,
    EngineName,
    ServerRequest,
    choose_engine,
    installed_engines,
    server_command,
)

MODEL = "Qwen/Qwen3-1.7B"


def line(engine: EngineName, **settings: object) -> str:
    request = ServerRequest(MODEL, 8000, **settings)  # pyright: ignore[reportArgumentType]
    return " ".join(server_command(engine, request, ["run"]).words)


def test_a_generator_s_server_loads_adapters_and_samples_as_a_request_says() -> None:
    assert line("vllm", adapters=True) == (
        "run Qwen/Qwen3-1.7B --host 127.0.0.1 --port 8000 --enable-lora --max-lora-rank 16 --max-loras 2 "
        "--max-cpu-loras 2 --generation-config vllm"
    )
    assert line("sglang", adapters=True) == (
        "run --model-path Qwen/Qwen3-1.7B --host 127.0.0.1 --port 8000 --enable-lora --max-lora-rank 16 "
        "--lora-target-modules all --max-loras-per-batch 3 --max-loaded-loras 3 --sampling-defaults openai"
    )
    assert line("transformers", adapters=True) == "run --host 127.0.0.1 --port 8000"


def test_an_actor_s_server_is_the_engine_s_own() -> None:
    assert line("vllm") == "run Qwen/Qwen3-1.7B --host 127.0.0.1 --port 8000"
    assert line("sglang") == "run --model-path Qwen/Qwen3-1.7B --host 127.0.0.1 --port 8000"
    assert line("transformers") == "run --host 127.0.0.1 --port 8000"


def test_replicas_are_behind_one_address_where_the_engine_has_them() -> None:
    assert line("vllm", replicas=4).endswith(" --data-parallel-size 4")
    assert line("vllm", replicas=4, adapters=True).endswith(" --data-parallel-size 4 --api-server-count 1")
    assert line("sglang", replicas=4).endswith(" --dp-size 4")
    with pytest.raises(SetupError, match="got transformers serve, which runs one copy"):
        line("transformers", replicas=2)
    with pytest.raises(SetupError, match="SGLang loads adapters while it runs only without data parallelism"):
        line("sglang", replicas=2, adapters=True)


def test_two_servers_on_one_gpu_share_its_memory() -> None:
    assert line("vllm", shares_gpu=True).endswith(" --gpu-memory-utilization 0.45")
    assert line("sglang", shares_gpu=True).endswith(" --mem-fraction-static 0.45")


@given(rank=st.integers(1, 512))
def test_vllm_gets_a_rank_that_it_admits_and_that_is_high_enough(rank: int) -> None:
    words = line("vllm", adapters=True, rank=rank).split()
    given_rank = int(words[words.index("--max-lora-rank") + 1])
    assert given_rank >= rank
    assert given_rank in (1, 8, 16, 32, 64, 128, 256, 320, 512)


def test_a_rank_that_vllm_does_not_admit_is_refused() -> None:
    with pytest.raises(SetupError, match="Expected a rank of at most 512 with vLLM, got 513"):
        line("vllm", adapters=True, rank=513)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_user_s_own_options_come_last_and_nothing_is_downloaded_unasked(engine: EngineName) -> None:
    command = server_command(engine, ServerRequest(MODEL, 8000, adapters=True, more=("--dtype", "float32")), ["run"])
    assert command.words[-2:] == ("--dtype", "float32")
    assert command.environment["HF_HUB_OFFLINE"] == "1"
    asked = server_command(engine, ServerRequest(MODEL, 8000, downloads=True), ["run"])
    assert "HF_HUB_OFFLINE" not in asked.environment
    loads = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"
    assert command.environment.get(loads) == ("True" if engine == "vllm" else None)
    assert loads not in asked.environment


def test_the_first_engine_that_is_installed_is_chosen() -> None:
    every: dict[EngineName, list[str]] = {engine: [engine] for engine in reversed(ENGINES)}
    assert choose_engine("auto", every) == "vllm"
    del every["vllm"]
    assert choose_engine("auto", every) == "sglang"
    assert choose_engine("transformers", every) == "transformers"
    with pytest.raises(SetupError, match=r"Run `pip install vllm`\. Installed: transformers, sglang\."):
        choose_engine("vllm", every)
    with pytest.raises(SetupError, match=r"got none of vLLM, SGLang .* `pip install 'transformers\[serving\]'`"):
        choose_engine("auto", {})


def test_transformers_with_its_server_is_installed_here() -> None:
    found = installed_engines()["transformers"]
    assert found[1:] == ["serve"]
    assert Path(found[0]).parent == Path(sys.executable).parent
