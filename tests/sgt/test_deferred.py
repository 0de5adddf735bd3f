"""A stage's validation during the next training: same results as one after the other, and what must not wait."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import dspy
import pytest
from dspy.lm15 import AuthError
from scripted import ScriptedEngine, ScriptedTrainer
from small_compile import SMALL, WORLD, gold, helped, teleprompter, writer

from optimizers.core.records import Checkpoint
from optimizers.core.result import SGTResult, result_of
from optimizers.core.stages import Stage
from optimizers.store.rollout_store import RolloutStore
from sgt_modules import errors
from sgt_modules.embedded import program

TWO = replace(SMALL, rounds=2, direct_samples=4)
PATIENCE = 30.0
"""Seconds that a test waits for another thread at most."""


class WaitingTrainer(ScriptedTrainer):
    """A trainer whose second and later trainings end when the actor was asked; `at_dpo` is called as they begin."""

    def __init__(self, asked: threading.Event, at_dpo: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self._asked, self._at_dpo, self.overlapped = asked, at_dpo, dict[str, bool]()

    def trained(self, rows: Sequence[object], start: Checkpoint | None, output: Path, seed: int) -> Checkpoint:
        if output.name != "sft":
            self._at_dpo()
            self.overlapped[output.name] = self._asked.wait(PATIENCE)
        return super().trained(rows, start, output, seed)


def run(
    folder: Path, script: Callable[[str], str] = helped, *, trainer: ScriptedTrainer | None = None, **changes: object
) -> tuple[SGTResult, ScriptedEngine, ScriptedTrainer]:
    engine, trainer = ScriptedEngine(script), trainer or ScriptedTrainer()
    options = {"recipe": TWO, "generator": writer(), "trainer": trainer, **changes}
    with dspy.context(lm=engine.lm()):
        better = teleprompter(folder, **options).compile(program(), trainset=WORLD.train, valset=WORLD.val)
    return result_of(better), engine, trainer


def mixed(text: str) -> str:
    """An actor that `[background]` helps with half of the questions, so that each round has winners and losers."""
    return helped(text) if len(text) % 2 else gold(text)


def test_the_actor_answers_a_stage_s_validation_while_the_next_stage_trains(tmp_path: Path) -> None:
    """Each waits for the other: one after another, both would wait in vain."""
    asked, trains = threading.Event(), threading.Event()
    trainer = WaitingTrainer(asked, at_dpo=trains.set)

    def script(text: str) -> str:
        if "sft" in trainer.rows and any(each.question in text for each in WORLD.val):
            asked.set()
            assert trains.wait(PATIENCE)
        return mixed(text)

    result, _, _ = run(tmp_path / "run", script, trainer=trainer)
    assert trainer.overlapped["dpo1"]
    assert [stage.name for stage in result.stages][:3] == ["none", "sft", "dpo1"]


def test_stages_rows_scores_and_costs_are_those_of_a_run_one_after_another(tmp_path: Path) -> None:
    overlapped, engine, first = run(tmp_path / "overlapped", mixed)
    after, other, second = run(tmp_path / "after", mixed, max_actor_calls=10_000)
    assert first.rows == second.rows
    assert len(first.rows) >= 2
    assert [(each.name, each.score) for each in overlapped.stages] == [(each.name, each.score) for each in after.stages]
    assert [each.spent.actor_calls for each in overlapped.stages] == [each.spent.actor_calls for each in after.stages]
    assert sorted(engine.asked) == sorted(other.asked)
    assert overlapped.selected == after.selected
    ends = [each.spent.seconds.total for each in overlapped.stages]
    assert ends == sorted(ends), "a stage ends after the one before it"


@pytest.mark.parametrize("changes", [{"max_actor_calls": 10_000}, {"recipe": replace(TWO, patience=2)}])
def test_a_limit_or_patience_lets_no_validation_wait(tmp_path: Path, changes: dict[str, object]) -> None:
    """Else a run could end between a stage and its validation, or go on where validation would have ended it."""
    training, during = threading.Event(), list[str]()

    class Noting(ScriptedTrainer):
        def trained(self, rows: Sequence[object], start: Checkpoint | None, output: Path, seed: int) -> Checkpoint:
            training.set()
            threading.Event().wait(0.2)
            training.clear()
            return super().trained(rows, start, output, seed)

    def script(text: str) -> str:
        if training.is_set():
            during.append(text)
        return mixed(text)

    run(tmp_path / "run", script, trainer=Noting(), **changes)
    assert during == []


def test_a_refused_key_during_training_ends_the_run_once_the_stage_is_kept(tmp_path: Path) -> None:
    asked, refuse = threading.Event(), threading.Event()
    trainer = WaitingTrainer(asked, at_dpo=refuse.set)

    def script(text: str) -> str:
        if "sft" in trainer.rows and any(each.question in text for each in WORLD.val):
            assert refuse.wait(PATIENCE)
        if refuse.is_set():
            asked.set()
            raise AuthError("no such key", status=401)
        return mixed(text)

    with pytest.raises(errors.ProviderRefusedError, match="Everything finished before is saved"):
        run(tmp_path / "run", script, trainer=trainer)
    with RolloutStore(tmp_path / "run" / "rollouts.sqlite") as store:
        before = len(list(store.rollouts()))
    refuse.clear()
    asked.set()
    result, engine, _ = run(tmp_path / "run", mixed, trainer=WaitingTrainer(asked))
    assert [stage.name for stage in result.stages][:3] == ["none", "sft", "dpo1"]
    with RolloutStore(tmp_path / "run" / "rollouts.sqlite") as store:
        assert len(list(store.rollouts())) > before
    whole, fresh, _ = run(tmp_path / "fresh", mixed)
    assert len(engine.asked) < len(fresh.asked)
    assert [(each.name, each.score) for each in result.stages] == [(each.name, each.score) for each in whole.stages]


def test_an_error_of_the_trainer_is_raised_and_the_answers_meanwhile_are_kept(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run(tmp_path / "run", mixed, trainer=WaitingTrainer(threading.Event(), at_dpo=fail))
    with RolloutStore(tmp_path / "run" / "rollouts.sqlite") as store:
        assert len(list(store.rollouts(stage=str(Stage("sft", split="val"))))) == len(WORLD.val)
    assert "seconds" in json.loads((tmp_path / "run" / "stages.json").read_text())["sft"], "SFT is a finished stage"
