"""On a real PostgreSQL server: what a file does, and several processes that lose and double nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import bench_postgres
import pytest
import sqlalchemy as sa
from postgres_server import NoPostgresError, postgres
from scripted import query, rollout

from optimizers.core.records import Query, Reward, Rollout
from optimizers.core.usage import Usage
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.episode import Call, Place
from sgt_modules.errors import RunFolderError
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.samples import Sample

ROLLOUTS = 2_000
LONG = Supplement("cot", "Ünits matter, and so does their order. " * 200)
FULL = Rollout(
    query=Query("a1", 3, "solve", "Help.", turn=2, others=((Place("check"), SILENCE),)),
    stage="sft",
    source="free",
    supplement=LONG,
    reward=Reward(0.1, "a tenth"),
    output={"answer": "4\x00"},
    error="NUL \x00 and half a pair \ud800",
    logprob=-1.5,
    tokens_in=12,
    tokens_out=7,
    seconds=0.1,
    cost=0.3,
    writer="f00d",
)
STORED = replace(FULL, error="NUL \ufffd and half a pair ?")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server without its waiting for the disk, which these tests do not pull out."""
    try:
        with postgres("fsync=off") as address:
            yield address
    except NoPostgresError as none:
        pytest.skip(f"No PostgreSQL: {none}")


@pytest.fixture
def address(server: str) -> Iterator[str]:
    """A database of its own."""
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    name = f"own{threading.get_ident()}"
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
        yield server.replace("/postgres?", f"/{name}?")
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    engine.dispose()


def test_a_server_keeps_what_a_file_does(address: str) -> None:
    calls = [Call(Place("solve"), "Help.", LONG, -0.5)]
    samples = [("asked", Sample("", 7, 3, -0.5).read_as(LONG))]
    with RolloutStore(address, run="first", clock=lambda: 1234.5) as store:
        store.add(replace(FULL, reward=None), "scope", paid=Usage(1, 2, 3, 4, 0.5, 0.25))
        assert store.get("scope", "a1", LONG) is None
        store.add(FULL, "scope", asked=3, paid=Usage(1, 2, 3, 4, 0.5, 0.25))
        store.add(replace(FULL, reward=None), "scope")
        store.reuse(replace(FULL, stage="dpo1"), "scope")
        store.add(replace(FULL, stage="val"), "scope", live="val", calls=calls)
        store.add_samples("warm", 0, samples)
        store.describe("scope", {"metric": "exact"})
    with RolloutStore(address, run="first") as store:
        assert store.get("scope", "a1", LONG) == STORED
        assert [each.stage for each in store.rollouts("scope")] == ["sft", "dpo1", "val"]
        assert store.rollouts(stage="sft") == [STORED]
        assert store.get_live_run("scope", "val") == ([replace(STORED, stage="val")], calls)
        assert store.spent() == Usage(2, 4, 6, 8, 1.0, 0.5)
        assert (store.samples("warm"), store.get_description("scope")) == (samples, {"metric": "exact"})
        assert (store.count(), store.max_supplements("scope"), store.runs()) == (2, 3, ["first"])
        scan = store.scan()
        assert (scan.rollouts, scan.rewarded, scan.unreadable, dict(scan.stages)) == (2, 2, 0, dict.fromkeys(
            ("sft", "dpo1", "val"), 1
        ))  # fmt: skip


@pytest.mark.slow
def test_several_processes_lose_and_duplicate_nothing(address: str) -> None:
    outcome = bench_postgres.measured(address, ROLLOUTS)
    assert (outcome.keys, outcome.wrong) == (ROLLOUTS * 9 // 10, 0)


def test_processes_that_save_the_same_rollouts_in_other_orders_do_not_deadlock(address: str) -> None:
    rollouts = [rollout(1.0, of=query(f"q{n}", n)) for n in range(50)]
    with RolloutStore(address) as one, RolloutStore(address) as other, ThreadPoolExecutor(2) as threads:
        both = [(one, rollouts), (other, rollouts[::-1])] * 10
        list(threads.map(lambda each: each[0].add_all(each[1], "scope"), both))
        assert one.count() == 50


def test_stores_created_at_the_same_moment_share_one_set_of_tables(address: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        for store in threads.map(lambda _: RolloutStore(address), range(8)):
            store.close()
    with RolloutStore(address) as store:
        assert store.count() == 0


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE sgt_store SET version = 5", "of version 5, and this package reads version 4"),
        ("ALTER TABLE seen DROP COLUMN run", "its table seen lacks run"),
        ("DROP TABLE sgt_store", "has tables named rollouts, samples, scopes, seen that are no store"),
    ],
)
def test_another_database_is_refused(address: str, statement: str, message: str) -> None:
    RolloutStore(address).close()
    engine = sa.create_engine(address)
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()
    with pytest.raises(RunFolderError, match=message):
        RolloutStore(address)


def test_closed_connections_are_replaced_and_a_missing_server_is_named(address: str) -> None:
    with RolloutStore(address) as store:
        store.add(FULL, "scope")
        engine = sa.create_engine(address)
        with engine.connect() as connection:
            others = "datname = current_database() AND pid <> pg_backend_pid()"
            connection.exec_driver_sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
        engine.dispose()
        assert store.get("scope", "a1", LONG) == STORED
    with pytest.raises(RunFolderError, match="cannot be opened as a store"):
        RolloutStore(address.replace("?host=", "?host=/nowhere"))
