"""Questions with lettered options: their form as examples, and the metric of the right letter."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence

import dspy

from optimizers.tasks.letters import read_letters


class ChooseAnOption(dspy.Signature):
    """Choose the option that answers the question."""

    question: str = dspy.InputField()
    options: str = dspy.InputField(desc="an option a line, each with its letter")
    answer: str = dspy.OutputField(desc="the letter of the right option")


def letter_options(texts: Sequence[str]) -> dict[str, str]:
    """Return the options by letter, from A; raise `ValueError` for more options than letters.

    >>> letter_options(["Paris", "Lima"])
    {'A': 'Paris', 'B': 'Lima'}
    """
    if len(texts) > len(string.ascii_uppercase):
        raise ValueError(f"{len(texts)} options are more than there are letters")
    return dict(zip(string.ascii_uppercase, texts, strict=False))


def make_choice_example(question: str, choices: Mapping[str, str], answer: str, **more: object) -> dspy.Example:
    """Return an example with its options as text for the program and by letter for the metric.

    `answer` is the right letter.

    >>> make_choice_example("Capital of France?", {"A": "Paris", "B": "Lima"}, "A").options
    'A. Paris\\nB. Lima'
    """
    text = "\n".join(f"{letter}. {text}" for letter, text in choices.items())
    example = dspy.Example(question=question, options=text, choices=dict(choices), answer=answer, **more)
    return example.with_inputs("question", "options")


def right_letter(example: dspy.Example, prediction: dspy.Prediction, *_: object, **__: object) -> dspy.Prediction:
    """Score 1.0 if the answer chooses the right option and no other, else 0.0; see `letters.read_letters`.

    If several options have the same text, each counts as right if one of them is.

    >>> example = make_choice_example("Capital of France?", {"A": "Paris", "B": "Lima"}, "A")
    >>> right_letter(example, dspy.Prediction(answer="It is (B).")).feedback
    'Expected A (Paris). The answer chose B (Lima).'
    """
    choices: Mapping[str, str] = example.choices
    expected = f"Expected {example.answer} ({choices[example.answer]})."
    actual = str(prediction.get("answer", ""))
    letters = read_letters(actual, choices)
    if not letters:
        return dspy.Prediction(
            score=0.0, feedback=f"{expected} No option can be read from the answer {actual[:200]!r}."
        )
    if example.answer in letters and len({choices[letter] for letter in letters}) == 1:
        return dspy.Prediction(score=1.0, feedback=f"{example.answer} is right.")
    named = ", ".join(f"{letter} ({choices[letter]})" for letter in letters)
    return dspy.Prediction(score=0.0, feedback=f"{expected} The answer chose {named}.")
