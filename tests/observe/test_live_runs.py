"""What the view of a whole run ends with: the same as its result, for both methods."""

from __future__ import annotations

from pathlib import Path

import dspy
import prompted
from scripted import ScriptedTrainer
from small_compile import WORLD, compiled, helped, writer

from optimizers import Snapshot
from optimizers.core.result import result_of


def test_the_view_of_a_compile_ends_with_what_its_result_says(tmp_path: Path) -> None:
    """Only background helps, and the trained generator writes nothing else: from 0 to 1 on validation."""
    seen: list[Snapshot] = []
    better, engine = compiled(
        helped,
        tmp_path / "run",
        generator=writer(),
        trainer=ScriptedTrainer(),
        max_actor_calls=500,
        display_progress=seen.append,
    )
    last, result = seen[-1], result_of(better)
    assert last.over
    assert last.spend is not None
    assert (last.spend.usage.calls, last.spend.limits.actor_calls) == (result.spent.actor_calls, 500)
    assert last.spend.usage.calls == len(engine.asked)
    shown = {each.name.removesuffix(": val"): each.mean for each in last.finished if each.name.endswith(": val")}
    assert shown == {stage.name: stage.score for stage in result.stages}
    assert (last.step, last.steps, last.step_name) == (5, 5, "dpo1")
    assert last.winner is not None
    assert last.winner.kind == "background"
    assert any(last.winner.question.endswith(each.question) for each in WORLD.train + WORLD.val)


def test_the_view_of_spt_names_the_instructions_that_answered(tmp_path: Path) -> None:
    seen: list[Snapshot] = []
    engine = prompted.corrector([f"{prompted.FIRST} {prompted.HINTS['carry']}"] * 4)
    with dspy.context(lm=prompted.actor().lm()):
        prompted.spt(engine, tmp_path / "run", rounds=1, impact=False, display_progress=seen.append).compile(
            prompted.student(), trainset=prompted.TRAIN, valset=prompted.VAL
        )
    last = seen[-1]
    assert (last.step, last.steps, last.step_name) == (2, 2, "round 1")
    assert last.winner is not None
    assert (last.winner.kind, last.winner.stage) == ("", "round1: val")
