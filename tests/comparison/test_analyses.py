"""Analyses of runs, by hand: kinds and how they fare, questions that turned, curves over calls and queries."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import dspy
import pytest
from scripted import ScriptedEngine, ScriptedGenerator, ScriptedTrainer, query, rollout
from secrets_task import RECIPE, TEST, TRAIN, compiled, needs_secret, problem, write_supplement, writer

from optimizers.comparison import (
    calls_curve,
    controls,
    flips,
    kinds_by_stage,
    learning_curve,
    success_by_kind,
    validated,
)
from optimizers.comparison.analyses import LearningCurve
from optimizers.core.result import SGTResult, StageResult, result_of
from optimizers.core.usage import RunUsage, Usage
from sgt_modules import errors


def test_kinds_shares_by_stage_are_those_of_the_supplements() -> None:
    scored = {
        "sft": [rollout(1.0, kind="cot"), rollout(0.0, kind="cot"), rollout(1.0, kind="pairs"), rollout(None)],
        "dpo1": [rollout(1.0, kind="none", text="")],
    }
    assert kinds_by_stage(scored) == {"sft": {"cot": 0.75, "pairs": 0.25}, "dpo1": {"none": 1.0}}


def test_a_run_s_own_validation_tells_its_kinds(tmp_path: Path) -> None:
    result = result_of(compiled(tmp_path, ScriptedEngine(needs_secret)))
    assert kinds_by_stage(validated(result)) == {
        "none": {"none": 1.0},
        "sft": {"background": 1.0},
        "dpo1": {"background": 1.0},
    }


def test_a_kind_s_success_is_the_mean_of_its_rewarded_runs() -> None:
    found = success_by_kind(
        [
            *(rollout(1.0, kind="pairs", of=query(name)) for name in "abc"),
            rollout(0.0, kind="pairs", of=query("d")),
            rollout(None, kind="pairs"),
            rollout(0.0, kind="answer"),
            rollout(0.5, kind="cot"),
            rollout(0.25, kind="cot"),
        ]
    )
    assert [(each.kind, each.runs, each.score) for each in found] == [
        ("pairs", 4, 0.75),
        ("cot", 2, 0.375),
        ("answer", 1, 0.0),
    ]
    assert found[0].interval == pytest.approx((0.3006, 0.9544), abs=1e-4)  # Wilson's of 3 in 4


def test_questions_that_turned_come_with_both_answers_and_the_supplement() -> None:
    before = [rollout(score, text="", kind="none") for score in (0.0, 1.0, 0.0, 1.0, None)]
    after = [rollout(score, text=f"t{index}") for index, score in enumerate((1.0, 0.0, 0.0, 1.0, 1.0))]
    before[0] = replace(before[0], error="AdapterParseError: no field")
    after[0], after[1] = replace(after[0], output={"answer": "4"}), replace(after[1], output={"answer": "5"})
    before[1] = replace(before[1], output={"answer": "3"})
    found = flips(before, after, TEST[:5])
    [right], [wrong] = found.right, found.wrong
    assert right.inputs == {"question": "What is thing-30?"}
    assert (right.before, right.supplement, right.after) == (
        {"error": "AdapterParseError: no field"},
        "[cot] t0",
        {"answer": "4"},
    )
    assert (wrong.before, wrong.supplement, wrong.after) == ({"answer": "3"}, "[cot] t1", {"answer": "5"})


def test_controls_give_what_the_analyses_read(tmp_path: Path) -> None:
    engine = ScriptedEngine(needs_secret)
    better = compiled(tmp_path, engine)
    with dspy.context(lm=engine.lm()):
        scored = controls(better, problem(), names=["untrained"], repeats=1, display_progress=False).scored
    turned = flips(scored["none"], scored["selected"], TEST)
    assert [flip.supplement for flip in turned.right] == [
        f"[background] It is secret-{number} here." for number in range(30, 36)
    ]
    assert turned.wrong == []
    assert kinds_by_stage(scored)["untrained"] == {"cot": 1.0}


def test_the_curve_over_calls_is_every_stage_with_the_best_until_then() -> None:
    stages = [
        StageResult(name, score, [rollout(score, of=query())], spent=RunUsage(Usage(calls=calls)))
        for name, score, calls in (("none", 0.2, 10), ("sft", 0.6, 50), ("dpo1", 0.5, 70), ("dpo2", 0.7, 90))
    ]
    points = calls_curve(SGTResult(stages, "dpo2", RunUsage(), (), Path(), writer()))
    assert [(each.stage, each.actor_calls, each.score, each.best) for each in points] == [
        ("none", 10, 0.2, 0.2),
        ("sft", 50, 0.6, 0.6),
        ("dpo1", 70, 0.5, 0.6),
        ("dpo2", 90, 0.7, 0.7),
    ]


def test_the_curve_is_the_same_when_a_finished_run_is_resumed(tmp_path: Path) -> None:
    first = calls_curve(result_of(compiled(tmp_path, ScriptedEngine(needs_secret))))
    again = calls_curve(result_of(compiled(tmp_path, ScriptedEngine(needs_secret))))
    assert [each.actor_calls for each in first] == [each.actor_calls for each in again]
    assert 6 == first[0].actor_calls < first[1].actor_calls <= first[2].actor_calls


class Counting(ScriptedTrainer):
    """A trainer whose generator knows the secrets only once it has seen four questions."""

    def __init__(self, generator: ScriptedGenerator) -> None:
        super().__init__()
        self.generator = generator

    def trained(self, rows: object, start: object, output: Path, seed: int):
        seen = {row.query for row in self.rows[output.name]}
        learned = "background" if len(seen) >= 4 else "cot"
        self.generator._trained = ScriptedGenerator(
            lambda prompt: write_supplement(prompt, learned), model=f"scripted/{learned}"
        )
        return super().trained([], None, output, seed)


def curve(folder: Path, script: Callable[[str], str], *sizes: int) -> tuple[LearningCurve, ScriptedEngine]:
    generator, engine = writer(), ScriptedEngine(script)
    with dspy.context(lm=engine.lm()):
        return (
            learning_curve(
                problem(),
                sizes,
                generator=generator,
                trainer=Counting(generator),
                recipe=RECIPE,
                num_threads=8,
                log_dir=folder,
                display_progress=False,
            ),
            engine,
        )


def test_a_learning_curve_is_a_run_a_size_on_parts_of_one_order(tmp_path: Path) -> None:
    found, engine = curve(tmp_path, needs_secret, 4, 2)
    assert [(each.queries, each.selected, each.none, each.test.score) for each in found.points] == [
        (2, "none", 0.0, 0.0),
        (4, "sft", 0.0, 1.0),
    ]
    assert [each.test.gain for each in found.points] == [0.0, 1.0]
    assert found.points[0].actor_calls < found.points[1].actor_calls < len(engine.asked)
    few, more = (
        {
            json.loads(line)["prompt"]
            for line in (tmp_path / f"queries-{size}/training/sft.jsonl").read_text().splitlines()
        }
        for size in (2, 4)
    )
    assert (len(few), len(more)) == (2, 4)
    assert few < more
    assert json.loads((tmp_path / "learning_curve.json").read_text()) == json.loads(json.dumps(found.content()))


def test_a_learning_curve_that_was_finished_costs_nothing(tmp_path: Path) -> None:
    first, _ = curve(tmp_path, needs_secret, 2, 5)
    again, engine = curve(tmp_path, needs_secret, 2, 5)
    assert engine.asked == []
    assert [each.test for each in again.points] == [each.test for each in first.points]


def test_a_learning_curve_prints_a_row_a_size(tmp_path: Path) -> None:
    found, _ = curve(tmp_path, needs_secret, 2)
    [line] = [line for line in str(found).splitlines() if line.strip().startswith("2 ")]
    assert line.split()[:6] == ["2", "none", "0.000", "0.000", "0.000", "0.000-0.390"]
    assert found.to_markdown().splitlines()[2].startswith("| 2 | none | 0.000 | 0.000 | 0.000 | 0.000-0.390 | +0.000 |")


def test_a_test_example_that_the_program_cannot_take_is_refused_before_anything_is_paid(tmp_path: Path) -> None:
    engine, other = ScriptedEngine(needs_secret), [dspy.Example(text="a").with_inputs("text")]
    wrong = replace(problem(), testset=other)
    with dspy.context(lm=engine.lm()), pytest.raises(errors.ExampleError, match=r"the inputs of testset\[0\] \(text\)"):
        learning_curve(wrong, (2,), generator=writer(), log_dir=tmp_path / "curve")
    assert (engine.asked, list(tmp_path.iterdir())) == ([], [])


@pytest.mark.parametrize("sizes", [(), (0, 2), (len(TRAIN) + 1,)])
def test_sizes_that_are_none_are_refused_before_anything_is_paid(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    engine = ScriptedEngine(needs_secret)
    with dspy.context(lm=engine.lm()), pytest.raises(errors.SetupError, match="Expected sizes from 1 to 6"):
        learning_curve(problem(), sizes, generator=writer(), log_dir=tmp_path)
    assert engine.asked == []
