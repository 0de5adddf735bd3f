"""Rows of public data sets, where the environment variable SGT_REAL_DATA names their folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest


def real_folder(name: str) -> Path:
    """A data set's folder; without it, the test is skipped."""
    home = os.environ.get("SGT_REAL_DATA")
    if not home or not (Path(home) / name).is_dir():
        pytest.skip(f"SGT_REAL_DATA names no folder that holds {name}")
    return Path(home) / name


def real_rows(name: str, file: str) -> list[dict[str, Any]]:
    """The rows of one of its files, as they are written."""
    return [json.loads(line) for line in (real_folder(name) / file).read_text(encoding="utf-8").splitlines()]
