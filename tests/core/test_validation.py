"""Everything that can be found before the first paid call is found there, and the error names the remedy."""

from __future__ import annotations

import logging
import random

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import ScriptedEngine, reply

from optimizers.core.validation import check_examples, check_program, check_splits, hold_out
from sgt_modules.errors import (
    EmptyTrainsetError,
    ExampleError,
    NoActorError,
    NoPredictorError,
    OverlappingSplitsError,
    SetupError,
)


def example(question: str, answer: str = "4") -> dspy.Example:
    return dspy.Example(question=question, answer=answer).with_inputs("question")


class TwoSteps(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plan = dspy.Predict("question -> plan")
        self.solve = dspy.ChainOfThought("question, plan -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        return self.solve(question=question, plan=self.plan(question=question).plan)


def actor() -> dspy.LM:
    return ScriptedEngine(lambda text: reply(answer="4")).lm()


def test_good_splits_pass() -> None:
    check_splits([example("a"), example("a")], [example("b")], [example("c")])


def test_an_empty_trainset_says_so() -> None:
    with pytest.raises(EmptyTrainsetError, match=r"trainset is empty.*Pass some examples"):
        check_splits([], [example("a")])


def test_another_empty_split_says_which() -> None:
    with pytest.raises(SetupError, match=r"valset is empty.*or leave it out"):
        check_splits([example("a")], [])


def test_the_same_inputs_in_two_splits_are_named_by_their_places_whatever_their_labels() -> None:
    train, val = [example("a"), example("b")], [example("c"), example("b", answer="5")]
    with pytest.raises(
        OverlappingSplitsError, match=r"1 example has .* trainset\[1\] = valset\[1\]\. .*give each split"
    ):
        check_splits(train, val)
    with pytest.raises(OverlappingSplitsError, match=r"trainset\[0\] = testset\[0\]"):
        check_splits(train, [example("c")], [example("a")])


def test_many_overlaps_are_counted_and_not_all_listed() -> None:
    examples = [example(str(n)) for n in range(30)]
    with pytest.raises(OverlappingSplitsError, match=r"30 examples have .*trainset\[4\] = valset\[4\], \.\.\.\."):
        check_splits(examples, examples)


def test_an_example_without_inputs_is_named_with_its_fields() -> None:
    with pytest.raises(ExampleError, match=r"trainset\[1\] does not say .*\(question, answer\).*Call \.with_inputs"):
        check_splits([example("a"), dspy.Example(question="b", answer="4")], [example("c")])


def test_inputs_that_the_example_lacks_are_found() -> None:
    with pytest.raises(ExampleError, match=r"has none of the fields it names as inputs; it has answer"):
        check_examples([dspy.Example(answer="4").with_inputs("question")])


@pytest.mark.parametrize("other", [{"question": "a"}, "a", dspy.Prediction(question="a")])
def test_what_is_no_example_is_named(other: object) -> None:
    with pytest.raises(ExampleError, match=r"trainset\[0\]"):
        check_examples([other])  # pyright: ignore[reportArgumentType]  # the mistake under test


@settings(deadline=None)
@given(st.lists(st.integers(0, 20), min_size=2, max_size=30), st.floats(0.05, 0.95), st.integers(0, 9))
def test_holding_out_parts_the_examples_without_overlap(numbers: list[int], share: float, seed: int) -> None:
    examples = [example(str(number)) for number in numbers]
    if len(set(numbers)) < 2:
        with pytest.raises(EmptyTrainsetError, match="Pass more examples, or a valset"):
            hold_out(examples, rng=random.Random(seed), share=share)
        return
    train, val = hold_out(examples, rng=random.Random(seed), share=share)
    check_splits(train, val)
    assert sorted(e.question for e in [*train, *val]) == sorted(map(str, numbers))
    assert (train, val) == hold_out(examples, rng=random.Random(seed), share=share)


def test_a_program_with_an_actor_for_each_predictor_passes() -> None:
    with dspy.context(lm=actor()):
        check_program(TwoSteps(), [example("a")])
    program = TwoSteps()
    program.set_lm(actor())
    with dspy.context(lm=None):
        check_program(program)


def test_a_checked_program_gives_dspy_nothing_to_warn_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """DSPy says that `forward` should not be called by hand, wherever it is looked up."""
    warned: list[str] = []
    monkeypatch.setattr(logging.getLogger("dspy.primitives.module"), "handle", lambda record: warned.append(record.msg))
    with dspy.context(lm=ScriptedEngine(lambda _: reply(answer="a")).lm()):
        check_program(dspy.ChainOfThought("question -> answer"), [dspy.Example(question="q").with_inputs("question")])
    assert warned == []


def test_a_predictor_without_an_actor_is_named() -> None:
    program = TwoSteps()
    program.plan.lm = actor()
    with dspy.context(lm=None), pytest.raises(NoActorError, match=r"'solve\.predict' needs an LM.*dspy\.configure"):
        check_program(program)


def test_a_model_s_name_in_an_lm_s_place_is_no_actor() -> None:
    with dspy.context(lm="openai/gpt-5-mini"), pytest.raises(NoActorError, match="the text 'openai/gpt-5-mini' came"):
        check_program(TwoSteps())


def test_a_program_without_predictors_is_refused() -> None:
    with pytest.raises(NoPredictorError, match=r"no dspy\.Predict that could read a supplement"):
        check_program(dspy.Module())


def test_a_signature_or_a_class_is_no_program() -> None:
    for other in ("question -> answer", TwoSteps):
        with pytest.raises(NoPredictorError, match=r"Expected a dspy\.Module"):
            check_program(other)  # pyright: ignore[reportArgumentType]  # the mistake under test


@pytest.mark.parametrize("program", [TwoSteps(), dspy.Predict("question, table -> answer")])
def test_inputs_the_program_does_not_take_are_found(program: dspy.Module) -> None:
    other = dspy.Example(query="a").with_inputs("query")
    with (
        dspy.context(lm=actor()),
        pytest.raises(ExampleError, match=r"cannot be called with the inputs of example 0 \(query\)"),
    ):
        check_program(program, [other])
