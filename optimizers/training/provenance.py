"""Where trained weights come from: the rows, the settings, the weights before them, and the libraries.

It stands in `trained_from.json` beside the weights; `sgt_modules.saving.weights` adds the base model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version

from optimizers.core.records import Checkpoint
from optimizers.training.tokenisation import Texts
from optimizers.training.trainer import TrainingSettings

LIBRARIES = ("torch", "transformers", "peft", "trl")


def lineage(
    stage: str, texts: Texts, settings: TrainingSettings, *, start: Checkpoint | None, seed: int
) -> Mapping[str, object]:
    """What is known of a stage's weights, as JSON takes it.

    `data_sha256` is of the rows in their order, left-out ones included; `settings` are those the stage fitted in memory
    with; `parent` is the stage and the fingerprint of the weights it began at, None for the base model's own.

    >>> from optimizers.training.tokenisation import Target
    >>> found = lineage("sft", [("Say it.", (Target("ok"),))], TrainingSettings(), start=None, seed=0)
    >>> found["stage"], found["rows"], found["parent"], found["settings"]["batch_size"]
    ('sft', 1, None, 8)
    """
    return {
        "stage": stage,
        "parent": None if start is None else {"stage": start.stage, "sha256": start.fingerprint},
        "rows": len(texts),
        "data_sha256": data_sha256(texts),
        "seed": seed,
        "settings": asdict(settings),
        "versions": {library: version(library) for library in LIBRARIES},
    }


def data_sha256(texts: Texts) -> str:
    """sha256 (hex) of rows in their order: each a line of JSON, the prompt and then its completions.

    A completion that was cut stands in a list of its own.

    >>> from optimizers.training.tokenisation import Target
    >>> data_sha256([("a", (Target("b"),))]) == hashlib.sha256(b'["a", "b"]\\n').hexdigest()
    True
    >>> data_sha256([("a", (Target("b", cut=True),))]) == hashlib.sha256(b'["a", ["b"]]\\n').hexdigest()
    True
    """
    digest = hashlib.sha256()
    for prompt, completions in texts:
        digest.update(f"{json.dumps([prompt, *([text] if cut else text for text, cut in completions)])}\n".encode())
    return digest.hexdigest()
