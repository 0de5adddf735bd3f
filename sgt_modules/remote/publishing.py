"""Publishes trained weights to a server: two values for `Endpoint(publish=...)`.

Both servers read the weights from the same path as this process, on the same machine or in a shared folder.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from uuid import uuid4

import dspy

from sgt_modules.errors import EndpointError, SetupError
from sgt_modules.saving.redaction import redact, remove_user
from sgt_modules.saving.weights import ADAPTER, WANTED, check_adapter, fingerprint_of, resolve


class VLLMLoRA:
    """Loads each adapter into a running vLLM, with a name that includes the weights' sha256.

    Start the server with `--enable-lora`, a `--max-lora-rank` of at least the training's rank, and
    `VLLM_ALLOW_RUNTIME_LORA_UPDATING=True` in its environment. A server that starts again has lost the adapters: name
    those of saved programs in its `--lora-modules`. `timeout` is the most seconds for loading an adapter.

    Source: https://docs.vllm.ai/en/latest/features/lora/ (dynamically serving LoRA adapters).

    Raises:
        SetupError: The LM has no server address.

    >>> from sgt_modules import Endpoint
    >>> lm = dspy.LM("openai/Qwen/Qwen3-1.7B", api_base="http://localhost:8000/v1", api_key="none")
    >>> generator = Endpoint(lm, publish=VLLMLoRA(lm))
    """

    def __init__(self, lm: dspy.LM, *, timeout: float = 300.0) -> None:
        address = lm.kwargs.get("api_base") or lm.kwargs.get("base_url")
        if address is None:
            raise SetupError(
                f"Expected an LM that names its server, got {lm.model!r} without one. Write dspy.LM('openai/...', "
                "api_base='http://localhost:8000/v1')."
            )
        self._route = f"{str(address).rstrip('/')}/load_lora_adapter"
        self._shown_route = remove_user(self._route)
        key = lm.kwargs.get("api_key")
        self._headers = {"Authorization": f"Bearer {key}"} if isinstance(key, str) else {}
        self._timeout, self._lm = timeout, lm

    def __call__(self, path: Path) -> str:
        """Load the adapter in a folder, unless the server has it already, and return its name there.

        Raises `GeneratorNotFoundError` for a folder without an adapter, `EndpointError` if the server refuses it.
        """
        check_adapter(path)
        name = _make_name(path)
        body = {"lora_name": name, "lora_path": str(path.resolve())}
        import httpx  # here, as it brings a command line of its own

        try:
            response = httpx.post(self._route, json=body, headers=self._headers, timeout=self._timeout)
        except httpx.HTTPError as error:
            raise EndpointError(
                f"Expected vLLM at {self._shown_route!r} to load {body['lora_path']!r}, got {type(error).__name__}: "
                f"{redact(str(error), [self._lm])}. Start the server again; the run goes on with the same log_dir."
            ) from None  # its text may contain the key
        if response.is_error and "already been loaded" not in response.text:
            raise EndpointError(
                f"Expected vLLM at {self._shown_route!r} to load {body['lora_path']!r}, got {response.status_code}: "
                f"{redact(response.text[:500], [self._lm])}. It needs --enable-lora, --max-lora-rank of the "
                "adapter's rank, VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment, and must see that path."
            )
        return name


class ServedFolder:
    """Makes a folder for a server that accepts a folder as a model's name, such as `transformers serve`.

    Such a server loads an adapter only from a folder that also has the whole base model. So each checkpoint gets a
    folder next to it with the files of `base` (a hub id or folder) and of the adapter, as links if the system has
    links. The folder's name includes the weights' sha256, as the server never reads a folder twice.

    `transformers serve` samples only if the base's `generation_config.json` has `"do_sample": true` (Qwen3's does),
    also takes `"top_k"` from there, and seeds one random stream for all requests: equal seeds give equal samples only
    with `Endpoint(concurrency=1)`.

    >>> from sgt_modules import Endpoint
    >>> lm = dspy.LM("openai//models/qwen3", api_base="http://localhost:8000/v1", api_key="none")
    >>> generator = Endpoint(lm, publish=ServedFolder("/models/qwen3"))
    """

    def __init__(self, base: str | Path, *, revision: str | None = None) -> None:
        self._base, self._revision = base, revision

    def __call__(self, path: Path) -> str:
        """Make the folder for the weights in `path`, unless it exists, and return it.

        Raises `GeneratorNotFoundError` for a folder without weights, or a base model that does not exist.
        """
        is_adapter = (path / ADAPTER).is_file()
        parts = [resolve(self._base, self._revision), check_adapter(path)] if is_adapter else [resolve(path)]
        served = path.resolve().with_name(_make_name(path))
        if not served.is_dir():
            _join_folders(parts, served)
        return str(served)


def _make_name(path: Path) -> str:
    return f"{path.name}-{fingerprint_of(path)[:12]}"


def _join_folders(folders: list[Path], target: Path) -> None:
    """Put the model files of several folders into a new one, as links if possible; all of them or none."""
    scratch = target.with_name(f".{target.name}-{uuid4().hex[:8]}")
    scratch.mkdir()
    try:
        for folder in folders:
            for file in sorted({file for pattern in WANTED for file in folder.glob(pattern)}):
                _link_file(file.resolve(), scratch / file.name)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _link_file(file: Path, link: Path) -> None:
    """Link or copy a file, in place of one of the same name."""
    link.unlink(missing_ok=True)
    try:
        link.symlink_to(file)
    except OSError:  # a system, or a file system, without links
        shutil.copyfile(file, link)
