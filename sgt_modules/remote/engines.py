"""The command lines of the engines that serve a model on this machine: vLLM, SGLang and `transformers serve`.

Pure functions, apart from `installed_engines`, which looks at what is installed.

Sources: https://docs.vllm.ai/en/latest/cli/serve/ (options of `vllm serve`),
https://docs.vllm.ai/en/latest/features/lora/ (adapters at run time),
https://docs.vllm.ai/en/latest/serving/data_parallel_deployment/ (replicas behind one address),
https://docs.vllm.ai/en/latest/serving/openai_compatible_server/ (`--generation-config vllm`, `/health`),
https://docs.sglang.io/docs/advanced_features/server_arguments (options of SGLang),
https://docs.sglang.io/docs/advanced_features/lora (adapters at run time),
https://huggingface.co/docs/transformers/serving and `transformers serve --help` (version 5.24).
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from sgt_modules.errors import SetupError
from sgt_modules.remote.adapter_servers import SLOTS

EngineName = Literal["vllm", "sglang", "transformers"]
"""An engine that serves a model, in the order in which one is chosen."""

ENGINES: tuple[EngineName, ...] = get_args(EngineName)

INSTALL: Mapping[EngineName, str] = {
    "vllm": "pip install vllm",
    "sglang": "pip install sglang",
    "transformers": "pip install 'transformers[serving]'",
}
"""How to install each engine. vLLM may have an environment of its own: its command is also looked for on PATH."""

_VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM's `--max-lora-rank` admits."""

_SHARED_MEMORY = 0.45
"""The part of a GPU's memory for each of two servers; vLLM alone takes 0.9."""


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """What a server is to do.

    Args:
        model: The hub id or folder, which is also the model's name there.
        port: The port on 127.0.0.1.
        adapters: Whether it must load LoRA adapters while it runs, as a generator's server does.
        rank: The highest rank of these adapters.
        slots: How many of them are loaded at a time.
        replicas: Copies of the model behind the address, each on a GPU of its own.
        shares_gpu: Whether another server runs on the same GPU.
        downloads: Whether it may download files.
        more: Options of the engine's own, which win over those above.
    """

    model: str
    port: int
    adapters: bool = False
    rank: int = 16
    slots: int = SLOTS
    replicas: int = 1
    shares_gpu: bool = False
    downloads: bool = False
    more: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ServerCommand:
    """A command to start, and what its environment has in addition to this process's."""

    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


def server_command(engine: EngineName, request: ServerRequest, program: Sequence[str]) -> ServerCommand:
    """The command that serves a model with an engine. `program` is the beginning, from `installed_engines`.

    Raises `SetupError` for replicas that the engine does not have, and for a rank that vLLM does not admit.

    >>> server_command("vllm", ServerRequest("Qwen/Qwen3-1.7B", 8000), ["vllm", "serve"]).words[:3]
    ('vllm', 'serve', 'Qwen/Qwen3-1.7B')
    """
    _check_replicas(engine, request)
    words = {"vllm": _vllm_words, "sglang": _sglang_words, "transformers": _transformers_words}[engine](request)
    environment = {"PYTHONUNBUFFERED": "1", "DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    if not request.downloads:
        environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if engine == "vllm" and request.adapters:
        environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    return ServerCommand((*program, *words, *request.more), environment)


def choose_engine(wanted: EngineName | Literal["auto"], installed: Mapping[EngineName, Sequence[str]]) -> EngineName:
    """The wanted engine, or for "auto" the first of `ENGINES` that is installed.

    Raises `SetupError` if it is not installed.

    >>> choose_engine("auto", {"transformers": ["transformers", "serve"]})
    'transformers'
    """
    if wanted != "auto":
        if wanted not in installed:
            others = f" Installed: {', '.join(installed)}." if installed else ""
            raise SetupError(f"Expected {wanted} to be installed, got none. Run `{INSTALL[wanted]}`.{others}")
        return wanted
    for engine in ENGINES:
        if engine in installed:
            return engine
    raise SetupError(
        "Expected an engine that serves a model, got none of vLLM, SGLang and transformers with its server. Run "
        f"`{INSTALL['vllm']}` on a machine with a GPU, or `{INSTALL['transformers']}`."
    )


def installed_engines() -> dict[EngineName, list[str]]:
    """The engines that are installed, each with the beginning of its command.

    vLLM's and transformers' commands are looked for next to this Python, then on PATH; SGLang's module is looked for in
    this Python.
    """
    found: dict[EngineName, list[str]] = {}
    if (vllm := _find_program("vllm")) is not None:
        found["vllm"] = [vllm, "serve"]
    if importlib.util.find_spec("sglang") is not None:
        found["sglang"] = [sys.executable, "-m", "sglang.launch_server"]
    serving = all(importlib.util.find_spec(name) is not None for name in ("fastapi", "uvicorn"))
    if serving and (transformers := _find_program("transformers")) is not None:
        found["transformers"] = [transformers, "serve"]
    return found


def _find_program(name: str) -> str | None:
    near = Path(sys.executable).with_name(name)
    return str(near) if near.is_file() else shutil.which(name)


def _check_replicas(engine: EngineName, request: ServerRequest) -> None:
    if request.replicas == 1:
        return
    if engine == "transformers":
        raise SetupError(
            f"Expected an engine with replicas for --replicas {request.replicas}, got transformers serve, which runs "
            f"one copy. Leave --replicas out, or install vLLM: `{INSTALL['vllm']}`."
        )
    if engine == "sglang" and request.adapters:
        raise SetupError(
            f"Expected one replica of a generator with SGLang, got {request.replicas}: SGLang loads adapters while it "
            "runs only without data parallelism. Leave --replicas out, or use vLLM."
        )


def _vllm_words(request: ServerRequest) -> list[str]:
    words = [request.model, "--host", "127.0.0.1", "--port", str(request.port)]
    if request.adapters:
        rank = next((each for each in _VLLM_RANKS if each >= request.rank), None)
        if rank is None:
            raise SetupError(f"Expected a rank of at most {_VLLM_RANKS[-1]} with vLLM, got {request.rank}. Lower it.")
        words += ["--enable-lora", "--max-lora-rank", str(rank)]
        words += ["--max-loras", str(request.slots), "--max-cpu-loras", str(request.slots)]
        words += ["--generation-config", "vllm"]  # the request alone says how to sample
    if request.replicas > 1:
        words += ["--data-parallel-size", str(request.replicas)]
        # Several API servers do not share what was loaded, and vLLM refuses them when adapters are loaded at run time.
        words += ["--api-server-count", "1"] if request.adapters else []
    if request.shares_gpu:
        words += ["--gpu-memory-utilization", str(_SHARED_MEMORY)]
    return words


def _sglang_words(request: ServerRequest) -> list[str]:
    words = ["--model-path", request.model, "--host", "127.0.0.1", "--port", str(request.port)]
    if request.adapters:
        slots = str(request.slots + 1)  # the bare base model takes a place in a batch too
        words += ["--enable-lora", "--max-lora-rank", str(request.rank), "--lora-target-modules", "all"]
        words += ["--max-loras-per-batch", slots, "--max-loaded-loras", slots]
        words += ["--sampling-defaults", "openai"]  # the request alone says how to sample
    if request.replicas > 1:
        words += ["--dp-size", str(request.replicas)]
    if request.shares_gpu:
        words += ["--mem-fraction-static", str(_SHARED_MEMORY)]
    return words


def _transformers_words(request: ServerRequest) -> list[str]:
    """No model is named: with one, the server would answer every request with it, also those for adapters' folders."""
    return ["--host", "127.0.0.1", "--port", str(request.port)]
