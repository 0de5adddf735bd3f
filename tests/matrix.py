"""The versions that pyproject.toml admits: `make test-matrix`, or `python tests/matrix.py [ROW ...]`.

Each row makes a virtual environment of its own under `.matrix/`, installs the package, and runs a part of the tests
that touches every call of dspy, trl, peft and transformers. The oldest row pins these four at the lower bounds of their
ranges, the newest takes what pip finds within them, the tested row what constraints.txt says. Not in CI: a row takes
minutes, and its Python must be here. To get PyTorch's build for a CPU, let pip find it first (PIP_FIND_LINKS).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[1]
BOUND = ("dspy", "dspy-ai", "peft", "transformers", "trl")
NEEDS = ("hypothesis>=6.100", "psycopg[binary]>=3.1", "pytest>=8.3")
TORCH = "torch==2.13.0"
TESTS = (
    "tests/sgt_modules/local/test_engine.py",
    "tests/sgt_modules/test_generator.py",
    "tests/training/test_model_shapes.py",
    "tests/sgt_modules/local/test_load_checks.py",
    "tests/sgt_modules/saving/test_saving.py",
    "tests/sgt/test_sgt.py",
    "tests/training/test_shared_base.py",
    "tests/training/test_shared_dpo.py",
    "tests/store/test_store.py",
    "tests/store/test_recovery.py",
    "tests/training/test_trl_trainer.py",
    "tests/sgt_modules/embedded/test_embedded_world.py",
    "tests/sgt_modules/test_wrapping.py",
)


@dataclass(frozen=True)
class Row:
    """A Python and the versions of a row."""

    python: str
    versions: Literal["oldest", "tested", "newest"]

    @property
    def name(self) -> str:
        """As it is called on the command line."""
        return f"{self.python}-{self.versions}"


ROWS = (Row("3.11", "oldest"), Row("3.11", "newest"), Row("3.12", "tested"), Row("3.13", "newest"))


def oldest(requirements: list[str]) -> list[str]:
    """The lower bounds of the packages that the matrix moves, as pins."""
    found = (re.match(r"([\w-]+)>=([\d.]+)", each) for each in requirements)
    return [f"{each[1]}=={each[2]}" for each in found if each and each[1] in BOUND]


def pins(row: Row) -> list[str]:
    """What pip is asked for beside the package itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tested = ["--constraint", str(ROOT / "constraints.txt")]
    own = {"oldest": oldest(project["dependencies"]), "tested": tested, "newest": ["--upgrade"]}
    return [TORCH, *NEEDS, *own[row.versions]]


def run(row: Row) -> bool:
    """Make the row's environment where it is not there, and run its tests in it."""
    folder = ROOT / ".matrix" / row.name
    python = folder / "bin" / "python"
    if not python.is_file():
        subprocess.run([f"python{row.python}", "-m", "venv", folder], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--editable", ROOT, *pins(row)], check=True)
    subprocess.run([python, "-m", "pip", "list", "--format", "freeze"], check=True, env={**os.environ, "COLUMNS": "80"})
    return subprocess.run([python, "-m", "pytest", *TESTS], cwd=ROOT).returncode == 0


def main(names: list[str]) -> int:
    """Run the rows of these names, or all; 1 if one fails."""
    known = {row.name: row for row in ROWS}
    if unknown := sorted(set(names) - known.keys()):
        print(f"Expected rows of {', '.join(known)}, got {', '.join(unknown)}.")
        return 2
    passed = {name: run(known[name]) for name in names or known}
    print("".join(f"{name:<14}{'passed' if each else 'FAILED'}\n" for name, each in passed.items()), end="")
    return 0 if all(passed.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
