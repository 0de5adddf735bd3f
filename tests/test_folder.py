"""A run's folder: taken up again by the same settings only, and its JSON whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from optimizers.folder import RunFolder
from sgt_modules.errors import RunFolderError


def test_a_folder_is_taken_up_by_the_same_settings(tmp_path: Path) -> None:
    first = RunFolder.create(tmp_path / "run", {"seed": 0})
    assert RunFolder.create(tmp_path / "run", {"seed": 0}) == first


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", {"seed": 0, "rounds": 5})
    with pytest.raises(RunFolderError, match=r"rounds, seed changed.*Choose another log_dir"):
        RunFolder.create(tmp_path / "run", {"seed": 1, "rounds": 2})


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"no run\.json"):
        RunFolder.create(tmp_path, {"seed": 0})


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "null"])
def test_a_torn_run_file_is_refused_with_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunFolderError, match=r"run\.json"):
        RunFolder.create(tmp_path, {"seed": 0})


def test_writing_leaves_no_drafts_behind(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {"seed": 0})
    folder.write("summary.json", {"score": 0.5})
    folder.write("summary.json", {"score": 0.6})
    assert folder.read("summary.json") == {"score": 0.6}
    assert {file.name for file in folder.path.iterdir()} == {"run.json", "summary.json"}


def test_without_a_path_a_fresh_folder_is_made_under_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = {RunFolder.create(None, {"seed": 0}).path for _ in range(3)}
    assert len(folders) == 3
    assert {folder.parent for folder in folders} == {Path("runs")}
