"""DSPy's types and adapters on a supplemented predictor: requests and parsed answers are those of the plain one."""

from __future__ import annotations

import asyncio
import base64
import enum
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import dspy
import pytest
from dspy.adapters.baml_adapter import BAMLAdapter
from pydantic import BaseModel
from scripted import ScriptedEngine, ScriptedGenerator, reply

from sgt_modules import SupplementGenerator, supplement
from sgt_modules.embedded import embedded_generator
from sgt_modules.episode import episode
from sgt_modules.kinds import Supplement

NOTE = "Mind the commas."
READ = re.compile(r"\[\[ ## supplement ## \]\]\n.*?\n\n(?=\[\[ ## |Respond with)", re.DOTALL)
PIXELS = base64.b64encode(b"a picture's many bytes " * 40).decode()
SOUND = base64.b64encode(b"a sound's many bytes " * 40).decode()
PAPER = base64.b64encode(b"a paper's many bytes " * 40).decode()


class Address(BaseModel):
    street: str
    city: str


class Person(BaseModel):
    name: str
    age: int | None = None
    addresses: list[Address] = []


class Photo(BaseModel):
    title: str
    image: dspy.Image


class Size(enum.Enum):
    SMALL = "small"
    LARGE = "large"


Python = dspy.Code["python"]


def add(left: int, right: int) -> int:
    """The sum of two numbers."""
    return left + right


ADA = Person(name="Ada", age=36, addresses=[Address(street="Main Street 1", city="Zürich")])


def picture() -> dspy.Image:
    return dspy.Image(f"data:image/png;base64,{PIXELS}")


@dataclass(frozen=True)
class Case:
    """A typed predictor's call: what it is given, what the actor writes, and what that is parsed to.

    `shown` stands in the generator's prompt, `hidden` does not, though the actor reads it.
    """

    signature: type[dspy.Signature]
    inputs: Mapping[str, object]
    writes: Mapping[str, str]
    parsed: Mapping[str, object]
    shown: Sequence[str] = ()
    hidden: Sequence[str] = field(default=())


def signature(text: str, types: Mapping[str, Any]) -> type[dspy.Signature]:
    return dspy.Signature(text, "Do the task.", custom_types=dict(types))


def taking(kind: Any, value: object, *, shown: Sequence[str], hidden: Sequence[str] = ()) -> Case:
    """A case that takes a type and answers with text."""
    taken = signature("given: Kind, question -> answer", {"Kind": kind})
    inputs = {"given": value, "question": "Which?"}
    return Case(taken, inputs, {"answer": "that"}, {"answer": "that"}, shown, hidden)


def giving(kind: Any, written: str, value: object) -> Case:
    """A case that takes text and answers with a type."""
    given = signature("question -> result: Kind", {"Kind": kind})
    return Case(given, {"question": "Which?"}, {"result": written}, {"result": value}, ["question: Which?"])


CALLS = dspy.ToolCalls.from_dict_list([{"name": "add", "args": {"left": 1, "right": 2}}])

CASES: dict[str, list[Case]] = {
    "pydantic models": [
        taking(Person, ADA, shown=['given: {"name": "Ada", "age": 36', '"city": "Zürich"']),
        taking(list[Person], [ADA, Person(name="Bob")], shown=['"name": "Ada"', '"name": "Bob"']),
        giving(Person, ADA.model_dump_json(), ADA),
        giving(list[Address], '[{"street": "S", "city": "C"}]', [Address(street="S", city="C")]),
    ],
    "numbers, booleans, lists, dictionaries": [
        taking(dict[str, list[int]], {"a": [1, 2]}, shown=['given: {"a": [1, 2]}']),
        taking(float, 0.5, shown=["given: 0.5"]),
        taking(bool, True, shown=["given: true"]),
        taking(list[str], ["x", "y"], shown=['given: ["x", "y"]']),
        giving(dict[str, list[int]], '{"a": [1, 2]}', {"a": [1, 2]}),
        giving(list[float], "[1.5, 2]", [1.5, 2.0]),
        giving(int, "7", 7),
        giving(bool, "True", True),
    ],
    "Literal, Enum, Optional": [
        taking(Literal["red", "blue"], "red", shown=["given: red"]),
        taking(Size, Size.LARGE, shown=["large"]),
        taking(str | None, None, shown=["given: "]),
        giving(Literal["red", "blue"], "blue", "blue"),
        giving(Size, "small", Size.SMALL),
        giving(int | None, "null", None),
    ],
    "Image": [
        taking(dspy.Image, picture(), shown=["given: ", "image"], hidden=[PIXELS]),
        taking(list[dspy.Image], [picture(), picture()], shown=["image"], hidden=[PIXELS]),
        taking(dict[str, dspy.Image], {"front": picture()}, shown=["front", "image"], hidden=[PIXELS]),
        taking(Photo, Photo(title="The lake", image=picture()), shown=["The lake", "image"], hidden=[PIXELS]),
    ],
    "Audio": [
        taking(dspy.Audio, dspy.Audio(data=SOUND, audio_format="wav"), shown=["given: ", "audio"], hidden=[SOUND])
    ],
    "File": [
        taking(
            dspy.File,
            dspy.File(file_data=f"data:application/pdf;base64,{PAPER}"),
            shown=["given: ", "file"],
            hidden=[PAPER],
        )
    ],
    "History": [
        taking(
            dspy.History,
            dspy.History(messages=[{"question": "Before?", "answer": "This."}]),
            shown=["Before?", "This."],
        ),
        taking(
            dspy.History,
            dspy.History(messages=[{"question": [picture(), "What is it?"], "answer": "A lake."}]),
            shown=["What is it?", "A lake.", "image"],
            hidden=[PIXELS],
        ),
    ],
    "Tool, ToolCalls": [
        taking(list[dspy.Tool], [dspy.Tool(add)], shown=["add", "The sum of two numbers."], hidden=["object at 0x"]),
        taking(dspy.ToolCalls, CALLS, shown=['"name": "add"', '"left": 1']),
        giving(dspy.ToolCalls, '{"tool_calls": [{"name": "add", "args": {"left": 1, "right": 2}}]}', CALLS),
    ],
    "Code": [
        taking(Python, dspy.Code(code="print(1)"), shown=["print(1)"]),
        giving(Python, "```python\nprint(1)\n```", Python(code="print(1)")),
    ],
    "Reasoning": [giving(dspy.Reasoning, "Because.", dspy.Reasoning(content="Because."))],
}

every_type = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.compatible("Types", row), id=f"{row.split(',')[0]}-{number}")
        for row, cases in CASES.items()
        for number, case in enumerate(cases)
    ],
)


@dataclass(frozen=True)
class Answer:
    """What a predictor gave, and what its actor was asked."""

    outputs: Mapping[str, object]
    requests: list[list[dict[str, Any]]]
    settings: list[dict[str, Any]]

    @property
    def last(self) -> str:
        """The last message of the last request, its pictures and the like in their places as JSON."""
        content = self.requests[-1][-1]["content"]
        if isinstance(content, str):
            return content
        return "".join(part["text"] if part["type"] == "text" else json.dumps(part) for part in content)


def scripted(text: str) -> dspy.LM:
    return ScriptedEngine(lambda _: text).lm()


def ask(
    predictor: dspy.Module,
    case: Case,
    *,
    text: str | None = None,
    adapter: dspy.Adapter | None = None,
    use_async: bool = False,
    **more: object,
) -> Answer:
    lm = scripted(reply(**case.writes) if text is None else text)
    inputs = {**case.inputs, **more}
    with dspy.context(lm=lm, adapter=adapter):
        prediction = asyncio.run(predictor.acall(**inputs)) if use_async else predictor(**inputs)
    settings = [{name: comparable(value) for name, value in entry["kwargs"].items()} for entry in lm.history]
    return Answer(dict(prediction.items()), [entry["messages"] for entry in lm.history], settings)


def comparable(setting: object) -> object:
    """A setting of a request; a response format, which DSPy makes anew for each, as its schema."""
    if isinstance(setting, type) and issubclass(setting, BaseModel):
        return setting.model_json_schema()
    return setting


def noted(predictor: dspy.Module) -> dspy.Module:
    return supplement(predictor, generator=ScriptedGenerator(lambda prompt: Supplement("free", NOTE)))


@every_type
@pytest.mark.parametrize("use_async", [False, True], ids=["sync", "async"])
def test_a_type_is_sent_and_parsed_as_before_next_to_the_supplement(case: Case, use_async: bool) -> None:
    plain = dspy.Predict(case.signature)
    before, after = ask(plain, case, use_async=use_async), ask(noted(plain), case, use_async=use_async)
    assert after.outputs == before.outputs == case.parsed
    assert f"[[ ## supplement ## ]]\n{NOTE}" in after.last
    assert READ.sub("", after.last) == before.last
    assert after.requests[-1][1:-1] == before.requests[-1][1:-1]


@every_type
def test_without_a_supplement_a_types_request_is_byte_for_byte_the_plain_one(case: Case) -> None:
    plain = dspy.Predict(case.signature)
    wrapped = supplement(plain, generator=SupplementGenerator("never/loaded"))
    before, empty = ask(plain, case), ask(wrapped, case, supplement="")
    with episode({}):
        silent = ask(wrapped, case)
    assert empty == silent == before


@every_type
def test_the_generator_reads_what_a_text_model_can_make_of_a_type(case: Case, generator: SupplementGenerator) -> None:
    wrapped = supplement(dspy.Predict(case.signature), generator=generator)
    with episode(None) as recorded:
        answer = ask(wrapped, case)
    (prompt,) = recorded.prompts["self"]
    assert answer.outputs == case.parsed
    assert all(text in prompt for text in case.shown)
    assert not any(text in prompt for text in case.hidden)
    assert "CUSTOM-TYPE" not in prompt
    assert len(prompt) < 500


@pytest.fixture(scope="module")
def generator() -> SupplementGenerator:
    return embedded_generator()


class Judge(dspy.Signature):
    """Judge the person."""

    person: Person = dspy.InputField(desc="whom to judge")
    notes: list[str] = dspy.InputField()
    tone: Literal["formal", "casual"] = dspy.InputField()
    verdict: Literal["yes", "no"] = dspy.OutputField()
    scores: list[int] = dspy.OutputField(desc="from 1 to 5")
    revised: Person = dspy.OutputField()


JUDGED = {"verdict": "yes", "scores": [1, 2], "revised": ADA.model_dump()}
WRITTEN = {name: value if isinstance(value, str) else json.dumps(value) for name, value in JUDGED.items()}
JUDGING = Case(
    Judge,
    {"person": ADA, "notes": ["kind", "late"], "tone": "formal"},
    WRITTEN,
    {"verdict": "yes", "scores": [1, 2], "revised": ADA},
)


@dataclass(frozen=True)
class AdapterCase:
    """An adapter, how an actor answers it, and how it shows the actor a supplement."""

    build: Callable[[], dspy.Adapter]
    text: str
    shows: str


def tagged(fields: Mapping[str, str]) -> str:
    return "\n".join(f"<{name}>\n{value}\n</{name}>" for name, value in fields.items())


ADAPTERS = {
    "ChatAdapter": AdapterCase(dspy.ChatAdapter, reply(**WRITTEN), f"[[ ## supplement ## ]]\n{NOTE}"),
    "JSONAdapter": AdapterCase(dspy.JSONAdapter, json.dumps(JUDGED), f"[[ ## supplement ## ]]\n{NOTE}"),
    "XMLAdapter": AdapterCase(dspy.XMLAdapter, tagged(WRITTEN), f"<supplement>\n{NOTE}\n</supplement>"),
    "BAMLAdapter": AdapterCase(BAMLAdapter, json.dumps(JUDGED), f"[[ ## supplement ## ]]\n{NOTE}"),
    "TwoStepAdapter": AdapterCase(
        lambda: dspy.TwoStepAdapter(scripted(reply(**WRITTEN))), "Yes, I would say.", f"supplement: {NOTE}"
    ),
}

every_adapter = pytest.mark.parametrize(
    "adapter",
    [pytest.param(each, marks=pytest.mark.compatible("Adapters", name), id=name) for name, each in ADAPTERS.items()],
)
in_both_ways = pytest.mark.parametrize("use_async", [False, True], ids=["sync", "async"])
DEMO = dspy.Example(**JUDGING.inputs, **JUDGING.parsed).with_inputs(*JUDGING.inputs)


@every_adapter
@in_both_ways
def test_an_adapter_shows_the_supplement_and_parses_as_before(adapter: AdapterCase, use_async: bool) -> None:
    plain = dspy.Predict(Judge)
    before = ask(plain, JUDGING, text=adapter.text, adapter=adapter.build(), use_async=use_async)
    after = ask(noted(plain), JUDGING, text=adapter.text, adapter=adapter.build(), use_async=use_async)
    assert after.outputs == before.outputs == JUDGING.parsed
    assert adapter.shows in after.last
    assert "supplement" not in before.last
    assert after.settings == before.settings


@every_adapter
@in_both_ways
@pytest.mark.parametrize("demos", [[], [DEMO]], ids=["", "demo"])
def test_without_a_supplement_an_adapters_request_is_byte_for_byte_the_plain_one(
    adapter: AdapterCase, use_async: bool, demos: list[dspy.Example]
) -> None:
    plain = dspy.Predict(Judge, temperature=0.5)
    plain.demos = demos
    wrapped = supplement(plain, generator=SupplementGenerator("never/loaded"))
    before = ask(plain, JUDGING, text=adapter.text, adapter=adapter.build(), use_async=use_async)
    empty = ask(wrapped, JUDGING, text=adapter.text, adapter=adapter.build(), use_async=use_async, supplement="")
    with episode({}):
        silent = ask(wrapped, JUDGING, text=adapter.text, adapter=adapter.build(), use_async=use_async)
    assert empty == silent == before


@pytest.mark.compatible("Adapters", "TwoStepAdapter")
def test_the_second_step_extracts_from_the_actors_text_alone() -> None:
    extraction = scripted(reply(**WRITTEN))
    ask(noted(dspy.Predict(Judge)), JUDGING, text="Yes.", adapter=dspy.TwoStepAdapter(extraction))
    (entry,) = extraction.history
    assert "supplement" not in json.dumps(entry["messages"])
    assert "Yes." in entry["messages"][-1]["content"]


@pytest.mark.compatible("Adapters", "ChatAdapter")
@pytest.mark.compatible("Adapters", "JSONAdapter")
def test_when_the_chat_adapter_falls_back_to_json_the_supplement_comes_along() -> None:
    plain = dspy.Predict(Judge)
    before, after = (ask(each, JUDGING, text=json.dumps(JUDGED)) for each in (plain, noted(plain)))
    assert after.outputs == before.outputs == JUDGING.parsed
    assert len(after.requests) == len(before.requests) == 2
    assert all(NOTE in request[-1]["content"] for request in after.requests)
