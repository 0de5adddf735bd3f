"""Examples and outcomes from logs: JSON lines, MLflow's traces, and rows that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dspy
import pytest
from scripted import ScriptedEngine, reply

from optimizers import NearestWinner
from optimizers.core.result import result_of
from optimizers.sgt.log_reading import examples_of
from sgt_modules.errors import SetupError
from sgt_modules.kinds import Supplement


def row(number: int, score: float, supplement: str | None = None, **more: object) -> dict[str, object]:
    answer = str(number + 1) if score == 1 else "?"
    return {"inputs": {"question": f"{number}+1?"}, "output": {"answer": answer}, "score": score, **more} | (
        {} if supplement is None else {"supplement": supplement}
    )


def trace(value: object, *supplements: str, name: str = "exact") -> dict[str, object]:
    """A trace as MLflow 3.17 exports it, with what is read of it."""
    inputs = {"question": "2+1?"}

    def span(parent: str | None, inputs: object) -> dict[str, object]:
        attributes = {"mlflow.spanInputs": json.dumps(inputs), "mlflow.spanOutputs": json.dumps({"answer": "3"})}
        return {"parent_span_id": parent, "name": "span", "attributes": attributes}

    read = [span("root", {"inputs": {**inputs, "supplement": each}}) for each in supplements]
    feedback = {"assessment_name": name, "feedback": {"value": value}, "rationale": "Right."}
    return {"info": {"assessments": [feedback]}, "data": {"spans": [span(None, inputs), *read]}}


def test_a_good_output_is_the_label_and_each_row_with_a_supplement_is_an_outcome() -> None:
    found = examples_of([row(1, 0.0, "[cot] Guess."), row(1, 1.0, "Add."), row(2, 0.0), row(3, 1.0, " ")])
    assert [dict(each) for each in found.examples] == [
        {"question": "1+1?", "answer": "2"},
        {"question": "3+1?", "answer": "4"},
    ]
    assert list(found.examples[0].inputs().keys()) == ["question"]
    assert [(each.supplement, each.score) for each in found.outcomes] == [
        (Supplement("cot", "Guess."), 0.0),
        (Supplement("free", "Add."), 1.0),
    ]
    assert found.unlabelled == 1


def test_what_was_expected_is_the_label_whatever_the_score() -> None:
    found = examples_of([row(1, 0.0, expected={"answer": "2"}), row(1, 1.0, expected=None)])
    assert dict(found.examples[0]) == {"question": "1+1?", "answer": "2"}
    assert found.unlabelled == 0


def test_an_export_of_mlflow_and_its_own_trace_object_give_the_same() -> None:
    """The file is what `Trace.to_json` of MLflow 3.17 wrote, without its tags."""
    entities = pytest.importorskip("mlflow.entities")
    export = json.loads((Path(__file__).parents[1] / "doubles" / "mlflow_trace.json").read_text(encoding="utf-8"))
    found = examples_of([export])
    assert [dict(each) for each in found.examples] == [{"question": "2+2?", "answer": "4"}]
    assert [(each.supplement, each.feedback) for each in found.outcomes] == [(Supplement("cot", "Add."), "same")]
    assert examples_of([entities.Trace.from_dict(export)]).outcomes == found.outcomes


def test_traces_of_mlflow_give_inputs_output_score_and_the_supplement_that_was_read() -> None:
    found = examples_of([trace(True, "[cot] Add.")])
    assert dict(found.examples[0]) == {"question": "2+1?", "answer": "3"}
    [outcome] = found.outcomes
    assert (outcome.supplement, outcome.score, outcome.feedback) == (Supplement("cot", "Add."), 1.0, "Right.")
    assert examples_of([trace(1.0, "one", "two")]).outcomes == []
    with pytest.raises(SetupError, match=r"feedback 'other', got 1 without it, among \['exact'\]"):
        examples_of([trace(True)], score="other")


def test_a_trace_that_nobody_has_rated_is_left_out_and_counted() -> None:
    bare = trace(True)
    bare["info"] = {"assessments": []}
    text = trace(True)
    text["info"] = {"assessments": [{"assessment_name": "exact", "feedback": "good"}]}
    found = examples_of([bare, trace(True), text])
    assert (len(found.examples), found.unrated) == (1, 2)
    with pytest.raises(SetupError, match=r"feedback that is the score, got 2 without it, among \[\]"):
        examples_of([bare, text])


def test_feedback_that_somebody_revised_does_not_count() -> None:
    """MLflow keeps the first rating next to the second, as no longer valid."""
    revised: Any = trace(True)
    first = {**revised["info"]["assessments"][0], "feedback": {"value": False}, "valid": False}
    revised["info"]["assessments"].insert(0, first)
    assert len(examples_of([revised], score="exact").examples) == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "Expected a JSON object in .*line 2, got what is none"),
        ("[1]", r"Expected an object in .*line 2, got \[1\]"),
        ('{"score": 1}', "Expected 'inputs' as an object of fields in .*line 2, got none"),
        (
            '{"inputs": {"question": "a"}, "output": "4", "score": 1}',
            "Expected 'output' .*line 2, got '4'",
        ),
        ('{"inputs": {"question": "a"}, "output": {"answer": "4"}}', r"score in \[0, 1\] in .*line 2, got none"),
        ('{"inputs": {"question": "a"}, "score": NaN}', r"score in \[0, 1\] in .*line 2, got nan"),
        (f'{{"inputs": {{"question": "a"}}, "score": 1{"0" * 400}}}', r"score in \[0, 1\] in .*line 2, got 1000"),
        ('{"inputs": {"question": "a"}, "score": 1, "supplement": 3}', "supplement as a text in .*line 2, got 3"),
        ('{"info": {}, "data": {"spans": []}}', "root span in .*line 2, got 0 spans"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_by_its_line(tmp_path: Path, line: str, said: str) -> None:
    log = tmp_path / "traces.jsonl"
    log.write_text(f"{json.dumps(row(1, 1.0))}\n{line}\n", encoding="utf-8")
    with pytest.raises(SetupError, match=said):
        examples_of(log)


def test_a_log_trains_a_lookup_without_a_call_for_what_it_knows(tmp_path: Path) -> None:
    log = tmp_path / "traces.jsonl"
    log.write_text("".join(f"{json.dumps(row(n, 1.0, '[cot] Add.'))}\n" for n in range(6)), encoding="utf-8")
    found = examples_of(log)
    actor = ScriptedEngine(
        lambda text: reply(answer=str(int(text.rpartition("+1?")[0].split()[-1]) + 1) if "Add." in text else "?")
    )
    student = dspy.Predict("question -> answer")
    student.set_lm(actor.lm())
    validation = [dspy.Example(question=f"{n}+1?", answer=str(n + 1)).with_inputs("question") for n in (20, 21)]
    metric = lambda example, prediction, trace=None: example.answer == prediction.answer  # noqa: E731
    nearest = NearestWinner(metric, neighbours=(1,), log_dir=tmp_path / "run", display_progress=False)
    better = nearest.compile(student, trainset=found.examples, valset=validation, logged=found.outcomes)
    assert result_of(better).best.score == 1.0
    assert len(actor.asked) == 6 + 2 + 2
