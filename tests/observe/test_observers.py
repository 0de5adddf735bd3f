"""Observers of a whole compile: what one method gets, in which order, and what a failing one costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dspy
import pytest
from observers import Recorder
from prompted import TRAIN, VAL, actor, corrector, spt, student
from scripted import ScriptedTrainer
from small_compile import compiled, helped, teleprompter, writer

from optimizers.core.events import Event, LossLogged, Note, PhaseStarted, RolloutDone, RunEnded, RunStarted, StageScored
from optimizers.core.result import SGTResult
from optimizers.observe.tracking import check_report_to
from sgt_modules.errors import SetupError


class Failing:
    """An observer that raises on the first event of a type."""

    def __init__(self, on: type) -> None:
        self.on, self.calls = on, 0

    def on_event(self, event: Event) -> None:
        if isinstance(event, self.on):
            self.calls += 1
            raise OSError("no disk")


def quickly(folder: Path, observer: object, **changes: object) -> SGTResult:
    """A compile in which nothing is trained; the generator learns to write what helps."""
    given: dict[str, Any] = {"generator": writer(), "trainer": ScriptedTrainer(), "report_to": observer} | changes
    better, _ = compiled(helped, folder, **given)
    return better.detailed_results


def test_an_observer_gets_the_run_from_its_start_to_its_result(tmp_path: Path) -> None:
    seen = Recorder()
    result = quickly(tmp_path / "run", seen)
    [started] = [each for each in seen.events if isinstance(each, RunStarted)]
    assert started.folder == result.log_dir
    assert started.id == json.loads((tmp_path / "run/run.json").read_text())["id"]
    assert started.about["actors"] == {"self": "scripted/actor"}
    scored = [each for each in seen.events if isinstance(each, StageScored)]
    assert [(each.stage, each.score, each.spent) for each in scored] == [
        (stage.name, stage.score, stage.spent) for stage in result.stages
    ]
    assert sum(isinstance(each, RolloutDone) for each in seen.events) >= result.spent.actor_calls
    ended = seen.events[-1]
    assert isinstance(ended, RunEnded)
    assert (ended.ending, ended.selected, ended.verdict) == ("finished", result.selected, result.verdict)
    assert ended.notes == result.notes
    assert ended.scores == {stage.name: stage.score for stage in result.stages}


def test_the_phases_are_those_of_the_method(tmp_path: Path) -> None:
    seen = Recorder()
    quickly(tmp_path / "run", seen)
    assert [each.name for each in seen.events if isinstance(each, PhaseStarted)] == [
        "the first validation, of the program as it came in",
        "the warm start",
        "the training of sft",
        "the validation of sft",
        "round 1",
        "the training of dpo1",
        "the validation of dpo1",
    ]


def test_spt_emits_the_same_events(tmp_path: Path) -> None:
    seen = Recorder()
    with dspy.context(lm=actor().lm()):
        better = spt(corrector(["Name the unit."] * 4), tmp_path / "run", rounds=1, report_to=seen).compile(
            student(), trainset=TRAIN, valset=VAL
        )
    stages = better.detailed_results.stages
    assert [each.stage for each in seen.events if isinstance(each, StageScored)] == [each.name for each in stages]
    assert isinstance(seen.events[-1], RunEnded)


def test_a_stopped_run_ends_where_its_last_phase_stands(tmp_path: Path) -> None:
    seen = Recorder()
    result = quickly(tmp_path / "run", seen, max_actor_calls=20)
    phase = [each.name for each in seen.events if isinstance(each, PhaseStarted)][-1]
    ended = seen.events[-1]
    assert isinstance(ended, RunEnded)
    assert ended.stopped == result.stopped
    assert result.stopped.startswith(f"Stopped in {phase}: ")


@pytest.mark.parametrize("on", [RunStarted, RolloutDone, StageScored, RunEnded])
def test_an_observer_that_fails_costs_a_note_and_nothing_else(on: type, tmp_path: Path) -> None:
    failing, seen = Failing(on), Recorder()
    result = quickly(tmp_path / "run", [failing, seen])
    assert failing.calls == 1
    assert [each for each in result.notes if "Failing gets no more events of this run (OSError: no disk)" in each]
    assert [stage.name for stage in result.stages] == ["none", "sft", "dpo1"]
    assert any(isinstance(each, RunEnded) for each in seen.events)
    assert {each.name for each in (tmp_path / "run").iterdir()} >= {"result.json", "report.html"}


def test_an_error_of_the_run_is_its_ending(tmp_path: Path) -> None:
    seen = Recorder()

    class Losing(ScriptedTrainer):
        def sft(self, rows: Any, *, start: Any, output: Path, seed: int, on_step: Any = None) -> Any:
            on_step(1, 2, 0.5)
            raise RuntimeError("the power went")

    with pytest.raises(RuntimeError, match="power"):
        quickly(tmp_path / "run", seen, trainer=Losing())
    assert [each for each in seen.events if isinstance(each, LossLogged)] == [LossLogged("sft", 1, 2, 0.5)]
    assert seen.events[-1] == RunEnded("failed")
    assert not (tmp_path / "run/result.json").exists()


def test_an_observer_may_take_the_place_of_the_view(tmp_path: Path) -> None:
    seen = Recorder()
    result = quickly(tmp_path / "run", None, display_progress=seen)
    notes = [each.text for each in seen.events if isinstance(each, Note) and each.for_result]
    assert notes == [each for each in result.notes if not each.startswith("Verdict: ")]


def test_observers_and_trackers_stand_together_and_something_else_is_refused(tmp_path: Path) -> None:
    seen = Recorder()
    assert check_report_to(["tensorboard", seen]) == ("tensorboard", seen)
    with pytest.raises(SetupError, match="an Observer or a Tracker"):
        teleprompter(tmp_path / "run", report_to=object())
