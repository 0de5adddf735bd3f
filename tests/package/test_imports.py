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


FIRST_USED_LATER = (
    "optimizers.core.events", "optimizers.session", "optimizers.store", "sgt_modules.embedded", "sgt_modules.service",
    "sqlite3", "torch", "transformers",
)  # fmt: skip
"""What a program needs at the earliest when it compiles, or asks for the embedded models."""


def test_public_names_are_loaded_at_their_first_use_and_all_there() -> None:
    code = (
        "import sys, sgt_modules, optimizers\n"
        "assert 'dspy' not in sys.modules\n"
        "for package in (sgt_modules, optimizers):\n"
        "    assert all(hasattr(package, name) for name in package.__all__)\n"
        "    assert not hasattr(package, 'nothing')\n"
        "print('dspy' in sys.modules)\n"
        f"print([name for name in {FIRST_USED_LATER} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["True", "[]"]
