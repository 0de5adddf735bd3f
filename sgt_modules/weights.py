"""Where a model's files are, and what tells one set of weights from another. Reads files; loads no model."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import TypedDict

from sgt_modules.errors import GeneratorNotFoundError

WHOLE_MODEL = "config.json"
ADAPTER = "adapter_config.json"
_WANTED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")


class EngineState(TypedDict):
    """An engine as a reference: no weights, but their sha256."""

    model: str
    adapter: str | None
    dtype: str
    device: str
    max_batch_tokens: int
    max_new_tokens: int
    sha256: str | None


class Weights:
    """The files of a model and its adapter, looked up when first asked for.

    With `sha256`, files of another fingerprint are refused by `check`. A path must exist by then; nothing is fetched
    before.

    >>> Weights("some/model", None).adapter is None
    True
    """

    def __init__(self, model: str | Path, adapter: str | Path | None, sha256: str | None = None) -> None:
        self.model = str(model)
        self.adapter = None if adapter is None else Path(adapter)
        self._expected = sha256

    @cached_property
    def folders(self) -> tuple[Path, ...]:
        """The model's folder, then the adapter's if there is one. Raises `GeneratorNotFoundError`."""
        adapters = () if self.adapter is None else (check_adapter(self.adapter),)
        return (resolve(self.model), *adapters)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of the weight files, adapter included."""
        return fingerprint_of(*self.folders)

    @cached_property
    def context(self) -> int:
        """The most tokens that prompt and reply may have together."""
        return context_of(self.folders[0])

    def check(self) -> None:
        """Raise `GeneratorNotFoundError` if files are missing, or are not those that were saved."""
        folders = self.folders
        if self._expected is not None and self.fingerprint != self._expected:
            raise GeneratorNotFoundError(
                f"Expected weights with sha256 {self._expected[:12]} in {[str(each) for each in folders]}, "
                f"got {self.fingerprint[:12]}. Restore the files this program was saved with, or compile it again."
            )


def resolve(model: str | Path) -> Path:
    """The folder of a model's files: a path as it is, a hub id as its snapshot in the hub's cache (fetched if need be).

    Raises `GeneratorNotFoundError` when there is no such folder, no such model, or no weights in safetensors.

    >>> resolve("no/such/folder/here")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    sgt_modules.errors.GeneratorNotFoundError: Expected a folder ... got 'no/such/folder/here'. ...
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        folder = _snapshot(str(model))
    if not (folder / WHOLE_MODEL).is_file() or not _weights(folder):
        raise GeneratorNotFoundError(
            f"Expected {WHOLE_MODEL} and *.safetensors in the folder of {str(model)!r}, got "
            f"{sorted(each.name for each in folder.iterdir())[:8]}. Save the model with save_pretrained()."
        )
    return folder


def check_adapter(adapter: Path) -> Path:
    """The folder of a PEFT adapter, or `GeneratorNotFoundError`."""
    if not (adapter / ADAPTER).is_file() or not _weights(adapter):
        raise GeneratorNotFoundError(
            f"Expected a PEFT adapter's folder ({ADAPTER} and *.safetensors), got {str(adapter)!r}. "
            "Pass the folder that training wrote, or adapter=None for the bare model."
        )
    return adapter


def fingerprint_of(*folders: Path) -> str:
    """sha256 (hex, 64 characters) over the safetensors files of the folders, names included, in order."""
    digest = hashlib.sha256()
    for folder in folders:
        for file in _weights(folder):
            digest.update(file.name.encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def context_of(folder: Path) -> int:
    """The model's context window in tokens, as its config.json says; practically none where it says nothing."""
    config = json.loads((folder / WHOLE_MODEL).read_text(encoding="utf-8"))
    window = config.get("max_position_embeddings") or config.get("text_config", {}).get("max_position_embeddings")
    return int(window or 2**31)


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _snapshot(hub_id: str) -> Path:
    expected = f"Expected a folder with {WHOLE_MODEL} and *.safetensors, or a hub id such as 'Qwen/Qwen3-1.7B', "
    if hub_id.count("/") != 1 or hub_id.startswith((".", "/", "~")):
        raise GeneratorNotFoundError(
            f"{expected}got {hub_id!r}. Pass the path of a model saved with save_pretrained()."
        )
    from httpx import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(_WANTED)))
    except (OSError, HTTPError, HFValidationError) as error:
        raise GeneratorNotFoundError(
            f"{expected}got {hub_id!r}, which is no folder here and could not be had from the hub "
            f"({type(error).__name__}). Check the name and the network, or pass a local path."
        ) from error
