"""SGTTeleprompter on a scripted actor: what it returns, what it refuses before anything is paid, what it says."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import dspy
import pytest
from scripted import ScriptedEngine, reply

from optimizers import Recipe, SGTTeleprompter, TrainingSettings
from optimizers.store import RolloutStore
from optimizers.trl_trainer import TRLTrainer
from sgt_modules import SupplementedPredictor, SupplementGenerator, errors
from sgt_modules.embedded import HouseTermsWorld, Sizes, embedded_generator, program
from sgt_modules.embedded.models import embedded_folder

WORLD = HouseTermsWorld(0, sizes=Sizes(train=4, validation=4, test=4, shifted=4, terms=4, shifted_terms=4))
SMALL = Recipe(rounds=1, warm_samples=1, pool_samples=1, ood_kinds=1, concat=1, max_per_kind=4, pair_cap=2)


def teleprompter(log_dir: Path, metric: Callable[..., object] = WORLD.metric, **changes: object) -> SGTTeleprompter:
    settings = {
        "generator": embedded_generator(),
        "recipe": SMALL,
        "trainer": TRLTrainer(embedded_folder("generator"), TrainingSettings(sft_epochs=1, batch_size=8)),
        "num_threads": 8,
        "log_dir": log_dir,
        "display_progress": False,
    }
    return SGTTeleprompter(metric, **(settings | changes))


def gold(text: str) -> str:
    """Answer like an actor that needs no help."""
    asked = next(each for split in WORLD.splits.values() for each in split if each.question in text)
    return reply(sql=WORLD.gold_sql(asked))


def helped(text: str) -> str:
    """Answer like an actor that is right exactly when its supplement speaks of definitions."""
    return gold(text) if "[background]" in text else reply(sql="SELECT 1")


def compiled(script: Callable[[str], str], log_dir: Path, **changes: object) -> tuple[dspy.Module, ScriptedEngine]:
    engine = ScriptedEngine(script)
    with dspy.context(lm=engine.lm()):
        better = teleprompter(log_dir, **changes).compile(program(), trainset=WORLD.train, valset=WORLD.val)
    return better, engine


def test_the_student_is_untouched_and_the_result_is_a_new_compiled_program(tmp_path: Path) -> None:
    student = program()
    before = student.dump_state()
    with dspy.context(lm=ScriptedEngine(helped).lm()):
        better = teleprompter(tmp_path / "run").compile(student, trainset=WORLD.train, valset=WORLD.val)
    assert student.dump_state() == before
    assert type(student) is dspy.Predict
    assert better is not student
    assert better._compiled
    assert [stage.name for stage in better.detailed_results.stages][:2] == ["none", "sft"]
    assert better.detailed_results.selected in {stage.name for stage in better.detailed_results.stages}


def test_what_is_returned_is_never_worse_on_validation_than_what_came_in(tmp_path: Path) -> None:
    better, _ = compiled(helped, tmp_path / "run")
    result = better.detailed_results
    assert result.best.score == max(stage.score for stage in result.stages)
    assert isinstance(better, SupplementedPredictor) == (result.selected != "none")


def test_when_every_supplement_wins_the_result_says_why_there_was_nothing_to_prefer(tmp_path: Path) -> None:
    better, _ = compiled(gold, tmp_path / "run")
    assert better.detailed_results.selected == "none"
    assert not isinstance(better, SupplementedPredictor)
    (note,) = better.detailed_results.notes
    assert "supplements won, so there is nothing to prefer" in note


def test_when_every_supplement_loses_the_result_says_so_and_the_program_comes_back(tmp_path: Path) -> None:
    better, _ = compiled(lambda _: reply(sql="SELECT 1"), tmp_path / "run")
    result = better.detailed_results
    assert [stage.name for stage in result.stages] == ["none"]
    assert "supplements lost" in result.notes[0]
    assert not isinstance(better, SupplementedPredictor)


def test_a_second_compile_in_the_same_folder_pays_for_nothing_again(tmp_path: Path) -> None:
    first, paid = compiled(helped, tmp_path / "run")
    again, engine = compiled(helped, tmp_path / "run")
    assert paid.asked
    assert engine.asked == []
    scores = [[stage.score for stage in better.detailed_results.stages] for better in (first, again)]
    assert scores[0] == scores[1]


def test_the_same_supplement_for_the_same_question_is_paid_once(tmp_path: Path) -> None:
    _, engine = compiled(helped, tmp_path / "run")
    assert len(set(engine.asked)) == len(engine.asked)


def test_a_folder_of_other_settings_is_refused_with_what_changed(tmp_path: Path) -> None:
    compiled(gold, tmp_path / "run")
    with pytest.raises(errors.RunFolderError, match="seed changed"):
        compiled(gold, tmp_path / "run", seed=1)


def test_other_training_settings_are_another_run(tmp_path: Path) -> None:
    compiled(gold, tmp_path / "run")
    trainer = TRLTrainer(embedded_folder("generator"), TrainingSettings(sft_epochs=2, batch_size=8))
    with pytest.raises(errors.RunFolderError, match="training changed"):
        compiled(gold, tmp_path / "run", trainer=trainer)


def test_the_run_folder_holds_settings_rollouts_and_checkpoints(tmp_path: Path) -> None:
    compiled(helped, tmp_path / "run")
    assert (tmp_path / "run" / "run.json").is_file()
    assert (tmp_path / "run" / "rollouts.sqlite").is_file()
    assert (tmp_path / "run" / "checkpoints" / "sft" / "adapter_model.safetensors").is_file()


def _raises(*_: object) -> float:
    raise KeyError("answer")


BAD_METRICS = {
    "raises": _raises,
    "None": lambda example, prediction, trace=None: None,
    "NaN": lambda example, prediction, trace=None: math.nan,
    "2.0": lambda example, prediction, trace=None: 2.0,
    "text": lambda example, prediction, trace=None: "good",
}


@pytest.mark.parametrize("metric", BAD_METRICS.values(), ids=BAD_METRICS)
def test_a_metric_that_cannot_judge_is_refused_before_anything_is_paid(
    tmp_path: Path, metric: Callable[..., object]
) -> None:
    engine = ScriptedEngine(gold)
    with dspy.context(lm=engine.lm()), pytest.raises(errors.MetricError, match=r"0\.0|\[0, 1\]"):
        teleprompter(tmp_path / "run", metric).compile(program(), trainset=WORLD.train, valset=WORLD.val)
    assert engine.asked == []
    assert not (tmp_path / "run").exists()


def _without_inputs() -> list[dspy.Example]:
    return [dspy.Example(**dict(example.items())) for example in WORLD.train]


class NoPredictor(dspy.Module):
    def forward(self, **_: object) -> dspy.Prediction:
        return dspy.Prediction(sql="SELECT 1")


@pytest.mark.parametrize(
    ("expected", "student", "train", "val"),
    [
        (errors.EmptyTrainsetError, program(), [], WORLD.val),
        (errors.OverlappingSplitsError, program(), WORLD.train, WORLD.train[:1]),
        (errors.ExampleError, program(), _without_inputs(), WORLD.val),
        (errors.NoPredictorError, NoPredictor(), WORLD.train, WORLD.val),
    ],
    ids=["empty trainset", "overlapping splits", "examples without inputs", "no predictor"],
)
def test_what_cannot_work_is_refused_before_anything_is_paid(
    tmp_path: Path,
    expected: type[errors.SetupError],
    student: dspy.Module,
    train: list[dspy.Example],
    val: list[dspy.Example],
) -> None:
    engine = ScriptedEngine(gold)
    with dspy.context(lm=engine.lm()), pytest.raises(expected) as refusal:
        teleprompter(tmp_path / "run").compile(student, trainset=train, valset=val)
    assert engine.asked == []
    assert len(str(refusal.value)) > 40


def test_a_program_without_an_actor_is_refused(tmp_path: Path) -> None:
    with dspy.context(lm=None), pytest.raises(errors.NoActorError, match=r"dspy\.configure|dspy\.context"):
        teleprompter(tmp_path / "run").compile(program(), trainset=WORLD.train, valset=WORLD.val)


def test_a_generator_that_is_not_there_is_refused_with_what_would_do(tmp_path: Path) -> None:
    engine = ScriptedEngine(gold)
    missing = SupplementGenerator(tmp_path / "no-such-model")
    with dspy.context(lm=engine.lm()), pytest.raises(errors.GeneratorNotFoundError, match="no-such-model"):
        teleprompter(tmp_path / "run", generator=missing).compile(program(), trainset=WORLD.train, valset=WORLD.val)
    assert engine.asked == []


def test_without_a_validation_set_a_seeded_share_is_held_out(tmp_path: Path) -> None:
    with dspy.context(lm=ScriptedEngine(gold).lm()):
        better = teleprompter(tmp_path / "run").compile(program(), trainset=[*WORLD.train, *WORLD.val])
    assert len(better.detailed_results.stages[0].rollouts) == 2


class TwoSteps(dspy.Module):
    """A program of two predictors: the first names the table, the second writes the query."""

    def __init__(self) -> None:
        super().__init__()
        self.choose = dspy.Predict("question -> table")
        self.write = dspy.Predict("tables, question, table -> sql")

    def forward(self, tables: str, question: str) -> dspy.Prediction:
        table = self.choose(question=question).table
        return self.write(tables=tables, question=question, table=table)


def test_a_program_of_two_predictors_is_trained_and_comes_back_with_both_supplemented(tmp_path: Path) -> None:
    def script(text: str) -> str:
        return reply(table="staff") if "[[ ## table ## ]]" not in text.partition("Respond")[0] else helped(text)

    student = TwoSteps()
    with dspy.context(lm=ScriptedEngine(script).lm()):
        better = teleprompter(tmp_path / "run").compile(student, trainset=WORLD.train, valset=WORLD.val)
    result = better.detailed_results
    assert [name for name, _ in better.named_predictors()] == ["choose", "write"]
    asked = {
        rollout.query.predictor for rollout in RolloutStore(tmp_path / "run" / "rollouts.sqlite").rollouts(stage="warm")
    }
    assert asked == {"choose", "write"}
    assert result.best.score == max(stage.score for stage in result.stages)
