"""Importing the packages is light: torch and what it brings come only when a model is used."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("package", ["sgt_modules", "optimizers", "optimizers.cli", "sgt_modules.embedded"])
def test_importing_a_package_loads_no_torch(package: str) -> None:
    code = f"import sys, {package}; print(sorted({{'torch', 'transformers', 'trl', 'peft'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
