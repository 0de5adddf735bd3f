"""Real instruct models as Hugging Face folders, where the environment variable SGT_REAL_MODELS names their folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ACTOR, GENERATOR = "qwen2.5-coder-0.5b", "smollm2-135m"


def real_model(name: str) -> Path:
    """A model's folder; without it, the test is skipped. Mark such a test with `pytest.mark.real_model`."""
    home = os.environ.get("SGT_REAL_MODELS")
    if not home or not (Path(home) / name / "config.json").is_file():
        pytest.skip(
            f"SGT_REAL_MODELS names no folder that holds {name}. Get it with `hf download Qwen/"
            f"Qwen2.5-Coder-0.5B-Instruct --local-dir FOLDER/{ACTOR}`, or HuggingFaceTB/SmolLM2-135M-Instruct for "
            f"{GENERATOR}, and set SGT_REAL_MODELS=FOLDER"
        )
    return Path(home) / name
