"""A live view on a terminal: what is under way at its bottom, what ended above."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.control import Control
from rich.live import Live as RichLive
from rich.segment import ControlType
from rich.text import Text

from optimizers.observe.live import texts
from optimizers.observe.live.drawing import render_lines
from optimizers.observe.live.snapshot import Snapshot
from optimizers.observe.live.view import View

SPARE = 1
"""Columns that are left free, as some terminals begin a line when the last column is written."""


class Terminal:
    """A screen at the bottom of a terminal; it goes when the run ends, and what was said stays."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._ascii = not console.encoding.lower().startswith("utf")
        self._live: RichLive | None = None
        self._widths: list[int] = []
        self._columns = 0

    def show(self, snapshot: Snapshot) -> None:
        """Draw once more in the same place."""
        columns, rows = self._console.size
        lines = render_lines(snapshot, max(1, columns - SPARE), max(1, rows - 1), ascii_only=self._ascii)
        if len(lines) < rows - 1:
            lines.insert(0, Text())
        live = self._opened()
        self._clear_wrapped()
        self._widths = [line.cell_len for line in lines]
        live.update(Group(*(_unwrapped(line) for line in lines)), refresh=True)

    def say(self, lines: Sequence[str]) -> None:
        """Print lines above."""
        self._clear_wrapped()
        said = "\n".join(texts.printable(each) for text in lines for each in text.splitlines())
        self._console.print(Text(said.encode(self._console.encoding, "replace").decode(self._console.encoding)))

    def close(self, snapshot: Snapshot) -> None:
        """Leave nothing but the lines."""
        if self._live is not None:
            self._live.stop()
            self._live, self._widths = None, []

    def _opened(self) -> RichLive:
        if self._live is None:
            self._live = RichLive(
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=sys.stdout.isatty(),
                vertical_overflow="crop",
            )
            self._live.start()
        return self._live

    def _clear_wrapped(self) -> None:
        """A terminal that became narrower has wrapped our lines: clear the rows that are more than there were lines."""
        before, self._columns = self._columns, max(1, self._console.width)
        if self._columns >= before:
            return
        more = sum(max(0, -(-width // self._columns) - 1) for width in self._widths)
        self._widths = [min(width, self._columns) for width in self._widths]
        clear: list[Any] = [(ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)]
        self._console.control(Control(*(clear * more)))


def _unwrapped(line: Text) -> Text:
    line.no_wrap, line.overflow = True, "crop"
    return line


class Live(View):
    """The view of a terminal, drawn at most four times a second; on standard error unless a console is given."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(Terminal(console or Console(stderr=True)))
