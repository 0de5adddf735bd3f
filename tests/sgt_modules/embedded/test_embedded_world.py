"""The house-terms world: its splits, its metric, and that nothing of it was ever shown in pretraining."""

from __future__ import annotations

import gc
import itertools
import sqlite3
import threading

import dspy
import pytest

from sgt_modules.embedded import HouseTermsWorld, Sizes
from sgt_modules.embedded.company import TABLES, conditions
from sgt_modules.embedded.database import Database
from sgt_modules.embedded.phrasing import FREE_STYLE, PREDEFINED
from sgt_modules.embedded.questions import words
from sgt_modules.embedded.streams import Turn, stream
from sgt_modules.kinds import KINDS


@pytest.fixture(scope="module")
def world() -> HouseTermsWorld:
    return HouseTermsWorld(seed=0)


def test_splits_have_the_stated_sizes_and_a_quarter_of_plain_questions(world: HouseTermsWorld) -> None:
    assert {name: len(split) for name, split in world.splits.items()} == {
        "train": 100,
        "val": 64,
        "test": 240,
        "shifted": 60,
    }
    for split in (world.train, world.val, world.test):
        assert sum(not example.term for example in split) == len(split) // 4


def test_there_are_twenty_terms_over_four_tables_and_each_hides_a_condition_of_its_own(world: HouseTermsWorld) -> None:
    assert len(world.terms) == 20
    assert {term.table.name for term in world.terms} == set(TABLES)
    hidden = [(term.table.name, str(term.condition)) for term in (*world.terms, *world.shifted_terms)]
    assert len(set(hidden)) == len(hidden) == 28


def test_no_question_stands_in_two_splits_in_any_phrasing(world: HouseTermsWorld) -> None:
    for first, second in itertools.combinations(world.splits.values(), 2):
        assert not {example.question for example in first} & {example.question for example in second}
        asked = [{(example.term, world.gold_sql(example)) for example in split} for split in (first, second)]
        assert not {pair for pair in asked[0] if pair[0]} & asked[1]


def test_shifted_questions_use_only_terms_that_training_never_has(world: HouseTermsWorld) -> None:
    taught = {example.term for example in world.train}
    assert not taught & {example.term for example in world.shifted}


def test_an_example_carries_rows_and_no_sql_unless_gold_is_asked_for(world: HouseTermsWorld) -> None:
    assert set(world.train[0].inputs().keys()) == {"tables", "question"}
    assert "sql" not in world.train[0]
    gold = HouseTermsWorld(seed=0, gold=True)
    assert [example.question for example in gold.train] == [example.question for example in world.train]
    assert all(gold.metric(example, dspy.Prediction(sql=example.sql)).score == 1.0 for example in gold.train)


def test_the_same_seed_gives_the_same_world_and_another_seed_another(world: HouseTermsWorld) -> None:
    assert [dict(example) for example in HouseTermsWorld(seed=0).test] == [dict(example) for example in world.test]
    assert HouseTermsWorld(seed=1).terms != world.terms


def test_every_gold_query_scores_one_and_a_random_condition_seldom_does(world: HouseTermsWorld) -> None:
    by_word = {term.word: term for term in world.terms}
    right = tried = 0
    for example in world.test:
        gold = world.gold_sql(example)
        assert world.metric(example, dspy.Prediction(sql=gold)).score == 1.0
        if example.term:
            term = by_word[example.term]
            for other in conditions(term.table):
                guess = gold.replace(f"WHERE {term.condition}", f"WHERE {other}")
                right += world.metric(example, dspy.Prediction(sql=guess)).score
                tried += 1
    assert right / tried < 0.15


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE staff",
        "DELETE FROM staff",
        "UPDATE staff SET salary = 0",
        "ATTACH DATABASE '/tmp/x.db' AS x",
        "PRAGMA writable_schema = ON",
        "SELECT load_extension('x')",
        "SELECT * FROM staff; DROP TABLE staff",
        "not sql",
        "",
        "SELECT count(*) FROM staff a, staff b, staff c, staff d, staff e, staff f",
        "SELECT a.id FROM staff a, staff b, staff c",
    ],
)
def test_a_query_that_writes_fails_loops_or_floods_scores_zero_and_says_why(world: HouseTermsWorld, sql: str) -> None:
    judged = world.metric(world.test[0], dspy.Prediction(sql=sql))
    assert judged.score == 0.0
    assert judged.feedback.startswith(("The query failed", "Expected"))
    gold = world.gold_sql(world.test[0])
    assert world.metric(world.test[0], dspy.Prediction(sql=gold)).score == 1.0


def test_order_counts_only_where_the_question_orders(world: HouseTermsWorld) -> None:
    ranked = next(example for example in world.test if example.ordered and len(example.rows) > 2)
    sql = world.gold_sql(ranked)
    assert world.metric(ranked, dspy.Prediction(sql=sql.replace(" DESC", " ASC"))).score == 0.0
    listed = next(
        example
        for example in world.test
        if world.gold_sql(example).startswith(("SELECT name", "SELECT title", "SELECT code")) and not example.ordered
    )
    assert world.metric(listed, dspy.Prediction(sql=f"{world.gold_sql(listed)} ORDER BY id DESC")).score == 1.0


def test_duplicate_rows_count() -> None:
    world = HouseTermsWorld(seed=3, sizes=Sizes(train=8, validation=4, test=8, shifted=4, terms=4, shifted_terms=4))
    judge = world.database.judge
    assert judge("SELECT 1 UNION ALL SELECT 1", [[1], [1]], ordered=False).score == 1.0
    assert judge("SELECT 1", [[1], [1]], ordered=False).score == 0.0


def _texts(turns: list[Turn]) -> str:
    return "\n".join(turn.content for turn in turns)


@pytest.mark.parametrize("which", ["actor", "generator"])
def test_pretraining_never_shows_a_word_that_worlds_are_made_of(which: str) -> None:
    reserved = set(words(reserved=True))
    for turns in itertools.islice(stream(which, 11), 400):
        assert not reserved & set(_texts(turns).replace(".", " ").replace(":", " ").split())


def test_worlds_are_made_of_reserved_words_only(world: HouseTermsWorld) -> None:
    assert {term.word for term in (*world.terms, *world.shifted_terms)} <= set(words(reserved=True))


def test_pretraining_brings_every_kind_demos_and_reasoning() -> None:
    actor = [_texts(turns) for turns in itertools.islice(stream("actor", 5), 600)]
    assert all(any(f"[{kind}]" in text for text in actor) for kind in (*PREDEFINED, *FREE_STYLE))
    assert any(text.count("[[ ## sql ## ]]\nSELECT") == 9 for text in actor)
    assert any("[[ ## reasoning ## ]]" in text for text in actor)
    assert any("[[ ## supplement ## ]]" not in text for text in actor)


def test_free_style_knows_at_least_three_kinds_that_are_not_predefined() -> None:
    assert set(PREDEFINED) == set(KINDS)
    assert len(set(FREE_STYLE) - set(KINDS)) >= 3


def test_each_thread_s_connection_closes_with_the_thread_and_the_last_with_the_database() -> None:
    """Python 3.13 warns of a SQLite connection that nobody closed."""
    opened: list[sqlite3.Connection] = []
    database = HouseTermsWorld(seed=0).database

    def asks(database: Database) -> None:
        assert database.rows("SELECT 1") == [(1,)]
        opened.append(database._connection())

    thread = threading.Thread(target=asks, args=[database])
    thread.start()
    thread.join()
    asks(database)
    gc.collect()
    assert [_is_open(each) for each in opened] == [False, True]
    del database
    gc.collect()
    assert not any(map(_is_open, opened))


def _is_open(connection: sqlite3.Connection) -> bool:
    try:
        connection.total_changes  # noqa: B018  it raises where the connection is closed
    except sqlite3.ProgrammingError:
        return False
    return True
