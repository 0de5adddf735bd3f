"""Each error of the package has its section in the documentation, and names it where a person reads it."""

from __future__ import annotations

import inspect
import logging
import pickle
import sys
import traceback
from pathlib import Path

import pytest
from dspy.utils.logging_utils import enable_logging

from optimizers import cli
from optimizers.cli import main
from sgt_modules import errors
from sgt_modules.errors import SGTError, TrainingError

ERRORS = [each for _, each in inspect.getmembers(errors, inspect.isclass) if each.__module__ == errors.__name__]
SECTIONS = {
    title: text.strip()
    for title, _, text in (
        part.partition("\n") for part in Path("docs/errors.md").read_text(encoding="utf-8").split("\n## ")[1:]
    )
}


class OfAUserError(TrainingError):
    """An error that somebody else derived from one of ours."""


def test_the_page_has_a_section_for_each_error_and_no_other() -> None:
    assert sorted(SECTIONS) == sorted(each.__name__ for each in ERRORS)
    assert all(len(text) > 60 for text in SECTIONS.values())


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_names_its_section_under_its_message_and_not_in_it(kind: type[SGTError]) -> None:
    error = kind("Expected this, got that.")
    lines = "".join(traceback.format_exception_only(error)).splitlines()
    assert str(error) == "Expected this, got that."
    assert lines[-1] == f"More: docs/errors.md#{kind.__name__.lower()}"
    assert pickle.loads(pickle.dumps(error)).__notes__ == error.__notes__  # as a worker of Ray sends it


def test_an_error_of_somebody_elses_names_the_section_of_ours() -> None:
    assert OfAUserError("no").__notes__ == ["More: docs/errors.md#trainingerror"]


def test_the_command_line_names_the_section_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["sgt", "report", str(tmp_path / "nothing")])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("sgt: ")
    assert last == "More: docs/errors.md#runfoldererror"


def test_after_ctrl_c_the_threads_that_are_left_log_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would log DSPy's error for its example, with the whole training set."""
    monkeypatch.setattr(cli, "app", lambda obj: sys.exit(130))
    log = logging.getLogger("dspy.teleprompt.bootstrap")
    try:
        with pytest.raises(SystemExit):
            main()
        log.error("Failed to run or to evaluate example")
        assert not capsys.readouterr().err
    finally:
        enable_logging()
