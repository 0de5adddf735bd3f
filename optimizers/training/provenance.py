"""Where trained weights come from, and whether their files are as training wrote them.

`trained_from.json`, next to the weights, holds the record: rows, settings, the weights at the start, library versions
and a hash of each other file. `sgt_modules.saving.weights` adds the base model and writes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from optimizers.core.records import Checkpoint
from optimizers.core.safe_reading import read_object
from optimizers.training.tokenisation import Target, Texts
from optimizers.training.trainer import TrainingSettings
from sgt_modules.errors import SGTError
from sgt_modules.saving.weights import ADAPTER, TRAINED_FROM, WHOLE_MODEL, fingerprint_of

LIBRARIES = ("torch", "transformers", "peft", "trl")


def describe_training(
    stage: str, texts: Texts, settings: TrainingSettings, *, start: Checkpoint | None, seed: int
) -> Mapping[str, object]:
    """The provenance of a stage's weights, ready for JSON.

    `data_sha256` covers all rows in order, dropped rows included; `settings` are those that fitted in memory; `parent`
    is the stage and the fingerprint of the weights at the start, None for the base model's own.

    >>> from optimizers.training.tokenisation import Target
    >>> record = describe_training("sft", [("Say it.", (Target("ok"),))], TrainingSettings(), start=None, seed=0)
    >>> record["stage"], record["rows"], record["parent"], record["settings"]["batch_size"]
    ('sft', 1, None, 8)
    """
    return {
        "stage": stage,
        "parent": None if start is None else {"stage": start.stage, "sha256": start.fingerprint},
        "rows": len(texts),
        "data_sha256": hash_rows(texts),
        "seed": seed,
        "settings": asdict(settings),
        "versions": {library: version(library) for library in LIBRARIES},
    }


def hash_rows(texts: Texts) -> str:
    """sha256 (hex) of rows in order: one line of JSON a row, the prompt and then its completions.

    A completion that a limit cut is in a list of its own, and so is one with an advantage, with that behind it.

    >>> from optimizers.training.tokenisation import Target
    >>> hash_rows([("a", (Target("b"),))]) == hashlib.sha256(b'["a", "b"]\\n').hexdigest()
    True
    >>> hash_rows([("a", (Target("b", cut=True),))]) == hashlib.sha256(b'["a", ["b"]]\\n').hexdigest()
    True
    >>> hash_rows([("a", (Target("b", advantage=0.5),))]) == hashlib.sha256(b'["a", ["b", false, 0.5]]\\n').hexdigest()
    True
    """
    digest = hashlib.sha256()
    for prompt, completions in texts:
        digest.update(f"{json.dumps([prompt, *map(_plain, completions)])}\n".encode())
    return digest.hexdigest()


def _plain(target: Target) -> object:
    if target.advantage:
        return [target.text, target.cut, target.advantage]
    return [target.text] if target.cut else target.text


def hash_files(folder: Path) -> dict[str, str]:
    """sha256 (hex) of each file in a checkpoint's folder, by name; not of weights, which have a fingerprint, nor of
    `trained_from.json`, which holds the hashes.
    """
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name != TRAINED_FROM)
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.suffix != ".safetensors"}


def is_intact(folder: Path, fingerprint: str) -> bool:
    """Whether a checkpoint's folder is as training wrote it: weights of that fingerprint, and every other file with the
    hash in `trained_from.json`. Without hashes there (another trainer writes none) only the weights are compared.

    >>> is_intact(Path("runs/none/checkpoints/sft"), "0" * 64)
    False
    """
    try:
        has_weights = any((folder / name).is_file() for name in (ADAPTER, WHOLE_MODEL))
        if not has_weights or fingerprint_of(folder) != fingerprint:
            return False
        hashes = (read_object(folder / TRAINED_FROM, home=folder) or {}).get("files", {})
        return isinstance(hashes, Mapping) and (not hashes or hash_files(folder) == hashes)
    except (OSError, SGTError):
        return False
