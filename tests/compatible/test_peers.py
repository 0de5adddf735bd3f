"""The run of DSPy's own tests on supplemented programs: what it supplements, and which outcomes are faults."""

from __future__ import annotations

from pathlib import Path

import pytest
from peers import COPIES, INHERENT, PREDICTORS, PROGRAMS, WAYS, Inherent, Outcomes, faults, main, outcomes

THEIRS = """
import dspy
from dspy.utils.dummies import DummyLM

class Program(dspy.Module):
    def __init__(self):
        self.steps = dspy.ChainOfThought("question -> answer")

    def forward(self, question):
        return self.steps(question=question)

def test_answers():
    lm = DummyLM([{"reasoning": "Add.", "answer": "4"}])
    with dspy.context(lm=lm):
        assert Program()(question="2+2?").answer == "4"

def test_reads_nothing_else():
    lm = DummyLM([{"reasoning": "Add.", "answer": "4"}])
    with dspy.context(lm=lm):
        Program()(question="2+2?")
    assert "Read it twice." not in str(lm.history[-1]["messages"])

def test_is_a_plain_predictor():
    assert type(Program().steps.predict) is dspy.Predict

def test_what_dspy_makes_for_itself_is_plain():
    made = {"__name__": "dspy.teleprompt.some", "dspy": dspy}
    exec("predict = dspy.ChainOfThought('question -> answer').predict", made)
    assert type(made["predict"]) is dspy.Predict

def test_is_not_copied():
    kept = []
    class Keeping(Program):
        def __init__(self):
            super().__init__()
            kept.append(self)
    assert Keeping() is kept[0]

def test_fails():
    assert False
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "dspy").mkdir()
    (folder / "dspy" / "__init__.py").write_text("raise ImportError('This is not the installed dspy.')")
    (folder / "test_theirs.py").write_text(THEIRS, encoding="utf-8")
    return folder


LOST = {
    COPIES: {"test_is_not_copied"},
    "predictors-silent": {"test_is_a_plain_predictor"},
    "programs-note": {"test_is_a_plain_predictor", "test_reads_nothing_else", "test_is_not_copied"},
}


@pytest.mark.slow
def test_each_way_changes_what_a_test_makes_and_nothing_that_dspy_makes_for_itself(checkout: Path) -> None:
    bare = outcomes(checkout, ["test_theirs.py"], None)
    assert bare.counts == "5 passed, 1 failed, 0 skipped"
    assert bare.reached == 0
    for way in LOST:
        other = outcomes(checkout, ["test_theirs.py"], way)
        lost = {test.rpartition("::")[2] for test in bare.ending("passed") - other.ending("passed")}
        assert lost == LOST[way], way
        assert other.reached == 4, way


def test_a_folder_without_tests_stops_with_the_words_of_pytest(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"(?s)Expected pytest to run tests/predict in .*not found: tests/predict"):
        outcomes(tmp_path, ["tests/predict"], None)


@pytest.mark.parametrize("arguments", [[], ["no/such/folder"]])
def test_without_a_checkout_the_command_says_how_to_call_it(arguments: list[str]) -> None:
    with pytest.raises(
        SystemExit, match=r"Expected the folder of a checkout of DSPy, got (?s:.*)pip install pytest-asyncio"
    ):
        main(arguments)


KNOWN = (Inherent("b", PROGRAMS, "It reads the prompt."),)


def test_a_fault_is_a_failure_that_is_not_known_or_a_known_one_that_passes() -> None:
    bare = Outcomes({"a": "passed", "b": "passed", "c": "failed"}, 0)
    failing = Outcomes({"a": "failed", "b": "failed", "c": "failed"}, 3)
    passing = Outcomes({"a": "passed", "b": "passed", "c": "passed"}, 3)
    assert faults(bare, failing, PROGRAMS[0], KNOWN) == ["a passes bare and fails with programs-silent."]
    assert faults(bare, passing, PROGRAMS[0], KNOWN) == ["b passes with programs-silent: take it out of INHERENT."]
    assert faults(bare, passing, PREDICTORS[0], KNOWN) == []


def test_a_test_that_a_run_leaves_out_is_a_fault() -> None:
    assert faults(Outcomes({"a": "passed"}, 0), Outcomes({}, 0), COPIES, ()) == ["a passes bare and fails with copies."]


def test_each_known_one_is_listed_once_with_its_reason_and_ways() -> None:
    assert len({each.test for each in INHERENT}) == len(INHERENT)
    assert all(each.reason.endswith(".") and each.ways and set(each.ways) <= set(WAYS) for each in INHERENT)
