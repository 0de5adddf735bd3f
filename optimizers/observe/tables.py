"""How every table on a terminal looks."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.table import Table


def plain_table(title: str | None = None, *, lines: bool = False) -> Table:
    """An empty table: a rule under the head, no frame, and `lines` between rows where they are long.

    >>> plain_table("Stages").title
    'Stages'
    """
    return Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_lines=lines)
