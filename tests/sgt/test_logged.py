"""Logged outcomes: rows of a user's own log become rollouts of the training examples, at no cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import ScriptedEngine, ScriptedGenerator, ScriptedTrainer, reply

from optimizers import LoggedOutcome, Recipe, SGTTeleprompter
from optimizers.core.records import Query, Reward
from optimizers.core.result import SGTResult, result_of
from optimizers.observe.report.record import read_run
from optimizers.observe.report.run_page import run_page
from optimizers.sgt.logged import read_log
from optimizers.store.rollout_store import RolloutStore
from sgt_modules import Kind, Menu, Supplement
from sgt_modules.errors import RunFolderError, SetupError

TRAIN = [dspy.Example(question=f"{n}+1?", answer=str(n + 1)).with_inputs("question") for n in range(4)]
VAL = [dspy.Example(question=f"{n}+1?", answer=str(n + 1)).with_inputs("question") for n in range(10, 13)]
RECIPE = Recipe(
    rounds=2,
    warm_samples=1,
    pool_samples=1,
    ood_kinds=0,
    concat=0,
    direct_samples=1,
    kinds={"cot": Kind("cot", "Think.")},
)
GOOD, BAD = "[rule] Count one further.", "[rule] Guess."
LOG = [
    *(LoggedOutcome({"question": f"{n}+1?"}, text, score) for n in range(3) for text, score in ((GOOD, 1), (BAD, 0))),
    LoggedOutcome({"question": "no such question"}, GOOD, 1.0),
    LoggedOutcome({"question": "11+1?"}, GOOD, 1.0),
]


def exact(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    return example.answer == prediction.answer


def compiled(
    folder: Path, logged: Sequence[LoggedOutcome], program: dspy.Module | None = None, recipe: Recipe = RECIPE
) -> tuple[SGTResult, ScriptedEngine, ScriptedTrainer]:
    """A compile whose actor is always wrong, so that only the log knows what helps."""
    actor, trainer = ScriptedEngine(lambda _: reply(answer="?", note="?")), ScriptedTrainer()
    generator = ScriptedGenerator(lambda _: Supplement("cot", "Think."))
    sgt = SGTTeleprompter(exact, generator, recipe=recipe, trainer=trainer, log_dir=folder, display_progress=False)
    student = program or dspy.Predict("question -> answer")
    student.set_lm(actor.lm())
    return result_of(sgt.compile(student, trainset=TRAIN, valset=VAL, logged=logged)), actor, trainer


def stored(folder: Path) -> RolloutStore:
    return RolloutStore(folder / "rollouts.sqlite")


def test_logged_outcomes_cost_no_call_and_teach_the_warm_start_and_the_pairs_of_their_questions(tmp_path: Path) -> None:
    _, actor, trainer = compiled(tmp_path / "with", LOG)
    _, bare, without = compiled(tmp_path / "without", [])
    assert without.rows == {}
    assert [row.completion for row in trainer.rows["sft"]] == [GOOD] * 3
    pairs = trainer.rows["dpo1"]
    assert {(pair.query, pair.category, pair.rejected) for pair in pairs} >= {
        (query, category, said)
        for query in {pair.query for pair in pairs}
        for category, said in (("intra", BAD), ("inter", "[cot] Think."))
    }
    assert {pair.chosen for pair in pairs} == {GOOD}
    assert len({pair.query for pair in pairs}) == 3
    assert not [text for text in actor.asked if "[rule]" in text]
    validated = [text for text in actor.asked if any(f"{n}+1?" in text for n in range(10, 13))]
    assert len(actor.asked) - len(validated) == sum("+1?" in text for text in bare.asked) - len(VAL)


def test_the_store_and_the_report_say_what_came_from_the_log(tmp_path: Path) -> None:
    result, _, _ = compiled(tmp_path, LOG)
    with stored(tmp_path) as store:
        found = [each for each in store.iter_rollouts() if each.source == "logged"]
    assert Counter(each.stage for each in found) == {"warm": 6, "round 1": 6}
    assert {(each.tokens_in, each.cost, each.seconds, each.writer) for each in found} == {(0, 0.0, 0.0, "")}
    note = (
        "From the log, 6 of 8 rows join the warm start and round 1, as 6 outcomes that cost no call; 1 row matches no "
        "training example, 1 row matches a validation example."
    )
    assert note in result.notes
    assert note in run_page(read_run(tmp_path))


def test_what_the_actor_was_paid_for_stands_against_the_log(tmp_path: Path) -> None:
    """The generator's own supplement was tried and lost; a log that says it won comes later."""
    compiled(tmp_path, [])
    later = SGTTeleprompter(
        exact,
        ScriptedGenerator(lambda _: Supplement("cot", "Think.")),
        recipe=RECIPE,
        trainer=(trainer := ScriptedTrainer()),
        log_dir=tmp_path / "later",
        store=tmp_path / "rollouts.sqlite",
        display_progress=False,
    )
    student = dspy.Predict("question -> answer")
    student.set_lm(ScriptedEngine(lambda _: reply(answer="?")).lm())
    later.compile(
        student, trainset=TRAIN, valset=VAL, logged=[LoggedOutcome({"question": "0+1?"}, "[cot] Think.", 1.0)]
    )
    assert trainer.rows == {}


def test_a_run_with_a_log_goes_on_for_nothing_and_is_another_run_with_another_log(tmp_path: Path) -> None:
    first, _, _ = compiled(tmp_path, LOG)
    again, actor, _ = compiled(tmp_path, LOG)
    assert actor.asked == []
    assert again.notes[: len(first.notes) - 1] == first.notes[:-1]
    with pytest.raises(RunFolderError, match="logged"):
        compiled(tmp_path, LOG[:4])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (LoggedOutcome({"question": "0+1?"}, GOOD, 1.5), r"score in \[0, 1\] in logged\[1\], got 1\.5\. Scale it"),
        (LoggedOutcome({"question": "0+1?"}, GOOD, -0.1), r"logged\[1\], got -0\.1"),
        (LoggedOutcome({"question": "0+1?"}, GOOD, math.nan), r"logged\[1\], got nan"),
        (LoggedOutcome({"question": "0+1?"}, GOOD, "1"), r"logged\[1\], got '1'"),  # pyright: ignore[reportArgumentType]
        (LoggedOutcome({"question": "0+1?"}, " ", 1.0), r"supplement in logged\[1\], got ' '\. Leave out rows"),
        (LoggedOutcome({"question": "0+1?"}, "[none]", 1.0), r"supplement in logged\[1\], got '\[none\]'"),
        (LoggedOutcome({"query": "0+1?"}, GOOD, 1.0), r"inputs \['question'\] in logged\[1\], got \['query'\]\. Name"),
        (LoggedOutcome({"question": "0+1?", "user": 7}, GOOD, 1.0), r"got \['question', 'user'\]"),
        (LoggedOutcome("0+1?", GOOD, 1.0), r"logged\[1\], got 0\+1\?"),  # pyright: ignore[reportArgumentType]
        ({"question": "0+1?"}, r"LoggedOutcome in logged\[1\], got \{'question'"),
    ],
)
def test_a_row_that_cannot_be_one_stops_the_compile_before_anything_is_paid(
    tmp_path: Path, row: LoggedOutcome, said: str
) -> None:
    actor = ScriptedEngine(lambda _: reply(answer="?"))
    student = dspy.Predict("question -> answer")
    student.set_lm(actor.lm())
    generator = ScriptedGenerator(lambda _: Supplement("cot", "Think."))
    sgt = SGTTeleprompter(exact, generator, trainer=ScriptedTrainer(), log_dir=tmp_path / "run", display_progress=False)
    with pytest.raises(SetupError, match=said):
        sgt.compile(student, trainset=TRAIN, valset=VAL, logged=[LOG[0], row])
    assert (actor.asked, (tmp_path / "run").exists()) == ([], False)


def test_a_log_of_which_nothing_matches_is_refused_with_what_the_rows_are() -> None:
    with pytest.raises(
        SetupError, match="2 rows of which 1 row matches no training example, 1 row matches a validation"
    ):
        read_log(LOG[-2:], TRAIN, VAL)


class Two(dspy.Module):
    """Two predictors."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = dspy.Predict("question -> note"), dspy.Predict("question, note -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        return self.second(question=question, note=self.first(question=question).note)


class Twice(dspy.Module):
    """One predictor that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        self.ask(question=question)
        return self.ask(question=question)


def test_a_log_of_a_program_of_several_predictors_is_refused_and_of_several_calls_left_out(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"one predictor that reads supplements, got 2\. Name .* only="):
        compiled(tmp_path / "two", LOG, Two())
    result, _, trainer = compiled(tmp_path / "twice", LOG, Twice())
    assert any("logged outcomes are left out" in note for note in result.notes)
    assert trainer.rows == {}


def test_repeated_rows_are_one_outcome_of_their_mean_and_equal_examples_share_it() -> None:
    rows = [LoggedOutcome({"question": "0+1?"}, GOOD, score, said) for score, said in ((1, ""), (0, "no"), (0.5, ""))]
    log = read_log(rows, [TRAIN[1], TRAIN[0], TRAIN[0]])
    assert log.outcomes == {place: {Supplement("rule", "Count one further."): Reward(0.5, "no")} for place in (1, 2)}
    queries = [Query(f"q{index}", index, "self", "") for index in range(3)]
    assert [each.query.index for each in log.rollouts(queries, "warm")] == [1, 2]


def test_of_a_log_a_menu_keeps_its_own_texts_with_or_without_their_kind() -> None:
    menu = Menu.of([Kind("hours", text="We open at nine.")])
    rows = [LoggedOutcome({"question": "0+1?"}, text, 1.0) for text in ("We open at nine.", GOOD)]
    log = read_log(rows, TRAIN, menu=menu)
    assert log.outcomes == {0: {Supplement("hours", "We open at nine."): Reward(1.0)}}
    assert log.note.endswith("as 1 outcome that costs no call; 1 row has none of the given texts.")


def test_given_texts_that_the_log_knows_are_not_paid_for(tmp_path: Path) -> None:
    texts = {"good": "Count one further.", "bad": "Guess."}
    recipe = Recipe(rounds=1, kinds={name: Kind(name, text=text) for name, text in texts.items()})
    logged = [LoggedOutcome({"question": f"{n}+1?"}, f"[good] {texts['good']}", 1.0) for n in range(4)]
    _, actor, trainer = compiled(tmp_path, logged, recipe=recipe)
    assert not [text for text in actor.asked if "[good]" in text]
    assert len([text for text in actor.asked if "[bad]" in text]) == 4
    assert ("[good] Count one further.", "[bad] Guess.") in {(p.chosen, p.rejected) for p in trainer.rows["dpo1"]}


def test_what_is_adaptive_spares_no_logged_outcome(tmp_path: Path) -> None:
    compiled(tmp_path, LOG, recipe=Recipe(rounds=1, adaptive=True, kinds=RECIPE.kinds))
    with stored(tmp_path) as store:
        assert sum(each.source == "logged" for each in store.iter_rollouts(stage="warm")) == 6


@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from([GOOD, BAD]), st.floats(0, 1)), min_size=1))
def test_every_matching_row_is_counted_once_and_a_mean_stays_within_its_rows(
    rows: list[tuple[int, str, float]],
) -> None:
    logged = [LoggedOutcome({"question": f"{n}+1?"}, text, score) for n, text, score in rows]
    matching = [row for row in rows if row[0] < 4]
    if not matching:
        with pytest.raises(SetupError, match="no training example"):
            read_log(logged, TRAIN)
        return
    log = read_log(logged, TRAIN)
    assert f"{len(matching)} of {len(rows)} row" in log.note
    assert {(n, said.render()) for n, of in log.outcomes.items() for said in of} == {row[:2] for row in matching}
    for n, of in log.outcomes.items():
        for said, reward in of.items():
            scores = [score for place, text, score in matching if (place, text) == (n, said.render())]
            assert min(scores) - 1e-9 <= reward.score <= max(scores) + 1e-9
