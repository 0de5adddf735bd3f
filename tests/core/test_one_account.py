"""What a run spends is one account over all of its sessions, whether or not one was killed."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import dspy
import pytest
from scripted import ScriptedEngine, ScriptedTrainer
from small_compile import WORLD, compiled, helped, teleprompter, writer

from optimizers.core.result import result_of
from optimizers.core.run_folder import RunFolder
from optimizers.core.usage import RunUsage, WorkSeconds
from optimizers.core.work_clock import CLOCK, WorkClock, read_seconds
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.embedded import program


class KilledError(BaseException):
    """Stands for SIGKILL: nothing catches it, and nothing is written behind it."""


def spent_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch | None = None, *, dies_at: int | None = None
) -> RunUsage | None:
    """What a compile in the folder has spent; None where it died at its so-many-th call, without a last word."""
    calls = 0

    def answers(text: str) -> str:
        nonlocal calls
        calls += 1
        if calls == dies_at:
            raise KilledError
        return helped(text)

    with dspy.context(lm=ScriptedEngine(answers).lm()):
        asked = teleprompter(folder, generator=writer(), trainer=ScriptedTrainer(), num_threads=1)
        try:
            return result_of(asked.compile(program(), trainset=WORLD.train, valset=WORLD.val)).spent
        except KilledError:
            return None


def without_seconds(spent: RunUsage) -> RunUsage:
    """The counts alone."""
    parts = (spent.actor, spent.generator, spent.proposer)
    return RunUsage(*(replace(part, runs=0, seconds=0.0) for part in parts))


@pytest.mark.parametrize("dies_at", [5, 40])
def test_a_run_that_was_killed_and_went_on_tells_the_calls_samples_and_tokens_of_one_that_was_not(
    tmp_path: Path, dies_at: int
) -> None:
    whole = spent_of(tmp_path / "whole")
    assert spent_of(tmp_path / "broken", dies_at=dies_at) is None
    broken = spent_of(tmp_path / "broken")
    assert whole is not None
    assert broken is not None
    assert without_seconds(broken) == without_seconds(whole)
    with RolloutStore(tmp_path / "broken" / "rollouts.sqlite") as store:
        generator = broken.generator
        assert store.count_samples() == (generator.calls, generator.tokens_in, generator.tokens_out)
    file = RunUsage.read(json.loads((tmp_path / "broken" / "spent.json").read_text()))
    assert without_seconds(file) == without_seconds(broken)


def test_seconds_are_on_disk_with_each_rollout_and_a_next_session_counts_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    clock = WorkClock(WorkSeconds(acting=3.0, total=7.0), folder)
    with clock.measure("acting"):
        time.sleep(0.02)
        clock.tick()
        killed = read_seconds(folder)  # the work has not ended
    assert killed.acting >= 3.02
    assert killed.total >= 7.02
    assert WorkClock.of_run(folder).seconds.acting == killed.acting


def test_a_folder_without_a_clock_has_the_seconds_of_its_last_stage(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write("spent.json", {"acting": 3.0, "total": 5.0, "generator_calls": 9, "actor_calls": 4})
    assert read_seconds(folder) == WorkSeconds(acting=3.0, total=5.0)
    folder.write(CLOCK, {"acting": 4.0, "total": 6.0})
    assert read_seconds(folder) == WorkSeconds(acting=4.0, total=6.0)


def test_what_scoring_takes_after_a_compile_adds_up_over_its_sessions(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for _ in range(2):
        clock = WorkClock.of_scoring(folder)
        time.sleep(0.02)
        clock.write()
    assert clock.seconds.total >= 0.04
    assert set(json.loads((tmp_path / "scoring.json").read_text())) == {"total"}


def now_and_then(score: object) -> Callable[..., object]:
    """A metric that returns this where the answer holds an even number of letters."""
    return lambda example, got, trace=None: score if len(got.sql) % 2 == 0 and got.sql else WORLD.metric(example, got)


@pytest.mark.parametrize(
    ("score", "kind"), [(math.nan, "NaN"), (1.7, "above 1"), (-0.2, "below 0"), (None, "no number")]
)
def test_each_kind_of_refused_score_is_counted_and_said_in_notes_and_verdict(
    tmp_path: Path, score: object, kind: str
) -> None:
    better, _ = compiled(
        helped,
        tmp_path / "run",
        generator=writer(),
        trainer=ScriptedTrainer(),
        metric=now_and_then(score),
        max_errors=9999,
    )
    result = better.detailed_results
    with RolloutStore(tmp_path / "run" / "rollouts.sqlite") as store:
        errors, met = store.find_errors("MetricError:")
    assert errors
    said = f"refused in {len(errors):,} of {met:,} rollouts ({len(errors):,} {kind})"
    assert said in result.verdict
    assert any(said in note for note in result.notes if not note.startswith("Verdict"))
