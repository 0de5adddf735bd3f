"""DSPy's own modules on a supplemented program: they answer as before, and the actor reads the supplements."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import threading
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import dspy
import numpy as np
import pytest
from dspy.primitives import LocalInterpreter
from scripted import ScriptedEngine, ScriptedGenerator, reply

from sgt_modules import SupplementGenerator, supplement, unsupplement
from sgt_modules.embedded import embedded_generator
from sgt_modules.episode import episode
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.safety import harmless
from sgt_modules.wrapping import supplemented_predictors

ASKED = re.compile(r"\[\[ ## (\w+) ## \]\]")
READ = re.compile(r"\[\[ ## supplement ## \]\]\n(.*?)\n\n(?=\[\[ ## |Respond with)", re.DOTALL)


EMPTY = re.compile(r"\n\n\[\[ ## supplement ## \]\]\s*\Z")
"""The supplement of a demo that lacks nothing else."""

INCOMPLETE = "This is an example of the task, though some input or output fields are not supplied.\n\n"
"""What DSPy says above a demo that lacks a field, as one from before `supplement()` does."""


def supplement_in(text: str) -> str:
    """The supplement in a request's last message; empty if there is none."""
    found = READ.search(text)
    return found[1] if found else ""


def add_one(number: int) -> int:
    """The number after this one."""
    return number + 1


def fenced(code: str) -> str:
    return f"```python\n{code}\n```"


def tool_call(name: str, **arguments: object) -> str:
    return json.dumps({"tool_calls": [{"name": name, "args": arguments}]})


def adding(text: str) -> str:
    """An actor that adds one to the number of the question, in whichever output fields it is asked for.

    It holds no state: an agent's turn is read from what the request shows of the turns before.
    """
    task, _, form = text.rpartition("Respond with")
    found = re.search(r"\[\[ ## question ## \]\]\n(\d+)\+1", task)
    number = int(found[1]) if found else 2
    begun = "observation_0" in task or not found
    says = {
        "reasoning": "Add.",
        "rationale": "Add.",
        "hint": "Add.",
        "answer": str(number + 1),
        "next_thought": "Use the tool.",
        "next_tool_name": "finish" if "observation_1" in task else "add_one",
        "next_tool_args": "{}" if "observation_1" in task else f'{{"number": {number}}}',
        "tool_calls": tool_call("submit", answer="3") if begun else tool_call("add_one", number=number),
        "generated_code": fenced(
            f"print(add_one({number}))"
            if "finished" in form
            else f"SUBMIT({number} + 1)"
            if "previous_code" in task
            else "print(1 / 0)"
        ),
        "finished": "True",
        "code": fenced("print(question)" if "\n1/" in task else 'SUBMIT(answer=str(int(question.split("+")[0]) + 1))'),
        "discussion": "It guessed.",
        "advice": '{"self": "Carry the one.", "module": "Carry the one."}',
    }
    return reply(**{name: says[name] for name in ASKED.findall(form) if name in says})


def scripted(script: Callable[[str], str] = adding) -> dspy.LM:
    return ScriptedEngine(script).lm()


class Pipeline(dspy.Module):
    """Predictors as attributes, in a list, a tuple, a dictionary and a module, one of them shared."""

    def __init__(self) -> None:
        super().__init__()
        self.think = dspy.ChainOfThought("question -> hint")
        self.steps = [dspy.Predict("question, hint -> answer")]
        self.pair = (dspy.Predict("question -> rationale"), self.steps[0])
        self.named = {"again": self.steps[0]}

    def forward(self, question: str) -> dspy.Prediction:
        hint = self.think(question=question).hint + self.pair[0](question=question).rationale
        return self.named["again"](question=question, hint=hint)

    async def aforward(self, question: str) -> dspy.Prediction:
        hint = (await self.think.acall(question=question)).hint
        hint += (await self.pair[0].acall(question=question)).rationale
        return await self.named["again"].acall(question=question, hint=hint)


class Fan(dspy.Module):
    """One predictor on many questions, through `dspy.Parallel`."""

    def __init__(self) -> None:
        super().__init__()
        self.each = dspy.Predict("question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        pairs = [(self.each, {"question": question}) for _ in range(8)]
        return dspy.Prediction(
            answer={each.answer for each in dspy.Parallel(num_threads=4, disable_progress_bar=True)(pairs)}.pop()
        )


class Nearest(dspy.Module):
    """A predictor that is shown the nearest solved question, found by `dspy.KNN`."""

    def __init__(self) -> None:
        super().__init__()
        solved = [dspy.Example(question=f"{n}+1?", answer=f"{n + 1}").with_inputs("question") for n in (1, 5, 9)]
        self.nearest = dspy.KNN(k=1, trainset=solved, vectorizer=dspy.Embedder(counted_digits))
        self.answer = dspy.Predict("question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        return self.answer(question=question, demos=self.nearest(question=question))


def counted_digits(texts: list[str]) -> np.ndarray:
    return np.array([[text.count(digit) for digit in "0123456789"] for text in texts], dtype=np.float32)


def half(inputs: Mapping[str, object], prediction: dspy.Prediction) -> float:
    """A reward below a threshold of 1, so that every attempt is made."""
    return 0.5


ATTEMPTS = [{"reasoning": "Add.", "answer": "3"}, {"reasoning": "Guess.", "answer": "4"}]


@dataclass(frozen=True)
class Case:
    """How to build a module, what to call it with, and what of it DSPy has for coroutines."""

    make: Callable[[], dspy.Module]
    inputs: Mapping[str, object] = field(default_factory=dict)
    coroutine: bool = False

    def build(self) -> dspy.Module:
        """A new module. DSPy marks some of these as deprecated, and uses a deprecated argument in another."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return self.make()


CASES: dict[str, list[Case]] = {
    "Predict": [Case(lambda: dspy.Predict("question -> answer"), coroutine=True)],
    "ChainOfThought": [Case(lambda: dspy.ChainOfThought("question -> answer"), coroutine=True)],
    "Module (nested, in lists, tuples and dicts, shared)": [Case(Pipeline, coroutine=True)],
    "ReAct": [Case(lambda: dspy.ReAct("question -> answer", tools=[add_one]), coroutine=True)],
    "ReActV2": [Case(lambda: dspy.ReActV2("question -> answer", tools=[add_one]), coroutine=True)],
    "MultiChainComparison": [
        Case(lambda: dspy.MultiChainComparison("question -> answer", M=2), {"completions": ATTEMPTS})
    ],
    "BestOfN": [
        Case(lambda: dspy.BestOfN(dspy.ChainOfThought("question -> answer"), N=2, reward_fn=half, threshold=1.0))
    ],
    "Refine": [
        Case(lambda: dspy.Refine(dspy.ChainOfThought("question -> answer"), N=2, reward_fn=half, threshold=0.5))
    ],
    "Parallel": [Case(Fan)],
    "RLM": [
        Case(lambda: dspy.RLM("question -> answer", interpreter_factory=LocalInterpreter), coroutine=True),
        Case(lambda: dspy.RLM("question -> answer", max_iters=1, interpreter_factory=LocalInterpreter), coroutine=True),
    ],
    "CodeAct": [
        Case(lambda: dspy.CodeAct("question -> answer", tools=[add_one], interpreter_factory=LocalInterpreter))
    ],
    "ProgramOfThought": [
        Case(lambda: dspy.ProgramOfThought("question -> answer", interpreter_factory=LocalInterpreter))
    ],
    "KNN": [Case(Nearest)],
}


def every_case(*, ways: bool = False) -> pytest.MarkDecorator:
    """Every case, and with `ways` also every way to call it."""
    params: list[Any] = []
    for row, cases in CASES.items():
        marks = pytest.mark.compatible("Modules", row)
        for number, case in enumerate(cases):
            name = f"{row.partition(' ')[0]}{number or ''}"
            params.append(pytest.param(case, *[called][:ways], marks=marks, id=name))
            if ways and case.coroutine:
                params.append(pytest.param(case, awaited, marks=marks, id=f"{name}-async"))
    return pytest.mark.parametrize(("case", "call")[: 1 + ways], params)


@dataclass(frozen=True)
class Run:
    """What one call of a program gave, and left behind."""

    outputs: Mapping[str, object]
    history: list[dict[str, Any]]
    trace: list[tuple[Mapping[str, object], Mapping[str, object]]]

    @property
    def messages(self) -> list[object]:
        """What the actor was asked, in order."""
        return [entry["messages"] for entry in self.history]

    @property
    def asked(self) -> list[str]:
        """The last message of each request."""
        return [entry["messages"][-1]["content"] for entry in self.history]

    @property
    def supplements(self) -> list[str]:
        """The supplement in each request; empty where the actor read none."""
        return [supplement_in(text) for text in self.asked]


Call = Callable[[dspy.Module, Mapping[str, object]], dspy.Prediction]


def called(program: dspy.Module, inputs: Mapping[str, object]) -> dspy.Prediction:
    return program(**inputs)


def awaited(program: dspy.Module, inputs: Mapping[str, object]) -> dspy.Prediction:
    return asyncio.run(program.acall(**inputs))


def run(program: dspy.Module, case: Case, call: Call = called, *, question: str = "2+1?") -> Run:
    with dspy.context(lm=scripted(), trace=[]):
        prediction = call(program, {"question": question, **case.inputs})
        trace = [(inputs, output.toDict()) for _, inputs, output in dspy.settings.trace]
    return Run(prediction.toDict(), list(program.history), trace)


@pytest.fixture(scope="module")
def generator() -> SupplementGenerator:
    return embedded_generator()


def numbered() -> SupplementGenerator:
    """A generator whose every supplement is another one."""
    numbers = itertools.count(1)
    return ScriptedGenerator(lambda prompt: Supplement("free", f"Note {next(numbers)}."))


@every_case(ways=True)
def test_a_wrapped_module_answers_as_before_and_each_actor_call_reads_a_supplement(
    case: Case, call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    plain = case.build()
    before = run(plain, case, call)
    warned = len(caplog.records)
    after = run(supplement(plain, generator=numbered()), case, call)
    assert after.outputs == before.outputs
    assert after.outputs["answer"] == "3"
    assert all(after.supplements)
    assert not any(before.supplements)
    assert len(caplog.records) == 2 * warned


@every_case(ways=True)
def test_trace_and_history_gain_the_supplement_and_nothing_else(case: Case, call: Call) -> None:
    plain = case.build()
    before, after = run(plain, case, call), run(supplement(plain, generator=numbered()), case, call)
    for (inputs, outputs), old in zip(after.trace, before.trace, strict=True):
        assert "supplement" in inputs
        assert ({name: value for name, value in inputs.items() if name != "supplement"}, outputs) == old
    for new, old in zip(after.history, before.history, strict=True):
        assert new.keys() == old.keys()
        assert (new["outputs"], new["kwargs"], new["model"]) == (old["outputs"], old["kwargs"], old["model"])
        assert [each["role"] for each in new["messages"]] == [each["role"] for each in old["messages"]]
        between = [EMPTY.sub("", each["content"].removeprefix(INCOMPLETE)) for each in new["messages"][1:-1]]
        assert between == [each["content"] for each in old["messages"][1:-1]]
        assert READ.sub("", new["messages"][-1]["content"]) == old["messages"][-1]["content"]


@every_case()
def test_the_actor_reads_what_the_embedded_generator_wrote_for_the_module(
    case: Case, generator: SupplementGenerator
) -> None:
    wrapped = supplement(case.build(), generator=generator)
    with episode(None) as recorded:
        after = run(wrapped, case)
    written = {harmless(each.render(), []) for texts in recorded.supplements.values() for each in texts}
    assert after.outputs["answer"] == "3"
    assert set(after.supplements) == written


@every_case(ways=True)
def test_without_a_supplement_the_actor_is_asked_byte_for_byte_what_the_plain_module_asks(
    case: Case, call: Call
) -> None:
    plain = case.build()
    wrapped = supplement(plain, generator=SupplementGenerator("never/loaded"))
    before = run(plain, case, call)
    with episode({}):
        after = run(wrapped, case, call)
    assert after.messages == before.messages
    assert after.trace == before.trace
    assert after.outputs == before.outputs


@every_case()
def test_the_predictors_keep_their_names_and_unwrapping_gives_the_module_back(case: Case) -> None:
    plain = case.build()
    wrapped = supplement(plain, generator=SupplementGenerator("never/loaded"))
    back = unsupplement(wrapped)
    names = [name for name, _ in plain.named_predictors()]
    assert [name for name, _ in wrapped.named_predictors()] == names
    assert [name for name, _ in supplemented_predictors(wrapped)] == names
    assert [(name, type(each)) for name, each in back.named_predictors()] == [(name, dspy.Predict) for name in names]
    assert [type(each) for _, each in back.named_sub_modules()] == [type(each) for _, each in plain.named_sub_modules()]
    assert back.dump_state() == plain.dump_state()
    assert run(back, case).messages == run(plain, case).messages


ADVICE = "[[ ## hint_ ## ]]\nCarry the one."


def refined(wrap: Callable[[dspy.Module], dspy.Module], *, outside: bool) -> dspy.Module:
    """`Refine` that asks for advice once, wrapped as a whole or around a wrapped module."""
    inner = dspy.Predict("question -> answer")
    if outside:
        return wrap(dspy.Refine(inner, N=2, reward_fn=half, threshold=1.0))
    return dspy.Refine(wrap(inner), N=2, reward_fn=half, threshold=1.0)


@pytest.mark.compatible("Modules", "Refine")
@pytest.mark.parametrize("outside", [True, False], ids=["wrapped Refine", "Refine of a wrapped module"])
def test_refines_advice_and_the_supplement_both_reach_the_actor(
    outside: bool, generator: SupplementGenerator, capsys: pytest.CaptureFixture[str]
) -> None:
    program = refined(lambda module: supplement(module, generator=generator), outside=outside)
    after = run(program, CASES["Refine"][0])
    first, advising, second = after.asked
    assert "hint_" not in first
    assert "module_names" in advising
    assert ADVICE in second
    assert [bool(text) for text in after.supplements] == [True, False, True]
    assert "failed" not in capsys.readouterr().out


@pytest.mark.compatible("Modules", "Refine")
def test_refines_advice_reaches_the_actor_when_the_generator_writes_nothing() -> None:
    silent = ScriptedGenerator(lambda prompt: SILENCE)
    case = CASES["Refine"][0]
    before = run(refined(lambda module: module, outside=False), case)
    after = run(refined(lambda module: supplement(module, generator=silent), outside=False), case)
    assert ADVICE in before.asked[-1]
    assert after.messages[-1] == before.messages[-1]


@pytest.mark.compatible("Modules", "BestOfN")
def test_best_of_n_over_a_wrapped_module_makes_every_attempt_with_a_supplement(generator: SupplementGenerator) -> None:
    wrapped = supplement(dspy.ChainOfThought("question -> answer"), generator=generator)
    after = run(dspy.BestOfN(wrapped, N=3, reward_fn=half, threshold=1.0), CASES["BestOfN"][0])
    assert len(after.asked) == 3
    assert all(after.supplements)


@pytest.mark.compatible("Modules", "Parallel")
def test_parallel_runs_a_wrapped_program_in_many_threads_on_their_own_inputs(generator: SupplementGenerator) -> None:
    wrapped = supplement(dspy.ChainOfThought("question -> answer"), generator=generator)
    with dspy.context(lm=scripted()):
        pairs = [(wrapped, dspy.Example(question=f"{n}+1?").with_inputs("question")) for n in range(24)]
        answers = dspy.Parallel(num_threads=8, disable_progress_bar=True)(pairs)
    assert [each.answer for each in answers] == [str(n + 1) for n in range(24)]


def agent() -> dspy.Module:
    """An agent of three turns, and a last call of another predictor."""
    return dspy.ReAct("question -> answer", tools=[add_one])


@pytest.mark.compatible("Modules", "ReAct")
@pytest.mark.parametrize("call", [called, awaited])
def test_with_scope_turn_an_agent_reads_a_new_supplement_every_turn(call: Call) -> None:
    wrapped = supplement(agent(), generator=numbered())
    assert run(wrapped, CASES["ReAct"][0], call).supplements == [f"Note {n}." for n in (1, 2, 3, 4)]


@pytest.mark.compatible("Modules", "ReAct")
@pytest.mark.parametrize("call", [called, awaited])
def test_with_scope_episode_an_agent_keeps_its_first_supplement_until_the_run_ends(call: Call) -> None:
    wrapped = supplement(agent(), generator=numbered(), scope="episode")
    case = CASES["ReAct"][0]
    assert run(wrapped, case, call).supplements == ["Note 1."] * 3 + ["Note 2."]
    assert run(wrapped, case, call).supplements[4:] == ["Note 3."] * 3 + ["Note 4."]


@pytest.mark.compatible("Modules", "ReAct")
def test_with_scope_episode_the_generator_is_asked_once_a_run_and_predictor() -> None:
    wrapped = supplement(agent(), generator=numbered(), scope="episode")
    with episode(None) as recorded:
        run(wrapped, CASES["ReAct"][0])
    assert {role: len(set(each)) for role, each in recorded.supplements.items()} == {"react": 1, "extract.predict": 1}


@pytest.mark.compatible("Modules", "ReAct")
def test_with_scope_episode_runs_in_many_threads_share_nothing() -> None:
    wrapped = supplement(agent(), generator=numbered(), scope="episode")
    lm = scripted()

    def alone(number: int) -> None:
        with dspy.context(lm=lm):
            assert wrapped(question=f"{number}+1?").answer == str(number + 1)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(alone, range(8)))
    check_runs_share_nothing(lm, runs=8)


@pytest.mark.compatible("Modules", "ReAct")
def test_with_scope_episode_runs_under_parallel_share_nothing() -> None:
    wrapped = supplement(agent(), generator=numbered(), scope="episode")
    lm = scripted()
    with dspy.context(lm=lm):
        pairs = [(wrapped, {"question": f"{number}+1?"}) for number in range(8)]
        dspy.Parallel(num_threads=8, disable_progress_bar=True)(pairs)
    check_runs_share_nothing(lm, runs=8)


@pytest.mark.compatible("Modules", "ReAct")
def test_with_scope_episode_coroutines_at_once_share_nothing() -> None:
    wrapped = supplement(agent(), generator=numbered(), scope="episode")
    lm = scripted()

    async def together() -> None:
        with dspy.context(lm=lm):
            await asyncio.gather(*(wrapped.acall(question=f"{number}+1?") for number in range(8)))

    asyncio.run(together())
    check_runs_share_nothing(lm, runs=8)


def check_runs_share_nothing(lm: dspy.LM, *, runs: int) -> None:
    """Each question's agent read one supplement in its turns, its last predictor another, no two runs the same."""
    notes: dict[tuple[str, bool], set[str]] = {}
    for entry in lm.history:
        text = entry["messages"][-1]["content"]
        question = text.partition("[[ ## question ## ]]\n")[2].partition("\n")[0]
        notes.setdefault((question, "next_thought" in text.rpartition("Respond with")[2]), set()).add(
            supplement_in(text)
        )
    assert len(notes) == 2 * runs
    assert all(len(each) == 1 for each in notes.values())
    assert len(set.union(*notes.values())) == 2 * runs


@pytest.mark.compatible("Modules", "ReActV2")
@pytest.mark.parametrize("call", [called, awaited])
@pytest.mark.parametrize("scope", ["turn", "episode"])
def test_react_v2_which_shows_its_input_once_keeps_the_supplement_of_that_turn(call: Call, scope: Any) -> None:
    case = CASES["ReActV2"][0]
    wrapped = supplement(case.build(), generator=numbered(), scope=scope)
    assert run(wrapped, case, call).supplements == ["Note 1."] * 2
    assert run(wrapped, case, call).supplements[2:] == ["Note 2."] * 2


@pytest.mark.compatible("Modules", "ReActV2")
def test_react_v2_runs_in_many_threads_share_no_supplement() -> None:
    wrapped = supplement(CASES["ReActV2"][0].build(), generator=numbered())
    with dspy.context(lm=scripted()):
        pairs = [(wrapped, {"question": f"{number}+1?"}) for number in range(8)]
        dspy.Parallel(num_threads=8, disable_progress_bar=True)(pairs)
    read: dict[str, list[str]] = {}
    for entry in wrapped.history:
        *_, last = entry["messages"]
        question = next(
            found[1] for message in entry["messages"] if (found := re.search(r"(\d\+1\?)", str(message["content"])))
        )
        read.setdefault(question, []).append(supplement_in(last["content"]))
    assert all(len(notes) == 2 and len(set(notes)) == 1 for notes in read.values())
    assert len({notes[0] for notes in read.values()}) == 8


@pytest.mark.compatible("Modules", "ReAct")
@pytest.mark.parametrize("copied", [lambda program: program.deepcopy(), lambda program: program.reset_copy()])
def test_a_copy_of_a_program_keeps_the_scope(copied: Callable[[dspy.Module], dspy.Module]) -> None:
    wrapped = copied(supplement(agent(), generator=numbered(), scope="episode"))
    assert run(wrapped, CASES["ReAct"][0]).supplements == ["Note 1."] * 3 + ["Note 2."]


@pytest.mark.compatible("Modules", "BestOfN")
def test_every_attempt_of_best_of_n_over_a_wrapped_program_is_a_run_of_its_own() -> None:
    wrapped = supplement(agent(), generator=numbered(), scope="episode")
    after = run(dspy.BestOfN(wrapped, N=2, reward_fn=half, threshold=1.0), CASES["BestOfN"][0])
    assert after.supplements == ["Note 1."] * 3 + ["Note 2."] + ["Note 3."] * 3 + ["Note 4."]


@pytest.mark.compatible("Modules", "Parallel")
def test_with_scope_episode_calls_at_once_in_one_run_share_the_first_supplement() -> None:
    numbers, together = itertools.count(1), threading.Barrier(2)

    def slowly(prompt: str) -> Supplement:
        with suppress(threading.BrokenBarrierError):
            together.wait(timeout=1)
        return Supplement("free", f"Note {next(numbers)}.")

    wrapped = supplement(Fan(), generator=ScriptedGenerator(slowly), scope="episode")
    assert run(wrapped, CASES["Parallel"][0]).supplements == ["Note 1."] * 8
