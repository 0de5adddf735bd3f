"""`costs.json` -> quality against cost on a run's page: a dot and a row for each stage, with the frontier. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimizers.core.cost import Used, find_frontier
from optimizers.core.run_folder import COSTS_FILE
from optimizers.core.safe_reading import read_entry
from optimizers.observe.report.charts import Chart, scatter

PARTS = {
    "supplement_tokens": "supplement tokens",
    "actor_tokens": "actor tokens",
    "steps": "steps",
    "seconds": "seconds",
}
"""The columns of what a run used, by the names of a `Cost`."""


@dataclass(frozen=True, slots=True)
class CostRow:
    """A stage on validation: score, price and net score, the means of what a run used, and whether none beats it."""

    stage: str
    score: float
    price: float
    net: float
    used: Used
    on_frontier: bool


@dataclass(frozen=True, slots=True)
class CostFigure:
    """Quality against cost, empty for a run without prices; `prices` says them in words."""

    rows: list[CostRow]
    chart: Chart
    prices: str
    columns: list[tuple[str, str]]


def cost_rows(content: Mapping[str, Any]) -> CostFigure:
    """The figure of a run's `costs.json`; raises `RunFolderError` for a field that is no number.

    >>> stages = {"none": {"score": 0.9, "price": 0.3, "steps": 6}, "dpo1": {"score": 0.9, "price": 0.15, "steps": 3}}
    >>> figure = cost_rows({"prices": {"steps": 0.05}, "stages": stages})
    >>> [(row.stage, row.on_frontier) for row in figure.rows], figure.prices
    ([('none', False), ('dpo1', True)], '0.05 a step')
    """
    file = Path(COSTS_FILE)

    def number(of: Mapping[str, Any], name: str) -> float:
        return read_entry(of, name, float, 0.0, file=file)

    prices: Mapping[str, Any] = read_entry(content, "prices", dict, {}, file=file)
    stages: Mapping[str, Any] = read_entry(content, "stages", dict, {}, file=file)
    found = {name: read_entry(stages, name, dict, {}, file=file) for name in stages}
    points = {name: (number(of, "price"), number(of, "score")) for name, of in found.items()}
    best = find_frontier(points)
    rows = [
        CostRow(name, score, price, score - price, Used(*(number(found[name], part) for part in PARTS)), name in best)
        for name, (price, score) in points.items()
    ]
    said = ", ".join(
        f"{number(prices, part):g} a {PARTS[part].removesuffix('s')}" for part in PARTS if prices.get(part)
    )
    used = [(part, PARTS[part]) for part in PARTS if any(getattr(row.used, part) for row in rows)]
    return CostFigure(rows, scatter([(row.stage, 1000 * row.price, row.score) for row in rows]), said, used)
