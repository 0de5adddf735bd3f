"""Publishes trained weights to a server that takes a folder as a model's name, as `Endpoint(publish=...)`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from sgt_modules.saving.weights import ADAPTER, check_adapter, fingerprint_of, list_files, resolve

_GENERATION = "generation_config.json"

_SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty")
"""Settings of a model's own generation that would change what a request asks for."""


class ServedFolder:
    """Makes a folder for a server that accepts a folder as a model's name, such as `transformers serve`.

    Such a server loads an adapter only from a folder that also has the whole base model. So each checkpoint gets a
    folder next to it with the files of `base` (a hub id or folder) and of the adapter, as links if the system has
    links. The folder's name includes the weights' sha256, as the server never reads a folder twice.

    `transformers serve` samples only if the base's `generation_config.json` has `"do_sample": true` (Qwen3's does),
    also takes `"top_k"` from there, and seeds one random stream for all requests: equal seeds give equal samples only
    with `Endpoint(concurrency=1)`.

    >>> import dspy
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
        served = path.resolve().with_name(name_of_weights(path))
        if not served.is_dir():
            _join_folders(parts, served)
        return str(served)


def sampling_folder(base: Path, folder: Path, name: str) -> Path:
    """Make a folder with the files of `base`, from which `transformers serve` samples as a request says; return it.

    It is in `folder`, and named by `name` and the weights' sha256; one that exists is returned as it is. Only
    `generation_config.json` differs: it has `"do_sample": true`, and no limits of its own.
    """
    target = folder.resolve() / f"{name}-{fingerprint_of(base)[:12]}"
    if not target.is_dir():
        config = base / _GENERATION
        known = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        kept = {key: value for key, value in known.items() if key not in _SAMPLING}
        target.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**kept, "do_sample": True, "top_k": 0}, indent=2)
        _join_folders([base.resolve()], target, {_GENERATION: text})
    return target


def name_of_weights(path: Path) -> str:
    """The name of a folder's weights on a server: the folder's name and the start of their sha256."""
    return f"{path.name}-{fingerprint_of(path)[:12]}"


def _join_folders(folders: list[Path], target: Path, texts: Mapping[str, str] | None = None) -> None:
    """Put the model files of several folders into a new one, as links if possible; all of them or none.

    `texts` are files by name, in place of those of the same name.
    """
    scratch = target.with_name(f".{target.name}-{uuid4().hex[:8]}")
    scratch.mkdir()
    try:
        for folder in folders:
            for file in list_files(folder):
                _link_file(file.resolve(), scratch / file.name)
        for name, text in (texts or {}).items():
            (scratch / name).unlink(missing_ok=True)
            (scratch / name).write_text(text, encoding="utf-8")
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
