"""What the generator reads: the compact text of the embedded generator, and the default one for real models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from typing import Literal

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgt_modules.errors import SavedStateError, SetupError
from sgt_modules.generator_prompt import COMPACT, LEAST, NOTE, SHORTENED, GeneratorPrompt
from sgt_modules.kinds import FREE, KINDS, Kind
from sgt_modules.prompts import SUPPLEMENT, with_supplement


class Sum(dspy.Signature):
    """Add the numbers."""

    numbers: list[int] = dspy.InputField(desc="what to add")
    note: str = dspy.InputField(default="none")
    total: int = dspy.OutputField()


def test_the_prompt_is_the_instructions_and_each_input_on_its_line() -> None:
    assert COMPACT.write(Sum, {"numbers": [1, 2], "note": "fast"}).splitlines(keepends=True) == [
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
    plain = COMPACT.write(Sum, {"numbers": [1], "note": "x"})
    assert COMPACT.asking(COMPACT.write(Sum, {"numbers": [1], "note": "x"}), kind) == f"{plain}\n{line}"


def test_a_predictor_of_a_larger_program_is_named_with_its_fields_below_the_task() -> None:
    inputs = {"numbers": [1], "note": "x"}
    prompt = COMPACT.write(with_supplement(Sum), inputs, role="steps[0].predict")
    task, role, numbers = prompt.splitlines()[1:4]
    assert (task, numbers) == ("Task: Add the numbers.", "numbers: [1]")
    assert role == "Role: steps[0].predict (numbers, note -> total)"
    assert prompt.replace(f"{role}\n", "") == COMPACT.write(Sum, inputs)


@pytest.mark.parametrize("role", ["", "self"])
def test_a_bare_predictor_has_no_role_to_tell(role: str) -> None:
    assert "Role:" not in COMPACT.write(Sum, {}, role=role)


def test_the_kind_that_exploration_names_stands_below_all_else() -> None:
    prompt = COMPACT.asking(COMPACT.write(Sum, {"numbers": [1], "note": "x"}, role="add"), FREE)
    assert [line.partition(":")[0] for line in prompt.splitlines()[1:]] == ["Task", "Role", "numbers", "note", "Kind"]


def test_an_input_that_is_not_there_reads_as_its_default_or_as_empty() -> None:
    assert COMPACT.write(Sum, {}).splitlines()[2:] == ["numbers: ", "note: none"]


def test_the_supplement_itself_is_never_shown_to_the_generator() -> None:
    inputs = {"numbers": [1], "note": "x"}
    assert COMPACT.write(with_supplement(Sum), {**inputs, SUPPLEMENT: "old"}) == COMPACT.write(Sum, inputs)


def test_records_and_unknown_objects_become_text() -> None:
    history = dspy.History(messages=[{"q": "é"}])
    signature = dspy.Signature("history: dspy.History, path -> answer", "Go.")
    prompt = COMPACT.write(signature, {"history": history, "path": {1j}})
    assert prompt.splitlines()[2:] == ['history: {"messages": [{"q": "é"}]}', 'path: ["1j"]']


_HELD = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
STORABLE = st.text(_HELD)
"""What a database can hold; the rest is replaced."""


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.sampled_from(["question", "context"]), STORABLE, min_size=2))
def test_text_inputs_stand_in_the_prompt_as_they_are(inputs: Mapping[str, str]) -> None:
    prompt = COMPACT.write(dspy.Signature("question, context -> answer"), inputs)
    assert prompt.endswith(f"question: {inputs['question']}\ncontext: {inputs['context']}")


@pytest.mark.parametrize("unstorable", ["\0", "\ud800"])
def test_what_no_database_holds_is_replaced_in_a_prompt(unstorable: str) -> None:
    prompt = COMPACT.write(dspy.Signature("question -> answer"), {"question": f"2{unstorable}2"})
    assert prompt.splitlines()[-1] in ("question: 2\ufffd2", "question: 2?2")


class Level(Enum):
    LOW = "low"
    HIGH = "high"


class Judge(dspy.Signature):
    """Judge the claim."""

    claim: str = dspy.InputField(desc="what somebody said")
    verdict: Literal["true", "false", "unknown"] = dspy.OutputField(desc="your judgement")
    sure: bool = dspy.OutputField()
    level: Level | None = dspy.OutputField()
    reason: str = dspy.OutputField()


def test_the_default_prompt_tells_what_each_output_is_and_which_values_it_may_take() -> None:
    lines = NOTE.write(Judge, {"claim": "Water is wet."}).splitlines()
    assert "claim (what somebody said): Water is wet." in lines
    written = [line.removeprefix("The other model writes: ") for line in lines if "model writes: " in line]
    assert written == [
        "verdict (your judgement; one of: true, false, unknown)",
        "sure (one of: true, false)",
        "level (one of: low, high)",
        "reason",
    ]


def test_the_default_prompt_says_how_long_and_in_which_form() -> None:
    text = replace(NOTE, max_words=25).write(Judge, {})
    assert "25 words" in text
    assert "kind in brackets" in text


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_exploration_names_the_kind_and_its_instruction(kind: Kind) -> None:
    base = NOTE.write(Judge, {"claim": "x"})
    asked = NOTE.asking(base, kind)
    assert asked.startswith(f"{base}\n")
    added = asked.removeprefix(base)
    assert f"[{kind.name}]" in added
    assert kind.instruction in added
    assert ("Do not give the answer" in added) == (kind.name != "answer")
    assert NOTE.opening(kind) == f"[{kind.name}]"


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_a_prompt_may_show_each_kind_s_example(kind: Kind) -> None:
    showing = replace(NOTE, kind="{instruction} For example: [{kind}] {example}")
    assert showing.asking("Task.", kind) == f"Task.\n{kind.instruction} For example: [{kind.name}] {kind.example}"
    assert kind.example


def test_free_style_is_opened_with_a_bracket_and_a_new_kind_with_its_name() -> None:
    assert [NOTE.opening(kind) for kind in (FREE, "riddle", None)] == ["[", "[riddle]", ""]
    assert "[riddle]" in NOTE.asking("Task.", "riddle")
    assert NOTE.asking("Task.", None) == "Task."


def test_the_embedded_generator_writes_its_kind_by_itself() -> None:
    assert [COMPACT.opening(kind) for kind in (*KINDS.values(), FREE, "riddle")] == [""] * 10


def _words(text: str) -> int:
    return len(text.split())


def test_the_longest_input_is_shortened_in_the_middle_until_the_prompt_fits() -> None:
    signature = dspy.Signature("page, question -> answer", "Answer.")
    inputs = {"page": " ".join(map(str, range(2000))), "question": "Which number is the last one?"}
    text = NOTE.write(signature, inputs, limit=300, count=_words)
    assert _words(text) <= 300
    assert text.count(SHORTENED) == 1
    assert "page: 0 1 2 3" in text
    assert "1998 1999\n" in text
    assert "Which number is the last one?" in text
    assert NOTE.write(signature, inputs, limit=300, count=_words) == text


def test_a_prompt_that_fits_is_left_alone() -> None:
    inputs = {"numbers": [1, 2], "note": "fast"}
    assert NOTE.write(Sum, inputs, limit=1000, count=_words) == NOTE.write(Sum, inputs)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(_HELD, max_size=3000), min_size=2, max_size=2), st.integers(0, 400))
def test_shortening_ends_and_keeps_both_ends_of_every_input(inputs: list[str], limit: int) -> None:
    signature = dspy.Signature("first, second -> answer", "Answer.")
    text = NOTE.write(signature, dict(zip(("first", "second"), inputs, strict=True)), limit=limit, count=len)
    assert all(each[:LEAST] in text and each[len(each) - min(LEAST, len(each)) :] in text for each in inputs)


def test_a_saved_prompt_comes_back_and_a_strange_one_is_refused() -> None:
    own = GeneratorPrompt(introduction="Advise in {words} words.", max_words=9, opens=False)
    assert GeneratorPrompt.load_state(own.dump_state()) == own
    for state, said in (
        ({"introduction": 3}, "introduction"),
        ({"words": "x"}, "words"),
        ({"max_words": 0}, "max_words"),
        ({"opens": "yes"}, "opens"),
        ({"temperature": 0}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ([], "mapping"),
    ):
        with pytest.raises(SavedStateError, match=said):
            GeneratorPrompt.load_state(state)


def test_a_template_that_names_an_unknown_part_is_refused() -> None:
    with pytest.raises(SetupError, match=r"Expected kind to be a text with \{kind\}.*Write a brace"):
        GeneratorPrompt(kind="{name}: {instruction}")
    with pytest.raises(SetupError, match="max_words"):
        GeneratorPrompt(max_words=0)
