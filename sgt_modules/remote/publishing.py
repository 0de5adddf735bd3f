"""Publishing trained weights to a server: what `Endpoint(publish=...)` takes for two sorts of servers.

Either server reads the weights from the same path as this process: it runs on the same machine, or shares the folder.
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
    """Loads each adapter into a running vLLM, under a name that carries the weights' sha256.

    The server is started with `--enable-lora`, a `--max-lora-rank` of the training's rank at least, and
    `VLLM_ALLOW_RUNTIME_LORA_UPDATING=True` in its environment. It forgets the adapters when it ends: name those that a
    saved program needs in its `--lora-modules` then. `timeout` is the most seconds for loading an adapter.

    Source: https://docs.vllm.ai/en/latest/features/lora/ (dynamically serving LoRA adapters).

    Raises:
        SetupError: The LM has no server's address.

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
        self._where = remove_user(self._route)
        key = lm.kwargs.get("api_key")
        self._headers = {"Authorization": f"Bearer {key}"} if isinstance(key, str) else {}
        self._timeout, self._lm = timeout, lm

    def __call__(self, path: Path) -> str:
        """Load the adapter in a folder, unless the server has it already, and return its name there.

        Raises `GeneratorNotFoundError` for a folder without an adapter, `EndpointError` when the server refuses it.
        """
        check_adapter(path)
        name = _name_of(path)
        order = {"lora_name": name, "lora_path": str(path.resolve())}
        import httpx  # here, as it brings a command line of its own

        try:
            answer = httpx.post(self._route, json=order, headers=self._headers, timeout=self._timeout)
        except httpx.HTTPError as error:
            raise EndpointError(
                f"Expected vLLM at {self._where!r} to load {order['lora_path']!r}, got {type(error).__name__}: "
                f"{redact(str(error), [self._lm])}. Start the server again; the run goes on with the same log_dir."
            ) from None  # its own words may hold the key
        if answer.is_error and "already been loaded" not in answer.text:
            raise EndpointError(
                f"Expected vLLM at {self._where!r} to load {order['lora_path']!r}, got {answer.status_code}: "
                f"{redact(answer.text[:500], [self._lm])}. It needs --enable-lora, --max-lora-rank of the adapter's "
                "rank, VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment, and must see that path."
            )
        return name


class ServedFolder:
    """Makes the folder for a server that takes a folder as a model's name, as `transformers serve` does.

    Such a server loads an adapter only from a folder that is a whole model too. So each checkpoint gets a folder next
    to it with the files of `base` (a hub id or folder) and of the adapter, as links where the system has them. The
    folder's name has the weights' sha256 in it, as the server keeps a folder in memory once it is loaded.

    `transformers serve` samples only if the base's `generation_config.json` has `"do_sample": true` (Qwen3's does),
    takes `"top_k"` from there too, and seeds one random stream for all requests: with `Endpoint(concurrency=1)` equal
    seeds give equal samples.

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
        served = path.resolve().with_name(_name_of(path))
        if not served.is_dir():
            _join(parts, served)
        return str(served)


def _name_of(path: Path) -> str:
    return f"{path.name}-{fingerprint_of(path)[:12]}"


def _join(folders: list[Path], target: Path) -> None:
    """Put the model files of several folders into one, as links where the system has links; all of them or none."""
    scratch = target.with_name(f".{target.name}-{uuid4().hex[:8]}")
    scratch.mkdir()
    try:
        for folder in folders:
            for file in sorted({file for pattern in WANTED for file in folder.glob(pattern)}):
                _link(file.resolve(), scratch / file.name)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _link(file: Path, link: Path) -> None:
    """Link or copy a file; a later folder's file replaces an earlier one's."""
    link.unlink(missing_ok=True)
    try:
        link.symlink_to(file)
    except OSError:  # a system, or a file system, without links
        shutil.copyfile(file, link)
