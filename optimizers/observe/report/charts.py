"""Points -> where they stand in a drawing. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 460, 220, 40, 10, 30


@dataclass(frozen=True, slots=True)
class Tick:
    """A number on an axis."""

    at: float
    text: str
    anchor: str = "middle"


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a curve, in the drawing's units, and what it says."""

    x: float
    y: float
    said: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Scores in [0, 1] over a count, ready to be drawn; `joined` points have a line through them."""

    points: Sequence[Point]
    x: Sequence[Tick]
    y: Sequence[Tick]
    joined: bool
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT

    @property
    def line(self) -> str:
        """The points as an SVG polyline takes them."""
        return " ".join(f"{each.x},{each.y}" for each in self.points)

    @property
    def said(self) -> str:
        """The points as a sentence."""
        return "; ".join(each.said for each in self.points)


def curve(points: Sequence[tuple[str, float, float]]) -> Chart:
    """A line through (name, count, score), in their order.

    >>> [(each.x, each.y) for each in curve([("none", 0, 0.0), ("sft", 10, 1.0)]).points]
    [(40.0, 190.0), (448.0, 10.0)]
    """
    return _chart(points, joined=True)


def scatter(points: Sequence[tuple[str, float, float]]) -> Chart:
    """The same points by themselves."""
    return _chart(points, joined=False)


def _chart(points: Sequence[tuple[str, float, float]], *, joined: bool) -> Chart:
    most = max((count for _, count, _ in points), default=0) or 1
    wide, high = WIDTH - LEFT - 12, HEIGHT - TOP - BOTTOM

    def x(count: float) -> float:
        return round(LEFT + wide * count / most, 1)

    def y(score: float) -> float:
        return round(TOP + high * (1 - score), 1)

    return Chart(
        [Point(x(count), y(score), f"{name} {score:.3f} after {count:,.0f}") for name, count, score in points],
        [Tick(x(0), "0"), Tick(x(most / 2), f"{most / 2:,.0f}"), Tick(x(most), f"{most:,.0f}", "end")],
        [Tick(y(score), f"{score:.2f}") for score in (0, 0.25, 0.5, 0.75, 1)],
        joined,
    )
