"""Spider's execution accuracy: what counts as the same result, and what of an answer is the query."""

from __future__ import annotations

import json
import os
import random
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import cache
from itertools import permutations, product
from pathlib import Path

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizers.tasks.code_text import extract_code
from optimizers.tasks.sandbox import SqlLimits, run_sql
from optimizers.tasks.spider_metric import SpiderMetric, find_databases, spider_metric
from optimizers.tasks.sql_results import is_same_result
from optimizers.tasks.sql_text import extract_query, remove_distinct
from sgt_modules.errors import ExampleError, MetricError

CHINA = "SELECT name, price FROM tea WHERE origin = 'China'"
NAMES = "SELECT name FROM tea ORDER BY name"
SOLD = "SELECT tea_id FROM sale"
COUNT = "SELECT count(*) FROM tea"
NONE = "SELECT name FROM tea WHERE price > 100"
ORIGINS = "SELECT origin, count(*) FROM tea GROUP BY origin"
SHOP = """
CREATE TABLE tea (id INTEGER, name TEXT, price REAL, origin TEXT);
INSERT INTO tea VALUES (1, 'green', 2.0, 'China'), (2, 'mint', 3.0, 'Morocco'), (3, 'black', 2.0, 'India'),
    (4, 'white', NULL, 'China');
CREATE TABLE sale (tea_id INTEGER, cups INTEGER);
INSERT INTO sale VALUES (1, 5), (1, 5), (2, 1);
"""
RIGHT, READS = "are the expected ones", "A query may only read"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shop") / "shop.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SHOP)
    return path


@pytest.mark.parametrize(
    ("gold", "answer", "score", "said"),
    [
        # written differently, the same result
        (CHINA, CHINA, 1, RIGHT),
        (CHINA, "select price, name from TEA where origin = \"China\"", 1, RIGHT),
        (CHINA, f"{CHINA};", 1, RIGHT),
        (CHINA, f"{CHINA} ; ;\n", 1, RIGHT),
        (CHINA, f"{CHINA} -- of China", 1, RIGHT),
        (CHINA, f"-- teas of China\n{CHINA}", 1, RIGHT),
        (CHINA, f"/* teas; of China */ {CHINA}", 1, RIGHT),
        (CHINA, f"```sql\n{CHINA}\n```", 1, RIGHT),
        (CHINA, f"```\n{CHINA};\n```", 1, RIGHT),
        (CHINA, f"```sql\n{CHINA}", 1, RIGHT),
        (CHINA, f"First I tried\n```sql\nSELECT 1\n```\nbut it is\n```sqlite\n{CHINA}\n```\nas asked.", 1, RIGHT),
        (CHINA, f"SQL: {CHINA}", 1, RIGHT),
        (CHINA, f"With two tables in mind, the query is:\n\n{CHINA};\n\nIt lists both.", 1, RIGHT),
        (CHINA, f"The query:\n`{CHINA}`", 1, RIGHT),
        (CHINA, f"{CHINA} ORDER BY name DESC", 1, RIGHT),
        (CHINA, "SELECT t.name, CAST(t.price AS INTEGER) FROM tea AS t WHERE t.origin LIKE 'china'", 1, RIGHT),
        (NAMES, "SELECT name FROM tea ORDER BY 1 ASC", 1, RIGHT),
        (NAMES, "SELECT name FROM (SELECT name FROM tea) ORDER BY lower(name)", 1, RIGHT),
        (SOLD, "SELECT t.id FROM tea t JOIN sale s ON s.tea_id = t.id", 1, RIGHT),
        (COUNT, "WITH t AS (SELECT * FROM tea) SELECT sum(1) FROM t", 1, RIGHT),
        (COUNT, "SELECT COUNT ( * ) FROM tea WHERE 2 > = 1", 1, RIGHT),
        (COUNT, "VALUES (4)", 1, RIGHT),
        (COUNT, "SELECT 4.0", 1, RIGHT),
        (NONE, "SELECT name, price FROM tea WHERE 0", 1, RIGHT),
        (ORIGINS, "SELECT count(*), origin FROM tea GROUP BY origin ORDER BY 1 DESC", 1, RIGHT),
        # another result
        (CHINA, f"{CHINA} AND price IS NOT NULL", 0, "got 1 row of 2 columns. Missing: ('white', None)."),
        (CHINA, "SELECT name, ifnull(price, 0) FROM tea WHERE origin = 'China'", 0, "Too many: ('white', 0)"),
        (CHINA, "SELECT name, CAST(price AS TEXT) FROM tea WHERE origin = 'China'", 0, "Too many: ('green', '2.0')"),
        (CHINA, "SELECT name FROM tea WHERE origin = 'China'", 0, "Columns returned: name."),
        (CHINA, "SELECT * FROM tea WHERE origin = 'China'", 0, "Columns returned: id, name, price, origin."),
        (CHINA, "SELECT name, price FROM tea WHERE origin = 'china'", 0, "got 0 rows of 2 columns. Missing: ('"),
        (NAMES, "SELECT name FROM tea", 0, "not their order: row 1 should be ('black',) and is ('green',)"),
        (NAMES, "SELECT name FROM tea ORDER BY name DESC", 0, "should be ('black',) and is ('white',)"),
        (SOLD, "SELECT DISTINCT tea_id FROM sale", 0, "Expected 3 rows of 1 column, got 2 rows"),
        (SOLD, f"{SOLD} UNION ALL {SOLD}", 0, "got 6 rows of 1 column. Too many: (1,), (1,), (2,)."),
        (SOLD, "SELECT cups FROM sale", 0, "Missing: (1,), (2,). Too many: (5,), (5,)."),
        (COUNT, "SELECT '4'", 0, "Missing: (4,). Too many: ('4',)."),
        (COUNT, "SELECT count(price) FROM tea", 0, "Missing: (4,). Too many: (3,)."),
        (COUNT, "SELECT count(*) FROM tea GROUP BY origin", 0, "got 3 rows of 1 column"),
        (NONE, "SELECT name FROM tea", 0, "Expected 0 rows of 1 column, got 4 rows"),
        # no result
        (COUNT, "", 0, "but the answer has none"),
        (COUNT, " ;\n", 0, "but the answer has none"),
        (COUNT, None, 0, "but the answer has none"),
        (COUNT, "-- I do not know", 0, "There is no query in it"),
        (COUNT, "I cannot answer that.", 0, 'near "I": syntax error'),
        (COUNT, "SELECT count(*) FROM coffee", 0, "no such table: coffee"),
        (COUNT, "SELECT count(prize) FROM tea", 0, "no such column: prize"),
        (COUNT, "SELECT count(* FROM tea", 0, "syntax error"),
        (COUNT, "(SELECT count(*) FROM tea)", 0, "syntax error"),
        (COUNT, f"{COUNT}; SELECT 1", 0, "one statement at a time"),
        (COUNT, f"{COUNT}; DROP TABLE tea", 0, "one statement at a time"),
        # not a reading query
        (COUNT, "DROP TABLE tea", 0, READS),
        (COUNT, "DELETE FROM tea", 0, READS),
        (COUNT, "UPDATE tea SET price = 0", 0, READS),
        (COUNT, "INSERT INTO tea SELECT * FROM tea RETURNING 4", 0, READS),
        (COUNT, "ATTACH 'other.sqlite' AS other", 0, READS),
        (COUNT, "PRAGMA user_version = 4", 0, READS),
        (COUNT, "SELECT load_extension('extension')", 0, f"{READS}, and this asks for the function load_extension"),
        (COUNT, "SELECT readfile('/etc/passwd')", 0, "no such function: readfile"),
        (COUNT, "EXPLAIN SELECT count(*) FROM tea", 0, "of 8 columns"),
    ],
)  # fmt: skip
def test_an_answer_is_scored_as_by_hand(gold: str, answer: str | None, score: float, said: str, shop: Path) -> None:
    judged = spider_metric(dspy.Example(database=str(shop), query=gold, db_id="shop"), dspy.Prediction(sql=answer))
    assert judged.score == score, judged.feedback
    assert said in judged.feedback


def test_a_query_that_never_ends_is_stopped(shop: Path) -> None:
    metric = SpiderMetric(limits=SqlLimits(seconds=0.3))
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    began = time.monotonic()
    judged = metric(dspy.Example(database=str(shop), query=COUNT), dspy.Prediction(sql=endless))
    assert (judged.score, judged.feedback) == (
        0.0,
        "Expected 1 row of 1 column, but the query fails: The query's time is up.",
    )
    assert time.monotonic() - began < 3


def test_distinct_may_be_left_out_of_both_queries_as_the_evaluator_does(shop: Path) -> None:
    example, answer = (
        dspy.Example(database=str(shop), query=SOLD),
        dspy.Prediction(sql="SELECT DISTINCT tea_id FROM sale"),
    )
    assert SpiderMetric()(example, answer).score == 0.0
    assert SpiderMetric(keep_distinct=False)(example, answer).score == 1.0


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("SELECT DISTINCT a FROM t", "SELECT a FROM t"),
        ("SELECT count(DISTINCT a) FROM t", "SELECT count(a) FROM t"),
        ("SELECT count( DISTINCT  a ) FROM t", "SELECT count( a ) FROM t"),
        ("select distinct 'distinct', \"distinct\" from t", "select 'distinct', \"distinct\" from t"),
        ("SELECT a -- distinct\nFROM t", "SELECT a -- distinct\nFROM t"),
        ("SELECT DISTINCT a FROM t WHERE b = '(  x'", "SELECT a FROM t WHERE b = '(  x'"),
        ("-- distinct", "-- distinct"),
        ("SELECT DISTINCT 'a", "SELECT DISTINCT 'a"),
    ],
)
def test_distinct_is_left_out_of_the_query_alone(query: str, left: str) -> None:
    assert remove_distinct(query) == left


def test_a_test_suite_wants_the_same_result_on_every_database(shop: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    for name, more in (("shop", ""), ("shop_2", "DELETE FROM sale WHERE cups = 1;")):
        with closing(sqlite3.connect(folder / f"{name}.sqlite")) as connection:
            connection.executescript(SHOP + more)
    assert [each.stem for each in find_databases(folder / "shop.sqlite")] == ["shop", "shop_2"]
    lucky = dspy.Prediction(sql="SELECT tea_id FROM sale UNION ALL SELECT 9 WHERE 0")
    wrong = dspy.Prediction(
        sql="SELECT max(1, cups / 5) * 2 - min(cups, 1) FROM sale WHERE cups = 5 UNION ALL SELECT 2"
    )
    example = dspy.Example(database=str(folder / "shop.sqlite"), query=SOLD)
    assert spider_metric(example, lucky).score == 1.0
    assert spider_metric(dspy.Example(database=str(shop), query=SOLD), wrong).score == 1.0
    assert spider_metric(example, wrong).score == 0.0


def test_a_gold_query_without_a_result_is_the_datas_fault(shop: Path) -> None:
    with pytest.raises(MetricError, match=r"gold query 'SELECT tee FROM tea'.*no such column: tee"):
        spider_metric(dspy.Example(database=str(shop), query="SELECT tee FROM tea"), dspy.Prediction(sql="SELECT 1"))
    with pytest.raises(ExampleError, match="Expected an SQLite file at"):
        spider_metric(dspy.Example(database=str(shop) + "x", query=COUNT), dspy.Prediction(sql=COUNT))


# The same definition, stated a second time: connections of its own, and every order of the columns tried.


@cache
def executed(database: str, query: str) -> tuple[tuple[object, ...], ...] | None:
    """A query's rows by a plain connection; None where it has none."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        connection.text_factory = lambda stored: stored.decode(errors="ignore")
        try:
            return tuple(connection.execute(query).fetchall())
        except (sqlite3.Error, sqlite3.Warning):
            return None


def keyed(rows: Sequence[Sequence[object]]) -> list[list[tuple[str, object]]]:
    """Rows as something that can be sorted: numbers are numbers, of whatever type."""
    return [[("number", cell) if isinstance(cell, int | float) else (type(cell).__name__, repr(cell)) for cell in row]
            for row in rows]  # fmt: skip


def by_hand(gold: Sequence[tuple[object, ...]], rows: Sequence[tuple[object, ...]], ordered: bool) -> bool:
    """Whether any order of the columns makes both the same."""
    if not gold or not rows:
        return len(gold) == len(rows)
    width = len(gold[0])
    if len(gold) != len(rows) or len(rows[0]) != width:
        return False
    ours, theirs = keyed(gold), keyed(rows)
    columns = [sorted(row[place] for row in theirs) for place in range(width)]
    fits = [
        [place for place in range(width) if columns[place] == sorted(row[each] for row in ours)]
        for each in range(width)
    ]
    orders = permutations(range(width)) if width < 5 else product(*fits)
    for order in orders:
        if len(set(order)) == width:
            moved = [[row[place] for place in order] for row in theirs]
            if moved == ours or (not ordered and sorted(moved) == sorted(ours)):
                return True
    return False


REAL = Path(os.environ.get("SGT_REAL_DATA", "")) / "spider"
needs_real_rows = pytest.mark.skipif(
    not (os.environ.get("SGT_REAL_DATA") and REAL.is_dir()), reason="SGT_REAL_DATA names no folder with spider/"
)


def real_rows() -> list[tuple[str, str]]:
    """The database and gold query of each real row."""
    rows = [json.loads(line) for line in (REAL / "dev.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(str(REAL / "database" / row["db_id"] / f"{row['db_id']}.sqlite"), row["query"]) for row in rows]


def agreed(database: str, gold: str, query: str) -> bool:
    """The metric's verdict, checked against the second statement's."""
    judged = spider_metric(dspy.Example(database=database, query=gold), dspy.Prediction(sql=query))
    expected, rows = executed(database, gold), executed(database, query)
    assert expected is not None
    right = rows is not None and by_hand(expected, rows, "order by" in gold.lower())
    assert judged.score == float(right), (gold, query, judged.feedback)
    return right


@needs_real_rows
def test_real_gold_queries_are_right() -> None:
    rows = real_rows()
    assert len(rows) == 221
    assert all(agreed(database, gold, gold) for database, gold in rows)


@needs_real_rows
def test_real_gold_queries_against_each_other_agree_with_the_second_statement() -> None:
    results = {(database, gold): run_sql(database, gold).rows for database, gold in real_rows()}
    pairs = right = 0
    for database, gold in results:
        for other, query in results:
            if other == database:
                ordered = "order by" in gold.lower()
                expected, rows = executed(database, gold), executed(database, query)
                assert expected is not None
                assert rows is not None
                same = is_same_result(results[database, gold], results[database, query], ordered=ordered)
                assert same == by_hand(expected, rows, ordered), (gold, query)
                pairs, right = pairs + 1, right + same
    assert pairs > 3000
    assert len(results) < right < pairs


# Parts of a query, and what may stand there instead.
CHANGES = (
    (r"\bDESC\b", ("ASC", "")), (r"\bASC\b", ("DESC",)), (r"\bDISTINCT\b", ("",)),
    (r"\bSELECT\b", ("SELECT DISTINCT",)),
    (r"\bcount\b", ("sum", "max")), (r"\b(avg|sum)\b", ("min", "count")), (r"\bmax\b", ("min",)),
    (r"\bmin\b", ("max",)),
    (r">", ("<", ">=")), (r"<", (">",)), (r"(?<![<>!])=", ("!=", ">")), (r"\bAND\b", ("OR",)), (r"\bOR\b", ("AND",)),
    (r"\b\d+\b", ("0", "1", "2", "2015")), (r"\bLIMIT\s+\d+", ("", "LIMIT 2")), (r"\bORDER BY\b.*", ("",)),
    (r"$", (" ORDER BY 1", " LIMIT 1")),
    (r"\bWHERE\b.*", ("",)), (r"\bGROUP BY\b[^)]*", ("",)), (r"\bJOIN\b", ("LEFT JOIN",)),
    (r"\bEXCEPT\b", ("UNION", "INTERSECT")),
    (r"\bUNION\b", ("UNION ALL",)), (r"\bINTERSECT\b", ("EXCEPT",)), (r"\bNOT IN\b", ("IN",)),
    (r"'[^']*'", ("'x'", "NULL")),
    (r"(?i)(?<=SELECT)\s+([\w.()*]+)\s*,\s*([\w.()*]+)(?=\s+FROM)", (r" \2, \1", r" \1, \1", r" \1")), (r"\*", ("1",)),
)  # fmt: skip


def mutated(query: str, rng: random.Random) -> str:
    """A query with one or two of its parts changed; it may mean the same, something else, or nothing."""
    for _ in range(rng.choice((1, 1, 2))):
        pattern, choices = rng.choice([each for each in CHANGES if re.search(each[0], query, re.I | re.S)])
        found = rng.choice(list(re.finditer(pattern, query, re.I | re.S)))
        query = query[: found.start()] + found.expand(rng.choice(choices)) + query[found.end() :]
    return query


@needs_real_rows
def test_three_hundred_mutated_queries_agree_with_the_second_statement() -> None:
    rng, rows = random.Random(0), real_rows()
    tried: set[tuple[str, str, str]] = set()
    while len(tried) < 300:
        database, gold = rng.choice(rows)
        if (query := mutated(gold, rng)) != gold:
            tried.add((database, gold, query))
    right = sum(agreed(*each) for each in sorted(tried))
    failed = sum(executed(database, query) is None for database, _, query in tried)
    assert 30 < right < 270
    assert failed < 100


cells = st.sampled_from([None, 0, 1, 1.0, 2, "1", "a", b"a"])


@st.composite
def tables(draw: st.DrawFn) -> list[tuple[object, ...]]:
    width = draw(st.integers(1, 4))
    return draw(st.lists(st.tuples(*[cells] * width), max_size=5))


@settings(max_examples=300, deadline=None)
@given(tables(), tables(), st.booleans())
def test_any_two_results_agree_with_the_second_statement(
    gold: list[tuple[object, ...]], rows: list[tuple[object, ...]], ordered: bool
) -> None:
    assert is_same_result(gold, rows, ordered=ordered) == by_hand(gold, rows, ordered)


@settings(max_examples=300, deadline=None)
@given(tables(), st.randoms(), st.booleans())
def test_moving_rows_and_columns_keeps_a_result(
    gold: list[tuple[object, ...]], rng: random.Random, ordered: bool
) -> None:
    order = rng.sample(range(len(gold[0])), len(gold[0])) if gold else []
    moved = [tuple(row[place] for place in order) for row in gold]
    assert is_same_result(gold, moved, ordered=ordered)
    rng.shuffle(moved)
    assert is_same_result(gold, moved, ordered=False)
    assert not is_same_result(gold, [*moved, *moved[:1]], ordered=False) or not gold


def test_a_wide_result_is_compared_in_no_time() -> None:
    wide = [tuple((row >> column) & 1 for column in range(14)) for row in range(200)]
    backwards = [row[::-1] for row in wide]
    began = time.monotonic()
    assert is_same_result(wide, backwards[::-1], ordered=False)
    assert not is_same_result(wide, [*backwards[:-1], (2,) * 14], ordered=False)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("answer", "query"),
    [
        ("SELECT a FROM b WHERE c = ';'", "SELECT a FROM b WHERE c = ';'"),
        ("SELECT a FROM b WHERE c = 'it''s; so';", "SELECT a FROM b WHERE c = 'it''s; so'"),
        ("SELECT `a` FROM b", "SELECT `a` FROM b"),
        ("SELECT a FROM b WHERE c = ';'; It doesn't list d.", "SELECT a FROM b WHERE c = ';'"),
        ("SELECT 1; -- one; more\nDROP TABLE b", "SELECT 1; -- one; more\nDROP TABLE b"),
        ("SELECT 'a\0\ud800;'; Done.", "SELECT 'a\0\ud800;'"),
        ("**Answer:** SELECT a FROM b", "SELECT a FROM b"),
        ("Query:\nwith x as (select 1) select * from x", "with x as (select 1) select * from x"),
        ("```sql SELECT 1```", "SELECT 1"),
        ("```SELECT 1```", "SELECT 1"),
        ("```SQL\nSELECT 1;\n```\n\n| n |\n|---|\n| 1 |", "SELECT 1"),
        ("```sql\nSELECT 1\n```\nIt prints\n```\n1\n```", "SELECT 1"),
    ],
)
def test_the_query_is_found_in_an_answer(answer: str, query: str) -> None:
    assert extract_query(answer) == query


@pytest.mark.parametrize(
    "part", ["[", "(", "'", "/*", "--\n", "`", "``` ", "select ", ";", "x: ", "\n", "```sql\n", "SELECT ';;;"]
)
def test_a_long_answer_is_read_in_no_time(part: str) -> None:
    began = time.process_time()
    extract_query(part * 50_000)
    remove_distinct("SELECT " + part * 50_000)
    remove_distinct("SELECT DISTINCT " + part * 5_000)
    extract_code(part * 50_000)
    assert time.process_time() - began < 3


@pytest.fixture(scope="module", autouse=True)
def _without_leftovers() -> Iterator[None]:
    """Nothing of the real databases is written."""
    yield
    if REAL.is_dir():
        assert not [*REAL.rglob("*-journal"), *REAL.rglob("*-wal"), *REAL.rglob("*-shm")]


def test_gold_rows_are_those_of_the_database_as_it_is_now(tmp_path: Path) -> None:
    path = tmp_path / "shop.sqlite"
    example = dspy.Example(database=str(path), query="SELECT count(*) FROM tea")
    with closing(sqlite3.connect(path)) as shop:
        shop.executescript("CREATE TABLE tea (name); INSERT INTO tea VALUES ('green')")
    with pytest.raises(MetricError):
        spider_metric(dspy.Example(database=str(path), query="SELECT gone FROM tea"), dspy.Prediction(sql="SELECT 1"))
    assert spider_metric(example, dspy.Prediction(sql="SELECT 1")).score == 1.0
    with closing(sqlite3.connect(path)) as shop, shop:
        shop.executescript("INSERT INTO tea VALUES ('mint')")
    os.utime(path, ns=(1, 1))
    assert spider_metric(example, dspy.Prediction(sql="SELECT 1")).score == 0.0
    assert spider_metric(example, dspy.Prediction(sql="SELECT 2")).score == 1.0
