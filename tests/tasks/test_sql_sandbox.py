"""SQL written by a model: it reads one database, within bounds, and does nothing else."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from optimizers.tasks.sandbox import SqlLimits, SqlSandbox, run_sql
from optimizers.tasks.sandbox.inside.queries import FUNCTIONS
from sgt_modules.errors import ExampleError, SandboxError

LIMITS = SqlLimits(seconds=0.5, rows=1000, value_bytes=1 << 20, result_bytes=1 << 20, memory_bytes=64 << 20)
COUNTING = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {})"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SqlSandbox]:
    with SqlSandbox(workers=1, limits=LIMITS) as new:
        yield new


@pytest.fixture(scope="module")
def tea(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shop") / "tea #1?.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("""
            CREATE TABLE tea (name, price); INSERT INTO tea VALUES ('green', 2.5), ('mint', NULL), (x'00ff', 9e999);
            INSERT INTO tea VALUES (CAST(x'61ff62' AS TEXT), 9223372036854775807);
            CREATE VIEW cheap AS SELECT * FROM tea WHERE price < 3; CREATE TABLE sales (tea);
            CREATE INDEX by_price ON tea (price);
            CREATE TRIGGER sold AFTER INSERT ON sales BEGIN DELETE FROM tea; END;
        """)
    return path


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("INSERT INTO tea VALUES ('black', 1)", "refused"),
        ("INSERT INTO sales VALUES ('green')", "refused"),
        ("INSERT INTO tea SELECT * FROM tea RETURNING name", "refused"),
        ("REPLACE INTO tea VALUES ('black', 1)", "refused"),
        ("UPDATE tea SET price = 0", "refused"),
        ("DELETE FROM tea", "refused"),
        ("WITH t AS (SELECT 1) DELETE FROM tea", "refused"),
        ("DROP TABLE tea", "refused"),
        ("DROP VIEW cheap", "refused"),
        ("DROP TRIGGER sold", "refused"),
        ("ALTER TABLE tea RENAME TO coffee", "refused"),
        ("ALTER TABLE tea ADD COLUMN origin", "refused"),
        ("CREATE TABLE coffee (name)", "refused"),
        ("CREATE TEMP TABLE coffee AS SELECT * FROM tea", "refused"),
        ("CREATE TEMP VIEW dear AS SELECT * FROM tea", "refused"),
        ("CREATE INDEX by_name ON tea (name)", "refused"),
        ("CREATE VIRTUAL TABLE pages USING fts5(body)", "refused"),
        ("CREATE TRIGGER gone AFTER DELETE ON tea BEGIN SELECT 1; END", "refused"),
        ("ATTACH '{folder}/other.sqlite' AS other", "refused"),
        ("ATTACH ':memory:' AS other", "refused"),
        ("DETACH main", "refused"),
        ("VACUUM", "refused"),
        ("VACUUM INTO '{folder}/copy.sqlite'", "refused"),
        ("REINDEX tea", "refused"),
        ("ANALYZE", "refused"),
        ("BEGIN", "refused"),
        ("COMMIT", "refused"),
        ("SAVEPOINT here", "refused"),
        ("PRAGMA journal_mode = DELETE", "refused"),
        ("PRAGMA query_only = 0", "refused"),
        ("PRAGMA hard_heap_limit = 0", "refused"),
        ("PRAGMA writable_schema = 1", "refused"),
        ("PRAGMA temp_store_directory = '{folder}'", "refused"),
        ("PRAGMA table_info(tea)", "refused"),
        ("SELECT * FROM pragma_database_list", "refused"),
        ("SELECT load_extension('{folder}/extension.so')", "refused"),
        ("SELECT fts3_tokenizer('x')", "refused"),
        ("SELECT writefile('{folder}/new', 'x')", "error"),
        ("SELECT readfile('{folder}/canary')", "error"),
        ("SELECT edit('x', 'sh')", "error"),
        (f"{COUNTING.replace('LIMIT {}', '')} SELECT count(*) FROM n", "time"),
        (f"{COUNTING.replace('LIMIT {}', '')} SELECT i FROM n", "limit"),
        (f"{COUNTING.format(5000)} SELECT count(*) FROM n a, n b, n c", "time"),
        (f"{COUNTING.format(500000)} SELECT count(DISTINCT hex(randomblob(400))) FROM n", "limit or time"),
        (f"{COUNTING.format(300000)} SELECT i FROM n ORDER BY hex(randomblob(500))", "limit or time"),
        (f"{COUNTING.format(100000)} SELECT group_concat(hex(randomblob(100))) FROM n", "limit or time"),
        ("SELECT randomblob(1000000000)", "limit"),
        ("SELECT zeroblob(2000000000)", "limit"),
        ("SELECT zeroblob(9223372036854775807)", "limit"),
        ("SELECT hex(zeroblob(1000000))", "limit"),
        ("SELECT printf('%.*c', 1000000000, 'x')", "limit or time"),
        ("SELECT replace(hex(zeroblob(400000)), '0', 'xxxxxxxx')", "limit"),
        (f"{COUNTING.format(900)} SELECT hex(zeroblob(10000)) FROM n", "limit"),
        ("SELECT '" + "x" * 2_000_000 + "'", "limit"),
        ("SELECT " + "(" * 5000 + "1" + ")" * 5000, "error"),
        ("SELECT 1" + " UNION SELECT 1" * 5000, "error"),
        ("SELECT " + ", ".join("1" for _ in range(5000)), "error"),
        ("SELECT 'x' LIKE '" + "%" * 2000 + "'", "error"),
        ("SELECT abs(-9223372036854775808)", "error"),
        ("SELECT json('" + "[" * 3000 + "')", "error"),
        ("SELECT sum(9223372036854775807) FROM tea, tea b", "error"),
        ("SELECT 1; DROP TABLE tea", "error"),
        ("SELECT \x00", "error"),
        ("SELECT '\ud800'", "error"),
        (".shell echo out", "error"),
        ("", "error"),
    ],
    ids=lambda each: each[:50] if isinstance(each, str) else None,
)  # fmt: skip
def test_a_hostile_query_gets_nothing_and_the_next_one_works(
    sql: str, reason: str, sandbox: SqlSandbox, tea: Path
) -> None:
    canary = tea.parent / "canary"
    canary.write_text("canary-5f1c")
    before = tea.read_bytes()
    began = time.monotonic()
    outcome = sandbox.run(tea, sql.replace("{folder}", str(tea.parent)))
    assert time.monotonic() - began < LIMITS.seconds + 3
    assert outcome.reason in reason.split(" or "), outcome.error
    assert not outcome.ok
    assert outcome.rows in ((), [])
    assert outcome.error
    assert tea.read_bytes() == before
    assert sorted(each.name for each in tea.parent.iterdir()) == sorted([canary.name, tea.name])
    assert sandbox.run(tea, "SELECT count(*) FROM tea").rows == [(4,)]


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT name FROM cheap", [("green",)]),
        ("SELECT name, price FROM tea WHERE price IS NULL", [("mint", None)]),
        ("SELECT name, price FROM tea WHERE typeof(name) = 'blob'", [(b"\x00\xff", float("inf"))]),
        ("SELECT name, price FROM tea WHERE price = 9223372036854775807", [("ab", 9223372036854775807)]),
        ("SELECT 1, 1.0, '1', x'31', NULL", [(1, 1.0, "1", b"1", None)]),
        ("SELECT 0.1 + 0.2", [(0.30000000000000004,)]),
        ("SELECT '\u00e9\u4e2d', ''", [("\u00e9\u4e2d", "")]),
        ("SELECT name FROM tea WHERE 0", []),
        ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4) SELECT sum(i) FROM n", [(10,)]),
        ("SELECT row_number() OVER (ORDER BY i) FROM (SELECT 5 AS i UNION SELECT 7)", [(1,), (2,)]),
        ("SELECT strftime('%Y', '2024-05-06'), round(2.567, 1), upper('a'), sqrt(9.0)", [("2024", 2.6, "A", 3.0)]),
        ("SELECT json_extract('{\"a\": [1, 2]}', '$.a[1]'), value FROM json_each('[7]')", [(2, 7)]),
        ("SELECT count(*) FROM sqlite_master WHERE type = 'view'", [(1,)]),
    ],
)
def test_a_reading_query_gives_its_values_as_they_are(
    sql: str, rows: list[tuple[object, ...]], sandbox: SqlSandbox, tea: Path
) -> None:
    outcome = sandbox.run(tea, sql)
    assert (outcome.error, outcome.rows) == ("", rows)
    assert [[type(cell) for cell in row] for row in outcome.rows] == [[type(cell) for cell in row] for row in rows]


def test_columns_have_their_names(sandbox: SqlSandbox, tea: Path) -> None:
    assert sandbox.run(tea, "SELECT name AS tea, count(*) FROM tea").columns == ["tea", "count(*)"]


def test_functions_that_reach_out_are_not_among_the_allowed() -> None:
    assert not FUNCTIONS & {
        "load_extension",
        "readfile",
        "writefile",
        "edit",
        "fts3_tokenizer",
        "eval",
        "fsdir",
        "lsmode",
    }
    assert {"count", "lower", "strftime", "row_number", "json_extract", "->>"} <= FUNCTIONS


def test_a_file_that_is_no_database_has_an_error(sandbox: SqlSandbox, tmp_path: Path) -> None:
    (tmp_path / "notes.sqlite").write_text("not a database, but a text that is long enough to be read as one" * 20)
    assert "file is not a database" in sandbox.run(tmp_path / "notes.sqlite", "SELECT * FROM tea").error
    with pytest.raises(ExampleError, match="Expected an SQLite file at"):
        sandbox.run(tmp_path / "missing.sqlite", "SELECT 1")
    assert not (tmp_path / "missing.sqlite").exists()


def test_a_database_that_others_write_to_is_read_as_it_is_now(tmp_path: Path, sandbox: SqlSandbox) -> None:
    path = tmp_path / "live.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE tea (name)")
        for count in (1, 2):
            writer.execute("INSERT INTO tea VALUES ('green')")
            assert sandbox.run(path, "SELECT count(*) FROM tea").rows == [(count,)]


def test_several_queries_have_a_result_each_whatever_one_of_them_does(sandbox: SqlSandbox, tea: Path) -> None:
    slow = "SELECT printf('%.*c', 1000000000, 'x')"  # SQLite looks at no clock meanwhile, so its process is ended
    outcomes = [sandbox.run(tea, each) for each in ("SELECT 1", slow, "SELEC 2", "SELECT 3")]
    assert [each.rows for each in outcomes] == [[(1,)], outcomes[1].rows, [], [(3,)]]
    assert [each.ok for each in outcomes] == [True, False, False, True]


def test_any_number_of_threads_may_ask(tea: Path) -> None:
    with SqlSandbox(workers=2, limits=LIMITS) as sandbox, ThreadPoolExecutor(8) as threads:
        rows = threads.map(lambda n: sandbox.run(tea, f"SELECT {n}").rows, range(100))
        assert list(rows) == [[(n,)] for n in range(100)]
    with pytest.raises(SandboxError, match="closed"):
        sandbox.run(tea, "SELECT 1")


def test_a_forked_process_has_workers_of_its_own(tea: Path) -> None:
    assert run_sql(tea, "SELECT 1").ok
    child = os.fork()
    if child == 0:
        os._exit(0 if run_sql(tea, "SELECT 2").rows == [(2,)] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert run_sql(tea, "SELECT 3").rows == [(3,)]
