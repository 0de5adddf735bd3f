"""The time left that a view shows is never off by more than 3x once a tenth is done: phases of uneven speed, played."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from optimizers.core.budget import BudgetState
from optimizers.core.usage import Usage
from optimizers.observe.live.progress_state import ProgressState
from sgt_modules.local.work_progress import Activity, Pace, Work

SLACK = 3.0
"""Seconds by which a time left may be off in any case: nobody minds."""


class Hands:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Phase:
    """A stage's events: the second at which units come, and how many; what is known of a batch and of loading."""

    name: str
    events: Sequence[tuple[float, int]]
    coming: Callable[[float], float] = lambda now: 0.0
    loading: Callable[[float], float] = lambda now: 0.0
    total: int = field(init=False)

    def __post_init__(self) -> None:
        self.total = sum(units for _, units in self.events)


def parts(sizes: Sequence[int], seconds: float, *, after: float = 0.0) -> Phase:
    """Parts of a stage that come as a whole, each unit of which takes so long; a model loads before the first."""
    events: list[tuple[float, int]] = []
    now = after
    for size in sizes:
        now += size * seconds
        events.append((now, size))

    def coming(now: float) -> float:
        begun = max([after, *(at for at, _ in events if at <= now)])
        return max(0.0, now - begun) / seconds if now < events[-1][0] else 0.0

    return Phase("parts", events, coming, lambda now: min(now, after))


def steady(first: float, last: float, units: int) -> list[tuple[float, int]]:
    return [(first + (last - first) * (n + 1) / units, 1) for n in range(units)]


def random_pauses(seed: int) -> list[tuple[float, int]]:
    """Units from eight threads of a server whose calls take between half a second and eight."""
    rng, free = random.Random(seed), [0.0] * 8
    events: list[tuple[float, int]] = []
    for _ in range(300):
        thread = min(range(8), key=free.__getitem__)
        free[thread] += rng.choice([0.5, 1.0, 1.0, 2.0, 8.0])
        events.append((free[thread], 1))
    return sorted(events)


PHASES = [
    parts([64, 128, 256, 512], 0.5, after=25.0),
    parts([64, 80], 1.0, after=5.0),
    Phase("half of it was known", [(0.2, 300), *steady(1.0, 301.0, 300)]),
    Phase("half of it was known, which took a while", [*steady(0.0, 4.0, 600), *steady(4.0, 604.0, 600)]),
    Phase("known, then batches", [(0.1, 200), *((40.0 * n, 32) for n in range(1, 8))]),
    Phase("a server that wakes", steady(60.0, 160.0, 1000)),
    Phase("batches of 32", [(40.0 * n, 32) for n in range(1, 21)]),
    Phase("the second half is slower", [*steady(0.0, 100.0, 500), *steady(100.0, 300.0, 500)]),
    Phase("the second half is quicker", [*steady(0.0, 200.0, 500), *steady(200.0, 300.0, 500)]),
    Phase("few units", steady(0.0, 100.0, 12)),
    Phase("a pause in the middle", [*steady(0.0, 100.0, 500), *steady(130.0, 230.0, 500)]),
    *(Phase(f"threads, seed {seed}", random_pauses(seed)) for seed in range(3)),
]


def shown_over(phase: Phase, every: float = 0.5) -> list[tuple[float, int, float | None]]:
    """At each moment until the phase's end: the seconds that are left in truth, units done, and seconds shown."""
    hands = Hands()
    works: list[Activity] = []
    state = ProgressState(hands, works=lambda: works, idle=lambda: phase.loading(hands.now))
    stage = state.begin("warm: sampling", phase.total, kind="sampling")
    end = max(at for at, _ in phase.events)
    waiting, seen = list(phase.events), list[tuple[float, int, float | None]]()
    moment = every
    while moment < end:
        while waiting and waiting[0][0] <= moment:
            hands.now, units = waiting.pop(0)
            works.clear()
            for _ in range(units):
                state.advance(stage, None)
        hands.now = moment
        coming = phase.coming(moment)
        works[:] = [Activity("a model", "writing", 64, coming, 0.5, 100.0, 1.0)] if coming else []
        (view,) = state.snapshot().underway
        seen.append((end - moment, view.done + int(coming), view.left))
        moment += every
    return seen


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_no_time_left_is_off_by_more_than_three_times_once_a_tenth_is_done(phase: Phase) -> None:
    seen = shown_over(phase)
    told = [(left, shown) for left, _, shown in seen if shown is not None and left <= 0.9 * seen[0][0]]
    off = [(left, shown) for left, shown in told if not left / 3 - SLACK <= shown <= left * 3 + SLACK]
    assert not off, off[:5]
    assert len(told) > 0.4 * len(seen)  # it is not silence that makes it right


@dataclass
class Machine:
    """A model that is played: seconds a prompt token, a step, and a row of a step."""

    a_token: float = 0.003
    a_step: float = 0.05
    a_row: float = 0.008

    def run(self, batches: Sequence[Sequence[int]], limit: int, prompt: int = 400) -> list[tuple[float, Activity]]:
        """Batches of rows whose replies have these lengths: seconds left in truth, and what is shown, at each step."""
        hands, rows = Hands(), sum(map(len, batches))
        work = Work("a model", rows, rows * prompt, rows * limit, pace=Pace(), clock=hands)
        seen: list[tuple[float, Activity]] = []
        for lengths in batches:
            with work.track_batch(len(lengths), len(lengths) * prompt, len(lengths) * limit):
                for _ in range(4):
                    work.begin_pass(len(lengths), prompt // 4)
                    hands.now += len(lengths) * prompt / 4 * self.a_token
                    work.end_pass()
                    seen.append((hands.now, work.view()))
                for step in range(max(lengths)):
                    going = sum(length > step for length in lengths)
                    work.begin_pass(going, 1)
                    hands.now += self.a_step + self.a_row * going
                    work.end_pass()
                    seen.append((hands.now, work.view()))
        return [(hands.now - at, each) for at, each in seen]


def lengths(seed: int, mean: float, limit: int, rows: int = 32) -> list[list[int]]:
    """Three batches of replies, most of them short and some as long as they may be."""
    rng = random.Random(seed)
    return [[min(limit, 5 + int(rng.expovariate(1 / mean))) for _ in range(rows)] for _ in range(3)]


@pytest.mark.parametrize("mean", [10, 40, 100, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_within_a_batch_the_time_left_is_right_or_said_to_be_the_most(mean: float, seed: int) -> None:
    seen = Machine().run(lengths(seed, mean, 200), limit=200)
    whole = seen[0][0]
    for left, shown in seen:
        if shown.seconds_left is None or left > 0.9 * whole:
            continue
        slack = max(SLACK, whole / 20)  # when the last of 32 replies will end, nobody knows
        assert shown.seconds_left >= left / 3 - slack
        assert shown.is_upper_bound or shown.seconds_left <= left * 3 + slack
    told = [shown for _, shown in seen if shown.seconds_left is not None]
    assert len(told) > 0.9 * (len(seen) - 4)
    assert told[-1].seconds_left is not None
    assert told[-1].seconds_left < whole / 20


def test_a_stage_that_was_known_altogether_is_no_measure_of_the_next() -> None:
    hands = Hands()
    calls = [5]
    state = ProgressState(hands, works=list, idle=lambda: 0.0)
    state.plan(None, lambda: BudgetState(Usage(calls=calls[0])))
    known, paid = state.begin("none: val", 2), state.begin("none: train", 2)
    state.advance(known, None)
    assert not state.end(known).fresh
    calls[0] += 1
    assert state.end(paid).fresh
