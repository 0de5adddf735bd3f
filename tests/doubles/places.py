"""Where the project's files are, for tests that read them or start a script from among them."""

import os
from pathlib import Path

DOUBLES = Path(__file__).parent
TESTS = DOUBLES.parent
ROOT = TESTS.parent

FOLDERS = sorted(each for each in TESTS.rglob("*") if each.is_dir() and each.name != "__pycache__")

PATHS = os.pathsep.join(map(str, (TESTS, *FOLDERS, ROOT)))
"""A PYTHONPATH for another process, with which it finds the doubles, every test module and the packages."""
