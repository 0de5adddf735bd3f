"""Where the project's files are, for tests that read them or start a script from among them."""

import os
from pathlib import Path

DOUBLES = Path(__file__).parent
TESTS = DOUBLES.parent
ROOT = TESTS.parent

PATHS = os.pathsep.join(map(str, (DOUBLES, TESTS, ROOT)))
"""A PYTHONPATH for a process of its own, in which the doubles and the packages are found."""
