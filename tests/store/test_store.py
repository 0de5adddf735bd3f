"""The store saves every rollout at once, pays for none twice, and refuses files of other programs."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import bench_postgres
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scripted import query, rollout

from optimizers.core.records import Query, Reward, Rollout
from optimizers.core.usage import Usage
from optimizers.store.rollout_store import RolloutStore
from optimizers.store.schema import SCHEMA_VERSION
from sgt_modules.episode import Call, Place
from sgt_modules.errors import RunFolderError
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.samples import Sample

FULL = Rollout(
    query=Query(
        "a1",
        3,
        "solve.predict",
        "Help.\nPlease.",
        turn=2,
        others=((Place("solve.predict", 1), Supplement("cot", "Ünits\nfirst")), (Place("check", 0), SILENCE)),
    ),
    stage="sft",
    source="free",
    supplement=Supplement("hint", "Ünits\nmatter"),
    reward=Reward(0.25, "a quarter"),
    output={"answer": "4", "reasoning": "Ünits"},
    error="half read",
    logprob=-1.5,
    tokens_in=12,
    tokens_out=7,
    seconds=0.5,
    cost=0.001,
    writer="f00d",
)


@pytest.fixture
def store(tmp_path: Path):
    with RolloutStore(tmp_path / "run" / "rollouts.sqlite") as opened:
        yield opened


def test_a_rollout_comes_back_field_for_field(store: RolloutStore) -> None:
    store.add(FULL, "scope")
    assert store.get("scope", "a1", FULL.supplement) == FULL
    assert store.rollouts() == [FULL]


def test_that_a_supplement_was_cut_is_stored_with_a_rollout_a_sample_and_a_call(store: RolloutStore) -> None:
    cut = Supplement("hint", "Ünits.", cut=True)
    store.add(FULL, "scope")
    store.add(replace(FULL, supplement=cut), "scope")
    store.add_samples("warm", 0, [("key", Sample("", 3, 4, -1.0).read_as(each)) for each in (cut, FULL.supplement)])
    calls = [Call(Place("check"), "Help.", each, -0.5) for each in (cut, FULL.supplement)]
    store.add(replace(FULL, stage="live"), "scope", live="live", calls=calls)
    live = store.get_live_run("scope", "live")
    assert live is not None
    assert [each.supplement.cut for each in store.rollouts(stage="sft")] == [False, True]
    assert [sample.cut for _, sample in store.samples("warm")] == [True, False]
    assert [each.supplement.cut for each in live[1]] == [True, False]
    assert store.scan().intact


def test_another_scope_query_or_supplement_is_another_run(store: RolloutStore) -> None:
    store.add(FULL, "scope")
    assert store.get("other", "a1", FULL.supplement) is None
    assert store.get("scope", "a2", FULL.supplement) is None
    assert store.get("scope", "a1", SILENCE) is None


def test_a_failed_rollout_is_kept_but_not_returned_and_a_retry_replaces_it(store: RolloutStore) -> None:
    failed = replace(FULL, reward=None, error="timeout")
    store.add(failed, "scope")
    assert store.get("scope", "a1", FULL.supplement) is None
    assert store.rollouts() == [failed]
    store.add(FULL, "scope")
    assert store.get("scope", "a1", FULL.supplement) == FULL
    assert store.count() == 1


def test_a_failure_does_not_replace_a_reward(store: RolloutStore) -> None:
    store.add(FULL, "scope")
    store.add(replace(FULL, reward=None, stage="dpo1"), "scope")
    assert store.get("scope", "a1", FULL.supplement) == FULL


def test_a_supplement_of_several_stages_is_listed_with_each_and_counted_once(store: RolloutStore) -> None:
    store.add(FULL, "scope")
    again = replace(FULL, stage="dpo1", source="direct", logprob=-0.5)
    store.reuse(again, "scope")
    store.reuse(again, "scope")
    store.add(rollout(1.0), "other")
    assert store.rollouts(stage="sft", scope="scope") == [FULL]
    assert store.rollouts(stage="dpo1") == [again]
    assert [r.stage for r in store.rollouts(scope="scope")] == ["sft", "dpo1"]
    assert store.count() == 2


def test_a_live_run_is_listed_under_its_stage_and_not_returned_by_get(store: RolloutStore) -> None:
    live = replace(FULL, stage="dpo1/val")
    store.add(live, "scope", live="dpo1/val", asked=3)
    store.add(replace(live, stage="dpo2/val", reward=Reward(1.0)), "scope", live="dpo2/val")
    assert store.get("scope", "a1", FULL.supplement) is None
    assert store.rollouts(stage="dpo1/val") == [live]
    assert store.count() == 2


def test_live_runs_of_different_names_are_kept_and_one_of_the_same_name_is_replaced(
    store: RolloutStore,
) -> None:
    first, second = replace(FULL, stage="warm"), replace(FULL, stage="warm", reward=Reward(1.0))
    store.add(first, "scope", live="warm/0")
    store.add(second, "scope", live="warm/1")
    assert store.rollouts(stage="warm") == [first, second]
    store.add(second, "scope", live="warm/0")
    assert store.rollouts(stage="warm") == [second, second]
    store.add(first, "scope")
    assert store.get("scope", "a1", FULL.supplement) == first


def test_the_highest_number_of_supplements_in_a_run_is_kept(store: RolloutStore) -> None:
    assert store.max_supplements("scope") == 0
    store.add(FULL, "scope", asked=1)
    store.add(rollout(1.0), "scope", asked=3)
    assert (store.max_supplements("scope"), store.max_supplements("other")) == (3, 0)


def test_a_rollout_is_on_disk_when_add_returns(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.sqlite"
    with RolloutStore(path) as writer, RolloutStore(path) as reader:
        writer.add(FULL, "scope")
        assert reader.get("scope", "a1", FULL.supplement) == FULL
    with RolloutStore(path) as reopened:
        assert reopened.rollouts() == [FULL]


def test_many_threads_may_add_at_once(store: RolloutStore) -> None:
    rollouts = [rollout(1.0, of=query(f"q{n}", n)) for n in range(200)]
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda each: store.add(each, "scope"), rollouts))
    assert store.count() == 200
    assert sorted(r.query.index for r in store.rollouts()) == list(range(200))


@pytest.mark.slow
def test_several_processes_that_write_to_one_file_lose_and_duplicate_nothing(tmp_path: Path) -> None:
    outcome = bench_postgres.measured(str(tmp_path / "rollouts.sqlite"), 400)
    assert (outcome.keys, outcome.wrong) == (360, 0)


def test_the_rollouts_of_one_run_are_saved_together_or_not_at_all(store: RolloutStore) -> None:
    unreadable = replace(rollout(1.0, of=query("b", 1)), output={"answer": object()})  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError):
        store.add_all([rollout(1.0), unreadable], "scope")
    assert store.count() == 0


def test_the_time_of_a_rollout_is_the_clock_s(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.sqlite"
    with RolloutStore(path, clock=lambda: 1234.5) as store:
        store.add(FULL, "scope")
    assert query_sqlite(path, "SELECT created FROM rollouts") == 1234.5


def test_a_file_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    query_sqlite(path, "CREATE TABLE accounts (id)")
    with pytest.raises(RunFolderError, match=r"another program's database. Choose another run folder"):
        RolloutStore(path)
    assert query_sqlite(path, "SELECT count(*) FROM sqlite_master") == 1


@pytest.mark.parametrize("version", [1, 3, SCHEMA_VERSION + 1])
def test_a_store_of_another_version_is_refused(tmp_path: Path, version: int) -> None:
    path = tmp_path / "rollouts.sqlite"
    RolloutStore(path).close()
    query_sqlite(path, f"PRAGMA user_version={version}")
    with pytest.raises(RunFolderError, match=f"of version {version}, and this package reads version {SCHEMA_VERSION}"):
        RolloutStore(path)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.sqlite"
    path.write_text("not a database, but long enough to be looked at as one " * 20)
    with pytest.raises(RunFolderError, match="cannot be opened as a store of rollouts"):
        RolloutStore(path)


def test_a_folder_in_the_file_s_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="cannot be opened"):
        RolloutStore(tmp_path)


def test_costs_add_up_over_attempts_failed_ones_included(store: RolloutStore) -> None:
    failed = replace(FULL, reward=None, error="timeout")
    store.add(failed, "scope", paid=Usage(1, 2, 10, 5, 0.5, 0.25))
    store.add(FULL, "scope", paid=Usage(1, 1, 20, 5, 0.25, 0.5))
    store.add(failed, "scope", paid=Usage(1, 1, 1, 1, 0.25, 0.125))
    store.reuse(replace(FULL, stage="dpo1"), "scope")
    assert store.spent() == Usage(3, 4, 31, 11, 1.0, 0.875)
    assert store.spent("another run") == Usage()
    assert store.rollouts(stage="sft") == [FULL]


def test_a_run_of_several_rollouts_is_paid_once(store: RolloutStore) -> None:
    paid = Usage(1, 3, 30, 6, 0.5, 0.25)
    store.add_all([rollout(1.0, of=query(name)) for name in "abc"], "scope", paid=paid)
    assert store.spent() == paid


def test_runs_that_share_a_store_reuse_each_other_s_rollouts_and_list_and_pay_their_own(tmp_path: Path) -> None:
    path = tmp_path / "shared.sqlite"
    with RolloutStore(path, run="first") as first, RolloutStore(f"sqlite:///{path}", run="second") as second:
        first.add(FULL, "scope", paid=Usage(1, 1))
        found = second.get("scope", "a1", FULL.supplement)
        assert found == FULL
        second.reuse(replace(found, stage="warm"), "scope")
        second.add(FULL, "scope", paid=Usage(1, 2))  # both ran it at once, and both paid
        assert (first.count(), first.spent().calls, second.spent().calls) == (1, 1, 2)
        assert [each.stage for each in first.rollouts()] == ["sft"]
        assert [each.stage for each in second.rollouts()] == ["warm", "sft"]
        assert first.rollouts(run="second") == second.rollouts()
        assert first.runs() == ["first", "second"]


CALLS = [Call(Place("solve", 1), "Help.", FULL.supplement, -0.5, True), Call(Place("check"), "Ünits?", SILENCE)]


def test_a_live_run_is_read_back_with_its_calls(store: RolloutStore) -> None:
    live = replace(FULL, stage="dpo1/val")
    store.add_all([live, replace(live, query=query("b"))], "scope", live="dpo1/val", calls=CALLS)
    assert store.get_live_run("scope", "dpo1/val") == ([live, replace(live, query=query("b"))], CALLS)
    assert store.get_live_run("scope", "dpo1/val", "a1") == ([live], CALLS)
    assert store.get_live_run("scope", "dpo1/val", "a2") is None
    assert store.get_live_run("scope", "dpo2/val") is None
    assert store.get_live_run("other", "dpo1/val") is None


def test_a_live_run_without_a_reward_is_not_found_and_the_newest_of_a_name_is(tmp_path: Path) -> None:
    times = iter([1.0, 2.0, 3.0])
    with RolloutStore(tmp_path / "rollouts.sqlite", clock=lambda: next(times)) as store:
        store.add(replace(FULL, reward=None), "scope", live="warm/0")
        assert store.get_live_run("scope", "warm/0") is None
        store.add(FULL, "scope", live="warm/0", calls=CALLS[:1])
        again = replace(FULL, supplement=Supplement("cot", "Otherwise."))
        store.add(again, "scope", live="warm/0", calls=CALLS[1:])
        assert store.get_live_run("scope", "warm/0") == ([again], CALLS[1:])


def test_a_live_run_belongs_to_one_run(tmp_path: Path) -> None:
    path = tmp_path / "shared.sqlite"
    with RolloutStore(path, run="first") as first, RolloutStore(path, run="second") as second:
        first.add(FULL, "scope", live="dpo1/val", calls=CALLS)
        assert second.get_live_run("scope", "dpo1/val") is None
        second.add(FULL, "scope", live="dpo1/val")
        assert first.get_live_run("scope", "dpo1/val") == ([FULL], CALLS)
        assert first.count() == 2


def samples(*texts: str) -> list[tuple[str, Sample]]:
    return [(f"asked {text}", Sample(text, 7, 3, -0.5, kind="cot")) for text in texts]


def test_samples_come_back_in_order_batch_by_batch_up_to_a_gap(store: RolloutStore) -> None:
    store.add_samples("warm", 0, samples("a", "b"))
    store.add_samples("warm", 2, samples("Ünits"))
    store.add_samples("warm", 4, samples("lost its neighbour"))
    store.add_samples("round 1", 0, samples("c"))
    store.add_samples("round 2", 0, [])
    assert store.samples("warm") == samples("a", "b", "Ünits")
    store.add_samples("warm", 1, samples("B"))
    assert store.samples("warm") == samples("a", "B", "Ünits")
    assert (store.samples("round 1"), store.samples("round 2")) == (samples("c"), [])


def test_samples_end_before_a_changed_one(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.sqlite"
    with RolloutStore(path) as store:
        store.add_samples("warm", 0, samples("a", "b", "c"))
    query_sqlite(path, "UPDATE samples SET text = 'B' WHERE number = 1")
    with RolloutStore(path) as store:
        assert store.samples("warm") == samples("a")
        assert "Sample 1 of stage 'warm' does not match its checksum" in store.notes[0]


def test_a_new_description_of_a_scope_replaces_the_old_one(store: RolloutStore) -> None:
    assert store.get_description("scope") == {}
    store.describe("scope", {"actor": ["gpt"], "metric": "older"})
    store.describe("scope", {"actor": ["gpt"], "metric": "exact"})
    assert store.get_description("scope") == {"actor": ["gpt"], "metric": "exact"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory):
    with RolloutStore(tmp_path_factory.mktemp("store") / "rollouts.sqlite") as opened:
        yield opened


@settings(deadline=None)
@given(st.text(), st.text(), st.floats(allow_infinity=False))
@example("\x00", "\ud800", float("nan"))
def test_any_text_of_a_model_is_stored_and_found(shared: RolloutStore, prompt: str, text: str, logprob: float) -> None:
    scope, asked = f"scope {shared.count()}", replace(FULL.query, prompt=prompt)
    odd = replace(FULL, query=asked, supplement=Supplement("cot", text), output={"answer": text}, error=text)
    shared.add(replace(odd, logprob=logprob), scope)
    found = shared.get(scope, "a1", odd.supplement)
    assert found is not None
    assert found.supplement.text == text.encode(errors="replace").decode().replace("\0", "\ufffd")
    assert shared.rollouts(scope=scope) == [found]


@pytest.mark.parametrize("column", ["score", "output", "text", "position", "checksum"])
def test_a_changed_row_counts_as_missing_and_is_noted(tmp_path: Path, column: str) -> None:
    path = tmp_path / "rollouts.sqlite"
    with RolloutStore(path) as store:
        store.add_all([FULL, rollout(1.0)], "scope")
    query_sqlite(path, f"UPDATE rollouts SET {column} = 1 WHERE id = 1")
    with RolloutStore(path) as store:
        assert store.get("scope", "a1", FULL.supplement) is None
        assert store.rollouts() == [rollout(1.0)]
        assert "does not match its checksum" in "".join(store.notes)
        store.add(FULL, "scope")
        assert store.get("scope", "a1", FULL.supplement) == FULL


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("mysql://me:secret@host/db", "Expected a path, .* got mysql://me:\\*\\*\\*@host/db"),
        ("sqlite://", "Expected a path"),
        ("postgresql+psycopg://me:secret@127.0.0.1:1/db", "cannot be opened as a store of rollouts"),
    ],
)
def test_an_address_of_no_store_is_refused_without_its_password(where: str, message: str) -> None:
    with pytest.raises(RunFolderError, match=message) as caught:
        RolloutStore(where)
    assert "secret" not in str(caught.value)


def query_sqlite(path: Path, statement: str) -> object:
    connection = sqlite3.connect(path)
    try:
        row = connection.execute(statement).fetchone()
        connection.commit()
        return row[0] if row else None
    finally:
        connection.close()
