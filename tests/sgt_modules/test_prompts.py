from __future__ import annotations

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgt_modules.errors import SetupError
from sgt_modules.prompts import ADVICE, SUPPLEMENT, Template, with_supplement, without_supplement


class Sum(dspy.Signature):
    """Add the numbers."""

    numbers: list[int] = dspy.InputField(desc="what to add")
    note: str = dspy.InputField(default="none")
    total: int = dspy.OutputField()


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
