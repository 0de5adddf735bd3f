"""A snapshot as lines of a terminal of any size. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.text import Text

from optimizers.core.budget import BudgetState
from optimizers.observe.live import texts
from optimizers.observe.live.snapshot import Snapshot, StageView, Winner

LABEL = 8
"""Columns of a row's name, where the terminal is wide enough for any."""

WIDE = 60
"""From here on there is room for rows with names, and for words next to numbers."""

BAR = (6, 24)
"""The columns of a bar, at least and at most."""

HINT = "Ctrl-C ends in good order: what was paid for is saved."


class _Row(NamedTuple):
    """A line; where the terminal is short, the ones of the highest `rank` are left out."""

    rank: int
    text: Text


def render_lines(snapshot: Snapshot, width: int, height: int, *, ascii_only: bool = False) -> list[Text]:
    """The lines of a terminal of `width` columns and `height` rows: never more, and none longer.

    >>> stage = StageView("warm: acting", 30, 40, rate=2.0, left=5.0, judged=30, won=15)
    >>> print(render_lines(Snapshot(underway=[stage]), 40, 10)[0].plain)
    warm: acting  30/40  50% won  0:05
    """
    rows = [
        *_head(snapshot, width),
        *_stages(snapshot.underway, width, ascii_only=ascii_only),
        *(row for each in snapshot.works for row in _listed(2, "model", texts.working(each), width)),
        *_listed(4, "scores", texts.scores(snapshot.finished), width),
        *_listed(5, "kinds", texts.shares(snapshot.kinds), width),
        *_spend(snapshot.spend, width, ascii_only=ascii_only),
        *_listed(3, "errors", texts.errors(snapshot), width, style="red"),
        *_winner(snapshot.winner),
        *([] if snapshot.over else _ending(snapshot.spend, width)),
    ]
    for rank in sorted({row.rank for row in rows}, reverse=True):
        if len(rows) <= height:
            break
        rows = [row for row in rows if row.rank != rank] if rank else rows[:height]
    return [_cut(row.text, width, ascii_only=ascii_only) for row in rows[: max(0, height)]]


def _head(snapshot: Snapshot, width: int) -> list[_Row]:
    """The step of the plan, the time left, the pace."""
    wide = width >= WIDE
    parts: list[str] = []
    if snapshot.over:
        parts.append(f"{snapshot.rollouts:,} rollouts in {texts.clock(snapshot.seconds)}")
    elif snapshot.step:
        step = f"step {snapshot.step} of {snapshot.steps}:" if wide else f"{snapshot.step}/{snapshot.steps}"
        parts.append(f"{step} {texts.one_line(snapshot.step_name)}")
    if snapshot.left is not None:
        parts.append(f"about {texts.roughly(snapshot.left)} left" if wide else f"~{texts.roughly(snapshot.left)}")
    if snapshot.rate:
        rate = f"{snapshot.rate:,.0f}" if snapshot.rate >= 10 else f"{snapshot.rate:.1f}"
        parts.append(f"{rate} rollouts/s" if wide else f"{rate}/s")
    return [_Row(1, Text(_joined(parts, width, counted=False), style="bold"))] if parts else []


def _stages(stages: Sequence[StageView], width: int, *, ascii_only: bool) -> list[_Row]:
    """A line a stage in columns; those that find no room are left out, the least telling first."""
    if not stages:
        return []
    names = [texts.one_line(each.name) for each in stages]
    columns: dict[str, list[Text]] = {
        "name": [Text(name if width >= 30 else name.rpartition(": ")[2]) for name in names],
        "bar": [],
        "count": [Text(f"{each.done:,}/{each.total:,}") for each in stages],
        "won": [Text("" if each.success is None else f"{each.success:.0%} won", style="green") for each in stages],
        "trend": [Text(texts.sparkline(each.trend, ascii_only=ascii_only), style="cyan") for each in stages],
        "left": [Text(_left(each, width), style="dim") for each in stages],
    }
    used = {name: max(text.cell_len for text in cells) for name, cells in columns.items() if name != "bar"}
    shown = ["name"]
    for name in ("left", "count", "won", "trend"):
        if used[name] and sum(used[each] + 2 for each in shown) + used[name] <= width:
            shown.append(name)
    used["name"] = min(used["name"], width - sum(used[each] + 2 for each in shown[1:]))
    room = width - sum(used[each] + 2 for each in shown)
    if room >= BAR[0]:
        used["bar"] = min(room, BAR[1])
        columns["bar"] = [_bar(each.share, used["bar"], ascii_only=ascii_only) for each in stages]
        shown.append("bar")
    order = [name for name in columns if name in shown and used[name] > 0]
    return [_Row(0, _in_columns([(columns[name][n], used[name], name) for name in order])) for n in range(len(stages))]


def _in_columns(cells: Sequence[tuple[Text, int, str]]) -> Text:
    """Cells side by side, numbers at the right of their columns."""
    line = Text()
    for text, columns, name in cells:
        cell = text.copy()
        cell.truncate(columns, overflow="crop")
        gap = " " * (columns - cell.cell_len)
        line.append("  " if line else "")
        line = line.append(gap).append_text(cell) if name in ("count", "left") else line.append_text(cell).append(gap)
    line.rstrip()
    return line


def _left(stage: StageView, width: int) -> str:
    if stage.left is None:
        return ""
    return f"{texts.clock(stage.left)} left" if width >= WIDE else texts.clock(stage.left)


def _bar(share: float, width: int, *, ascii_only: bool) -> Text:
    full, empty = ("#", "-") if ascii_only else ("━", "─")
    done = round(share * width)
    return Text().append(full * done, style="cyan").append(empty * (width - done), style="dim")


def _listed(rank: int, label: str, parts: Sequence[str], width: int, style: str = "") -> list[_Row]:
    """As many parts as there is room for, behind the row's name."""
    if not parts:
        return []
    room = width - LABEL
    return [_Row(rank, _labelled(label, Text(_joined(parts, room, ", "), style=style)))]


def _joined(parts: Sequence[str], room: int, between: str = "  ", *, counted: bool = True) -> str:
    """The parts that fit, and how many do not if that is `counted`."""
    for count in range(len(parts), 0, -1):
        more = f"{between}+{len(parts) - count}" if counted and count < len(parts) else ""
        if cell_len(line := between.join(parts[:count]) + more) <= room:
            return line
    return parts[0] if parts else ""


def _labelled(label: str, text: Text) -> Text:
    return Text().append(f"{label:<{LABEL}}", style="dim").append_text(text)


def _spend(spend: BudgetState | None, width: int, *, ascii_only: bool) -> list[_Row]:
    """What is spent, and a bar of the limit that is nearest."""
    if spend is None:
        return []
    line = _labelled("spent", Text(_joined(texts.spent(spend), width - LABEL, ", ")))
    share, room = texts.most_spent(spend), width - line.cell_len - 2
    if share is not None and room >= BAR[0]:
        line.append("  ").append_text(_bar(share, min(room, BAR[1]), ascii_only=ascii_only))
    return [_Row(2, line)]


def _winner(winner: Winner | None) -> list[_Row]:
    """The question that was failed before, and what helped; on two lines."""
    if winner is None:
        return []
    stage = texts.one_line(winner.stage)
    text = f"[{winner.kind}] {winner.text}" if winner.kind else f"by the instructions of {stage}"
    question = _labelled("winner", Text(texts.one_line(winner.question)))
    return [_Row(6, question), _Row(6, _labelled("by", Text(texts.one_line(text), style="green")))]


def _ending(spend: BudgetState | None, width: int) -> list[_Row]:
    """What Ctrl-C does, or what it did."""
    if spend is None:
        return []
    if spend.stop_reason:
        said = f"{texts.one_line(spend.stop_reason)}: finishing and saving; again stops at once."
        return [_Row(0, Text(said, style="bold yellow"))]
    return [_Row(7, Text(HINT, style="dim"))] if width > len(HINT) else []


def _cut(text: Text, width: int, *, ascii_only: bool) -> Text:
    """A line within the width, its end marked where it is cut; in ASCII where the terminal has nothing else."""
    if ascii_only and not text.plain.isascii():
        text = _in_ascii(text)
    if text.cell_len > width and ascii_only and width > 2:
        text.truncate(width - 2, overflow="crop")
        return text.append("..")
    text.truncate(max(0, width), overflow="crop" if ascii_only else "ellipsis")
    return text


def _in_ascii(text: Text) -> Text:
    plain = Text(style=text.style)
    for part in text.divide(sorted({0, *(s.start for s in text.spans), *(s.end for s in text.spans)})):
        style = part.spans[0].style if part.spans else ""
        plain.append(part.plain.encode("ascii", "replace").decode(), style=style)
    return plain
