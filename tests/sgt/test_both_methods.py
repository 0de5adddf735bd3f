"""SPT's prompt and SGT's supplements in one program, in either order, by hand and through BetterTogether.

Half of what the actor lacks is told by instructions (`Carry the one.`), the other half by a supplement of the kind
`background`; neither method can have both.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import dspy
import pytest
from prompted import TRAIN, VAL, corrector, exact, spt, student
from scripted import ScriptedEngine, ScriptedTrainer, reply
from small_compile import SMALL, writer

from optimizers import SGTTeleprompter, SupervisoryPromptTeleprompter
from optimizers.run_options import RunOptions
from sgt_modules.errors import SetupError
from sgt_modules.wrapping import supplemented_predictors


def reads(text: str) -> str:
    kind, number = re.findall(r"\[\[ ## question ## \]\]\s*(\w+) (\d+)", text)[-1]
    known = {"small": True, "carry": "Carry the one." in text, "unit": "[background]" in text}
    return reply(answer=f"{kind}-{number}" if known[kind] else "wrong")


def methods(folder: Path) -> dict[str, SGTTeleprompter | SupervisoryPromptTeleprompter]:
    return {
        "spt": spt(corrector(["Carry the one."] * 8), folder / "spt", rounds=1),
        "sgt": SGTTeleprompter(
            exact,
            writer(),
            recipe=SMALL,
            trainer=ScriptedTrainer(),
            num_threads=4,
            log_dir=folder / "sgt",
            display_progress=False,
        ),
    }


@pytest.mark.parametrize("order", [("spt", "sgt"), ("sgt", "spt")])
def test_by_hand_the_second_keeps_what_the_first_learned(tmp_path: Path, order: tuple[str, str]) -> None:
    program: dspy.Module = student()
    known = methods(tmp_path)
    with dspy.context(lm=ScriptedEngine(reads, whole=True).lm()):
        scores: list[float] = []
        for name in order:
            program = known[name].compile(program, trainset=TRAIN, valset=VAL)
            scores.append(program.detailed_results.best.score)
        assert [program(question=f"{kind} 9").answer for kind in ("small", "carry", "unit")] == [
            "small-9",
            "carry-9",
            "unit-9",
        ]
    assert scores == [pytest.approx(2 / 3), 1.0]
    [(_, predictor)] = supplemented_predictors(program)
    assert predictor.signature.instructions == "Carry the one."


@pytest.mark.parametrize("strategy", ["spt -> sgt", "sgt -> spt"])
def test_better_together_runs_them_in_either_order(tmp_path: Path, strategy: str) -> None:
    program = student()
    program.set_lm(ScriptedEngine(reads, whole=True).lm())
    together = dspy.BetterTogether(metric=exact, **methods(tmp_path))
    better = together.compile(program, trainset=TRAIN, valset=VAL, strategy=strategy, num_threads=2)
    assert not better.flag_compilation_error_occurred
    first = strategy.partition(" ")[0]
    scores = {each["strategy"]: each["score"] for each in better.candidate_programs}
    assert scores == {"": 33.33, first: 66.67, strategy: 100.0}
    assert supplemented_predictors(better)
    assert better.signature.instructions == "Carry the one."
    assert not supplemented_predictors(program)


def make(name: str, folder: Path, **options: object) -> SGTTeleprompter | SupervisoryPromptTeleprompter:
    if name == "spt":
        return spt(corrector([]), folder, **options)
    known = {"recipe": SMALL, "trainer": ScriptedTrainer(), "log_dir": folder, "display_progress": False}
    return SGTTeleprompter(exact, writer(), **known | options)


REFUSED = {
    "display": ({"display_progress": "yes"}, {}, "Expected display_progress True, False, a function"),
    "only": ({"only": ["nobody"]}, {}, r"\['nobody'\]"),
    "price": ({"max_cost_usd": 1.0}, {}, "known price for a limit in dollars"),
    "valset": ({}, {"valset": [dspy.Example(text="a").with_inputs("text")]}, r"the inputs of valset\[0\] \(text\)"),
}


@pytest.mark.parametrize("name", ["spt", "sgt"])
@pytest.mark.parametrize(("options", "data", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_is_refused_before_a_folder_is_made(
    tmp_path: Path, name: str, options: dict[str, object], data: dict[str, list[dspy.Example]], message: str
) -> None:
    engine = ScriptedEngine(reads, whole=True)
    with dspy.context(lm=engine.lm()), pytest.raises(SetupError, match=message):
        make(name, tmp_path / "run", **options).compile(student(), **{"trainset": TRAIN, "valset": VAL} | data)
    assert (engine.asked, list(tmp_path.iterdir())) == ([], [])


@pytest.mark.parametrize("name", ["spt", "sgt"])
def test_a_probe_of_less_than_nothing_is_refused(tmp_path: Path, name: str) -> None:
    engine = ScriptedEngine(reads, whole=True)
    with (
        dspy.context(lm=engine.lm()),
        pytest.raises(SetupError, match="Expected a probe of 0 or more examples, got -1"),
    ):
        make(name, tmp_path / "run").estimate(student(), TRAIN, VAL, probe=-1)
    assert (engine.asked, list(tmp_path.iterdir())) == ([], [])


@pytest.mark.parametrize("name", ["spt", "sgt"])
@pytest.mark.parametrize("option", ["num_threads", "max_errors"])
def test_a_number_that_must_be_one_at_least_is_refused_at_once(tmp_path: Path, name: str, option: str) -> None:
    with pytest.raises(SetupError, match=f"Expected {option} of at least 1, got 0"):
        make(name, tmp_path, **{option: 0})


def test_the_two_share_their_options_and_each_has_its_own() -> None:
    """A signature as an editor shows it: every option by name, none behind `**options`."""
    both = [inspect.signature(each).parameters for each in (SGTTeleprompter, SupervisoryPromptTeleprompter)]
    shared = set(inspect.signature(RunOptions).parameters)
    assert [set(each) - shared for each in both] == [
        {"generator", "auto", "rounds", "recipe", "trainer", "credit", "scope", "template", "actors"},
        {"corrector", "variant", "impact", "rounds", "candidates", "recipe"},
    ]
    assert [list(each)[:2] for each in both] == [["metric", "generator"], ["metric", "corrector"]]
    assert all(each[name].kind is inspect.Parameter.KEYWORD_ONLY for each in both for name in list(each)[2:])
