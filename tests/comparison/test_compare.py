"""`compare`: a user's own program and optimizer, what is kept of it, and what is refused."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import dspy
import pytest
from dspy.lm15 import RateLimitError, Request, Response
from dspy.teleprompt import Teleprompter
from places import ROOT
from scripted import ScriptedEngine, reply

from optimizers.comparison import Budget, Comparison, Contender, Problem, compare, compare_problems
from optimizers.comparison.trial import ATTEMPTS
from sgt_modules.errors import OverlappingSplitsError, ProviderRefusedError, RunFolderError, SetupError

SUMS = [dspy.Example(question=f"{n}+1?", answer=str(n + 1)).with_inputs("question") for n in range(40)]
TRAIN, VAL, TEST = SUMS[:8], SUMS[8:16], SUMS[16:]


def exact(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    return example.answer == prediction.answer


def adds_when_advised(text: str) -> str:
    """An actor that adds if the advice says so, else repeats the number; it always adds below 20."""
    number = int(re.findall(r"(\d+)\+1\?", text)[-1])
    return reply(answer=str(number + 1) if "Add one." in text or number < 20 else str(number))


class Telling(dspy.Module):
    """A program of the user's own."""

    def __init__(self, advice: str = "") -> None:
        super().__init__()
        self.answer = dspy.Predict("question, advice -> answer")
        self.advice = advice

    def forward(self, question: str) -> dspy.Prediction:
        return self.answer(question=question, advice=self.advice)


class TellIt(Teleprompter):
    """An optimizer of the user's own: it tries a sentence on the training set, and keeps it where it helps."""

    def compile(self, student: Telling, *, trainset: list[dspy.Example]) -> Telling:
        advised = Telling("Add one.")
        scores = [sum(exact(each, program(**each.inputs())) for each in trainset) for program in (student, advised)]
        return advised if scores[1] >= scores[0] else student


def compared(folder: Path, script: Callable[[str], str] = adds_when_advised, **changes: object) -> Comparison:
    settings = {"contenders": [TellIt()], "seeds": (0, 1), "log_dir": folder, "num_threads": 4}
    engine = changes.pop("engine", None) or ScriptedEngine(script)
    with dspy.context(lm=engine.lm()):
        return compare(Telling(), TRAIN, VAL, TEST, exact, display_progress=False, **(settings | changes))


def test_a_user_s_own_program_and_optimizer_are_compared(tmp_path: Path) -> None:
    """24 questions, of which 4 are easy: 20 are gained and none is lost, so McNemar's p is 2 / 2**20."""
    found = compared(tmp_path)
    none, mine = found.row("none"), found.row("tell_it")
    assert none.test == pytest.approx(4 / 24)
    assert (mine.test, mine.gain) == (1.0, pytest.approx(20 / 24))
    assert mine.relative_gain == pytest.approx(5.0)
    assert mine.p_value == pytest.approx(2 / 2**20)
    assert mine.p_best == mine.p_value
    assert mine.best_other == "none"
    assert mine.better
    assert mine.by_seed == {0: 1.0, 1: 1.0}
    assert (mine.spread, mine.unanswered) == (0.0, 0)
    assert mine.compiling.actor_calls == 2 * len(TRAIN)
    assert mine.answer.actor_calls == 1
    assert mine.extra_tokens == 2


def test_finished_contenders_are_not_run_again_and_new_ones_are(tmp_path: Path) -> None:
    first = compared(tmp_path)
    engine = ScriptedEngine(adds_when_advised)
    again = compared(tmp_path, engine=engine)
    assert not engine.asked
    assert again == first
    more = compared(tmp_path, engine=engine, contenders=[TellIt(), "bootstrap_fewshot"], seeds=(0, 1, 2))
    assert engine.asked
    assert more.row("tell_it").by_seed == {0: 1.0, 1: 1.0, 2: 1.0}
    assert not more.row("bootstrap_fewshot").skipped


class PulledPlugError(BaseException):
    """Neither an optimizer nor `compare` can catch it."""


def test_a_comparison_that_crashed_goes_on_and_pays_nothing_twice(tmp_path: Path) -> None:
    calls = [0]

    def crashes(text: str) -> str:
        calls[0] += 1
        if calls[0] == 30:
            raise PulledPlugError
        return adds_when_advised(text)

    with pytest.raises(PulledPlugError):
        compared(tmp_path / "crashed", crashes, num_threads=1)
    engine, whole = ScriptedEngine(adds_when_advised), ScriptedEngine(adds_when_advised)
    found = compared(tmp_path / "crashed", engine=engine)
    clean = compared(tmp_path / "clean", engine=whole)
    assert calls[0] - 1 + len(engine.asked) == len(whole.asked)
    assert found.content()["rows"][0]["test"] == clean.content()["rows"][0]["test"]
    for name in ("none", "tell_it"):
        assert found.row(name).compiling.actor_calls == clean.row(name).compiling.actor_calls
        assert found.row(name).by_seed == clean.row(name).by_seed


@pytest.mark.parametrize("pulled", [4, 12])
def test_a_test_that_crashed_has_the_latency_and_the_seconds_of_all_its_answers(tmp_path: Path, pulled: int) -> None:
    """24 answers of at least 0.02 seconds each; the plug is pulled at the given one."""
    calls = [0]

    def slow(text: str) -> str:
        calls[0] += 1
        if calls[0] == pulled:
            raise PulledPlugError
        time.sleep(0.02)
        return adds_when_advised(text)

    settings = {"contenders": ["none"], "seeds": (0,), "num_threads": 1}
    with pytest.raises(PulledPlugError):
        compared(tmp_path, slow, **settings)
    compared(tmp_path, slow, **settings)
    outcome = json.loads((tmp_path / "none" / "seed-0" / "outcome.json").read_text())
    assert outcome["latency"] >= 0.02
    assert outcome["answering"]["seconds"] >= len(TEST) * 0.02


def test_the_latency_of_an_outage_is_not_kept(tmp_path: Path) -> None:
    calls = [0]

    def script(text: str) -> str:
        calls[0] += 1
        if calls[0] == 5 * ATTEMPTS + 1:
            raise PulledPlugError
        if calls[0] <= 5 * ATTEMPTS:
            raise RateLimitError("slow down")
        time.sleep(0.02)
        return adds_when_advised(text)

    settings = {"contenders": ["none"], "seeds": (0,), "num_threads": 1}
    with pytest.raises(PulledPlugError):
        compared(tmp_path, script, **settings)
    found = compared(tmp_path, script, **settings)
    assert (found.row("none").latency or 0.0) >= 0.02


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"seeds": ()}, SetupError, "at least one seed"),
        ({"seeds": (1, 1)}, SetupError, "each only once"),
        ({"contenders": ["gepetto"]}, SetupError, "no contender 'gepetto'"),
        ({"contenders": [TellIt(), TellIt()]}, SetupError, "called tell_it"),
        ({"budget": 0}, SetupError, "above 0"),
        ({"budget": Budget(usd=1.0)}, SetupError, "known price"),
        ({"reflection_lm": dspy.LM("nobody/nothing")}, SetupError, "nobody"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_paid(
    tmp_path: Path, changes: dict[str, object], error: type[Exception], said: str
) -> None:
    engine = ScriptedEngine(adds_when_advised)
    with pytest.raises(error, match=said):
        compared(tmp_path / "run", engine=engine, **changes)
    assert (engine.asked, list(tmp_path.iterdir())) == ([], [])


def test_splits_that_share_an_example_are_refused(tmp_path: Path) -> None:
    engine = ScriptedEngine(adds_when_advised)
    with dspy.context(lm=engine.lm()), pytest.raises(OverlappingSplitsError, match=r"testset\[0\]"):
        compare(Telling(), TRAIN, VAL, [TRAIN[3], *TEST], exact, ["none"], log_dir=tmp_path)
    assert not engine.asked


def test_other_data_in_the_same_folder_are_refused_by_name(tmp_path: Path) -> None:
    compared(tmp_path)
    with pytest.raises(RunFolderError, match="budget"):
        compared(tmp_path, budget=100)
    with dspy.context(lm=ScriptedEngine(adds_when_advised).lm()), pytest.raises(RunFolderError, match="data"):
        compare(Telling(), TRAIN, VAL, TEST[1:], exact, [TellIt()], seeds=(0, 1), log_dir=tmp_path)


def test_an_optimizer_that_fails_leaves_the_others_and_its_reason(tmp_path: Path) -> None:
    def broken(_: object) -> dspy.Module:
        raise ValueError("no idea")

    found = compared(tmp_path, contenders=[Contender("broken", broken), TellIt()])
    assert found.row("broken").skipped == "seed 0: failed (ValueError: no idea)"
    assert found.row("tell_it").test == 1.0
    mended = compared(tmp_path, contenders=[Contender("broken", lambda inputs: inputs.program), TellIt()])
    assert not mended.row("broken").skipped


def test_one_that_needs_more_than_its_budget_is_out_and_has_not_passed_it(tmp_path: Path) -> None:
    engine = ScriptedEngine(adds_when_advised)
    found = compared(tmp_path, engine=engine, budget=5, seeds=(0,))
    assert found.row("tell_it").skipped == "seed 0: used up its budget of 5 actor calls before it had a program"
    assert len(engine.asked) == 5 + len(TEST)


def test_an_outage_on_test_is_tried_again_and_never_a_zero(tmp_path: Path) -> None:
    """Each test question's first two answers are refused; the third counts."""
    refused: dict[str, int] = {}

    def busy(text: str) -> str:
        question = re.findall(r"\d+\+1\?", text)[-1]
        refused[question] = refused.get(question, 0) + 1
        if refused[question] <= 2:
            raise RateLimitError("later")
        return adds_when_advised(text)

    found = compared(tmp_path, busy, contenders=["none"], seeds=(0,))
    assert found.row("none").test == pytest.approx(4 / 24)
    assert found.row("none").unanswered == 0


def test_a_question_that_stays_without_an_answer_is_counted_apart(tmp_path: Path) -> None:
    def down_for_one(text: str) -> str:
        if "16+1?" in text:
            raise RateLimitError("later")
        return adds_when_advised(text)

    row = compared(tmp_path, down_for_one, contenders=["none"], seeds=(0,)).row("none")
    assert (row.test, row.unanswered) == (pytest.approx(3 / 23), 1)


def test_a_wrong_key_stops_the_comparison_at_once(tmp_path: Path) -> None:
    from dspy.lm15 import AuthError

    calls: list[str] = []

    def refuses(text: str) -> str:
        calls.append(text)
        raise AuthError("no such key", status=401)

    with pytest.raises(ProviderRefusedError, match="no such key"):
        compared(tmp_path, refuses, contenders=["none"])
    assert len(calls) == 1


def test_seeds_of_a_task_may_have_examples_of_their_own(tmp_path: Path) -> None:
    """Four easy ones of 24 with seed 0, none of 12 with seed 1: 4 of 36 altogether."""
    problems = {
        0: Problem(Telling(), exact, TRAIN, VAL, TEST),
        1: Problem(Telling(), exact, TRAIN, VAL, [each for each in TEST if int(each.answer) > 28]),
    }
    with dspy.context(lm=ScriptedEngine(adds_when_advised).lm()):
        shared = compare_problems(problems, ["none"], log_dir=tmp_path / "shared", display_progress=False)
    assert shared.row("none").by_seed == {0: pytest.approx(4 / 24), 1: 0.0}
    assert shared.row("none").test == pytest.approx(4 / 24)  # the twelve are among the 24, at the mean of both seeds


def test_it_prints_as_a_table_and_goes_to_json_a_frame_and_pages(tmp_path: Path) -> None:
    found = compared(tmp_path, contenders=[TellIt(), "gepa"])
    text = str(found)
    assert "Telling: no limit a contender, seeds 0, 1" in text
    assert re.search(r"tell_it\s+1\.000\s+0\.862-1\.000\s+\+0\.833\s+\+500%", text)
    assert "gepa: skipped, needs an LM that writes instructions: pass reflection_lm" in text
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content == json.loads(json.dumps(found.content()))
    assert set(content) == {"task", "budget", "seeds", "rows", "differences", "by_seed"}
    fields = {"name", "test", "interval", "gain", "p_value", "actor_calls", "tokens", "seconds", "skipped"}
    assert all(fields <= set(row) for row in content["rows"])
    assert [row["name"] for row in content["rows"]] == ["none", "tell_it", "gepa"]
    frame = found.to_frame()
    assert list(frame["name"]) == ["none", "tell_it", "gepa"]
    assert frame["compiling.actor_calls"][1] == 16
    assert "| tell_it | 1.000 |" in found.to_markdown()
    assert ("Skipped:" in found.to_markdown()) == bool(found.skipped)
    page = found.to_html(tmp_path / "page.html").read_text()
    assert "tell_it" in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_example_in_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its actor adds where the instructions say so."""
    page = (ROOT / "docs" / "comparing.md").read_text(encoding="utf-8")
    [code] = [part for part in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class TellIt" in part]

    class Actor(ScriptedEngine):
        def complete(self, request: Request) -> Response:
            is_advised = "Add one." in str(request.system)
            number = int(re.findall(r"(\d+)\+1\?", request.messages[-1].text or "")[-1])
            self._script = lambda _: reply(answer=str(number + is_advised))
            return super().complete(request)

    monkeypatch.chdir(tmp_path)
    names = {"actor": Actor(str)}
    with dspy.context(num_threads=1):
        exec(code, names)
    assert (names["found"].row("none").test, names["found"].row("tell_it").test) == (0.0, 1.0)
