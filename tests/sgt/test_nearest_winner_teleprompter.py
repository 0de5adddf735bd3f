"""NearestWinner as a teleprompter: what it explores, what it returns, and a program that needs no model."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from pathlib import Path

import dspy
import pytest
from scripted import ScriptedEngine, ScriptedGenerator, reply

from optimizers import LoggedOutcome, NearestWinner, Recipe
from optimizers.core.result import SGTResult, result_of
from optimizers.observe.report.record import read_run
from optimizers.observe.report.run_page import run_page
from sgt_modules import Kind, Supplement, WinnerLookup, supplement
from sgt_modules.errors import RunFolderError, SavedStateError, SetupError
from sgt_modules.wrapping import supplemented_predictors

COLORS = ("red", "blue", "green")
RECIPE = Recipe(rounds=0, warm_samples=2, kinds={"cot": Kind("cot", "Think.")})
MESSY = ("", "[none]", "[cot] Guess. [cot] Guess. [cot]", "<think>never ends", "x " * 400)
"""What a generator writes at its worst: nothing, a loop, a thought without an end, and far too much."""


def ask(number: int) -> dspy.Example:
    color = COLORS[number % 3]
    return dspy.Example(question=f"thing-{number} in {color}?", answer=str(number)).with_inputs("question")


TRAIN, VAL = [ask(n) for n in range(9)], [ask(n) for n in range(20, 26)]


def exact(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    return example.answer == prediction.answer


def color_in(text: str) -> str:
    return next(color for color in COLORS if f"in {color}?" in text.rpartition("thing-")[2])


def knows_secrets(text: str) -> str:
    """Right exactly when the supplement holds the secret of the question's color."""
    number = text.rpartition("thing-")[2].partition(" ")[0]
    return reply(answer=number if f"secret-{color_in(text)}" in text else "no idea")


class Messy(ScriptedGenerator):
    """Writes the secret of every fourth seed's color, and a mess otherwise."""

    def said(self, prompt: str, seed: int) -> Supplement:
        if seed % 4 == 0:
            return Supplement("cot", f"It is secret-{color_in(prompt)}.")
        return Supplement("free", MESSY[seed % len(MESSY)])


def secret(prompt: str) -> Supplement:
    return Supplement("cot", f"It is secret-{color_in(prompt)}.")


def compiled(
    folder: Path, generator: object = None, *, logged: object = (), **changes: object
) -> tuple[dspy.Module, ScriptedEngine]:
    actor = ScriptedEngine(knows_secrets)
    nearest = NearestWinner(
        exact,
        generator,
        **{"recipe": RECIPE, "log_dir": folder, "num_threads": 4, "display_progress": False, **changes},
    )
    student = dspy.Predict("question -> answer")
    student.set_lm(actor.lm())
    return nearest.compile(student, trainset=TRAIN, valset=VAL, logged=logged), actor


def scores(result: SGTResult) -> dict[str, float]:
    return {stage.name: stage.score for stage in result.stages}


def test_the_winner_of_like_questions_is_read_and_nothing_is_trained(tmp_path: Path) -> None:
    better, actor = compiled(tmp_path, ScriptedGenerator(secret))
    result = result_of(better)
    assert (scores(result), result.selected) == ({"none": 0.0, "nearest": 1.0}, "nearest")
    assert not (tmp_path / "checkpoints").exists()
    assert better(question="thing-77 in green?").answer == "77"
    assert "Stage nearest raises the score on validation from 0.000 to 1.000" in result.verdict
    assert result.spent.actor_calls == len(actor.asked) - 1
    assert "nearest" in run_page(read_run(tmp_path))


def test_a_generator_that_mostly_writes_a_mess_still_gives_winners(tmp_path: Path) -> None:
    better, _ = compiled(tmp_path, Messy(secret), recipe=Recipe(rounds=1, warm_samples=8, kinds=RECIPE.kinds))
    assert scores(result_of(better))["nearest"] == 1.0


def test_where_nothing_wins_the_program_comes_back_as_it_was(tmp_path: Path) -> None:
    better, _ = compiled(tmp_path, ScriptedGenerator(lambda _: Supplement("cot", "Think first.")))
    result = result_of(better)
    assert (scores(result), result.selected) == ({"none": 0.0, "nearest": 0.0}, "none")
    assert supplemented_predictors(better) == []


def test_the_same_folder_costs_nothing_again_and_refuses_other_neighbours(tmp_path: Path) -> None:
    first, _ = compiled(tmp_path, ScriptedGenerator(secret))
    again, actor = compiled(tmp_path, ScriptedGenerator(secret))
    assert actor.asked == []
    assert scores(result_of(again)) == scores(result_of(first))
    with pytest.raises(RunFolderError, match="neighbours"):
        compiled(tmp_path, ScriptedGenerator(secret), neighbours=(1, 2))


def test_a_program_is_saved_whole_loaded_copied_and_called_from_coroutines_and_batches(tmp_path: Path) -> None:
    better, actor = compiled(tmp_path / "run", ScriptedGenerator(secret))
    better.set_lm(None)
    better.save(tmp_path / "program.json")
    fresh = supplement(dspy.Predict("question -> answer"), generator=WinnerLookup())
    fresh.load(tmp_path / "program.json")
    fresh.set_lm(actor.lm())
    questions = [f"thing-{n} in {COLORS[n % 3]}?" for n in range(40, 46)]
    for program in (fresh, copy.deepcopy(better), better.deepcopy(), better.reset_copy()):
        program.set_lm(actor.lm())
        assert [program(question=each).answer for each in questions] == [str(n) for n in range(40, 46)]
    assert asyncio.run(fresh.acall(question=questions[0])).answer == "40"
    found = fresh.batch([dspy.Example(question=each).with_inputs("question") for each in questions], num_threads=4)
    assert [each.answer for each in found] == [str(n) for n in range(40, 46)]
    generator = pickle.loads(pickle.dumps(fresh.generator))
    assert generator.fingerprint == better.generator.fingerprint
    assert generator.draw(questions[0]).tokens == 0


@pytest.mark.parametrize(
    "change",
    [
        {"supplements": [["cot", 7, False]], "rows": []},
        {"supplements": [], "rows": [["a prompt", [0]]]},
        {"supplements": [["cot", "Add.", False]], "rows": [["a prompt", [True]]]},
        {"supplements": "all", "rows": []},
        [],
    ],
)
def test_a_saved_table_of_another_form_is_refused(tmp_path: Path, change: object) -> None:
    better, _ = compiled(tmp_path / "run", ScriptedGenerator(secret))
    better.set_lm(None)
    better.save(tmp_path / "program.json")
    content = json.loads((tmp_path / "program.json").read_text())
    content["generator"]["winners"] = change
    (tmp_path / "program.json").write_text(json.dumps(content))
    fresh = supplement(dspy.Predict("question -> answer"), generator=WinnerLookup())
    with pytest.raises(SavedStateError, match="Save the program again"):
        fresh.load(tmp_path / "program.json")


def test_a_log_alone_is_enough_and_costs_only_the_unaided_runs_and_validation(tmp_path: Path) -> None:
    log = [
        LoggedOutcome({"question": each.question}, f"It is secret-{color_in(each.question)}.", 1.0) for each in TRAIN
    ]
    better, actor = compiled(tmp_path, logged=log, neighbours=(1,))
    assert scores(result_of(better)) == {"none": 0.0, "nearest": 1.0}
    assert len(actor.asked) == len(TRAIN) + 2 * len(VAL)
    assert result_of(better).spent.generator.runs == 0


def test_given_texts_are_tried_without_a_generator(tmp_path: Path) -> None:
    texts = {color: Kind(color, text=f"It is secret-{color}.") for color in COLORS}
    better, _ = compiled(tmp_path, recipe=Recipe(kinds=texts, closed=True))
    assert scores(result_of(better))["nearest"] == 1.0
    assert {each.supplement.kind for each in result_of(better).best.rollouts} == set(COLORS)


def test_nothing_to_try_is_refused_before_anything_is_paid(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="neither a generator, a closed recipe nor logged outcomes"):
        compiled(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(SetupError, match="Expected neighbours of whole numbers"):
        NearestWinner(exact, neighbours=(0, 4))


@pytest.mark.parametrize("calls", [1, 8, 20, 30])
def test_a_budget_keeps_enough_for_validation_and_more_budget_goes_on(tmp_path: Path, calls: int) -> None:
    better, actor = compiled(tmp_path, ScriptedGenerator(secret), max_actor_calls=calls)
    result = result_of(better)
    assert result.spent.actor_calls <= calls
    assert ("nearest" in scores(result)) == (calls >= 20)
    more, later = compiled(tmp_path, ScriptedGenerator(secret), max_actor_calls=200)
    assert scores(result_of(more))["nearest"] == 1.0
    assert len(actor.asked) + len(later.asked) == result_of(more).spent.actor_calls
