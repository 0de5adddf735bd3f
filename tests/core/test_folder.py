"""A run's folder: one owner, taken up again by the same settings only, and its JSON whole or not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from optimizers.core.run_folder import RunFolder, changed_versions
from sgt_modules.errors import RunFolderError


def test_a_folder_is_taken_up_by_the_same_settings(tmp_path: Path) -> None:
    first = RunFolder.create(tmp_path / "run").begin_or_resume({"seed": 0})
    assert RunFolder.create(tmp_path / "run").begin_or_resume({"seed": 0}) == first


def test_two_runs_have_different_ids(tmp_path: Path) -> None:
    assert (
        RunFolder.create(tmp_path / "a").begin_or_resume({})["id"]
        != RunFolder.create(tmp_path / "b").begin_or_resume({})["id"]
    )


def test_other_settings_are_refused_by_name_with_both_values(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.begin_or_resume({"seed": 0, "recipe": {"pair_cap": 20, "silence": True}, "train": "a" * 99})
    wanted = r"recipe.pair_cap changed from 20 to 10; seed changed from 0 to 1; train changed\. Choose another log_dir"
    with pytest.raises(RunFolderError, match=wanted):
        folder.begin_or_resume({"seed": 1, "recipe": {"pair_cap": 10, "silence": True}, "train": "b" * 99})


def test_free_settings_may_change_and_the_latest_are_recorded(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    first = folder.begin_or_resume({"seed": 0}, {"rounds": 1})
    again = folder.begin_or_resume({"seed": 0}, {"rounds": 5})
    assert (again["id"], again["free"]) == (first["id"], {"rounds": 5})
    assert folder.read("run.json") == again


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"no run\.json"):
        RunFolder.create(tmp_path).begin_or_resume({"seed": 0})


def test_a_second_run_is_refused_with_the_owners_name_and_process(tmp_path: Path) -> None:
    first, second = RunFolder.create(tmp_path), RunFolder.create(tmp_path)
    with first.lock() as left:
        assert left == ""
        with (
            pytest.raises(RunFolderError, match=f"in use by process {os.getpid()} of .* on .*another log_dir"),
            second.lock(),
        ):
            pass
    with second.lock() as left:  # and is let in once the first has ended
        assert left == ""


def test_an_owner_who_failed_leaves_no_word_behind(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path)
    with pytest.raises(KeyboardInterrupt), folder.lock():
        raise KeyboardInterrupt
    with folder.lock() as left:
        assert left == ""


def test_an_owner_who_was_killed_is_recognised_as_gone(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from optimizers.core.run_folder import RunFolder\n"
        "with RunFolder.create(Path(sys.argv[1])).lock(): os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    killed.wait(timeout=60)
    with RunFolder.create(tmp_path).lock() as left:
        assert left.startswith(f"Going on from process {killed.pid} of ")
        RunFolder.create(tmp_path).begin_or_resume({"seed": 0})  # its traces are no strange files


def test_packages_of_another_version_are_named(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path)
    known = folder.begin_or_resume({})
    assert changed_versions(known) == []
    assert changed_versions({"versions": {**known["versions"], "dspy": "0.1"}}) == [
        f"dspy 0.1, now {known['versions']['dspy']}"
    ]


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "null"])
def test_a_torn_run_file_is_refused_with_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunFolderError, match=r"run\.json"):
        RunFolder.create(tmp_path).begin_or_resume({"seed": 0})


def test_writing_leaves_no_drafts_behind(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.write("summary.json", {"score": 0.5})
    folder.write("summary.json", {"score": 0.6})
    assert folder.read("summary.json") == {"score": 0.6}
    assert {file.name for file in folder.path.iterdir()} == {"summary.json"}


def test_without_a_path_a_fresh_folder_is_made_under_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = {RunFolder.create(None).path for _ in range(3)}
    assert len(folders) == 3
    assert {folder.parent for folder in folders} == {Path("runs")}
