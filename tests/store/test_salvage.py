"""A store of an older version becomes one of this; of a damaged one the readable rows are kept, and losses are told."""

from __future__ import annotations

import random
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from places import DOUBLES
from scripted import query, rollout

from optimizers.core.records import Rollout
from optimizers.core.usage import Meter
from optimizers.store.damage import damage
from optimizers.store.rollout_store import RolloutStore
from optimizers.store.salvage import salvage
from optimizers.store.schema import SCHEMA
from sgt_modules.episode import Place
from sgt_modules.errors import RunFolderError, SGTError
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.samples import Sample

ROWS = 1000
PAGE = 4096

VERSION_2 = """
CREATE TABLE rollouts (
    id INTEGER NOT NULL, scope VARCHAR NOT NULL, "query" VARCHAR NOT NULL, supplement VARCHAR NOT NULL,
    live VARCHAR NOT NULL, position INTEGER NOT NULL, predictor VARCHAR NOT NULL, turn INTEGER NOT NULL,
    others VARCHAR NOT NULL, prompt VARCHAR NOT NULL, kind VARCHAR NOT NULL, text VARCHAR NOT NULL, score FLOAT,
    feedback VARCHAR NOT NULL, output VARCHAR NOT NULL, error VARCHAR NOT NULL, asked INTEGER NOT NULL,
    tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL, seconds FLOAT NOT NULL, created FLOAT NOT NULL,
    PRIMARY KEY (id), UNIQUE (scope, "query", supplement, live)
);
CREATE TABLE seen (
    id INTEGER NOT NULL, rollout INTEGER NOT NULL, stage VARCHAR NOT NULL, source VARCHAR NOT NULL,
    logprob FLOAT NOT NULL,
    PRIMARY KEY (id), UNIQUE (rollout, stage), FOREIGN KEY(rollout) REFERENCES rollouts (id)
);
INSERT INTO rollouts VALUES
    (1, 'scope', 'a', '', '', 0, 'solve', 0, '[["check", 0, "none", ""]]', 'Help.', 'none', '', NULL, '',
     '{}', 'timeout', 1, 0, 0, 0.5, 1.0),
    (2, 'scope', 'a', '[hint] Ünits', '', 0, 'solve', 0, '[]', 'Help.', 'hint', 'Ünits', 0.25, 'a quarter',
     '{"answer": "4"}', '', 3, 12, 7, 0.25, 2.0),
    (3, 'scope', 'a', '[hint] Ünits', 'dpo1/val', 0, '', 0, '[]', '', 'hint', 'Ünits', 1, '', '{}', '', 2, 5, 1,
     0.25, 3.0);
INSERT INTO seen VALUES
    (1, 2, 'warm', 'predefined', -0.5), (2, 1, 'none', 'none', 0), (3, 2, 'round 1', 'direct', -1.5),
    (5, 3, 'dpo1/val', 'direct', 0);
PRAGMA application_id=1397183537;
PRAGMA user_version=2;
"""
HINT = Supplement("hint", "Ünits")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file as version 2 made it."""
    path = tmp_path / "rollouts.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(VERSION_2)
    connection.close()
    return path


def check_upgraded(store: RolloutStore) -> None:
    """The store holds what the file of version 2 did."""
    warm, silent, again, live = store.rollouts()
    assert (warm.stage, warm.source, warm.logprob, warm.supplement) == ("warm", "predefined", -0.5, HINT)
    assert warm.reward is not None
    assert (warm.reward.score, warm.reward.feedback, warm.output) == (0.25, "a quarter", {"answer": "4"})
    assert (warm.tokens_in, warm.tokens_out, warm.seconds, warm.cost, warm.writer) == (12, 7, 0.25, 0.0, "")
    assert again == replace(warm, stage="round 1", source="direct", logprob=-1.5)
    assert (silent.error, silent.reward, silent.query.others) == ("timeout", None, ((Place("check"), SILENCE),))
    assert store.get("scope", "a", HINT) == warm
    assert store.live_run("scope", "dpo1/val") == ([live], [])
    assert store.spent() == Meter(runs=3, calls=6, tokens_in=17, tokens_out=8, seconds=1.0)
    assert (store.most_asked("scope"), store.count()) == (3, 3)
    assert store.scan().whole


def test_a_store_of_version_2_becomes_one_of_this_version_when_it_is_opened(old: Path) -> None:
    with RolloutStore(old, run="mine") as store:
        check_upgraded(store)
        assert store.runs() == ["mine"]
        assert store.notes == [f"{old} was a store of version 2 and is one of version {SCHEMA} now."]
    with RolloutStore(old, run="mine") as store:
        check_upgraded(store)
        assert store.notes == []


def test_a_store_of_version_2_that_cannot_be_upgraded_stays_as_it_was(old: Path) -> None:
    with sqlite3.connect(old) as connection:
        connection.execute("UPDATE rollouts SET seconds = 'long' WHERE id = 3")
    connection.close()
    with pytest.raises(
        RunFolderError, match=r"optimizers\.salvage\.salvage makes a store of this version of the others"
    ):
        RolloutStore(old)
    with sqlite3.connect(old) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
        assert (tables, connection.execute("PRAGMA user_version").fetchone()) == ([("rollouts",), ("seen",)], (2,))
    connection.close()


def test_a_damaged_store_of_version_2_is_upgraded_by_its_salvage(old: Path) -> None:
    salvaged = salvage(old, run="mine")
    assert salvaged.kept == {"rollouts": 3, "seen": 4, "scopes": 0, "samples": 0}
    with RolloutStore(old, run="mine") as store:
        check_upgraded(store)


def many() -> list[Rollout]:
    return [
        replace(rollout(float(n % 2), of=query(f"q{n}", n), text=f"{n} {'think ' * 40}"), stage="warm")
        for n in range(ROWS)
    ]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of many rollouts and some samples, closed."""
    path = tmp_path_factory.mktemp("whole") / "rollouts.sqlite"
    with RolloutStore(path) as store:
        store.add_all(many(), "scope", paid=Meter(1, 1))
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


def overwrite_the_head(file: Path) -> None:
    overwrite(file, 0, 60)


def rename_a_column_in_the_list_of_tables(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"\tfeedback VARCHAR", b"\tfeedbuck VARCHAR"))


def forget_whose_it_is(file: Path) -> None:
    overwrite(file, 68, 4)


def break_a_text(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"[cot] 7 think", b"[cot] 7 th\xffnk", 1)[: -10 * PAGE])


@pytest.mark.parametrize("pages", [1, 2, 3, 9, 10, *range(14, 200, 12)])
def test_overwritten_pages_cost_what_they_held_and_nothing_that_stands_behind_them(path: Path, pages: int) -> None:
    """Whatever the bytes: SQLite takes some pages for empty ones, and ends a scan there without a word.

    The first five are roots, which hold no row and lead to all of a table's. A page holds some six rollouts.
    """
    overwrite(path, pages * PAGE, (1 if pages < 12 else 10) * PAGE)
    salvaged = salvage(path)
    assert salvaged.kept["rollouts"] >= (ROWS if pages < 12 else ROWS - 100)
    assert salvaged.kept["rollouts"] + salvaged.lost["rollouts"] == ROWS
    with RolloutStore(path) as store:
        assert store.scan().whole
        expected = {each.query.id: each for each in many()}
        assert all(
            replace(each, stage="warm", source="predefined") == expected[each.query.id] for each in store.rollouts()
        )


@pytest.mark.parametrize(
    ("harm", "least"),
    [
        (cut_in_half, ROWS // 4),
        (lose_its_end, ROWS - 50),
        (overwrite_the_middle, ROWS - 200),
        (overwrite_the_first_page, ROWS),
        (overwrite_the_head, ROWS),
        (rename_a_column_in_the_list_of_tables, ROWS),
        (forget_whose_it_is, ROWS),
        (break_a_text, ROWS // 2),
    ],
)
def test_a_damaged_store_is_salvaged_when_it_is_opened_and_says_what_was_lost(path: Path, harm, least: int) -> None:
    harm(path)
    harmed = path.read_bytes()
    expected = {each.query.id: each for each in many()}
    assert damage(path)
    with RolloutStore(path) as store:
        kept = store.rollouts()
        scan = store.scan()
        (note,) = store.notes
        assert all(replace(each, stage="warm", source="predefined") == expected[each.query.id] for each in kept)
        assert {each.stage for each in kept} <= {"warm", "salvaged"}
        assert len(kept) == scan.rollouts
        assert all(store.get("scope", each.query.id, each.supplement) for each in kept)
        assert scan.whole
        assert least <= scan.rollouts <= ROWS
        assert f"Kept: {scan.rollouts} rows of rollouts" in note
        assert scan.rollouts == ROWS or f" {ROWS - scan.rollouts} of rollouts" in note or "pages are there" in note
        store.add_all(many(), "scope")
        assert store.count() == ROWS
    assert (path.parent / "rollouts.sqlite.damaged-1").read_bytes() == harmed
    with RolloutStore(path) as again:
        assert again.notes == []
    assert sorted(each.name for each in path.parent.iterdir()) == ["rollouts.sqlite", "rollouts.sqlite.damaged-1"]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=200)), max_size=8))
@example([(0.0, b"SQLite format 3\0" + b"\xff" * 84)])
def test_whatever_is_written_over_a_store_it_opens_or_is_refused(
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
            (each.query.id, each.supplement) for each in many()
        }


def test_salvage_keeps_everything_of_a_store_that_is_whole(path: Path) -> None:
    assert damage(path) == ""
    salvaged = salvage(path)
    assert salvaged.kept == {"rollouts": ROWS, "seen": ROWS, "scopes": 1, "samples": 10}
    assert set(salvaged.lost.values()) == {0}
    with RolloutStore(path) as store:
        assert store.rollouts() == many()
        assert len(store.samples("warm")) == 10
        assert store.spent() == Meter(1, 1)
        assert store.described("scope") == {"metric": "exact"}


def test_a_key_that_is_not_its_row_s_is_made_anew(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE rollouts SET key = 'lost' WHERE query = 'q0'")
    connection.close()
    lost = many()[0]
    with RolloutStore(path) as store:
        assert store.get("scope", lost.query.id, lost.supplement) is None
    assert salvage(path).kept["rollouts"] == ROWS
    with RolloutStore(path) as store:
        assert store.get("scope", lost.query.id, lost.supplement) == lost


def test_a_second_damage_is_moved_beside_the_first(path: Path) -> None:
    for number in (1, 2):
        cut_in_half(path)
        with RolloutStore(path) as store:
            assert f"rollouts.sqlite.damaged-{number} now" in store.notes[0]


def test_a_scan_counts_rows_that_are_not_as_they_were_written(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b"3 think think", b"3 thank think"))
    changed = content.count(b"3 think think")
    with RolloutStore(path) as store:
        scan = store.scan()
        assert store.notes == []
    assert (scan.unreadable, scan.rollouts, scan.whole) == (ROWS // 10, ROWS, False)
    assert changed >= ROWS // 10
    assert salvage(path).lost["rollouts"] == ROWS // 10


def test_a_text_that_is_no_longer_one_costs_its_row_only(path: Path) -> None:
    content = path.read_bytes()
    assert content.count(b"[cot] 7 think") == 1
    path.write_bytes(content.replace(b"[cot] 7 think", b"[cot] 7 th\xffnk"))
    with RolloutStore(path) as store:
        assert len(store.rollouts()) == ROWS - 1
        assert store.scan().unreadable == 1
        assert len(store.notes) == 1


def test_a_store_that_breaks_while_it_is_open_is_scanned_as_far_as_it_can_be_read(path: Path) -> None:
    with RolloutStore(path) as store:
        overwrite_the_middle(path)
        scan = store.scan()
    assert ROWS - 200 <= scan.rewarded <= ROWS // 2 + ROWS // 2
    assert scan.unreadable > 0


def test_a_large_file_is_checked_by_its_length_when_it_is_opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optimizers.store.damage.CHECKED_WHOLE", 0)
    overwrite_the_middle(path)
    assert damage(path) == ""
    cut_in_half(path)
    assert re.fullmatch(r"only \d+ of its \d+ pages are there", damage(path))


def test_an_empty_file_is_a_new_store_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.sqlite"
    path.touch()
    with RolloutStore(path) as store:
        assert (store.count(), store.notes) == (0, [f"{path} was empty, so it is begun anew."])


@pytest.mark.parametrize("length", [1, 20, 99])
def test_of_a_file_cut_within_its_head_nothing_is_kept_and_it_is_not_deleted(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])
    with RolloutStore(path) as store:
        assert store.count() == 0
        assert "Kept: nothing" in store.notes[0]
    assert len((path.parent / "rollouts.sqlite.damaged-1").read_bytes()) == length


def test_a_salvage_that_was_killed_at_its_last_step_is_finished(path: Path) -> None:
    path.rename(path.with_name("rollouts.sqlite.salvaged"))
    with RolloutStore(path) as store:
        assert store.count() == ROWS


KILLED = """
import os, signal, sys
from hypothesis import example, given, settings
from hypothesis import strategies as st
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


def test_what_a_killed_process_has_written_is_there(killed: Path) -> None:
    with RolloutStore(killed) as store:
        assert (store.count(), store.notes) == (40, [])


@pytest.mark.parametrize("cut", ["its last frame is half written", "its end is overwritten"])
def test_of_a_torn_log_all_transactions_before_the_tear_are_kept_and_the_loss_is_told(killed: Path, cut: str) -> None:
    log = killed.with_name("rollouts.sqlite-wal")
    if "half" in cut:
        lose_its_end(log)
    else:
        overwrite(log, log.stat().st_size - 5 * PAGE, 100)
    with RolloutStore(killed) as store:
        kept = [each.query.index for each in store.rollouts()]
        assert kept == list(range(len(kept)))
        assert 30 <= len(kept) < 40
        assert "rollouts.sqlite-wal was torn: what was saved last" in "".join(store.notes)
        store.add(rollout(1.0, of=query("new")), "scope")
    with RolloutStore(killed) as store:
        assert (store.count(), store.notes) == (len(kept) + 1, [])


def test_a_log_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.sqlite"
    writer = sqlite3.connect(path)
    writer.executescript("PRAGMA journal_mode=WAL; CREATE TABLE accounts (id); INSERT INTO accounts VALUES (1);")
    log = tmp_path / "rollouts.sqlite-wal"
    before = path.read_bytes(), log.read_bytes()
    with pytest.raises(RunFolderError, match="another program's database"):
        RolloutStore(path)
    assert (path.read_bytes(), log.read_bytes()) == before
    writer.close()


def test_a_file_that_may_not_be_written_is_no_damage(path: Path) -> None:
    with RolloutStore(path):
        other = sqlite3.connect(path)
        other.execute("BEGIN IMMEDIATE")
        assert damage(path) == ""
        other.close()
