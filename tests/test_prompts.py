from __future__ import annotations

from collections.abc import Mapping

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgt_modules.errors import SetupError
from sgt_modules.kinds import FREE, KINDS, Kind
from sgt_modules.prompts import ADVICE, SUPPLEMENT, Template, generator_prompt, with_supplement, without_supplement


class Sum(dspy.Signature):
    """Add the numbers."""

    numbers: list[int] = dspy.InputField(desc="what to add")
    note: str = dspy.InputField(default="none")
    total: int = dspy.OutputField()


def test_the_prompt_is_the_instructions_and_each_input_on_its_line() -> None:
    assert generator_prompt(Sum, {"numbers": [1, 2], "note": "fast"}).splitlines(keepends=True) == [
        "Write a supplement that helps another model with this task.\n",
        "Task: Add the numbers.\n",
        "numbers: [1, 2]\n",
        "note: fast",
    ]


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (KINDS["mistakes"], "Kind: mistakes. Name the likely mistakes and how to avoid them."),
        (Kind("own", "Do it."), "Kind: own. Do it."),
        (FREE, "Kind: a new one of your choice."),
        ("riddle", "Kind: riddle."),
    ],
)
def test_only_exploration_names_a_kind_on_the_last_line(kind: Kind | str, line: str) -> None:
    plain = generator_prompt(Sum, {"numbers": [1], "note": "x"})
    assert generator_prompt(Sum, {"numbers": [1], "note": "x"}, kind=kind) == f"{plain}\n{line}"


def test_a_predictor_of_a_larger_program_is_named_with_its_fields_below_the_task() -> None:
    inputs = {"numbers": [1], "note": "x"}
    prompt = generator_prompt(with_supplement(Sum), inputs, role="steps[0].predict")
    task, role, numbers = prompt.splitlines()[1:4]
    assert (task, numbers) == ("Task: Add the numbers.", "numbers: [1]")
    assert role == "Role: steps[0].predict (numbers, note -> total)"
    assert prompt.replace(f"{role}\n", "") == generator_prompt(Sum, inputs)


@pytest.mark.parametrize("role", ["", "self"])
def test_a_bare_predictor_has_no_role_to_tell(role: str) -> None:
    assert "Role:" not in generator_prompt(Sum, {}, role=role)


def test_the_kind_that_exploration_names_stands_below_all_else() -> None:
    prompt = generator_prompt(Sum, {"numbers": [1], "note": "x"}, kind=FREE, role="add")
    assert [line.partition(":")[0] for line in prompt.splitlines()[1:]] == ["Task", "Role", "numbers", "note", "Kind"]


def test_an_input_that_is_not_there_reads_as_its_default_or_as_empty() -> None:
    assert generator_prompt(Sum, {}).splitlines()[2:] == ["numbers: ", "note: none"]


def test_the_supplement_itself_is_never_shown_to_the_generator() -> None:
    inputs = {"numbers": [1], "note": "x"}
    assert generator_prompt(with_supplement(Sum), {**inputs, SUPPLEMENT: "old"}) == generator_prompt(Sum, inputs)


def test_records_and_unknown_objects_become_text() -> None:
    history = dspy.History(messages=[{"q": "é"}])
    signature = dspy.Signature("history: dspy.History, path -> answer", "Go.")
    prompt = generator_prompt(signature, {"history": history, "path": {1j}})
    assert prompt.splitlines()[2:] == ['history: {"messages": [{"q": "é"}]}', 'path: ["1j"]']


def test_the_field_is_the_last_input_and_is_added_once() -> None:
    once = with_supplement(Sum)
    assert list(once.fields) == ["numbers", "note", SUPPLEMENT, "total"]
    assert with_supplement(once) is once


def test_a_template_says_what_the_field_is_and_puts_the_supplement_where_its_name_stands() -> None:
    template = Template("A friend's hint.", "They say: {supplement} (not {checked})")
    field = with_supplement(Sum, template).input_fields[SUPPLEMENT]
    assert field.json_schema_extra["desc"] == "A friend's hint."
    assert template.shown("{supplement}, 4") == "They say: {supplement}, 4 (not {checked})"
    assert [template.shown(empty) for empty in ("", " \n")] == ["", ""]
    assert ADVICE.shown("As it is.") == "As it is."


def test_a_template_without_a_place_for_the_supplement_is_refused() -> None:
    with pytest.raises(SetupError, match=r"Expected a text with \{supplement\} in it, got 'Hint:'"):
        Template(text="Hint:")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from("abcdef"), min_size=1, unique=True), st.text())
def test_taking_the_field_out_restores_the_signature(inputs: list[str], instructions: str) -> None:
    signature = dspy.Signature(f"{', '.join(inputs)} -> answer", instructions or None)
    restored = without_supplement(with_supplement(signature))
    assert restored.equals(signature)
    assert restored.instructions == signature.instructions
    assert without_supplement(signature) is signature


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.sampled_from(["question", "context"]), st.text(), min_size=2))
def test_text_inputs_stand_in_the_prompt_as_they_are(inputs: Mapping[str, str]) -> None:
    prompt = generator_prompt(dspy.Signature("question, context -> answer"), inputs)
    assert prompt.endswith(f"question: {inputs['question']}\ncontext: {inputs['context']}")
