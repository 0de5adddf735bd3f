"""A comparison as one HTML page that needs nothing else: the table, and each score with its interval as a bar."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from optimizers.comparison.cells import COLUMNS, LEGEND
from optimizers.comparison.standing import NONE, Row

if TYPE_CHECKING:
    from optimizers.comparison.result import Comparison

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #1b1f24; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { padding: .25rem .45rem; text-align: right; border-bottom: 1px solid #d8dee4; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.table { overflow-x: auto; }
svg { display: block; width: 100%; height: auto; margin: 1rem 0 2rem; }
.legend { color: #57606a; max-width: 60rem; }
@media (prefers-color-scheme: dark) {
  body { background: #16191d; color: #e6e9ec; }
  th, td { border-color: #353b42; }
  .legend { color: #9aa4ae; }
}
"""
_LINE, _LEFT, _WIDE = 26, 260, 900


def page(comparison: Comparison) -> str:
    """The page's text. Every name and reason is escaped; no script, no link.

    >>> from optimizers.comparison.result import Comparison
    >>> "<script>" in page(Comparison("<script>", "no limit", (0,), ()))
    False
    """
    title = escape(comparison.title)
    head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
    body = "\n".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>" for cells in comparison.cells)
    left_out = "".join(f"<li><b>{escape(row.name)}</b>: {escape(row.skipped)}</li>" for row in comparison.skipped)
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>{_STYLE}</style></head>
<body>
<h1>{escape(comparison.task)}</h1>
<p>{escape(comparison.budget)} a contender, seeds {", ".join(map(str, comparison.seeds))}</p>
{_bars([row for row in comparison.rows if not row.skipped])}
<div class="table"><table><thead><tr>{head}</tr></thead>
<tbody>{body}</tbody></table></div>
<p class="legend">{escape(LEGEND)}</p>
{f"<h2>Skipped</h2><ul>{left_out}</ul>" if left_out else ""}
</body>
</html>
"""


def _bars(rows: list[Row]) -> str:
    """A line a contender: its score as a dot on its interval, and no change's as a line through all."""
    height = _LINE * (len(rows) + 1)
    base = next((row.test for row in rows if row.name == NONE), None)
    marks = [] if base is None else [f'<line x1="{_x(base)}" x2="{_x(base)}" y1="0" y2="{height}" {_FAINT}/>']
    for number, row in enumerate(rows):
        y, (low, high) = _LINE * (number + 0.6), row.interval or (0.0, 1.0)
        marks += [
            f'<text x="{_LEFT - 12}" y="{y + 4}" text-anchor="end" fill="currentColor">{escape(row.name)}</text>',
            f'<line x1="{_x(low)}" x2="{_x(high)}" y1="{y}" y2="{y}" stroke="#4c8dd6" stroke-width="4"/>',
            f'<circle cx="{_x(row.test or 0.0)}" cy="{y}" r="5" fill="#1f5fa8"/>',
            f'<text x="{_x(high) + 8}" y="{y + 4}" fill="currentColor">{row.test or 0.0:.3f}</text>',
        ]
    return (
        f'<svg viewBox="0 0 {_LEFT + _WIDE} {height}" font-size="13" role="img" '
        f'aria-label="Score on test with its 95 % interval">{"".join(marks)}</svg>'
    )


_FAINT = 'stroke="currentColor" stroke-opacity="0.35" stroke-dasharray="4 4"'


def _x(score: float) -> float:
    return round(_LEFT + score * (_WIDE - 60), 1)
