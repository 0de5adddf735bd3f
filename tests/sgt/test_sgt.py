"""SGTTeleprompter on a scripted actor: what it returns, what it refuses before anything is paid, what it says."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dspy
import pytest
from scripted import ScriptedEngine, ScriptedGenerator, ScriptedTrainer, reply
from small_compile import SMALL, WORLD, compiled, gold, helped, named, teleprompter, writer

from optimizers import SGTTeleprompter, TrainingSettings
from optimizers.core.records import Checkpoint, SFTExample
from optimizers.core.result import result_of
from optimizers.store.rollout_store import RolloutStore
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules import SupplementedPredictor, SupplementGenerator, errors, supplement
from sgt_modules.embedded import program
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.episode import episode
from sgt_modules.generator_prompt import SHORTENED
from sgt_modules.kinds import SILENCE, Supplement, parse
from sgt_modules.prompts import Template
from sgt_modules.wrapping import supplemented_predictors


@dataclass(frozen=True)
class Compiled:
    """A compile with a small real generator that is trained, for the tests that read what it left."""

    student: dspy.Module
    before: dict[str, Any]
    better: dspy.Module
    engine: ScriptedEngine
    folder: Path


def compile_once(script: Callable[[str], str], folder: Path) -> Compiled:
    student, engine = program(), ScriptedEngine(script)
    before = student.dump_state()
    with dspy.context(lm=engine.lm()):
        better = teleprompter(folder).compile(student, trainset=WORLD.train, valset=WORLD.val)
    return Compiled(student, before, better, engine, folder)


@pytest.fixture(scope="module")
def with_help(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """The actor is right exactly when it is helped."""
    return compile_once(helped, tmp_path_factory.mktemp("helped") / "run")


@pytest.fixture(scope="module")
def always_right(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    return compile_once(gold, tmp_path_factory.mktemp("gold") / "run")


def test_the_student_is_untouched_and_the_result_is_a_new_compiled_program(with_help: Compiled) -> None:
    student, better = with_help.student, with_help.better
    assert student.dump_state() == with_help.before
    assert type(student) is dspy.Predict
    assert better is not student
    assert better._compiled
    assert [stage.name for stage in better.detailed_results.stages][:2] == ["none", "sft"]
    assert better.detailed_results.selected in {stage.name for stage in better.detailed_results.stages}


def test_what_is_returned_is_never_worse_on_validation_than_what_came_in(with_help: Compiled) -> None:
    result = with_help.better.detailed_results
    assert result.best.score == max(stage.score for stage in result.stages)
    assert isinstance(with_help.better, SupplementedPredictor) == (result.selected != "none")


def test_when_every_supplement_wins_the_result_says_why_there_was_nothing_to_prefer(always_right: Compiled) -> None:
    result = always_right.better.detailed_results
    assert result.selected == "none"
    assert not isinstance(always_right.better, SupplementedPredictor)
    note, said = result.notes[-2:]
    assert said == f"Verdict: {result.verdict}"
    assert "supplements won, so there is nothing to prefer" in note


def test_when_every_supplement_loses_the_result_says_so_and_the_program_comes_back(tmp_path: Path) -> None:
    better, _ = compiled(lambda _: reply(sql="SELECT 1"), tmp_path / "run")
    result = better.detailed_results
    assert [stage.name for stage in result.stages] == ["none"]
    assert "supplements lost" in result.notes[0]
    assert not isinstance(better, SupplementedPredictor)


def test_a_second_compile_in_the_same_folder_pays_for_nothing_again(with_help: Compiled) -> None:
    again, engine = compiled(helped, with_help.folder)
    assert with_help.engine.asked
    assert engine.asked == []
    scores = [[stage.score for stage in better.detailed_results.stages] for better in (with_help.better, again)]
    assert scores[0] == scores[1]


@pytest.mark.parametrize("unstorable", ["\0", "\ud800"])
def test_a_resumed_run_trains_on_the_same_rows_where_a_reply_has_what_no_database_holds(
    tmp_path: Path, unstorable: str
) -> None:
    def rows_of_a_session() -> dict[str, object]:
        trainer = ScriptedTrainer()
        generator = ScriptedGenerator(lambda prompt: replace(named(prompt, "cot"), text=f"Look{unstorable} it up."))
        compiled(helped, tmp_path / "run", generator=generator, trainer=trainer)
        return dict(trainer.rows)

    first, resumed = rows_of_a_session(), rows_of_a_session()
    assert first == resumed
    assert {"sft", "dpo1"} <= first.keys()
    assert unstorable not in str(first)


def test_the_same_supplement_for_the_same_question_is_paid_once(with_help: Compiled) -> None:
    asked = with_help.engine.asked
    assert len(set(asked)) == len(asked)


def test_a_folder_of_other_settings_is_refused_with_what_changed(always_right: Compiled) -> None:
    with pytest.raises(errors.RunFolderError, match="seed changed"):
        compiled(gold, always_right.folder, seed=1)


def test_other_training_settings_are_another_run(always_right: Compiled) -> None:
    trainer = TRLTrainer(embedded_folder("generator"), TrainingSettings(sft_epochs=2, batch_size=8))
    with pytest.raises(errors.RunFolderError, match="training changed"):
        compiled(gold, always_right.folder, trainer=trainer)


def test_the_run_folder_holds_settings_rollouts_and_checkpoints(with_help: Compiled) -> None:
    assert (with_help.folder / "run.json").is_file()
    assert (with_help.folder / "rollouts.sqlite").is_file()
    assert (with_help.folder / "checkpoints" / "sft" / "adapter_model.safetensors").is_file()


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
    tried = teleprompter(tmp_path / "run", generator=writer(), trainer=ScriptedTrainer())
    with dspy.context(lm=ScriptedEngine(gold).lm()):
        better = tried.compile(program(), trainset=[*WORLD.train, *WORLD.val])
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


def two_steps(text: str) -> str:
    """An actor that names a table whatever it reads, and answers as `helped` does."""
    asks_for_table = "[[ ## table ## ]]" in text.partition("Respond with")[2]
    return reply(table="staff") if asks_for_table else helped(text)


def quickly(
    log_dir: Path,
    student: dspy.Module,
    script: Callable[[str], str] = two_steps,
    *,
    val: list[dspy.Example] | None = None,
    **changes: object,
) -> tuple[dspy.Module, ScriptedTrainer, ScriptedEngine]:
    """A compile in which nothing is trained and the generator writes by script."""
    engine, trainer = ScriptedEngine(script), ScriptedTrainer()
    with dspy.context(lm=engine.lm()):
        settings = {"generator": writer(), "trainer": trainer} | changes
        better = teleprompter(log_dir, **settings).compile(student, trainset=WORLD.train, valset=val or WORLD.val)
    return better, trainer, engine


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"credit": "shapley"}, "Expected credit 'isolate' or 'joint', got 'shapley'"),
        ({"scope": "always"}, "Expected scope 'turn' or 'episode', got 'always'"),
        ({"only": ["choose", "check"]}, r"predictors named \['check'\], got TwoSteps with \['choose', 'write'\]"),
        ({"only": []}, "Expected a program with predictors"),
    ],
    ids=["credit", "scope", "only", "only none"],
)
def test_an_unknown_word_is_refused_before_anything_is_paid(
    tmp_path: Path, change: dict[str, object], expected: str
) -> None:
    engine = ScriptedEngine(two_steps)
    with dspy.context(lm=engine.lm()), pytest.raises(errors.SetupError, match=expected):
        teleprompter(tmp_path / "run", generator=writer(), **change).compile(
            TwoSteps(), trainset=WORLD.train, valset=WORLD.val
        )
    assert engine.asked == []
    assert not (tmp_path / "run").exists()


def asked_for(log_dir: Path) -> set[str]:
    """The predictors for which supplements were tried in the warm start."""
    with RolloutStore(log_dir / "rollouts.sqlite") as store:
        return {rollout.query.predictor for rollout in store.rollouts(stage="warm")}


@pytest.mark.parametrize("credit", ["isolate", "joint"])
def test_only_scope_and_template_reach_the_program(tmp_path: Path, credit: str) -> None:
    template = Template("A friend's hint.", "They say: {supplement}")
    better, _, engine = quickly(
        tmp_path / "run", TwoSteps(), credit=credit, only=["write"], scope="episode", template=template
    )
    assert result_of(better).selected != "none"
    assert type(better.choose) is dspy.Predict
    assert isinstance(better.write, SupplementedPredictor)
    assert (better.write.scope, better.write.template) == ("episode", template)
    assert asked_for(tmp_path / "run") == {"write"}
    assert any("They say: [background] Look it up." in text for text in engine.asked)


@pytest.mark.parametrize("credit", ["isolate", "joint"])
def test_a_student_that_is_supplemented_keeps_its_predictors_scope_and_template(tmp_path: Path, credit: str) -> None:
    template = Template("A friend's hint.", "They say: {supplement}")
    student = supplement(TwoSteps(), generator=writer("mistakes"), only=["write"], scope="episode", template=template)
    better, _, _ = quickly(tmp_path / "run", student, credit=credit)
    assert result_of(better).selected == "sft"
    assert [name for name, _ in supplemented_predictors(better)] == ["write"]
    assert (better.write.scope, better.write.template) == ("episode", template)
    assert better.write.generator.write("q").kind == "background"
    assert student.write.generator.write("q").kind == "cot"


def test_a_bare_student_that_is_supplemented_may_be_trained_further(tmp_path: Path) -> None:
    better, _, _ = quickly(tmp_path / "run", supplement(program(), generator=writer("mistakes")), helped)
    assert result_of(better).selected == "sft"


def test_a_student_whose_own_supplements_harm_comes_back_as_it_was_scored(tmp_path: Path) -> None:
    def led_astray(text: str) -> str:
        return two_steps(text if "[[ ## supplement ## ]]" in text else f"{text} [background]")

    harmful = ScriptedGenerator(lambda _: Supplement("cot", "Guess."))
    better, _, engine = quickly(tmp_path / "run", supplement(TwoSteps(), generator=harmful), led_astray)
    result = result_of(better)
    assert result.best.score == 1.0
    with dspy.context(lm=engine.lm()):
        assert [WORLD.metric(each, better(**each.inputs())).score for each in WORLD.val] == [1.0] * len(WORLD.val)


def test_joint_credit_gives_each_predictor_the_program_s_outcome(tmp_path: Path) -> None:
    better, trainer, _ = quickly(tmp_path / "run", TwoSteps(), credit="joint")
    assert [name for name, _ in supplemented_predictors(better)] == ["choose", "write"]
    with RolloutStore(tmp_path / "run" / "rollouts.sqlite") as store:
        warm = store.rollouts(stage="warm")
    assert {rollout.source for rollout in warm} == {"joint"}
    assert {rollout.query.predictor for rollout in warm} == {"choose", "write"}
    assert {"choose", "write"} == {
        rollout.query.predictor for rollout in warm for row in trainer.rows["sft"] if row.query == rollout.query.id
    }


def test_isolated_credit_trains_on_the_predictor_that_decides(tmp_path: Path) -> None:
    _, trainer, _ = quickly(tmp_path / "run", TwoSteps())
    with RolloutStore(tmp_path / "run" / "rollouts.sqlite") as store:
        predictors = {rollout.query.id: rollout.query.predictor for rollout in store.rollouts()}
    assert {predictors[row.query] for row in trainer.rows["sft"]} == {"write"}
    assert {predictors[pair.query] for pair in trainer.rows["dpo1"]} == {"write"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of two predictors."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    quickly(folder, TwoSteps())
    return folder


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("credit", {"credit": "joint"}),
        ("only", {"only": ["write"]}),
        ("scope", {"scope": "episode"}),
        ("template", {"template": Template("Another.")}),
    ],
)
def test_a_folder_of_another_credit_only_scope_or_template_is_refused(
    finished: Path, name: str, change: dict[str, object]
) -> None:
    with pytest.raises(errors.RunFolderError, match=f"{name} changed"):
        quickly(finished, TwoSteps(), **change)


def choosy(text: str) -> str:
    """An actor that needs background for house terms and is led astray by any supplement on plain questions."""
    asked = next(each for split in WORLD.splits.values() for each in split if each.question in text)
    right = "[background]" in text if asked.term else "[[ ## supplement ## ]]" not in text
    return gold(text) if right else reply(sql="SELECT 1")


def test_silence_is_trained_on_where_it_wins(tmp_path: Path) -> None:
    _, trainer, _ = quickly(tmp_path / "run", program(), choosy)
    chosen = {pair.chosen for pair in trainer.rows["dpo1"]}
    assert {"[none]", "[background] Look it up."} <= chosen
    assert {parse(text).kind for text in chosen} <= {"none", "background"}
    assert not any("none" in row.completion for row in trainer.rows["sft"])


def test_silence_is_not_trained_on_where_it_is_not_wanted(tmp_path: Path) -> None:
    _, trainer, _ = quickly(tmp_path / "run", program(), choosy, recipe=replace(SMALL, silence=False))
    assert not any("[none]" in (pair.chosen, pair.rejected) for pair in trainer.rows["dpo1"])


def test_the_shorter_of_two_winners_is_preferred_where_the_recipe_says_so(tmp_path: Path) -> None:
    for share, expected in ((None, False), (0.25, True)):
        recipe = replace(SMALL, length_preference=share, concat=2)
        generator = ScriptedGenerator(
            lambda prompt: Supplement(named(prompt, "background").kind, f"[background] {prompt}")
        )
        _, trainer, _ = quickly(tmp_path / str(share), program(), helped, recipe=recipe, generator=generator)
        assert any(pair.category == "shorter" for pair in trainer.rows.get("dpo1", [])) == expected


TERMS = [example for split in (WORLD.val, WORLD.test) for example in split if example.term]
PLAIN = [example for split in (WORLD.val, WORLD.test) for example in split if not example.term]


class ShortTrainer(ScriptedTrainer):
    """A trainer that reads no row but the first."""

    def sft(self, rows: Sequence[SFTExample], **given: Any) -> Checkpoint:
        note = f"{len(rows) - 1} of {len(rows)} rows took no part in training."
        return replace(super().sft(rows, **given), metrics={"dropped": len(rows) - 1}, notes=[note])


def test_rows_that_training_left_out_are_told_at_once_and_stand_in_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = ShortTrainer()
    better, _, _ = quickly(tmp_path / "run", program(), helped, trainer=trainer, display_progress=None)
    result, count = result_of(better), len(trainer.rows["sft"])
    assert count > 1
    said = f"sft: {count - 1} of {count} rows took no part in training."
    assert result.notes[0] == said
    assert result.stage("sft").dropped == count - 1
    lines = capsys.readouterr().err.splitlines()
    assert lines.count(said) == 1
    assert lines.index(said) < next(place for place, line in enumerate(lines) if line.startswith("sft: val"))


def test_every_stage_tells_the_most_memory_it_held(tmp_path: Path) -> None:
    better, _, _ = quickly(tmp_path / "run", program(), helped)
    assert all(stage.memory.rss_mb > 64 for stage in result_of(better).stages)


def is_term(prompt: str) -> bool:
    return any(example.question in prompt for split in WORLD.splits.values() for example in split if example.term)


def gated_run(log_dir: Path, **changes: object) -> tuple[dspy.Module, ScriptedEngine]:
    """A generator that learns to help with house terms, and is unsure of itself where there is none."""
    trained = ScriptedGenerator(
        lambda prompt: named(prompt, "background"), logprob=lambda prompt: -0.1 if is_term(prompt) else -2.0
    )
    generator = ScriptedGenerator(lambda prompt: named(prompt, "cot"), trained=trained)
    recipe = replace(SMALL, **({"gate": True} | changes))
    better, _, engine = quickly(
        log_dir, program(), choosy, val=[*TERMS[:3], *PLAIN[:1]], generator=generator, recipe=recipe
    )
    return better, engine


def test_the_best_stage_is_gated_on_validation_and_the_program_carries_the_gate(tmp_path: Path) -> None:
    better, _ = gated_run(tmp_path / "run")
    result = result_of(better)
    sft, gated = result.stage("sft"), result.stage("gated")
    assert result.selected == "gated"
    assert gated.score >= sft.score
    assert gated.checkpoint == sft.checkpoint
    assert gated.gate is not None
    assert (better.gate, sft.gate) == (gated.gate, None)
    assert sum(rollout.source == "gated" for rollout in gated.rollouts) > 0
    assert all(rollout.supplement == SILENCE for rollout in gated.rollouts if rollout.source == "gated")


def test_what_the_gate_drops_was_tried_without_and_is_not_paid_again(tmp_path: Path) -> None:
    _, with_gate = gated_run(tmp_path / "with")
    _, without = gated_run(tmp_path / "without", gate=False)
    assert sorted(with_gate.asked) == sorted(without.asked)


def test_a_gated_call_sends_what_the_plain_program_would_have_sent(tmp_path: Path) -> None:
    better, _ = gated_run(tmp_path / "run")
    engine = ScriptedEngine(choosy)
    with dspy.context(lm=engine.lm()), episode(None) as run:
        for example in PLAIN[:1]:
            better(**example.inputs())
            program()(**example.inputs())
    assert [call.gated for call in run.calls] == [True]
    assert engine.asked[0] == engine.asked[1]


def test_without_a_gate_in_the_recipe_there_is_no_such_stage(tmp_path: Path) -> None:
    better, _ = gated_run(tmp_path / "run", gate=False)
    assert "gated" not in [stage.name for stage in result_of(better).stages]
    assert better.gate is None


def test_a_program_that_is_best_without_supplements_gets_no_gate(tmp_path: Path) -> None:
    better, _, _ = quickly(tmp_path / "run", program(), gold, recipe=replace(SMALL, gate=True))
    assert [stage.name for stage in result_of(better).stages if stage.gate] == []
    assert type(better) is dspy.Predict


@pytest.mark.slow
def test_a_program_of_two_predictors_is_trained_and_comes_back_with_both_supplemented(tmp_path: Path) -> None:
    def script(text: str) -> str:
        return reply(table="staff") if "[[ ## table ## ]]" not in text.partition("Respond")[0] else helped(text)

    student = TwoSteps()
    with dspy.context(lm=ScriptedEngine(script).lm()):
        better = teleprompter(tmp_path / "run").compile(student, trainset=WORLD.train, valset=WORLD.val)
    result = better.detailed_results
    assert [name for name, _ in better.named_predictors()] == ["choose", "write"]
    with RolloutStore(tmp_path / "run" / "rollouts.sqlite") as store:
        asked = {rollout.query.predictor for rollout in store.rollouts(stage="warm")}
    assert asked == {"choose", "write"}
    assert result.best.score == max(stage.score for stage in result.stages)


def test_pools_of_round_1_that_are_empty_are_noted(tmp_path: Path) -> None:
    """The generator names no kind of its own, and one kind alone wins."""
    nameless = ScriptedGenerator(
        lambda prompt: Supplement("free", "Hm.") if "of your choice" in prompt else told(prompt)
    )
    better, _, _ = quickly(tmp_path / "run", program(), helped, generator=nameless)
    notes = " ".join(result_of(better).notes)
    assert "Round 1 tries no new kinds: none of " in notes
    assert "Round 1 tries no joins: no query was won by supplements of two kinds" in notes


def told(prompt: str) -> Supplement:
    return named(prompt, "cot")


def test_inputs_that_are_too_long_for_the_generator_are_shortened_and_counted(tmp_path: Path) -> None:
    generator = writer()
    generator.max_prompt_tokens = 100
    longer = [each.copy(question=f"{each.question} {'Please. ' * 100}") for each in WORLD.train]
    sgt = teleprompter(tmp_path / "run", generator=generator, trainer=ScriptedTrainer())
    generator.engine.count = lambda prompt: len(prompt.split())  # a script has no tokenizer
    with dspy.context(lm=ScriptedEngine(helped).lm()):
        better = sgt.compile(program(), trainset=longer, valset=WORLD.val)
    [note] = [note for note in result_of(better).notes if "were too long for" in note]
    assert note.startswith(f"{len(longer)} of {len(longer) + len(WORLD.val)} inputs")
    assert "read without the middle of their longest field, in training as at inference" in note
    with RolloutStore(tmp_path / "run" / "rollouts.sqlite") as store:
        prompts = [rollout.query.prompt for rollout in store.rollouts(stage="warm")]
    assert prompts
    assert all(SHORTENED in prompt and len(prompt.split()) <= 100 for prompt in prompts)


def test_a_run_has_one_default_size_in_python_and_on_the_command_line() -> None:
    from optimizers.commands.output import AUTO as IN_A_SHELL
    from optimizers.sgt.recipe import AUTO, Recipe

    assert IN_A_SHELL == AUTO
    assert SGTTeleprompter(WORLD.metric, writer()).recipe == Recipe.auto(AUTO)
