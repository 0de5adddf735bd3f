"""Add the supplement field to a signature, remove it, and render a supplement for the actor. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields

import dspy

from sgt_modules.errors import SetupError
from sgt_modules.saving.state_checks import check_mapping, read_text

SUPPLEMENT = "supplement"
"""The name of the input field that carries the supplement to the actor."""


@dataclass(frozen=True, slots=True)
class Template:
    """How the actor reads a supplement: the description of its field, and a text that contains `{supplement}`.

    Raises `SetupError` if the text does not contain `{supplement}`.

    >>> Template("A hint.", "Hint (it may be wrong): {supplement}").shown("Count twice.")
    'Hint (it may be wrong): Count twice.'
    """

    description: str = "Advice for this input from a small model. It may be wrong."
    text: str = "{supplement}"

    def __post_init__(self) -> None:
        if "{supplement}" not in self.text:
            raise SetupError(f"Expected a text with {{supplement}} in it, got {self.text!r}. Say where it goes.")

    @classmethod
    def of_state(cls, state: object) -> Template:
        """Load the template of a saved program; the default template if the state has none."""
        values = check_mapping(state or {}, "a template's state")
        texts = {each.name: read_text(values, each.name) for each in fields(cls) if each.name in values}
        return cls(**texts)

    def shown(self, supplement: str) -> str:
        """Return the field's value for a supplement's text; an empty string for an empty text."""
        return self.text.replace("{supplement}", supplement) if supplement.strip() else ""


ADVICE = Template()
"""The default template."""


def check_template(template: Template) -> Template:
    """Return the template; raise `SetupError` if it is not a `Template`."""
    if not isinstance(template, Template):
        raise SetupError(f"Expected a Template, got {template!r}. Write Template(text='Hint: {{supplement}}').")
    return template


def with_supplement(signature: type[dspy.Signature], template: Template = ADVICE) -> type[dspy.Signature]:
    """Add the supplement field as the last input; return the same signature if it has the field already.

    >>> list(with_supplement(dspy.Signature("question -> answer")).input_fields)
    ['question', 'supplement']
    """
    if SUPPLEMENT in signature.input_fields:
        return signature
    field = dspy.InputField(desc=template.description)
    return _keep_instructions(signature, signature.append(SUPPLEMENT, field, str))


def without_supplement(signature: type[dspy.Signature]) -> type[dspy.Signature]:
    """Undo `with_supplement` and keep the instructions; return the same signature if it has no such field.

    >>> without_supplement(with_supplement(dspy.Signature("question -> answer"))).signature
    'question -> answer'
    """
    if SUPPLEMENT not in signature.input_fields:
        return signature
    return _keep_instructions(signature, signature.delete(SUPPLEMENT))


def _keep_instructions(old: type[dspy.Signature], new: type[dspy.Signature]) -> type[dspy.Signature]:
    """Copy the instructions: where they are empty, DSPy writes its own, which name every field."""
    new.instructions = old.instructions
    return new
