"""A view in a notebook: one output that is updated, as HTML, and as text where there is no HTML."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from optimizers.observe.live import texts
from optimizers.observe.live.drawing import render_lines
from optimizers.observe.live.snapshot import Snapshot, StageView
from optimizers.observe.live.view import View

EVERY = 0.5
"""Seconds between two updates: each goes through the kernel's channel, and some front ends keep all of them."""

FINISHED = 12
"""Stages that ended which are shown; of more, the last ones."""

LONGEST = 300
"""Characters of a text that are shown."""


def in_notebook() -> bool:
    """Whether a kernel of IPython runs this, which a notebook's front end reads. Nothing is imported."""
    asked: Any = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return asked is not None and getattr(asked(), "kernel", None) is not None


class NotebookScreen:
    """One output of a cell, updated each time it is shown."""

    def __init__(self) -> None:
        self._id = ""

    def show(self, snapshot: Snapshot) -> None:
        """Update the output."""
        shell: Any = cast("Any", sys.modules["IPython"]).get_ipython()
        data = {"text/html": as_html(snapshot), "text/plain": as_text(snapshot)}
        known, self._id = bool(self._id), self._id or uuid.uuid4().hex
        shell.display_pub.publish(data=data, metadata={}, transient={"display_id": self._id}, update=known)

    def say(self, lines: Sequence[str]) -> None:
        """Do nothing: the snapshots have the lines."""

    def close(self, snapshot: Snapshot) -> None:
        """Leave the output as the run ended."""
        self.show(snapshot)


class Notebook(View):
    """The view of a notebook, updated at most twice a second; the last state stays in the cell."""

    def __init__(self) -> None:
        super().__init__(NotebookScreen(), every=EVERY)


def as_text(snapshot: Snapshot) -> str:
    """The snapshot for a front end without HTML."""
    ended = [texts.ended(each) for each in snapshot.finished[-FINISHED:]]
    return "\n".join(
        [*ended, *(line.plain for line in render_lines(snapshot, 100, 30)), *map(texts.one_line, snapshot.said)]
    )


def as_html(snapshot: Snapshot) -> str:
    """The snapshot as HTML without script or outside reference; whatever a model wrote is escaped.

    >>> as_html(Snapshot(said=["<b>done</b>"])).count("&lt;b&gt;done")
    1
    """
    return _template().render(
        head=_head(snapshot),
        hidden=max(0, len(snapshot.finished) - FINISHED),
        stages=[
            *(_cells(each, over=True) for each in snapshot.finished[-FINISHED:]),
            *(_cells(each, over=False) for each in snapshot.underway),
        ],
        facts=[(label, parts) for label, parts in _facts(snapshot) if parts],
        said=snapshot.said,
    )


@cache
def _template() -> Template:
    folder = FileSystemLoader(Path(__file__).parent)
    made = Environment(loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    made.filters["shown"] = _shown
    return made.get_template("notebook.html.jinja")


def _head(snapshot: Snapshot) -> list[str]:
    if snapshot.over:
        return [f"{snapshot.rollouts:,} rollouts in {texts.clock(snapshot.seconds)}"]
    parts = [f"step {snapshot.step} of {snapshot.steps}: {snapshot.step_name}"] if snapshot.step else []
    parts += [] if snapshot.left is None else [f"about {texts.roughly(snapshot.left)} left"]
    parts += [f"{snapshot.rate:,.1f} rollouts a second"] if snapshot.rate else []
    stop = snapshot.spend.stop_reason if snapshot.spend else ""
    return [*parts, *([f"stopping ({stop})"] if stop else [])]


def _cells(stage: StageView, *, over: bool) -> tuple[object, ...]:
    """A row of the table: name, share done while it is under way, counts, share won, trend, time."""
    return (
        stage.name,
        None if over else round(stage.share, 3),
        f"{stage.done:,}/{stage.total:,}",
        "" if stage.success is None else f"{stage.success:.0%}",
        texts.sparkline(stage.trend),
        texts.clock(stage.seconds) if over or stage.left is None else f"{texts.clock(stage.left)} left",
    )


def _facts(snapshot: Snapshot) -> Iterator[tuple[str, Sequence[str]]]:
    for each in snapshot.works:
        yield "model", texts.working(each)
    yield "scores", texts.scores(snapshot.finished)
    yield "kinds", texts.shares(snapshot.kinds)
    yield "spent", [] if snapshot.spend is None else texts.spent(snapshot.spend)
    yield "errors", texts.errors(snapshot)
    if (winner := snapshot.winner) is not None:
        yield "winner", [winner.question]
        yield "by", [f"[{winner.kind}] {winner.text}" if winner.kind else f"the instructions of {winner.stage}"]


def _shown(text: str) -> str:
    plain = texts.one_line(text)
    return plain if len(plain) <= LONGEST else f"{plain[:LONGEST]} …"
