"""When a run will be done: its plan, and what its stages took so far. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from optimizers.core.events import Plan, Step
from optimizers.core.usage import Work
from optimizers.observe.live.snapshot import StageView

FEWEST = 5.0
"""Units by which a pace differs at least from the one before, to be another."""

ENOUGH = 20.0
"""Units that show a quicker pace, however short the time."""

SOON = 2.0
"""Seconds before which no pace is known."""

LONGEST_PAUSES = 1.5
"""Times the longest pause so far that the next units are waited for, before they are late."""

_ORDER: tuple[Work, ...] = ("training", "sampling", "acting")
"""What a step does, in this order."""


def step_of(name: str) -> str:
    """A step's or a stage's name as one word: SPT's step `round 1` is the stage `round1`."""
    return name.replace(" ", "")


def pace_of(points: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """Units a second as they come now, and the seconds since one was due; from (second, units done) at moments.

    The first moment is the beginning and the last one now. A pace is left behind once another one, three times slower
    or faster, has lasted as long or shown enough: what a folder knew comes at once, and a server may need a minute to
    wake. None while that is open.

    >>> pace_of([(0.0, 0), (1.0, 2), (10.0, 20), (12.0, 20)])
    (2.0, 2.0)
    >>> pace_of([(0.0, 0), (1.0, 900), (31.0, 930), (31.0, 930)]), pace_of([(0.0, 0), (10.0, 20), (12.0, 20)])
    ((1.0, 0.0), None)
    """
    (start, first), (now, done) = points[0], points[-1]
    woke = points[1][0] if len(points) > 2 else start
    if now - start < SOON or done <= first or (woke - start >= SOON and now - woke < 2 * SOON):
        return None
    longest = max((b - a for (a, _), (b, _) in pairwise(points[:-1])), default=0.0)
    last, units = points[-2]
    end = (last, units) if units == done and now - last <= LONGEST_PAUSES * longest else (now, done)
    furthest, gap, earlier, found = 1.0, 0.0, start, (done - first) / max(end[0] - start, 1e-3)
    kept: float | None = found
    for at, units in points[1:-1]:
        gap, earlier = max(gap, at - earlier), at
        since, after = end[0] - at, done - units
        if since <= 0:
            break
        expected = (units - first) / max(at - start, 1.0) * since
        slower = expected >= FEWEST and after * 3 < expected and since > LONGEST_PAUSES * gap
        faster = after >= ENOUGH and after > 3 * expected and since >= SOON
        contrast = max(expected, 1e-9) / max(after, 1e-9)
        if (slower or faster) and (contrast := max(contrast, 1 / contrast)) > furthest:
            lasts = faster or (since >= at - start and after > 0)
            furthest, kept = contrast, after / since if lasts else None
    return (kept, now - end[0]) if kept else None


def position(plan: Plan, stages: Iterable[StageView]) -> int:
    """The place of the last step that any stage belongs to; -1 where none belongs to the plan."""
    places = {step_of(step.name): n for n, step in enumerate(plan.steps)}
    return max((places.get(step_of(each.stage.name), -1) for each in stages), default=-1)


def seconds_left(plan: Plan, finished: Sequence[StageView], underway: Sequence[StageView]) -> float | None:
    """The seconds to the plan's end at the pace of the last stage of each work; None where one's is not known yet.

    >>> from optimizers.core.stages import Stage
    >>> plan = Plan([Step("none", runs=10), Step("warm", runs=40)])
    >>> seconds_left(plan, [StageView("none: val", 10, 10, seconds=5.0, rate=2.0, stage=Stage("none"))], [])
    20.0
    """
    stages = [*finished, *underway]
    now = position(plan, stages)
    if now < 0:
        return None
    paces = _paces(plan, stages)
    step, own = plan.steps[now], [each for each in stages if step_of(each.stage.name) == step_of(plan.steps[now].name)]
    ahead = [_rest(step, own), *map(_amounts, plan.steps[now + 1 :])]
    if any(amount and work not in paces for each in ahead for work, amount in each.items()):
        return None
    later = sum(amount * paces.get(work, 0.0) for each in ahead for work, amount in each.items())
    if _acts_only(step):
        return later
    if any(each.left is None and each.done < each.total for each in underway):
        return None
    return later + max((each.left or 0.0 for each in underway), default=0.0)


def _paces(plan: Plan, stages: Sequence[StageView]) -> dict[Work, float]:
    """Seconds a unit by work; for training, a planned row."""
    rows = {step_of(step.name): step.rows for step in plan.steps}
    found: dict[Work, float] = {}
    for each in stages:
        if each.kind == "training":
            planned = rows.get(step_of(each.stage.name), 0.0)
            if each.done and planned:
                found[each.kind] = each.seconds * each.total / each.done / planned
        elif each.rate and each.fresh:
            found[each.kind] = 1 / each.rate
    return found


def _amounts(step: Step) -> dict[Work, float]:
    return {"training": step.rows, "sampling": step.samples, "acting": step.runs}


def _acts_only(step: Step) -> bool:
    """Whether a step's stages all run the program, so that what is left of it is known by what they did."""
    return not step.samples and not step.rows


def _rest(step: Step, own: Sequence[StageView]) -> Mapping[Work, float]:
    """What of a step none of its stages has begun; of one that only runs the program, what they have not done."""
    if _acts_only(step):
        return {"acting": max(0.0, step.runs - sum(each.done for each in own))}
    begun = max((_ORDER.index(each.kind) for each in own), default=-1)
    return {work: amount for work, amount in _amounts(step).items() if _ORDER.index(work) > begun}
