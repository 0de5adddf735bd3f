"""Programs of an unusual make: awaited alone, with parts that read no supplement, with demos from before."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import dspy
import prompted
import pytest
from scripted import ScriptedEngine, ScriptedGenerator, ScriptedTrainer, reply
from small_compile import teleprompter, writer

from optimizers.core.user_files import input_names
from sgt_modules import supplement
from sgt_modules.calling import call_program
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.service.schemas import build_input_model as typed_inputs_of
from sgt_modules.wrapping import list_plain_parts

EXAMPLES = [dspy.Example(question=f"{n}+1?", answer=str(n + 1)).with_inputs("question") for n in range(8)]


class Awaited(dspy.Module):
    """A program that can only be awaited."""

    def __init__(self) -> None:
        super().__init__()
        self.qa = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> dspy.Prediction:
        return await self.qa.acall(question=question)


def exact(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    return example.answer == prediction.answer


def answering() -> ScriptedEngine:
    return ScriptedEngine(lambda text: reply(answer="1"))


def test_a_program_with_aforward_alone_is_compiled_and_estimated(tmp_path: Path) -> None:
    engine = answering()
    with dspy.context(lm=engine.lm()):
        optimizer = teleprompter(tmp_path / "run", exact, generator=writer(), trainer=ScriptedTrainer())
        found = optimizer.estimate(Awaited(), EXAMPLES[:4], EXAMPLES[4:], probe=2)
        better = optimizer.compile(Awaited(), trainset=EXAMPLES[:4], valset=EXAMPLES[4:])
        assert asyncio.run(better.acall(question="0+1?")).answer == "1"
    assert found.probe is not None
    assert found.probe.calls == 1
    result = better.detailed_results
    assert result.stages[0].score == 0.0
    assert result.spent.actor_calls == len(engine.asked) - 1
    assert not [note for note in result.notes if "AttributeError" in note]


def test_spt_compiles_a_program_with_aforward_alone(tmp_path: Path) -> None:
    class Student(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qa = prompted.student()

        async def aforward(self, question: str) -> dspy.Prediction:
            return await self.qa.acall(question=question)

    corrector = prompted.corrector([f"{prompted.FIRST} {prompted.HINTS['carry']}"] * 4)
    with dspy.context(lm=prompted.actor().lm()):
        spt = prompted.spt(corrector, tmp_path, rounds=1, impact=False)
        better = spt.compile(Student(), trainset=prompted.TRAIN, valset=prompted.VAL)
    assert prompted.HINTS["carry"] in better.qa.signature.instructions


def test_a_program_with_aforward_alone_is_called_from_a_running_loop_and_tells_its_inputs() -> None:
    async def within() -> object:
        return call_program(Awaited(), {"question": "0+1?"})

    with dspy.context(lm=answering().lm()):
        assert asyncio.run(within()).answer == "1"  # type: ignore[attr-defined]
    assert input_names(Awaited()) == ["question"]
    assert list(typed_inputs_of(Awaited()).model_fields) == ["question"]


class Mixed(dspy.Module):
    """Parts that `supplement` finds, and parts that it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.qa = dspy.Predict("question -> answer")
        self.written = dspy.Flex("question -> answer")
        self.steps = [[dspy.Predict("question -> hint")]]
        self.frozen = dspy.ChainOfThought("question -> answer")
        self.frozen._compiled = True

    def forward(self, question: str) -> dspy.Prediction:
        return self.qa(question=question)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_parts_that_are_not_supplemented_are_named(caplog: pytest.LogCaptureFixture) -> None:
    program = Mixed()
    with caplog.at_level(logging.WARNING, logger="sgt_modules.wrapping"):
        supplement(program, generator="no/model", only=["qa"])
    said = [record.getMessage() for record in caplog.records]
    assert said == list_plain_parts(program)
    said.sort()
    assert [text.partition(" reads no supplement")[0] for text in said] == [
        "The dspy.Flex 'written'",
        "The predictor 'frozen.predict'",
        "The predictor 'steps[0][0]'",
    ]
    assert "makes new predictors in every call" in said[0]
    assert "'frozen' is compiled" in said[1]
    assert "Assign it to an attribute" in said[2]


def test_a_run_notes_the_parts_that_are_not_supplemented(tmp_path: Path) -> None:
    class Nested(Mixed):
        def __init__(self) -> None:
            dspy.Module.__init__(self)
            self.qa = dspy.Predict("question -> answer")
            self.steps = [[dspy.Predict("question -> hint")]]

    with dspy.context(lm=answering().lm()):
        optimizer = teleprompter(tmp_path, exact, generator=writer(), trainer=ScriptedTrainer(), max_actor_calls=3)
        better = optimizer.compile(Nested(), trainset=EXAMPLES[:4], valset=EXAMPLES[4:])
    assert any("'steps[0][0]' reads no supplement" in note for note in better.detailed_results.notes)


@pytest.mark.parametrize("adapter", [dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()])
@pytest.mark.parametrize("kind", [dspy.Example, dict])
def test_a_complete_demo_from_before_is_shown_as_a_complete_one(adapter: dspy.Adapter, kind: type) -> None:
    shown: list[str] = []

    class Reading:
        def complete(self, request: dspy.lm15.Request) -> dspy.lm15.Response:
            shown.append("\n".join(f"{each.role}: {each.text}" for each in request.messages))
            raise dspy.lm15.ServerError("enough")

    generator = ScriptedGenerator(lambda prompt: Supplement("cot", "Count."))
    predictor = dspy.Predict("question -> answer")
    predictor.demos = [kind(question="2+2?", answer="4"), kind(answer="5")]
    wrapped = supplement(predictor, generator=generator)
    lm = dspy.LM("a/b", engine=Reading(), cache=False, num_retries=0)
    with dspy.context(lm=lm, adapter=adapter), pytest.raises(dspy.LMError):
        wrapped(question="3+3?")
    assert "2+2?" in shown[0]
    assert "not supplied" not in shown[0].lower()
    assert shown[0].count("Count.") == 1
    assert predictor.demos == wrapped.demos == [kind(question="2+2?", answer="4"), kind(answer="5")]


def test_a_demo_that_lacks_more_is_still_said_to_lack_something() -> None:
    engine = ScriptedEngine(lambda text: reply(answer="6", hint="none"), whole=True)
    generator = ScriptedGenerator(lambda prompt: Supplement("cot", "Count."))
    predictor = dspy.Predict("question, context -> answer")
    predictor.demos = [dspy.Example(question="2+2?", answer="4")]
    read: list[str] = []

    class Adapter(dspy.ChatAdapter):
        def format(self, *args: object, **kwargs: object) -> list[dict[str, object]]:
            messages = super().format(*args, **kwargs)  # type: ignore[arg-type]
            read.extend(str(message["content"]) for message in messages)
            return messages

    with dspy.context(lm=engine.lm(), adapter=Adapter()):
        supplement(predictor, generator=generator)(question="3+3?", context="none")
    assert any("some input or output fields are not supplied" in text for text in read)


@pytest.mark.parametrize("wanted", [SILENCE, Supplement("cot", "Count.")])
def test_positional_arguments_are_refused_in_dspys_own_words(wanted: Supplement) -> None:
    plain = dspy.Predict("question, context -> answer")
    wrapped = supplement(plain, generator=ScriptedGenerator(lambda prompt: wanted))

    def refusal(program: dspy.Module) -> str:
        with pytest.raises(ValueError, match="Positional arguments are not allowed") as problem:
            program("2+2?")
        return str(problem.value)

    assert refusal(wrapped) == refusal(plain)
    chain = dspy.ChainOfThought("question -> answer")
    messages: list[str] = []
    for program in (chain, supplement(chain, generator="no/model")):
        with pytest.raises(TypeError) as problem:
            program("2+2?")
        messages.append(str(problem.value))
    assert messages[0] == messages[1]
