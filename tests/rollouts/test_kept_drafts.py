"""Drafts in the store: they are restored as they were, and stores from before them are still read."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Literal

import dspy
import pytest
from dspy.utils.exceptions import AdapterParseError
from pydantic import BaseModel
from scripted import ScriptedEngine, ScriptedGenerator, reply

from optimizers.rollouts.kept_drafts import dump_draft, load_draft, open_drafts
from optimizers.store.recovery import find_damage, recover
from optimizers.store.rollout_store import RolloutStore
from sgt_modules import supplement
from sgt_modules.drafts import Draft, make_draft
from sgt_modules.kinds import Supplement

SCOPE = "00ff-a1b2"
ASKED = {"question": "2+2?"}


def wrapped(signature: object = "question -> answer") -> dspy.Module:
    return supplement(dspy.Predict(signature), generator=ScriptedGenerator(lambda _: Supplement("cot", "Add.")))


def asked_for(answer: str, signature: object = "question -> answer", **inputs: object) -> tuple[Draft, dspy.Predict]:
    """A draft that an actor with this answer makes, and its predictor."""
    predictor = dspy.Predict(signature)
    with dspy.context(lm=ScriptedEngine(lambda _: answer).lm(), adapter=dspy.ChatAdapter()):
        return make_draft(predictor, inputs or ASKED), predictor


class Place(BaseModel):
    """A value of an output field."""

    city: str
    floor: int


class Found(dspy.Signature):
    """Find it."""

    question: str = dspy.InputField()
    style: str = dspy.InputField(default="short")
    place: Place = dspy.OutputField()
    sure: bool = dspy.OutputField()
    side: Literal["left", "right"] = dspy.OutputField()


def test_a_draft_is_restored_with_its_types_and_its_trace() -> None:
    said = reply(place='{"city": "Oslo", "floor": 3}', sure="True", side="left")
    draft, predictor = asked_for(said, Found, **ASKED, config={"max_tokens": 900})
    again = load_draft(dump_draft(draft, predictor), predictor, {**ASKED, "config": {"max_tokens": 900}})
    assert again is not None
    assert again.prediction is not None
    assert (again.prediction.place, again.prediction.sure) == (Place(city="Oslo", floor=3), True)
    assert again.texts == draft.texts
    assert again.traced == draft.traced == {**ASKED, "style": "short"}
    assert again.prediction.completions.side == ["left"]


def test_a_draft_that_could_not_be_read_is_restored_with_its_message() -> None:
    draft, predictor = asked_for("no field at all \ud83d")
    assert isinstance(draft.problem, AdapterParseError)
    again = load_draft(dump_draft(draft, predictor), predictor, ASKED)
    assert again is not None
    assert isinstance(again.problem, AdapterParseError)
    assert (str(again.problem), again.problem.lm_response) == (str(draft.problem), draft.problem.lm_response)


@pytest.mark.parametrize("text", ["", "x", "[]", "{}", '{"output": 3, "answer": "{}"}'])
def test_what_is_no_stored_draft_is_none(text: str) -> None:
    assert load_draft(text, dspy.Predict("question -> answer"), ASKED) is None


def test_another_process_finds_the_first_draft_and_another_program_none(tmp_path: Path) -> None:
    program = wrapped()
    with RolloutStore(tmp_path / "rollouts.sqlite") as store:
        open_drafts(program, store, SCOPE).keep("self", ASKED, Draft(dspy.Prediction(answer="4")))
        open_drafts(program, store, SCOPE).keep("self", ASKED, Draft(dspy.Prediction(answer="5")))
    with RolloutStore(tmp_path / "rollouts.sqlite", run="other") as store:
        found = open_drafts(program, store, "00ff-another-metric").find("self", ASKED)
        assert found is not None
        assert found.texts == {"answer": "4"}
        assert open_drafts(program, store, "11ff-a1b2").find("self", ASKED) is None
        assert open_drafts(program, store, SCOPE).find("self", {"question": "3+3?"}) is None
        assert open_drafts(program, store, SCOPE).find("gone", ASKED) is None


def test_a_store_from_before_drafts_is_opened_and_keeps_them(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.sqlite"
    RolloutStore(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE drafts")
    assert find_damage(path) == ""
    assert recover(path).kept["rollouts"] == 0
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE drafts")
    with RolloutStore(path) as store:
        assert store.find_draft("k") is None
        store.add_draft("k", "{}")
        assert store.find_draft("k") == "{}"


def test_recovery_keeps_intact_drafts_and_drops_changed_ones(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.sqlite"
    with RolloutStore(path) as store:
        store.add_draft("good", "{}")
        store.add_draft("bad", "{}")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE drafts SET content = 'x' WHERE key = 'bad'")
        connection.commit()
    with RolloutStore(path) as store:
        assert (store.find_draft("good"), store.find_draft("bad")) == ("{}", None)
    found = recover(path)
    assert (found.kept["drafts"], found.lost["drafts"]) == (1, 1)
    with RolloutStore(path) as store:
        assert (store.find_draft("good"), store.find_draft("bad")) == ("{}", None)
