"""A damaged store is recovered when it is opened: the readable rows are kept, and a note says what is lost."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from places import DOUBLES
from scripted import query, rollout

from optimizers.core.records import Rollout
from optimizers.core.usage import Usage
from optimizers.store.recovery import find_damage, recover
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.errors import RunFolderError, SGTError
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.samples import Sample

ROWS = 500
PAGE = 4096

HINT = Supplement("hint", "Ünits")


def assert_rows_are_as_written(store: RolloutStore) -> None:
    written = {each.query.id: each for each in build_rollouts()}
    for kept in store.rollouts():
        assert replace(kept, stage="warm", source="predefined") == written[kept.query.id]
        assert store.get("scope", kept.query.id, kept.supplement) is not None


def build_rollouts() -> list[Rollout]:
    return [
        replace(rollout(float(n % 2), of=query(f"q{n}", n), text=f"{n} {'think ' * 40}"), stage="warm")
        for n in range(ROWS)
    ]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of many rollouts and some samples, closed."""
    path = tmp_path_factory.mktemp("whole") / "rollouts.sqlite"
    with RolloutStore(path) as store:
        store.add_all(build_rollouts(), "scope", paid=Usage(1, 1))
        store.describe("scope", {"metric": "exact"})
        store.add_samples("warm", 0, [("asked", Sample("", 7, 3, -0.5).read_as(HINT))] * 10)
    return path


@pytest.fixture
def path(built: Path, tmp_path: Path) -> Path:
    return shutil.copy(built, tmp_path / "rollouts.sqlite")


def cut_in_half(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)


def lose_its_end(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 1000)


def overwrite(file: Path, begin: int, length: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(begin)
        opened.write(random.Random(0).randbytes(length))


def overwrite_the_middle(file: Path) -> None:
    overwrite(file, file.stat().st_size // 2, 10 * PAGE)


def overwrite_the_first_page(file: Path) -> None:
    overwrite(file, 100, PAGE - 100)


def overwrite_the_header(file: Path) -> None:
    overwrite(file, 0, 60)


def rename_a_column_in_the_list_of_tables(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"\tfeedback VARCHAR", b"\tfeedbuck VARCHAR"))


def overwrite_the_application_id(file: Path) -> None:
    overwrite(file, 68, 4)


def break_a_text(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"[cot] 7 think", b"[cot] 7 th\xffnk", 1)[: -10 * PAGE])


@pytest.mark.parametrize("page", range(12, 100, 12))
def test_an_overwritten_page_of_rows_costs_only_its_own_rows(path: Path, page: int) -> None:
    """A page holds some six rollouts, or some of an index, which costs none."""
    overwrite(path, page * PAGE, PAGE)
    recovery = recover(path)
    assert ROWS - 10 <= recovery.kept["rollouts"] == ROWS - recovery.lost["rollouts"]
    with RolloutStore(path) as store:
        assert store.scan().intact
        assert_rows_are_as_written(store)


@pytest.mark.parametrize(
    ("harm", "least"),
    [
        (cut_in_half, ROWS * 2 // 5),
        (lose_its_end, ROWS - 10),
        (overwrite_the_middle, ROWS - 70),
        (overwrite_the_first_page, ROWS),
        (overwrite_the_header, ROWS),
        (rename_a_column_in_the_list_of_tables, ROWS),
        (overwrite_the_application_id, ROWS),
        (break_a_text, ROWS // 2),
    ],
)
def test_a_damaged_store_is_recovered_when_it_is_opened_and_says_what_is_lost(
    path: Path, harm: Callable[[Path], None], least: int
) -> None:
    harm(path)
    harmed = path.read_bytes()
    assert find_damage(path)
    with RolloutStore(path) as store:
        scan = store.scan()
        (note,) = store.notes
        assert_rows_are_as_written(store)
        assert {each.stage for each in store.rollouts()} <= {"warm", "recovered"}
        assert len(store.rollouts()) == scan.rollouts
        assert scan.intact
        assert least <= scan.rollouts <= ROWS
        assert f"Kept: {scan.rollouts} rows of rollouts" in note
        assert (
            scan.rollouts == ROWS
            or f" {ROWS - scan.rollouts} of rollouts" in note
            or harm in (cut_in_half, break_a_text)
        )
        store.add_all(build_rollouts(), "scope")
        assert store.count() == ROWS
    assert (path.parent / "rollouts.sqlite.damaged-1").read_bytes() == harmed
    with RolloutStore(path) as again:
        assert again.notes == []
    assert sorted(each.name for each in path.parent.iterdir()) == ["rollouts.sqlite", "rollouts.sqlite.damaged-1"]


def test_an_overwritten_root_page_costs_its_table_and_what_it_paid_for_is_kept(path: Path) -> None:
    """The roots of the four tables and their indexes are pages 2 to 11; the rows of `seen` are on pages of its own."""
    with sqlite3.connect(path) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'seen'").fetchone()
    connection.close()
    overwrite(path, (root - 1) * PAGE, PAGE)
    with RolloutStore(path) as store:
        assert_rows_are_as_written(store)
        assert {each.stage for each in store.rollouts()} == {"recovered"}
        assert store.count() == store.spent().runs == ROWS


def test_a_damaged_store_of_another_version_is_refused_and_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=3")
    connection.close()
    overwrite_the_middle(path)
    before = path.read_bytes()
    with pytest.raises(RunFolderError, match=r"of version 3, and this package reads version 4\. Use"):
        RolloutStore(path)
    with pytest.raises(RunFolderError, match="Expected a store of rollouts of version 4"):
        recover(path)
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["rollouts.sqlite"]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=200)), max_size=8))
@example([(0.0, b"SQLite format 3\0" + b"\xff" * 84)])
def test_a_store_with_any_bytes_overwritten_opens_or_is_refused(
    built: Path, tmp_path_factory: pytest.TempPathFactory, over: list[tuple[float, bytes]]
) -> None:
    path = shutil.copy(built, tmp_path_factory.mktemp("harmed") / "rollouts.sqlite")
    for place, content in over:
        with path.open("r+b") as file:
            file.seek(int(place * (path.stat().st_size - len(content))))
            file.write(content)
    with suppress(SGTError), RolloutStore(path) as store:
        kept = store.rollouts()
        assert {(each.query.id, each.supplement) for each in kept} <= {
            (each.query.id, each.supplement) for each in build_rollouts()
        }


def test_recovery_keeps_every_row_of_an_intact_store(path: Path) -> None:
    assert find_damage(path) == ""
    recovery = recover(path)
    assert recovery.kept == {"rollouts": ROWS, "seen": ROWS, "scopes": 1, "samples": 10, "drafts": 0}
    assert set(recovery.lost.values()) == {0}
    with RolloutStore(path) as store:
        assert store.rollouts() == build_rollouts()
        assert len(store.samples("warm")) == 10
        assert store.spent() == Usage(1, 1)
        assert store.get_description("scope") == {"metric": "exact"}


def test_a_wrong_key_is_computed_again(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE rollouts SET key = 'lost' WHERE query = 'q0'")
    connection.close()
    lost = build_rollouts()[0]
    with RolloutStore(path) as store:
        assert store.get("scope", lost.query.id, lost.supplement) is None
    assert recover(path).kept["rollouts"] == ROWS
    with RolloutStore(path) as store:
        assert store.get("scope", lost.query.id, lost.supplement) == lost


def test_a_second_damaged_file_is_kept_next_to_the_first(path: Path) -> None:
    for number in (1, 2):
        cut_in_half(path)
        with RolloutStore(path) as store:
            assert f"The damaged file is now rollouts.sqlite.damaged-{number}." in store.notes[0]


def test_a_scan_counts_rows_that_changed(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b"3 think think", b"3 thank think"))
    changed = content.count(b"3 think think")
    with RolloutStore(path) as store:
        scan = store.scan()
        assert store.notes == []
    assert (scan.unreadable, scan.rollouts, scan.intact) == (ROWS // 10, ROWS, False)
    assert changed >= ROWS // 10
    assert recover(path).lost["rollouts"] == ROWS // 10


def test_a_text_that_is_no_utf_8_costs_only_its_row(path: Path) -> None:
    content = path.read_bytes()
    assert content.count(b"[cot] 7 think") == 1
    path.write_bytes(content.replace(b"[cot] 7 think", b"[cot] 7 th\xffnk"))
    with RolloutStore(path) as store:
        assert len(store.rollouts()) == ROWS - 1
        assert store.scan().unreadable == 1
        assert len(store.notes) == 1


def test_a_store_that_breaks_while_it_is_open_is_scanned_as_far_as_it_is_read(path: Path) -> None:
    with RolloutStore(path) as store:
        overwrite_the_middle(path)
        scan = store.scan()
    assert ROWS - 200 <= scan.rewarded <= ROWS // 2 + ROWS // 2
    assert scan.unreadable > 0


def test_of_a_large_file_only_the_header_and_the_length_are_checked(path: Path) -> None:
    overwrite_the_middle(path)
    assert find_damage(path) != find_damage(path, quick_check_limit=0) == ""
    cut_in_half(path)
    assert find_damage(path, quick_check_limit=0) == "database disk image is malformed"


def test_an_empty_file_is_a_new_store_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.sqlite"
    path.touch()
    with RolloutStore(path) as store:
        assert (store.count(), store.notes) == (0, [f"{path} was empty, so a new store begins there."])


@pytest.mark.parametrize("length", [20, 99])
def test_a_file_cut_within_its_header_is_kept_aside_and_a_new_store_begins(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])
    with RolloutStore(path) as store:
        assert store.count() == 0
        assert "Kept: nothing" in store.notes[0]
    assert len((path.parent / "rollouts.sqlite.damaged-1").read_bytes()) == length


@pytest.mark.parametrize("moved", ["the log only", "the file too"])
def test_a_recovery_that_was_killed_before_its_last_step_is_finished(path: Path, moved: str) -> None:
    shutil.copy(path, path.with_name("rollouts.sqlite.recovered"))
    path.with_name("rollouts.sqlite.damaged-1-wal").touch()
    cut_in_half(path)
    if moved == "the file too":
        path.rename(path.with_name("rollouts.sqlite.damaged-1"))
    with RolloutStore(path) as store:
        assert store.count() == ROWS
        assert "a recovery that was interrupted is now complete" in store.notes[0]
    assert path.with_name("rollouts.sqlite.damaged-1").exists()
    assert not path.with_name("rollouts.sqlite.recovered").exists()


KILLED = """
import os, signal, sys
from scripted import query, rollout
from optimizers.store.rollout_store import RolloutStore

store = RolloutStore(sys.argv[1])
for n in range(40):
    store.add(rollout(1.0, of=query(f"q{n}", n)), "scope")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A store whose writer was killed: what it wrote is in the write-ahead log."""
    path = tmp_path / "rollouts.sqlite"
    subprocess.run([sys.executable, "-c", KILLED, path], cwd=DOUBLES, check=False)
    assert (tmp_path / "rollouts.sqlite-wal").stat().st_size > 40 * PAGE
    return path


def test_a_killed_process_loses_no_rollout_that_it_saved(killed: Path) -> None:
    with RolloutStore(killed) as store:
        assert (store.count(), store.notes) == (40, [])


@pytest.mark.parametrize("cut", ["its last frame is half written", "its end is overwritten"])
def test_all_transactions_before_a_tear_in_the_log_are_kept(killed: Path, cut: str) -> None:
    log = killed.with_name("rollouts.sqlite-wal")
    if "half" in cut:
        lose_its_end(log)
    else:
        overwrite(log, log.stat().st_size - 5 * PAGE, 100)
    with RolloutStore(killed) as store:
        kept = [each.query.index for each in store.rollouts()]
        assert kept == list(range(len(kept)))
        assert 30 <= len(kept) < 40
        store.add(rollout(1.0, of=query("new")), "scope")
    with RolloutStore(killed) as store:
        assert (store.count(), store.notes) == (len(kept) + 1, [])


def test_a_file_and_log_of_another_program_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.sqlite"
    writer = sqlite3.connect(path)
    writer.executescript("PRAGMA journal_mode=WAL; CREATE TABLE accounts (id); INSERT INTO accounts VALUES (1);")
    log = tmp_path / "rollouts.sqlite-wal"
    before = path.read_bytes(), log.read_bytes()
    with pytest.raises(RunFolderError, match="another program's database"):
        RolloutStore(path)
    assert (path.read_bytes(), log.read_bytes()) == before
    writer.close()


def test_a_locked_file_is_no_damage(path: Path) -> None:
    with RolloutStore(path):
        other = sqlite3.connect(path)
        other.execute("BEGIN IMMEDIATE")
        assert find_damage(path) == ""
        other.close()


def test_a_recovered_store_finds_the_runs_of_each_generator_prompt(tmp_path: Path) -> None:
    silent = [replace(rollout(1.0, of=query("q", 0)), supplement=SILENCE, stage="none", source="none")]
    silent += [replace(silent[0], query=replace(silent[0].query, prompt=f"Prompt {n}")) for n in range(2)]
    keys = ["", "key 0", "key 1"]
    with RolloutStore(tmp_path / "rollouts.sqlite") as store:
        for each, key in zip(silent, keys, strict=True):
            store.add(each, "scope", prompts=key)
    recover(tmp_path / "rollouts.sqlite")
    with RolloutStore(tmp_path / "rollouts.sqlite") as store:
        assert [store.get("scope", "q", SILENCE, prompts=key) for key in keys] == silent
        assert store.rollouts() == silent
