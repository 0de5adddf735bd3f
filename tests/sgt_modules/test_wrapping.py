from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path

import dspy
import pytest
from runtime_fixtures import scripted_lm, tiny_generator, tiny_model

from sgt_modules import SupplementedPredictor, SupplementGenerator, supplement, unsupplement
from sgt_modules.episode import episode
from sgt_modules.errors import NoPredictorError, SetupError
from sgt_modules.gate import Gate
from sgt_modules.prompts import Template
from sgt_modules.wrapping import (
    fitting_state,
    instructions_of,
    supplemented_predictors,
    with_generator,
    with_instructions,
)

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
    assert [(name, each.role) for name, each in supplemented_predictors(wrapped)] == [(name, name) for name in names]
    assert wrapped.steps[1] is wrapped.first
    assert all(each.generator is GENERATOR for _, each in supplemented_predictors(wrapped))


def test_the_users_program_is_left_alone() -> None:
    program = Pipeline()
    program.first.demos = [dspy.Example(question="q", draft="d")]
    wrapped = supplement(program, generator=GENERATOR)
    wrapped.reset_copy()
    wrapped.first.demos.append("more")
    wrapped.named["last"].signature = wrapped.named["last"].signature.with_instructions("New.")
    assert not supplemented_predictors(program)
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
    assert [name for name, _ in supplemented_predictors(wrapped)] == ["first"]
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
    assert supplemented_predictors(wrapped)


def test_another_generator_makes_another_program() -> None:
    wrapped = supplement(Pipeline(), generator=GENERATOR)
    other = SupplementGenerator("other/model")
    swapped = with_generator(wrapped, other)
    assert {id(each.generator) for _, each in supplemented_predictors(swapped)} == {id(other)}
    assert {id(each.generator) for _, each in supplemented_predictors(wrapped)} == {id(GENERATOR)}
    assert [each.role for _, each in supplemented_predictors(swapped)] == [
        each.role for _, each in supplemented_predictors(wrapped)
    ]


@pytest.mark.parametrize("wrapped", [False, True])
def test_other_instructions_change_nothing_else_and_leave_the_program_alone(wrapped: bool) -> None:
    """The pipeline cannot be deep-copied as it is: it holds a lock."""
    program = supplement(Pipeline(), generator=GENERATOR) if wrapped else Pipeline()
    before = instructions_of(program)
    program.first.demos = [dspy.Example(question="1", draft="2")]
    changed = with_instructions(program, {"first": "Draft.", "named['last']": ""})
    assert instructions_of(changed) == {**before, "first": "Draft.", "named['last']": ""}
    assert instructions_of(program) == before
    assert changed.first.demos == program.first.demos
    assert changed.steps[1] is changed.first
    assert [name for name, _ in supplemented_predictors(changed)] == [
        name for name, _ in supplemented_predictors(program)
    ]
    assert changed.first.signature.fields.keys() == program.first.signature.fields.keys()


class Copied(Pipeline):
    """A program with a way of its own to be copied: afresh, or not at all."""

    def __init__(self, *, afresh: bool) -> None:
        super().__init__()
        self.afresh = afresh

    def __deepcopy__(self, memo: dict[int, object]) -> Copied:
        return Copied(afresh=True) if self.afresh else self


def test_a_program_that_copies_itself_is_instructed_or_refused_and_never_changed() -> None:
    program = Copied(afresh=True)
    assert instructions_of(with_instructions(program, {"first": "Draft."}))["first"] == "Draft."
    assert instructions_of(program)["first"] != "Draft."
    with pytest.raises(SetupError, match="deep copies have predictors of their own, but those of Copied share 'first'"):
        with_instructions(Copied(afresh=False), {"first": "Draft."})


def test_wrapping_twice_only_swaps_the_generator() -> None:
    other = SupplementGenerator("other/model")
    twice = supplement(supplement(Pipeline(), generator=GENERATOR), generator=other)
    assert all(each.generator is other for _, each in supplemented_predictors(twice))
    assert list(twice.first.signature.input_fields) == ["question", "supplement"]


def test_a_program_that_is_supplemented_keeps_its_predictors_scope_and_template_unless_told() -> None:
    template, other = Template("A hint."), Template("Another.")
    first = supplement(Pipeline(), generator=GENERATOR, only=["first"], scope="episode", template=template)
    again = supplement(first, generator=SupplementGenerator("other/model"))
    assert [name for name, _ in supplemented_predictors(again)] == ["first"]
    assert (again.first.scope, again.first.template) == ("episode", template)
    told = supplement(first, generator=GENERATOR, scope="turn", template=other)
    assert (told.first.scope, told.first.template) == ("turn", other)
    assert told.first.signature.input_fields["supplement"].json_schema_extra["desc"] == "Another."
    assert (first.first.scope, first.first.template) == ("episode", template)


def test_copies_keep_scope_and_template() -> None:
    template = Template("A hint.")
    wrapped = supplement(Pipeline(), generator=GENERATOR, scope="episode", template=template)
    copies = [wrapped.deepcopy(), wrapped.reset_copy(), with_generator(wrapped, SupplementGenerator("other/model"))]
    assert [(each.first.scope, each.first.template) for each in copies] == [("episode", template)] * 3


def test_a_scope_that_is_none_is_refused() -> None:
    with pytest.raises(SetupError, match="Expected scope 'turn' or 'episode', got 'always'"):
        supplement(Pipeline(), generator=GENERATOR, scope="always")  # pyright: ignore[reportArgumentType]


class Described(dspy.Signature):
    """Answer the question."""

    question: str = dspy.InputField(desc="in any language")
    answer: str = dspy.OutputField(desc="one word")


def learned(program: dspy.Module) -> dspy.Module:
    """The program after learning: a demo, an instruction and a description at each of its predictors."""
    for name, predictor in program.named_predictors():
        first, last = next(iter(predictor.signature.input_fields)), next(reversed(predictor.signature.output_fields))
        predictor.demos = [dspy.Example({first: f"demo of {name}", last: "2"})]
        predictor.signature = predictor.signature.with_instructions(f"Learned by {name}.")
        predictor.signature = predictor.signature.with_updated_fields(last, desc=f"learned by {name}")
    return program


def knowledge(program: dspy.Module) -> list[tuple[object, ...]]:
    """What was learned, supplements aside."""
    plain = unsupplement(program) if supplemented_predictors(program) else program
    return [
        (
            name,
            each.signature.instructions,
            {name: field.json_schema_extra["desc"] for name, field in each.signature.fields.items()},
            [dict(demo) for demo in each.demos],
        )
        for name, each in plain.named_predictors()
    ]


class Unlocked(Pipeline):
    """Without the lock: DSPy loads no state into a program of shared predictors that it cannot copy."""

    def __init__(self) -> None:
        super().__init__()
        del self.lock


PROGRAMS: dict[str, Callable[[], dspy.Module]] = {
    "bare": lambda: dspy.Predict(Described),
    "nested": lambda: dspy.ChainOfThought(Described),
    "many": Unlocked,
}
every_program = pytest.mark.parametrize("build", PROGRAMS.values(), ids=PROGRAMS)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> SupplementGenerator:
    return tiny_generator(tiny_model(tmp_path_factory.mktemp("model") / "tiny"))


@every_program
def test_a_state_from_before_supplementing_is_loaded_after_it(
    build: Callable[[], dspy.Module], tiny: SupplementGenerator, tmp_path: Path
) -> None:
    before = learned(build())
    before.save(tmp_path / "before.json")
    template, gate = Template("A hint.", "They say: {supplement}"), Gate.of(["a b"], most_novel=0.5)
    wrapped = supplement(build(), generator=tiny, template=template, gate=gate)
    assert knowledge(wrapped) != knowledge(before)
    wrapped.load_state(fitting_state(wrapped, json.loads((tmp_path / "before.json").read_text())))
    assert knowledge(wrapped) == knowledge(before)
    for _, each in supplemented_predictors(wrapped):
        assert list(each.signature.input_fields)[-1] == "supplement"
        assert each.signature.input_fields["supplement"].json_schema_extra["desc"] == "A hint."
        assert (each.template, each.gate) == (template, gate)
        assert each.generator.engine.model == tiny.engine.model
    assert len(supplemented_predictors(wrapped)) == len(wrapped.named_predictors())


@every_program
def test_a_state_from_after_supplementing_is_loaded_before_it(
    build: Callable[[], dspy.Module], tiny: SupplementGenerator, tmp_path: Path
) -> None:
    after = learned(supplement(build(), generator=tiny))
    after.save(tmp_path / "after.json")
    plain = build()
    plain.load_state(fitting_state(plain, json.loads((tmp_path / "after.json").read_text())))
    assert knowledge(plain) == knowledge(after)
    assert not supplemented_predictors(plain)
    lm, actor = scripted_lm("answer", "draft", "draft2", "reasoning")
    with dspy.context(lm=lm), episode({}):
        plain(question="q")
        after(question="q")
    half = len(actor.requests) // 2
    assert actor.requests[:half] == actor.requests[half:]


@every_program
def test_a_state_that_fits_is_left_as_it_is_and_one_that_went_both_ways_too(
    build: Callable[[], dspy.Module], tiny: SupplementGenerator
) -> None:
    plain = learned(build())
    wrapped = learned(supplement(build(), generator=tiny))
    assert fitting_state(plain, plain.dump_state()) == plain.dump_state()
    assert fitting_state(wrapped, wrapped.dump_state()) == wrapped.dump_state()
    assert fitting_state(plain, fitting_state(wrapped, plain.dump_state())) == plain.dump_state()
    assert fitting_state(wrapped, fitting_state(plain, wrapped.dump_state())) == wrapped.dump_state()


def test_a_state_of_a_program_with_fewer_supplements_is_loaded_where_there_are_more(tiny: SupplementGenerator) -> None:
    some = learned(supplement(Unlocked(), generator=tiny, only=["first"]))
    every = supplement(Unlocked(), generator=tiny)
    every.load_state(fitting_state(every, some.dump_state()))
    assert knowledge(every) == knowledge(some)
    assert len(supplemented_predictors(every)) == 3
    some.load_state(fitting_state(some, every.dump_state()))
    assert [name for name, _ in supplemented_predictors(some)] == ["first"]


def test_the_demos_of_a_supplemented_program_come_with_it_into_a_plain_one(tiny: SupplementGenerator) -> None:
    wrapped = supplement(dspy.Predict(Described), generator=tiny)
    wrapped.demos = [dspy.Example(question="1+1?", supplement="Add.", answer="2")]
    plain = dspy.Predict(Described)
    plain.load_state(fitting_state(plain, wrapped.dump_state()))
    lm, actor = scripted_lm("answer")
    plain(question="q", lm=lm)
    (request,) = actor.requests
    assert len(request.messages) == 3
    assert "supplement" not in "".join(message.text or "" for message in request.messages)


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
