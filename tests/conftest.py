"""The marker `compatible(group, row)`, and `--compatibility PATH`: write the page of what works with DSPy."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path

import dspy
import pytest
from compatibility_page import Row, page, result_of

ROWS = pytest.StashKey[list[Row]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--compatibility", type=Path, metavar="PATH", help="run the marked tests only, and write their table there"
    )


def pytest_configure() -> None:
    """Hide W&B while tests are collected: TRL imports it where it is installed, which takes seconds in each process."""
    sys.modules.setdefault("wandb", None)  # pyright: ignore[reportArgumentType]


def pytest_collection_finish() -> None:
    """Freeze what collection imported: each garbage collection of a test would look at its 800,000 objects again.

    Then leave DSPy's cache on disk out: an answer of an earlier run would hide a call, and the package behind it leaves
    a connection to SQLite open in each thread that ends, which Python 3.13 reports in the middle of another test.
    """
    if sys.modules.get("wandb", sys) is None:
        del sys.modules["wandb"]
    gc.collect()
    gc.freeze()
    dspy.configure_cache(enable_disk_cache=False)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check the markers; with the option, leave all other tests out."""
    marked = [item for item in items if _rows(item)]
    if config.getoption("--compatibility"):
        items[:] = marked
    config.stash[ROWS] = [row for item in marked for row in _rows(item)] if config.option.collectonly else []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note how each marked test ended."""
    report = yield
    if report.when == "call" or report.outcome != "passed":
        item.config.stash[ROWS].extend(_rows(item, _result(report)))
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the page."""
    path = session.config.getoption("--compatibility")
    if isinstance(path, Path):
        path.write_text(page(session.config.stash[ROWS]), encoding="utf-8")


@pytest.fixture(autouse=True)
def connections_collected(request: pytest.FixtureRequest) -> Iterator[None]:
    """DSPy's and LiteLLM's clients never close their connections to a server: they go here, where that is no error,
    and not in the middle of another test."""
    yield
    if request.node.path.stem.startswith("test_endpoint"):
        _collect()


@pytest.fixture(autouse=True, scope="module")
def loops_collected() -> Iterator[None]:
    """The same of the clients' event loops, once a file: training collects garbage, and would stumble over them."""
    yield
    _collect()


def _collect() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def _rows(item: pytest.Item, result: str = "") -> list[Row]:
    test = getattr(item, "originalname", None) or item.name
    return [Row(*mark.args, test=test, result=result) for mark in item.iter_markers("compatible")]


def _result(report: pytest.TestReport) -> str:
    """The outcome, with pytest's reason for a test that was skipped or is expected to fail."""
    expected = getattr(report, "wasxfail", None)
    if expected is not None:
        return result_of("failed" if report.outcome == "skipped" else "passed", expected)
    reason = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
    return result_of(report.outcome, reason)
