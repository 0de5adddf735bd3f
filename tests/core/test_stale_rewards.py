"""A reward is read again only under the code that gave it; another metric judges kept answers, and nothing is paid."""

from __future__ import annotations

import functools
import math
import operator
import os
import re
import subprocess
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dspy
import pandas
import prompted
import pytest
import torch
from places import PATHS
from pydantic import BaseModel, Field, PrivateAttr, model_validator
from scripted import ScriptedEngine, ScriptedGenerator, ScriptedTrainer, reply
from small_compile import WORLD, helped, teleprompter, writer

from optimizers.core.fingerprints import describe_scope, read_metric, read_program, scope_of, split_scope
from optimizers.core.records import Candidate
from optimizers.core.reward import Metric, Scorer
from optimizers.observe.report.record import read_run
from optimizers.rollouts.engine import RolloutEngine
from optimizers.rollouts.kept_answers import dump_answer, load_answer
from optimizers.spt.recipe import SPTRecipe
from optimizers.store.rollout_store import RolloutStore
from optimizers.tasks import names, task
from sgt_modules.embedded import program
from sgt_modules.errors import MetricError
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.wrapping import supplement

HINT = Supplement("answer", "Add one.")
EXAMPLES = [dspy.Example(question=f"{n}+1?", answer=str(n + 1)).with_inputs("question") for n in range(4)]

METRIC = "def metric(example, prediction, trace=None):\n"


def written(text: str, name: str = "metric", **around: object) -> Any:
    """What a module of this text defines: edited text is the same name in the same module."""
    known: dict[str, Any] = {"__name__": "users_own", "dspy": dspy, **around}
    if known["__name__"] is None:
        del known["__name__"]
    exec(text, known)
    return known[name]


def level(value: float) -> Metric:
    return lambda example, prediction, trace=None: value


def graded(example: dspy.Example, prediction: dspy.Prediction, trace: object = None, *, level: float = 0.0) -> float:
    return float(level)


class Judge:
    def __init__(self, level: int) -> None:
        self.level = level

    def metric(self, example: dspy.Example, prediction: dspy.Prediction) -> float:
        return float(self.level)

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction) -> float:
        return float(self.level)


PYDANTIC = {"BaseModel": BaseModel, "Field": Field, "PrivateAttr": PrivateAttr, "Enum": Enum}


@dataclass
class Held:
    a: int = 0


def edited(text: str, body: str, *values: object) -> Any:
    """A metric that returns `body`, after `text` with each of two values."""
    known = {"re": re, "IntEnum": IntEnum, "defaultdict": defaultdict, "deque": deque, "Held": Held, **PYDANTIC}
    return tuple(written(f"{text.format(each)}\n{METRIC}    return {body}\n", **known) for each in values)


HELPED = METRIC + "    return near(example, prediction)\ndef near(a, b):\n    return exact(a, b)\n"

APART: dict[str, tuple[Any, Any]] = {
    "an edited body": (
        written(METRIC + "    return example.answer == prediction.answer\n"),
        written(METRIC + "    return example.answer != prediction.answer\n"),
    ),
    "an edited constant": (written(METRIC + "    return 0.5\n"), written(METRIC + "    return 1.0\n")),
    "text that was executed without a module's name": (
        written(METRIC + "    return 0.5\n", __name__=None),
        written(METRIC + "    return 1.0\n", __name__=None),
    ),
    "a number of another type": (written(METRIC + "    return 1\n"), written(METRIC + "    return 1.0\n")),
    "two lambdas": (lambda example, prediction: 0.0, lambda example, prediction: 1.0),
    "what a lambda closes over": (level(0.0), level(1.0)),
    "the arguments of a partial": (functools.partial(graded, level=0), functools.partial(graded, level=1)),
    "a default": (
        written("def metric(example, prediction, most=1):\n    return most\n"),
        written("def metric(example, prediction, most=2):\n    return most\n"),
    ),
    "a helper of a helper": (
        written(HELPED + "def exact(a, b):\n    return a == b\n"),
        written(HELPED + "def exact(a, b):\n    return a is b\n"),
    ),
    "a constant of the module": (
        written("LEVEL = 1\n" + METRIC + "    return LEVEL\n"),
        written("LEVEL = 0\n" + METRIC + "    return LEVEL\n"),
    ),
    "a word in a set": (
        written("STOP = {'a', 'the'}\n" + METRIC + "    return prediction.answer in STOP\n"),
        written("STOP = {'a', 'an'}\n" + METRIC + "    return prediction.answer in STOP\n"),
    ),
    "a method of a class that it uses": (
        written("class Rule:\n    def holds(self): return 1\n" + METRIC + "    return Rule().holds()\n"),
        written("class Rule:\n    def holds(self): return 0\n" + METRIC + "    return Rule().holds()\n"),
    ),
    "the object whose method it is": (Judge(0).metric, Judge(1).metric),
    "an object that is called": (Judge(0), Judge(1)),
    "a function within": (
        written(METRIC + "    def inner(): return 1\n    return inner()\n"),
        written(METRIC + "    def inner(): return 0\n    return inner()\n"),
    ),
    "a judge's instructions": (
        written(METRIC + "    return JUDGE\n", JUDGE=dspy.Predict(dspy.Signature("answer -> score", "Be strict."))),
        written(METRIC + "    return JUDGE\n", JUDGE=dspy.Predict(dspy.Signature("answer -> score", "Be mild."))),
    ),
    "what is memoised": (functools.lru_cache(level(0.0)), functools.lru_cache(level(1.0))),
    "the end of a long pattern": edited("R = re.compile('a' * 250 + {!r})", "R.search(prediction.answer)", "b", "c"),
    "a number in the middle of a tensor": tuple(
        written(METRIC + "    return T\n", T=torch.cat([torch.zeros(600), torch.full((1,), n), torch.zeros(600)]))
        for n in (1.0, 2.0)
    ),
    "a row in the middle of a table": tuple(
        written(METRIC + "    return T\n", T=pandas.DataFrame({"n": [*range(99), n, *range(99)]})) for n in (1, 2)
    ),
    "the value of a member": edited("class L(Enum):\n    HIGH = {}\nX = L.HIGH", "X.value", 1, 2),
    "the method of a member that is a number": edited(
        "class L(IntEnum):\n    HIGH = 1\n    def rate(self): return {}\nX = L.HIGH", "X.rate()", 1, 2
    ),
    "a default of a mapping": edited("D = defaultdict(lambda: {})", "D[prediction.answer]", 1, 2),
    "the length of a queue": edited("Q = deque([1], maxlen={})", "Q.maxlen", 2, 3),
    "a list and a tuple": edited("T = {!r}", "prediction.parts == T", ["a"], ("a",)),
    "a private attribute": edited(
        "class R(BaseModel):\n    _t: float = PrivateAttr({})\n    def rate(self): return self._t\nX = R()",
        "X.rate()",
        0.1,
        0.2,
    ),
    "a field's bound": edited("class R(BaseModel):\n    s: int = Field(1, le={})", "R(s=prediction.s)", 3, 4),
    "what a child of a dataclass holds": edited(
        "class B(Held):\n    def __init__(self, b): self.a, self.b = 0, b\nX = B({})", "X.b", 1, 2
    ),
    "the class of a class": edited(
        "class M(type):\n    def rate(cls): return {}\nclass X(metaclass=M): pass", "X.rate()", 1, 2
    ),
    "the last of 300 helpers": edited(
        "\n".join(f"def f{n}(x): return f{n + 1}(x)" for n in range(300)) + "\ndef f300(x): return {}", "f0(1)", 1, 2
    ),
    **{
        f"a method of {kind}'s child": edited(
            f"class C({kind}):\n    def rate(self): return {{}}\nX = C({content})", "X.rate()", 1, 2
        )
        for kind, content in {"str": "'a'", "int": "3", "dict": "a=1", "list": "[1]", "tuple": "(1,)"}.items()
    },
    "the seed of a world": (type(WORLD)(1, sizes=WORLD.sizes).metric, WORLD.metric),
}


@pytest.mark.parametrize("what", APART)
def test_metrics_that_differ_in_what_they_do_are_two_metrics(what: str) -> None:
    one, other = (read_metric(each) for each in APART[what])
    assert one.mark != other.mark
    assert one.unread == other.unread == ()
    assert one == read_metric(APART[what][0])


def test_a_metric_is_the_same_with_other_comments_docstrings_blank_lines_and_helpers_that_it_does_not_use() -> None:
    plain = written(METRIC + "    def inner():\n        return 2\n    return inner()\n")
    other = written(
        '"""A module."""\n\ndef unused(): pass\n\n\n'
        + METRIC
        + '    """Says how good."""\n    # why\n    def inner():\n        "Says two."\n\n        return 2\n\n'
        + "    return (inner())\n"
    )
    assert read_metric(plain) == read_metric(other)


def test_a_metric_is_the_same_as_a_script_and_as_a_module_that_is_imported() -> None:
    text = "class Rule:\n    def holds(self): return near\ndef near(): return Rule()\n" + METRIC + "    return near()\n"
    assert read_metric(written(text, __name__="__main__")) == read_metric(written(text, __name__="users_script"))


def test_what_a_library_s_decorator_counts_on_a_metric_does_not_make_it_another() -> None:
    text = "import functools\ndef counting(f):\n    @functools.wraps(f)\n    def inner(*given):\n"
    text += "        inner.calls = getattr(inner, 'calls', 0) + 1\n        return f(*given)\n    return inner\n"
    decorate = written(text, "counting", __name__="dspy.counting")
    one, other = (decorate(written(METRIC + f"    return {n}\n")) for n in (0, 1))
    before = read_metric(one)
    one(None, None)
    assert read_metric(one) == before
    assert read_metric(one).mark != read_metric(other).mark


INLINE = {
    "by the package": METRIC + "    return dspy.Predict('a -> b')(a='').b\n",
    "by name": METRIC + "    return Predict('a -> b')(a='').b\n",
    "in a helper": METRIC + "    return ask()\ndef ask(): return dspy.ChainOfThought('a -> b')(a='').b\n",
    "the LM itself": METRIC + "    return dspy.settings.lm('Good?')\n",
}


@pytest.mark.parametrize("how", INLINE)
def test_a_judge_that_a_metric_makes_as_it_runs_counts_with_the_lm_that_it_asks(how: str) -> None:
    metric, plain = (
        written(INLINE[how], Predict=dspy.Predict),
        written(METRIC + "    return dspy.Prediction(score=1)\n"),
    )
    made: list[tuple[str, str]] = []
    for model in ("openai/one", "openai/two"):
        with dspy.context(lm=dspy.LM(model)):
            made.append((read_metric(metric).mark, read_metric(plain).mark))
    assert made[0][0] != made[1][0]
    assert made[0][1] == made[1][1]


def test_the_lm_of_a_predictor_that_has_one_of_its_own_is_all_that_counts() -> None:
    asked = asking()
    asked.set_lm(dspy.LM("openai/own"))
    marks: list[str] = []
    for model in ("openai/one", "openai/two"):
        with dspy.context(lm=dspy.LM(model)):
            marks.append(read_program(asked).mark)
    assert marks[0] == marks[1]


def test_a_count_that_a_metric_keeps_itself_does_not_make_it_another() -> None:
    counting = written("COUNT = 0\n" + METRIC + "    global COUNT\n    COUNT += 1\n    return COUNT\n")
    before = read_metric(counting)
    counting(None, None)
    assert read_metric(counting) == before


class Inner(dspy.Module):
    def forward(self, question: str) -> dspy.Prediction:
        return dspy.Prediction(answer=question)


PROGRAM = """
class Asking(dspy.Module):
    def __init__(self, inner=None, most=1):
        super().__init__()
        self.ask, self.inner, self.most = dspy.Predict(SIGNATURE), inner, most
    def forward(self, question):
        return {}
"""


def asking(
    body: str = "self.ask(question=question)", *given: object, fields: str = "question -> answer"
) -> dspy.Module:
    return written(PROGRAM.format(body), "Asking", SIGNATURE=fields)(*given)


INNER = "class Inner(dspy.Module):\n    def forward(self, question):\n        return {}\n"


def inner(body: str) -> dspy.Module:
    return written(INNER.format(body), "Inner")()


def looks(text: str) -> Callable[[str], str]:
    return written(f"def look(word: str) -> str:\n    return {text!r}\n", "look")


PROGRAMS: dict[str, tuple[dspy.Module, dspy.Module]] = {
    "an edited forward": (asking(), asking("self.ask(question=question + '?')")),
    "another class of the same name": (asking(), inner("dspy.Prediction(answer='4')")),
    "a module within": (asking("self.inner(question)", inner("1")), asking("self.inner(question)", inner("2"))),
    "a number that forward may read": (asking("1", None, 1), asking("1", None, 2)),
    "the type of a field": (asking(fields="question -> answer: int"), asking(fields="question -> answer: str")),
    "the name of a field": (asking(fields="question -> answer"), asking(fields="question -> reply")),
    "an agent's turns": tuple(dspy.ReAct("question -> answer", [looks("a")], max_iters=n) for n in (2, 3)),  # pyright: ignore[reportAssignmentType]
    **{
        f"{what} of a field's type": tuple(
            dspy.Predict(
                dspy.Signature(
                    {"q": (str, dspy.InputField()), "a": (written(text.format(n), "R", **PYDANTIC), dspy.OutputField())}
                )
            )
            for n in "ab"
        )
        for what, text in {
            "the words": "class R(BaseModel):\n    s: str = Field(description={!r})",
            "the docstring": "class R(BaseModel):\n    {!r}\n    s: int",
            "the value of a member": "class R(Enum):\n    A = {!r}",
        }.items()
    },
    "the code of a tool": tuple(dspy.ReAct("question -> answer", [looks(text)]) for text in "ab"),  # pyright: ignore[reportAssignmentType]
}


@pytest.mark.parametrize("what", PROGRAMS)
def test_programs_that_differ_in_what_they_do_are_two_programs(what: str) -> None:
    one, other = (read_program(each) for each in PROGRAMS[what])
    assert one.mark != other.mark
    assert one.unread == other.unread == ()


def test_a_function_in_a_signature_counts_by_its_code_and_not_by_its_address() -> None:
    def asked() -> dspy.Module:
        with pytest.warns(DeprecationWarning, match="format"):
            given = dspy.InputField(format=looks("a"))
        return dspy.Predict(dspy.Signature({"q": (str, given), "answer": (str, dspy.OutputField())}))

    one, other = asked(), asked()
    assert read_program(one) == read_program(other)


def test_what_a_generator_writes_and_what_a_run_leaves_behind_do_not_make_another_program() -> None:
    asked = supplement(asking(), generator=ScriptedGenerator(lambda prompt: HINT))
    other = supplement(asking(), generator=ScriptedGenerator(lambda prompt: SILENCE))
    engine = ScriptedEngine(lambda text: reply(answer="4"))
    with dspy.context(lm=engine.lm()):
        before = read_program(asked)
        asked(question="2+2?")
        assert read_program(asked) == before == read_program(other) == read_program(asked.deepcopy())


ELSEWHERE = """
import sys, dspy, test_stale_rewards as here
from optimizers.core.fingerprints import read_metric, read_program
print(*[read_metric(each).mark for pair in here.APART.values() for each in pair])
print(*[read_program(each).mark for pair in here.PROGRAMS.values() for each in pair])
"""


@pytest.mark.slow
def test_a_scope_is_the_same_in_every_process() -> None:
    def said(seed: str) -> str:
        paths = os.pathsep.join([PATHS, os.environ.get("PYTHONPATH", "")])
        surroundings = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths}
        command = [sys.executable, "-c", ELSEWHERE]
        return subprocess.run(command, env=surroundings, check=True, capture_output=True, text=True).stdout

    first = said("1")
    assert len(set(first.split())) >= len(APART) + len(PROGRAMS)
    assert said("2") == first


IMPORTS = [
    "from .. import deep\n    return deep.near()",
    "from ..deep import near\n    return near()",
    "from own import deep\n    return deep.near()",
    "import own.deep\n    return own.deep.near()",
    "from own.middle import near\n    return near()",
]


@pytest.mark.parametrize("body", IMPORTS)
def test_a_metric_that_imports_within_itself_is_told_apart_by_what_that_module_and_its_imports_say(
    body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own" / "inner").mkdir(parents=True)
    for empty in ("own/__init__.py", "own/inner/__init__.py"):
        (tmp_path / empty).write_text("")
    (tmp_path / "own" / "middle.py").write_text("from own.deep import near\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        metric = written(f"{METRIC}    {body}\n", __name__="own.inner.metrics", __package__="own.inner")
        marks: list[str] = []
        for value in (1, 2, 1):
            (tmp_path / "own" / "deep.py").write_text(f"def near(): return {value}\n")
            marks.append(read_metric(metric).mark)
    finally:
        for name in [each for each in sys.modules if each.partition(".")[0] == "own"]:
            del sys.modules[name]
    assert marks[0] == marks[2] != marks[1]


def test_a_metric_that_cannot_be_read_is_named_and_told_apart_by_its_version() -> None:
    connected = functools.partial(graded, level=object())  # pyright: ignore[reportArgumentType]
    for metric, named in ((operator.eq, "metric (eq)"), (connected, "metric.level (object)")):
        assert read_metric(metric).unread == (named,)
        assert read_metric(metric, "1").mark != read_metric(metric, "2").mark
    assert read_metric(math.isclose).mark != read_metric(operator.eq).mark


def test_a_version_counts_for_the_program_only_where_the_program_holds_what_cannot_be_read() -> None:
    assert read_program(asking(), "1").mark == read_program(asking(), "2").mark
    holding = asking("1", object())
    assert read_program(holding).unread == ("program.inner (object)",)
    assert read_program(holding, "1").mark != read_program(holding, "2").mark


class Workbench:
    """One store, and an actor of one program for each metric."""

    def __init__(self, store: RolloutStore) -> None:
        self.store = store
        self.engine = ScriptedEngine(self.said)

    def said(self, text: str) -> str:
        number = int(text.split("+1?")[0].split()[-1])
        return reply(answer=str(number + 1 if "Add one." in text else number))

    def actor(self, metric: Metric, fields: Any = "question -> answer", version: str = "") -> RolloutEngine:
        asked = supplement(dspy.Predict(fields), generator=ScriptedGenerator(lambda prompt: HINT))
        asked.set_lm(self.engine.lm())
        scope = scope_of(asked, metric, version=version)
        self.store.describe(scope, describe_scope(asked, metric))
        return RolloutEngine(asked, Scorer(metric), self.store, scope, num_threads=2, max_errors=5, version=version)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Workbench]:
    with RolloutStore(tmp_path / "rollouts.sqlite") as store:
        yield Workbench(store)


def exact(example: dspy.Example, prediction: dspy.Prediction) -> float:
    return float(str(example.answer) == str(prediction.answer))


def wrong(example: dspy.Example, prediction: dspy.Prediction) -> float:
    return 1 - exact(example, prediction)


def scores(rollouts: Any) -> list[float | None]:
    return [None if each.reward is None else each.reward.score for each in rollouts]


def test_another_metric_judges_kept_answers_again_and_pays_nothing(bench: Workbench) -> None:
    first = bench.actor(exact)
    probe = first.probe(EXAMPLES)
    candidates = [Candidate(query, HINT, "free") for query in probe.queries]
    assert scores(probe.rollouts) == [0.0] * 4
    assert scores(first.run(candidates, EXAMPLES, "warm")) == [1.0] * 4
    paid = len(bench.engine.asked)
    second = bench.actor(wrong)
    assert split_scope(second.scope)[0] == split_scope(first.scope)[0]
    assert scores(second.probe(EXAMPLES).rollouts) == [1.0] * 4
    assert scores(second.run(candidates, EXAMPLES, "warm")) == [0.0] * 4
    assert (len(bench.engine.asked), second.rescored["runs"], second.usage.calls) == (paid, 8, 0)
    assert second.single_call
    third = bench.actor(wrong)  # and the new rewards are kept as well
    assert scores(third.run(candidates, EXAMPLES, "warm")) == [0.0] * 4
    assert third.rescored["runs"] == 0
    assert scores(bench.actor(exact).run(candidates, EXAMPLES, "warm")) == [1.0] * 4


def test_runs_whose_supplements_were_written_as_they_ran_are_judged_again_too(bench: Workbench) -> None:
    def ran(metric: Metric) -> tuple[RolloutEngine, list[float | None], list[float | None]]:
        actor = bench.actor(metric)
        live = actor.run_live(EXAMPLES, actor.program, "dpo1/val")
        chosen = actor.run_jointly(EXAMPLES, [(n, lambda place, prompt: HINT) for n in range(4)], "warm")
        assert [len(each.calls) for each in live] == [1] * 4
        return actor, scores(each.rollout for each in live), scores(chosen)

    _, *before = ran(exact)
    paid = len(bench.engine.asked)
    second, *after = ran(wrong)
    assert (before, after) == ([[1.0] * 4] * 2, [[0.0] * 4] * 2)
    assert (len(bench.engine.asked), second.rescored["runs"]) == (paid, 8)


def test_an_answer_reaches_the_other_metric_with_the_types_it_had(bench: Workbench) -> None:
    def typed(example: dspy.Example, prediction: dspy.Prediction) -> float:
        return float(type(prediction.answer) is int and prediction.completions.answer == [prediction.answer])

    bench.actor(exact, "question -> answer: int").probe(EXAMPLES)
    paid = len(bench.engine.asked)
    assert scores(bench.actor(typed, "question -> answer: int").probe(EXAMPLES).rollouts) == [1.0] * 4
    assert len(bench.engine.asked) == paid


def test_an_answer_that_a_broken_metric_could_not_judge_is_judged_by_the_mended_one(bench: Workbench) -> None:
    def broken(example: dspy.Example, prediction: dspy.Prediction) -> float:
        raise KeyError("typo")

    assert scores(bench.actor(broken).probe(EXAMPLES).rollouts) == [None] * 4
    paid = len(bench.engine.asked)
    assert scores(bench.actor(exact).probe(EXAMPLES).rollouts) == [0.0] * 4
    assert len(bench.engine.asked) == paid


def test_an_answer_that_cannot_be_read_is_a_failure_under_any_metric_and_not_paid_again(bench: Workbench) -> None:
    bench.engine = ScriptedEngine(lambda text: "no field")
    assert scores(bench.actor(exact).probe(EXAMPLES).rollouts) == [0.0] * 4
    paid = len(bench.engine.asked)
    again_ = bench.actor(wrong).probe(EXAMPLES).rollouts
    assert scores(again_) == [0.0] * 4
    assert all("AdapterParseError" in each.error for each in again_)
    assert len(bench.engine.asked) == paid


class Opaque:
    """Neither JSON nor any declared type says what it holds."""


class Handing(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        return dspy.Prediction(answer=self.ask(question=question).answer, handle=Opaque())


def test_an_answer_that_cannot_be_kept_whole_is_paid_again(bench: Workbench) -> None:
    def ran(metric: Metric) -> list[float | None]:
        asked = Handing()
        asked.set_lm(bench.engine.lm())
        scope = scope_of(asked, metric)
        bench.store.describe(scope, {})
        return scores(RolloutEngine(asked, Scorer(metric), bench.store, scope, num_threads=1).probe(EXAMPLES).rollouts)

    assert ran(exact) == [0.0] * 4
    assert ran(wrong) == [1.0] * 4
    assert len(bench.engine.asked) == 8


def test_rewards_of_a_store_from_before_scopes_told_code_never_answer(bench: Workbench) -> None:
    actor = bench.actor(exact)
    old = actor.probe(EXAMPLES).rollouts[0]
    bench.store.add(old, "4f2a9c0d11e2b3a4")
    bench.store.describe("4f2a9c0d11e2b3a4", {"metric": "tests.exact"})
    assert bench.store.get("4f2a9c0d11e2b3a4", old.query.id, SILENCE) is not None
    other = bench.actor(wrong, "question -> answer: str, why")
    paid = len(bench.engine.asked)
    other.probe(EXAMPLES[:1])
    assert len(bench.engine.asked) > paid


class Point(BaseModel):
    x: int
    tags: list[str] = []


class Mood(Enum):
    """One of its members."""

    GOOD = "good"


DECLARED: dict[str, tuple[Any, Any]] = {
    "models": (list[Point], [Point(x=1), Point(x=2)]),
    "models by name": (dict[str, Point], {"z": Point(x=1), "a": Point(x=2)}),
    "a pair": (tuple[int, Point], (1, Point(x=2))),
    "a member": (Mood, Mood.GOOD),
    "members": (list[Mood], [Mood.GOOD]),
    "an image": (dspy.Image, dspy.Image(url="https://images.test/a.png")),
    "images": (list[dspy.Image], [dspy.Image(url="https://images.test/a.png")]),
    "names in their order": (dict[str, int], {"z": 1, "a": 2}),
}


@pytest.mark.parametrize("what", DECLARED)
def test_an_answer_of_a_declared_type_is_kept_whatever_it_holds(what: str) -> None:
    declared, value = DECLARED[what]
    asked = dspy.Predict(dspy.Signature({"q": (str, dspy.InputField()), "answer": (declared, dspy.OutputField())}))
    prediction = dspy.Prediction.from_completions([{"answer": value}])
    found = load_answer({"answer": str(value)}, dump_answer(prediction, asked), asked)
    assert found is not None
    assert (found.answer, found.completions.answer) == (value, [value])
    if isinstance(value, dict):
        assert list(found.answer) == list(value)


KEPT = [
    dspy.Prediction(answer="4"),
    dspy.Prediction(answer=4, sure=0.5, done=None, right=True),
    dspy.Prediction(parts=["3", 1, [2.5]], by={"a": {"b": (1, "x")}}, tags={"u", "v"}),
    dspy.Prediction(point=Point(x=3, tags=["a"])),
    dspy.Prediction.from_completions([{"answer": "4"}]),
    dspy.Prediction.from_completions([{"answer": "4"}, {"answer": "5"}]),
]


@pytest.mark.parametrize("prediction", KEPT)
def test_a_kept_answer_is_the_same_prediction_again(prediction: dspy.Prediction) -> None:
    asked = dspy.Predict(dspy.Signature({"q": (str, dspy.InputField()), "point": (Point, dspy.OutputField())}))
    text = dump_answer(prediction, asked)
    found = load_answer({name: str(each) for name, each in prediction.items()}, text, asked)
    assert found is not None
    assert found.toDict() == prediction.toDict()
    assert {name: type(each) for name, each in found.items()} == {n: type(each) for n, each in prediction.items()}
    before, after = (
        None if each.completions is None else dict(each.completions.items()) for each in (prediction, found)
    )
    assert before == after


@pytest.mark.parametrize(
    "value",
    [Opaque(), {1: "a"}, Point(x=1), SimpleNamespace(a=1), 10**5000],
    ids=["an object", "a mapping of numbers", "a dataclass", "a namespace", "a number too long for a text"],
)
def test_an_answer_that_no_text_gives_again_is_not_kept(value: object) -> None:
    assert dump_answer(dspy.Prediction(other=value), dspy.Predict("question -> answer")) == ""
    assert load_answer({"other": "?"}, "", dspy.Predict("question -> answer")) is None


class Incomparable(BaseModel):
    """As a model that holds an array: its `==` raises."""

    x: int

    def __eq__(self, other: object) -> bool:
        raise ValueError("The truth value of an array with more than one element is ambiguous.")

    __hash__ = None


class Unprintable(Incomparable):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("kind", [Incomparable, Unprintable])
def test_an_answer_whose_own_methods_raise_is_scored_and_paid_once(kind: type[BaseModel], bench: Workbench) -> None:
    bench.engine = ScriptedEngine(lambda text: reply(answer='{"x": 4}'))
    fields: Any = {"question": (str, dspy.InputField()), "answer": (kind, dspy.OutputField())}
    for _ in range(2):
        actor = bench.actor(lambda example, prediction: prediction.answer.x == 4, dspy.Signature(fields))
        assert scores(actor.probe(EXAMPLES).rollouts) == [1.0] * 4
    assert len(bench.engine.asked) == bench.store.count() == 4


class OfItsOwnKind(BaseModel):
    x: int

    def __eq__(self, other: Any) -> bool:
        return self.x == other.x

    __hash__ = None


def test_an_answer_that_a_program_replaced_is_kept_though_it_compares_with_its_own_kind_alone() -> None:
    fields: Any = {"q": (str, dspy.InputField()), "answer": (OfItsOwnKind | str, dspy.OutputField())}
    asked = dspy.Predict(dspy.Signature(fields))
    prediction = dspy.Prediction.from_completions([{"answer": "4"}])
    prediction.answer = OfItsOwnKind(x=4)
    found = load_answer({"answer": "x=4"}, dump_answer(prediction, asked), asked)
    assert found is not None
    assert (found.answer, found.completions.answer) == (OfItsOwnKind(x=4), ["4"])


def test_an_answer_that_its_type_refuses_to_restore_is_not_known() -> None:
    class Refusing(BaseModel):
        @model_validator(mode="before")
        @classmethod
        def refuse(cls, content: object) -> object:
            raise RuntimeError("no connection")

    asked = dspy.Predict(dspy.Signature({"q": (str, dspy.InputField()), "answer": (Refusing, dspy.OutputField())}))
    text = '{"typed": {"answer": {"declared": {}}}, "completions": null}'
    assert load_answer({"answer": "?"}, text, asked) is None


def judged_by(body: str) -> Metric:
    return written(METRIC + f"    return {body}\n")


def compiled(folder: Path, metric: Metric, student: dspy.Module | None = None, **changes: Any) -> tuple[Any, int]:
    """A run of SPT that finds no mistakes: its result, and how many calls of the actor it made (14, all new)."""
    acting = prompted.actor()
    with dspy.context(lm=acting.lm()):
        better = prompted.spt(
            prompted.corrector([]), folder, metric, recipe=SPTRecipe(threshold=0.1), **changes
        ).compile(student or prompted.student(), trainset=prompted.TRAIN, valset=prompted.VAL)
    return better.detailed_results, len(acting.asked)  # pyright: ignore[reportAttributeAccessIssue]


def test_a_run_that_goes_on_with_an_edited_metric_has_its_rewards_and_pays_nothing(tmp_path: Path) -> None:
    first, paid = compiled(tmp_path, judged_by("max(0.25, example.answer == prediction.answer)"))
    second, more = compiled(tmp_path, judged_by("max(0.25, example.answer != prediction.answer)"))
    assert ([stage.score for stage in first.stages], paid) == ([0.5], 14)
    assert ([stage.score for stage in second.stages], more) == ([0.75], 0)
    assert any(note.startswith("The metric is another than in this folder's last session") for note in second.notes)
    assert any(note.startswith("14 answers were judged again by the changed metric") for note in second.notes)
    shown = read_run(tmp_path)
    validated = [each.score or 0 for each in shown.rollouts if each.split == "val"]
    assert sum(validated) / len(validated) == 0.75


def test_runs_that_share_a_store_judge_each_others_answers_again(tmp_path: Path) -> None:
    shared = {"store": tmp_path / "shared.sqlite"}
    compiled(tmp_path / "a", functools.partial(graded, level=0.5), **shared)
    second, more = compiled(tmp_path / "b", functools.partial(graded, level=1), **shared)
    assert ([stage.score for stage in second.stages], more) == ([1.0], 0)


def test_an_edited_forward_is_paid_for_again_and_the_run_says_so(tmp_path: Path) -> None:
    def student(body: str) -> dspy.Module:
        return asking(body, fields=dspy.Signature("question -> answer", prompted.FIRST))  # pyright: ignore[reportArgumentType]

    metric = judged_by("max(0.25, example.answer == prediction.answer)")
    first, paid = compiled(tmp_path, metric, student("self.ask(question=question)"))
    second, more = compiled(tmp_path, metric, student("dspy.Prediction(answer=self.ask(question=question).answer[:1])"))
    assert [stage.score for stage in (*first.stages, *second.stages)] == [0.5, 0.25]
    assert (paid, more) == (14, 14)
    assert any(note.startswith("The program, its code or its LM is another") for note in second.notes)


def test_a_metric_that_cannot_be_read_is_told_in_a_note_until_a_version_stands_for_it(tmp_path: Path) -> None:
    metric = Connected()
    first, _ = compiled(tmp_path / "a", metric)
    assert any("metric.link (object) cannot be read" in note for note in first.notes)
    told, paid = compiled(tmp_path / "b", metric, version="1")
    after, more = compiled(tmp_path / "b", metric, version="2")
    assert not any("cannot be read" in note for note in (*told.notes, *after.notes))
    assert (paid, more) == (14, 0)
    assert any(note.startswith("14 answers were judged again") for note in after.notes)


class Connected:
    """A metric that holds what nothing can read."""

    def __init__(self) -> None:
        self.link = object()

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction) -> bool:
        return True


def test_sgt_goes_on_with_an_edited_metric_without_a_call_of_the_actor(tmp_path: Path) -> None:
    def scored(least: float) -> tuple[Any, ScriptedEngine]:
        engine = ScriptedEngine(helped)
        with dspy.context(lm=engine.lm()):
            better = teleprompter(
                tmp_path, functools.partial(at_least, least=least), generator=writer(), trainer=ScriptedTrainer()
            ).compile(program(), trainset=WORLD.train, valset=WORLD.val)
        return better.detailed_results, engine  # pyright: ignore[reportAttributeAccessIssue]

    (first, paid), (second, more) = scored(0.0), scored(0.25)
    assert paid.asked
    assert not more.asked
    assert [stage.score for stage in first.stages] == [0.0, 1.0, 1.0]
    assert [stage.score for stage in second.stages] == [0.25, 1.0, 1.0]


def at_least(example: dspy.Example, prediction: dspy.Prediction, *, least: float) -> float:
    return max(least, WORLD.metric(example, prediction).score)


def test_a_metric_that_still_raises_on_a_kept_answer_has_no_reward(bench: Workbench) -> None:
    def broken(example: dspy.Example, prediction: dspy.Prediction) -> float:
        raise ValueError("not yet")

    bench.actor(exact).probe(EXAMPLES)
    paid = len(bench.engine.asked)
    found = bench.actor(broken).probe(EXAMPLES).rollouts
    assert scores(found) == [None] * 4
    assert all(each.error.startswith(f"{MetricError.__name__}: ") for each in found)
    assert len(bench.engine.asked) == paid


@pytest.mark.parametrize("name", sorted(names()))
def test_all_of_a_task_s_own_metric_can_be_read(name: str) -> None:
    assert read_metric(task(name).metric).unread == ()
