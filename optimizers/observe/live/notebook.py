"""A view in a notebook: one output that is updated, as HTML, and as text where there is no HTML."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any, cast

from optimizers.observe.live import texts
from optimizers.observe.live.drawing import render_lines
from optimizers.observe.live.snapshot import Snapshot, StageView
from optimizers.observe.live.view import View

EVERY = 0.5
"""Seconds between two updates: each goes through the kernel's channel, and some front ends keep all of them."""

FINISHED = 12
"""Stages that ended which are shown; of more, the last ones."""

_TABLE = "border-collapse:collapse;margin:.3em 0;color:inherit;font-variant-numeric:tabular-nums"
_CELL = "padding:.1em .8em .1em 0;text-align:left;white-space:nowrap"
_TEXT = "padding:.1em .8em .1em 0;text-align:left;white-space:normal;overflow-wrap:anywhere"
_DIM = "opacity:.65"


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
    return f'<div style="max-width:60em">{"".join(_parts(snapshot))}</div>'


def _parts(snapshot: Snapshot) -> Iterator[str]:
    yield from _head(snapshot)
    hidden = max(0, len(snapshot.finished) - FINISHED)
    rows = [_stage(each, over=True) for each in snapshot.finished[-FINISHED:]]
    rows += [_stage(each, over=False) for each in snapshot.underway]
    if hidden:
        yield f'<div style="{_DIM}">{hidden} stages before</div>'
    if rows:
        head = "".join(f'<th style="{_CELL};{_DIM}">{name}</th>' for name in _COLUMNS)
        yield f'<table style="{_TABLE}"><tr>{head}</tr>{"".join(rows)}</table>'
    facts = "".join(_fact(label, text) for label, text in _facts(snapshot) if text)
    if facts:
        yield f'<table style="{_TABLE}">{facts}</table>'
    for line in snapshot.said:
        yield f'<div style="{_DIM}">{_shown(line)}</div>'


def _head(snapshot: Snapshot) -> Iterator[str]:
    parts = [f"step {snapshot.step} of {snapshot.steps}: {_shown(snapshot.step_name)}"] if snapshot.step else []
    parts += [] if snapshot.left is None else [f"about {texts.roughly(snapshot.left)} left"]
    parts += [f"{snapshot.rate:,.1f} rollouts a second"] if snapshot.rate else []
    if snapshot.over:
        parts = [f"{snapshot.rollouts:,} rollouts in {texts.clock(snapshot.seconds)}"]
    if snapshot.spend is not None and snapshot.spend.stop_reason and not snapshot.over:
        parts.append(f"stopping ({_shown(snapshot.spend.stop_reason)})")
    if parts:
        yield f"<div><b>{' · '.join(parts)}</b></div>"


_COLUMNS = ("stage", "", "done", "won", "trend", "time")


def _stage(stage: StageView, *, over: bool) -> str:
    share = min(1.0, stage.done / stage.total) if stage.total > 0 else 0.0
    time = texts.clock(stage.seconds) if over or stage.left is None else f"{texts.clock(stage.left)} left"
    won = "" if stage.success is None else f"{stage.success:.0%}"
    bar = "" if over else f'<progress value="{share:.3f}" max="1" style="width:10em"></progress>'
    cells = (
        _shown(stage.name),
        bar,
        f"{stage.done:,}/{stage.total:,}",
        won,
        f"<code>{texts.sparkline(stage.trend)}</code>",
        time,
    )
    row = "".join(f'<td style="{_CELL}">{cell}</td>' for cell in cells)
    return f"<tr>{row}</tr>"


def _facts(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    for each in snapshot.works:
        yield "model", ", ".join(map(_shown, texts.working(each)))
    yield "scores", ", ".join(map(_shown, texts.scores(snapshot.finished)))
    yield "kinds", ", ".join(map(_shown, texts.shares(snapshot.kinds)))
    yield "spent", "" if snapshot.spend is None else ", ".join(texts.spent(snapshot.spend))
    yield "errors", ", ".join(map(_shown, texts.errors(snapshot)))
    if (winner := snapshot.winner) is not None:
        yield "winner", _shown(winner.question)
        yield "by", _shown(f"[{winner.kind}] {winner.text}" if winner.kind else f"the instructions of {winner.stage}")


def _fact(label: str, text: str) -> str:
    return f'<tr><td style="{_CELL};{_DIM};vertical-align:top">{label}</td><td style="{_TEXT}">{text}</td></tr>'


def _shown(text: str, most: int = 300) -> str:
    """A text as HTML, shortened."""
    plain = texts.one_line(text)
    return escape(plain if len(plain) <= most else f"{plain[:most]} …")
