from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import dspy
import pytest
from runtime_fixtures import scripted_lm, tiny_generator, tiny_model

from sgt_modules import SupplementedPredictor, SupplementGenerator, supplement, unsupplement
from sgt_modules.errors import NoPredictorError
from sgt_modules.predictor import episode
from sgt_modules.wrapping import supplemented, with_generator

GENERATOR = SupplementGenerator("some/model")


class Pipeline(dspy.Module):
    """Predictors as an attribute, in a list, in a dictionary, in a module, and one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = dspy.Predict("question -> draft")
        self.steps = [dspy.ChainOfThought("draft -> draft2"), self.first]
        self.named = {"last": dspy.Predict("draft2 -> answer")}
        self.lock = threading.Lock()

    def forward(self, question: str) -> dspy.Prediction:
        draft = self.first(question=question).draft
        return self.named["last"](draft2=self.steps[0](draft=draft).draft2)


def test_every_predictor_is_wrapped_once_under_its_own_name() -> None:
    program = Pipeline()
    wrapped = supplement(program, generator=GENERATOR)
    names = [name for name, _ in program.named_predictors()]
    assert [name for name, _ in wrapped.named_predictors()] == names == ["first", "steps[0].predict", "named['last']"]
    assert [(name, each.role) for name, each in supplemented(wrapped)] == [(name, name) for name in names]
    assert wrapped.steps[1] is wrapped.first
    assert all(each.generator is GENERATOR for _, each in supplemented(wrapped))


def test_the_users_program_is_left_alone() -> None:
    program = Pipeline()
    program.first.demos = [dspy.Example(question="q", draft="d")]
    wrapped = supplement(program, generator=GENERATOR)
    wrapped.reset_copy()
    wrapped.first.demos.append("more")
    wrapped.named["last"].signature = wrapped.named["last"].signature.with_instructions("New.")
    assert not supplemented(program)
    assert len(program.first.demos) == 1
    assert program.named["last"].signature.instructions != "New."
    assert wrapped.lock is program.lock


def test_demos_config_lm_and_callbacks_come_along() -> None:
    class Listener(dspy.utils.BaseCallback):
        pass

    lm, _ = scripted_lm("answer")
    program = dspy.Predict("question -> answer", callbacks=[Listener()], temperature=0.3)
    program.demos = [dspy.Example(question="q", answer="a")]
    program.lm = lm
    wrapped = supplement(program, generator=GENERATOR)
    assert (wrapped.config, wrapped.demos, wrapped.lm) == (program.config, program.demos, lm)
    assert (wrapped.callbacks, wrapped.stage) == (program.callbacks, program.stage)
    pipeline = Pipeline()
    pipeline.callbacks = [Listener()]
    assert supplement(pipeline, generator=GENERATOR).callbacks == pipeline.callbacks


def test_a_bare_predictor_becomes_a_new_root() -> None:
    wrapped = supplement(dspy.Predict("question -> answer"), generator=GENERATOR)
    assert isinstance(wrapped, SupplementedPredictor)
    assert wrapped.role == "self"


def test_only_the_named_predictors_are_wrapped() -> None:
    wrapped = supplement(Pipeline(), generator=GENERATOR, only=["first"])
    assert [name for name, _ in supplemented(wrapped)] == ["first"]
    with pytest.raises(NoPredictorError, match=r"named \['second'\].*'first'"):
        supplement(Pipeline(), generator=GENERATOR, only=["second"])


def test_a_program_without_predictors_is_refused() -> None:
    class Empty(dspy.Module):
        pass

    with pytest.raises(NoPredictorError, match=r"got Empty with none\. Build it from dspy\.Predict"):
        supplement(Empty(), generator=GENERATOR)


def test_frozen_parts_stay_as_they_are() -> None:
    program = Pipeline()
    program.steps[0]._compiled = True
    wrapped = supplement(program, generator=GENERATOR)
    assert type(wrapped.steps[0].predict) is dspy.Predict


def test_unwrapping_gives_the_plain_program_with_what_was_learned() -> None:
    program = Pipeline()
    wrapped = supplement(program, generator=GENERATOR)
    wrapped.first.signature = wrapped.first.signature.with_instructions("New.")
    plain = unsupplement(wrapped)
    assert [type(each) for each in plain.predictors()] == [dspy.Predict] * 3
    assert plain.first.signature.equals(program.first.signature.with_instructions("New."))
    assert plain.dump_state().keys() == program.dump_state().keys()
    assert supplemented(wrapped)


def test_another_generator_makes_another_program() -> None:
    wrapped = supplement(Pipeline(), generator=GENERATOR)
    other = SupplementGenerator("other/model")
    swapped = with_generator(wrapped, other)
    assert {id(each.generator) for _, each in supplemented(swapped)} == {id(other)}
    assert {id(each.generator) for _, each in supplemented(wrapped)} == {id(GENERATOR)}
    assert [each.role for _, each in supplemented(swapped)] == [each.role for _, each in supplemented(wrapped)]


def test_wrapping_twice_only_swaps_the_generator() -> None:
    other = SupplementGenerator("other/model")
    twice = supplement(supplement(Pipeline(), generator=GENERATOR), generator=other)
    assert all(each.generator is other for _, each in supplemented(twice))
    assert list(twice.first.signature.input_fields) == ["question", "supplement"]


def test_a_whole_program_is_saved_with_a_reference_to_its_generator(tmp_path: Path) -> None:
    generator = tiny_generator(tiny_model(tmp_path / "tiny"))
    program = supplement(dspy.ChainOfThought("question -> answer"), generator=generator)
    program.save(tmp_path / "saved", save_program=True)
    restored = dspy.load(str(tmp_path / "saved"), allow_pickle=True)
    assert restored.predict.role == "predict"
    assert restored.predict.generator.write("a") == generator.write("a")
    assert (tmp_path / "saved" / "program.pkl").stat().st_size < 20_000


def test_a_stream_shows_the_actors_answer_and_nothing_of_the_generator(tmp_path: Path) -> None:
    generator = tiny_generator(tiny_model(tmp_path / "tiny"))
    program = supplement(dspy.Predict("question -> answer"), generator=generator)
    lm, actor = scripted_lm("answer")

    async def streamed() -> list[object]:
        with dspy.context(lm=lm):
            return [chunk async for chunk in dspy.streamify(program)(question="q")]

    *_, last = asyncio.run(streamed())
    assert isinstance(last, dspy.Prediction)
    assert len(actor.requests) == 1


def test_a_wrapped_pipeline_asks_the_actor_what_the_plain_one_asks() -> None:
    lm, actor = scripted_lm("draft", "reasoning", "draft2", "answer")
    program = Pipeline()
    wrapped = supplement(program, generator=GENERATOR)
    with dspy.context(lm=lm), episode({}) as run:
        assert program(question="q").answer == wrapped(question="q").answer == "ok"
    assert actor.requests[:3] == actor.requests[3:]
    assert list(run.prompts) == ["first", "steps[0].predict", "named['last']"]
