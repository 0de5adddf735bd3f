"""Reasoning Gym's games: their puzzles, legal and illegal moves, the package's scorer, and compiles of the agent."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import dspy
import pytest
from places import ROOT
from scripted import ScriptedEngine, ScriptedGenerator, ScriptedTrainer, reply
from small_compile import named, teleprompter

from optimizers import Recipe
from optimizers.core.cost import Cost, Pricing
from optimizers.core.result import result_of
from optimizers.tasks import check_task, task
from optimizers.tasks.benching import run_bench
from optimizers.tasks.reasoning_gym import GAMES, MOST_STEPS, SOLUTION_LENGTHS, GamePlayer, game_solved, gym_task
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.errors import SetupError, TaskDataError
from sgt_modules.kinds import Supplement

pytestmark = pytest.mark.skipif(
    find_spec("reasoning_gym") is None,
    reason="needs reasoning-gym, which compiles C when installed: pip install 'dspy-sgt[gym]'",
)

BOARD = "+ + + + + +\n+ * @ - X +\n+ - - - - +\n+ + + + + +"
JUGS = "A holds 3, B holds 5, C holds 8; target 4"
TINY = Recipe(rounds=1, warm_samples=1, pool_samples=1, ood_kinds=1, concat=1, max_per_kind=4, pair_cap=2)


def saying(*moves: str) -> Callable[[str], str]:
    """An actor that says these moves in turn, then the last one again."""
    left = list(moves)
    return lambda _: reply(move=left.pop(0) if len(left) > 1 else left[0])


def played(puzzle: str, *moves: str, script: Callable[[str], str] | None = None) -> tuple[dspy.Prediction, list[str]]:
    engine = ScriptedEngine(script or saying(*moves))
    with dspy.context(lm=engine.lm(), adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
        return GamePlayer()(game="jugs" if "holds" in puzzle else "sokoban", puzzle=puzzle), engine.asked


def example(puzzle: str, *solution: str) -> dspy.Example:
    game = "jugs" if "holds" in puzzle else "sokoban"
    return dspy.Example(game=game, puzzle=puzzle, solution=list(solution)).with_inputs("game", "puzzle")


def test_every_gold_solution_scores_1_and_is_short() -> None:
    found = check_task(task("reasoning_gym"))
    assert (found.gold_score, found.bad_rows) == (1.0, [])
    assert found.rows >= 310
    rows = [each.example for each in task("reasoning_gym").read().all_rows]
    assert {each.game for each in rows} == set(GAMES)
    assert all(len(each.solution) in SOLUTION_LENGTHS for each in rows)


def test_no_puzzle_is_there_twice_not_even_with_its_jugs_renamed() -> None:
    rows = [each.example for each in task("reasoning_gym").read().all_rows]
    keys = [
        str(sorted(re.findall(r"\d+", each.puzzle)[:3])) + each.puzzle.rpartition(" ")[2]
        if each.game == "jugs"
        else "".join(each.puzzle.split(" "))
        for each in rows
    ]
    assert len(set(keys)) == len(keys)
    splits = task("reasoning_gym").splits()
    drawn = [each.puzzle for part in (splits.train, splits.val, splits.test) for each in part]
    assert (len(splits.train), len(splits.val), len(splits.test)) == (100, 60, 150)
    assert len(set(drawn)) == len(drawn)


@pytest.mark.slow
def test_a_seed_gives_the_same_puzzles_in_another_process_and_another_seed_others() -> None:
    code = "from optimizers.tasks import task; print(task('reasoning_gym').splits().record)"
    command = [sys.executable, "-W", "ignore", "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert printed.strip() == str(task("reasoning_gym").splits().record)
    here, there = (gym_task(["jugs"], seed=seed).read().all_rows for seed in (0, 1))
    assert {each.example.puzzle for each in here} != {each.example.puzzle for each in there}


@pytest.mark.parametrize("game", GAMES)
def test_the_episode_s_end_and_the_package_s_scorer_agree_on_random_play(game: str) -> None:
    draw = random.Random(game)
    words = (
        ["up", "down", "L", "R"] if game == "sokoban" else ["fill A", "fill C", "pour A->B", "pour C to A", "empty B"]
    )
    rows = [each.example for each in gym_task([game]).read().all_rows][:60]
    solved: list[bool] = []
    for each in rows:
        prediction, _ = played(each.puzzle, script=lambda _: reply(move=draw.choice(words)))
        assert game_solved(each, prediction).score == float(prediction.solved)
        assert prediction.steps == len(prediction.moves) + prediction.illegal <= MOST_STEPS
        for cut in range(len(prediction.moves)):
            assert GAMES[game].score(each.puzzle, prediction.moves[:cut]) < 1
        solved.append(prediction.solved)
    assert {True, False} == set(solved)


@pytest.mark.parametrize("game", GAMES)
def test_the_gold_solution_played_move_by_move_solves_the_puzzle_without_an_illegal_move(game: str) -> None:
    for each in [row.example for row in gym_task([game]).read().all_rows][:40]:
        prediction, asked = played(each.puzzle, *each.solution)
        assert (prediction.moves, prediction.illegal, prediction.solved) == (each.solution, 0, True)
        assert len(asked) == prediction.steps == len(each.solution)


def test_each_step_shows_the_new_position_and_why_a_move_was_illegal() -> None:
    prediction, asked = played(BOARD, "up", "pull it left", "R\nthen R", "move right.", "**R**")
    assert (prediction.moves, prediction.illegal, prediction.solved) == (["R", "R"], 2, True)
    assert "[[ ## seen ## ]]\nnothing\n" in asked[0]
    assert "U: illegal, a wall is there\nL: illegal, a wall is there\nR: done" in asked[3]
    assert "+ - * @ X +" in asked[3]
    blocked, asked = played(BOARD.replace("@ -", "@ +"), "R")
    assert blocked.steps == MOST_STEPS
    assert "R: illegal, the box there cannot be pushed, as the cell behind it is not free" in asked[1]


@pytest.mark.parametrize(
    "said", ["", "I give up", "fill D", "pour A", "fill A, then fill B", "x" * 5000, "[[ ## a ## ]]"]
)
def test_a_reply_without_one_legal_move_is_a_wasted_step_and_no_crash(said: str) -> None:
    prediction, asked = played(
        JUGS, said, "fill B", "Pour jug B into jug A", "empty jug A", "pour B->A", "fill B", "pour B->A"
    )
    assert (prediction.illegal, prediction.solved) == (1, True)
    assert prediction.moves == ["fill B", "pour B->A", "empty A", "pour B->A", "fill B", "pour B->A"]
    assert "illegal, expected one move, got " in asked[1]
    assert len(asked[1]) < len(asked[0]) + 200


def test_a_reply_that_no_adapter_can_parse_is_a_wasted_step_too() -> None:
    replies = iter(["[[ ## nothing ## ]]", reply(move="R"), reply(move="R")])
    prediction, _ = played(BOARD, script=lambda _: next(replies))
    assert (prediction.moves, prediction.illegal, prediction.solved) == (["R", "R"], 1, True)


@pytest.mark.parametrize("moves", [None, "RR", [], ["R"], ["X", "R"], [1, 2], ["U", "U"]])
def test_answers_that_are_no_solution_score_0(moves: object) -> None:
    scored = game_solved(example(BOARD, "R", "R"), dspy.Prediction(moves=moves))
    assert scored.score == 0.0
    assert scored.feedback.endswith("A solution is R, R.")
    assert game_solved(example(JUGS, "fill B"), dspy.Prediction(moves=moves)).score == 0.0


@pytest.mark.parametrize(
    ("game", "puzzle"),
    [
        ("chess", BOARD),
        ("jugs", BOARD),
        ("sokoban", JUGS),
        ("sokoban", ""),
        ("sokoban", "* @ X"),
        ("sokoban", BOARD[6:]),
    ],
)
def test_a_text_that_is_no_puzzle_of_the_game_is_refused(game: str, puzzle: str) -> None:
    with pytest.raises(SetupError, match=r"There is no game|Expected"):
        GamePlayer()(game=game, puzzle=puzzle)


def test_what_the_task_cannot_do_is_refused_with_what_to_do(tmp_path: Path) -> None:
    for wrong in ({"games": []}, {"games": "jugs"}, {"games": ["chess"]}, {"seed": -1}, {"most_steps": 0}):
        with pytest.raises(SetupError):
            gym_task(**wrong)
    with pytest.raises(TaskDataError, match="Leave it out"):
        task("reasoning_gym").splits(tmp_path)


def test_without_the_package_the_error_says_what_to_install_and_other_tasks_work() -> None:
    code = """
import sys
sys.modules["reasoning_gym"] = None
from optimizers.tasks import check_task, task
assert check_task(task("house_terms")).gold_score == 1.0
task("reasoning_gym").splits()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert "SetupError: Expected the package reasoning-gym, got none" in done.stderr
    assert "pip install 'dspy-sgt[gym]'" in done.stderr


def advised(text: str) -> str:
    """An actor that walks right where a note says so, and otherwise up, into the wall."""
    return reply(move="R" if "right" in text.rpartition("[[ ## supplement ## ]]")[2].partition("[[ ##")[0] else "up")


def boards(count: int, first: int) -> Sequence[dspy.Example]:
    """Boards of different heights, each solved by one move to the right."""
    top, bottom = BOARD.replace("@ - X", "@ X -").rsplit("\n", 1)
    return [example("\n".join([top, *["+ - - - - +"] * n, bottom]), "R") for n in range(first, first + count)]


def walker() -> ScriptedGenerator:
    """A generator that learns to say where to go."""

    def note(prompt: str) -> Supplement:
        asked = named(prompt, "cot")
        return replace(asked, text="Walk right.") if asked.kind == "background" else asked

    model = str(embedded_folder("generator"))  # its tokenizer counts the notes' tokens
    trained = ScriptedGenerator(lambda _: Supplement("background", "Walk right."), model=model)
    return ScriptedGenerator(note, trained=trained, model=model)


@pytest.mark.parametrize("scope", ["turn", "episode"])
@pytest.mark.parametrize("recipe", [replace(TINY, cost=Cost(steps=0.02)), replace(TINY, draft=True)])
def test_sgt_learns_to_advise_the_player_in_both_scopes_and_on_drafts(
    recipe: Recipe, scope: str, tmp_path: Path
) -> None:
    engine, trainer = ScriptedEngine(advised), ScriptedTrainer()
    settings = {"generator": walker(), "trainer": trainer, "recipe": recipe, "scope": scope}
    with dspy.context(lm=engine.lm()):
        better = teleprompter(tmp_path, game_solved, **settings).compile(
            GamePlayer(2), trainset=boards(2, 0), valset=boards(2, 3)
        )
        assert better(**boards(1, 9)[0].inputs()).moves == ["R"]
    result = result_of(better)
    assert (result.stage("none").score, result.best.score) == (0.0, 1.0)
    assert trainer.rows["sft"]
    if recipe.cost:
        used = Pricing(recipe.cost).used
        steps = {each.name: {used(tried).steps for tried in each.rollouts} for each in result.stages}
        assert (steps["none"], steps[result.selected]) == ({2}, {1})


def test_a_bench_scores_the_player_and_records_where_its_puzzles_come_from(tmp_path: Path) -> None:
    found = run_bench(
        task("reasoning_gym"),
        ScriptedEngine(lambda _: reply(move="pour A->A")).lm(),
        limit=4,
        contenders=["none", "labeled_fewshot"],
        log_dir=tmp_path,
        display_progress=False,
    )
    assert found.comparison.row("none").test == 0.0
    assert found.splits["origin"] == f"reasoning-gym {version('reasoning-gym')}: sokoban, jugs of seed 0"
    assert all(re.fullmatch(r"(sokoban|jugs)\[\d+\]", each) for each in found.splits["test"]["rows"])
    assert "no outputs of the program" in found.comparison.row("labeled_fewshot").skipped
