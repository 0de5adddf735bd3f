"""Each example runs as its first lines say, in a fresh process, and shows what its page says of it.

They train for real, on two cores for about half a minute each.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from places import ROOT

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "examples"
SHARED = ("scripted_lm.py", "small.py")
"""What examples import."""

SCRIPTS = [each.name for each in sorted(EXAMPLES.glob("*.py")) if each.name not in SHARED]
NOTEBOOK = EXAMPLES / "quickstart.ipynb"
SECONDS = 600


def printed(name: str, folder: Path) -> str:
    """What an example prints, called from an empty folder."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONWARNINGS"}
    command = [sys.executable, str(EXAMPLES / name)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def numbers(pattern: str, text: str) -> list[int]:
    found = re.search(pattern, text)
    assert found, text
    return [int(each) for each in found.groups()]


@pytest.mark.parametrize("name", [*SCRIPTS, NOTEBOOK.name])
def test_an_example_is_on_its_page_and_shows_what_to_replace(name: str) -> None:
    assert f"`{name}`" in (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    replaced = [line for line in text.splitlines() if "yours:" in line]
    assert any("dspy.LM(" in line for line in replaced)
    assert any("Qwen/" in line for line in replaced)


@pytest.mark.parametrize("file", ["examples/scripted_lm.py", "docs/pictures.py"])
def test_the_doctests_of_a_script_hold(file: str) -> None:
    done = subprocess.run([sys.executable, "-m", "doctest", str(ROOT / file)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_retrieval_learns_what_to_tell_the_predictor_that_needs_it(tmp_path: Path) -> None:
    text = printed("rag_several_predictors.py", tmp_path)
    before, _, after = numbers(r"test: (\d+) of (\d+) right before, (\d+) after", text)
    assert after > before
    assert re.search(r"^found: \w+ with ", text, re.MULTILINE)


def test_the_agent_learns_what_to_ask_its_tools_for(tmp_path: Path) -> None:
    text = printed("react_agent.py", tmp_path)
    [before], [after] = (numbers(rf"{name}: (\d+) of \d+ test questions right", text) for name in ("before", "after"))
    assert after > before


def test_text_to_sql_shows_questions_that_became_right(tmp_path: Path) -> None:
    text = printed("text_to_sql.py", tmp_path)
    before, _, after = numbers(r"test: (\d+) of (\d+) before, (\d+) after", text)
    assert after > before
    assert len(re.findall(r"^  before: SELECT .*\n  advice: .+\n  after:  SELECT ", text, re.MULTILINE)) == 3


def test_the_adapter_that_comes_with_the_examples_helps_an_actor_that_it_never_met(tmp_path: Path) -> None:
    text = printed("trained_adapter.py", tmp_path)
    before, _, after = numbers(r"test: (\d+) of (\d+) right without supplements, (\d+) with them", text)
    assert after > before + 20
    assert len(re.findall(r"^  advice:   \[\w+\] .+", text, re.MULTILINE)) == 3


def test_the_comparison_prints_a_row_a_contender_and_leaves_a_page(tmp_path: Path) -> None:
    text = printed("compare.py", tmp_path)
    rows = {line.split()[0] for line in text.splitlines() if line.strip()}
    assert {"none", "cot", "bootstrap_fewshot", "sgt"} <= rows
    assert (tmp_path / text.splitlines()[-1].removeprefix("The page: ")).is_file()


def test_the_quickstart_says_which_stage_won(tmp_path: Path) -> None:
    text = printed("quickstart.py", tmp_path)
    assert re.search(r"^selected: (sft|dpo\d)$", text, re.MULTILINE)


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    book = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in book.cells)
    NotebookClient(book, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    [*_, last] = [output for cell in book.cells for output in cell.get("outputs", []) if output.get("name") == "stdout"]
    before, _, after = numbers(r"(\d+) of (\d+) right before, (\d+) after", last["text"])
    assert after > before
