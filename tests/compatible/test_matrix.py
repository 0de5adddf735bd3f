"""The rows of `make test-matrix`, which itself is too slow for every day."""

from __future__ import annotations

import tomllib

import pytest
from matrix import BOUND, ROOT, ROWS, TESTS, oldest, pins
from packaging.requirements import Requirement

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("name", BOUND)
def test_the_oldest_row_pins_the_lower_bound_and_what_is_tested_lies_in_the_range(name: str) -> None:
    [asked] = [each for each in map(Requirement, PROJECT["dependencies"]) if each.name == name]
    [pinned] = [Requirement(each) for each in oldest(PROJECT["dependencies"]) if Requirement(each).name == name]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    [tested] = [line.partition("==")[2] for line in lines if line.startswith(f"{name}==")]
    assert {each.operator for each in asked.specifier} == {">=", "<"}
    assert [each.version for each in asked.specifier if each.operator == ">="] == [
        each.version for each in pinned.specifier
    ]
    assert tested in asked.specifier


def test_every_python_that_is_promised_has_a_row_and_every_row_runs_tests_that_are_there() -> None:
    promised = [each.rpartition(" ")[2] for each in PROJECT["classifiers"] if "Python :: 3." in each]
    assert {*promised} <= {row.python for row in ROWS}
    assert all((ROOT / each).is_file() for each in TESTS)
    assert all("torch==2.13.0" in pins(row) for row in ROWS)
