"""The live view: what it counts, how often it draws, that it fits any terminal, and what notebooks and pipes get."""

from __future__ import annotations

import io
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbclient import NotebookClient
from places import PATHS
from rich.console import Console
from scripted import query, rollout

from optimizers.core.budget import BudgetState, Limits
from optimizers.core.events import Event, EventBus, Note, Observer, Plan, RunEnded, RunStarted, Step
from optimizers.core.records import Rollout
from optimizers.core.stages import NO_STAGE, Stage
from optimizers.core.usage import Usage, Work
from optimizers.observe.live.drawing import render_lines
from optimizers.observe.live.eta import seconds_left
from optimizers.observe.live.lines import Lines
from optimizers.observe.live.notebook import Notebook, as_html, as_text, in_notebook
from optimizers.observe.live.progress_state import ProgressState
from optimizers.observe.live.snapshot import Snapshot, StageView, Winner
from optimizers.observe.live.terminal import Live, Terminal
from optimizers.observe.live.view import View
from optimizers.observe.progress import build_views
from sgt_modules.errors import SetupError


class Hands:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Seen:
    """A screen that remembers what it was shown."""

    def __init__(self) -> None:
        self.frames: list[Snapshot] = []
        self.said: list[str] = []
        self.last: list[Snapshot] = []

    def show(self, snapshot: Snapshot) -> None:
        self.frames.append(snapshot)

    def say(self, lines: Sequence[str]) -> None:
        self.said += lines

    def close(self, snapshot: Snapshot) -> None:
        self.last.append(snapshot)


def silent(score: float | None, number: int) -> Rollout:
    """A run without a supplement."""
    return rollout(score, of=query(f"q{number}", number), kind="none", text="")


@contextmanager
def run_of(bus: EventBus, plan: Plan, spend: Callable[[], BudgetState]) -> Iterator[None]:
    """A compile's begin and end around works."""
    bus.emit(RunStarted(plan=plan, spend=spend))
    yield
    bus.emit(RunEnded("finished"))


# What is counted


def test_a_stage_knows_its_rates_and_its_time_left() -> None:
    """Ten rollouts a second apart: 6 won of 8 judged; 30 are left at one a second."""
    hands = Hands()
    state = ProgressState(hands)
    stage = state.begin("warm: acting", 40)
    for score in (1.0, 1.0, 0.0, None, 1.0, 0.0, 1.0, None, 1.0, 1.0):
        hands.now += 1.0
        state.advance(stage, rollout(score))
    (view,) = state.snapshot().underway
    assert (view.done, view.judged, view.won, view.success) == (10, 8, 6, 0.75)
    assert (view.rate, view.left, view.seconds) == (1.0, 30.0, 10.0)
    assert view.mean == 0.75
    assert state.snapshot().rate == 1.0


def test_the_pace_is_that_of_late_so_what_a_folder_knew_already_does_not_count_for_long() -> None:
    """900 rollouts at once from the store, then one a second: after 31 of those none of the old is left in the pace."""
    hands = Hands()
    state = ProgressState(hands)
    stage = state.begin("round 1: acting", 1000)
    for _ in range(900):
        state.advance(stage, rollout(1.0))
    for _ in range(40):
        hands.now += 1.0
        state.advance(stage, rollout(1.0))
    (view,) = state.snapshot().underway
    assert (view.rate, view.left) == (1.0, 60.0)


def test_the_trend_is_the_share_won_of_each_window_of_ten() -> None:
    state = ProgressState(Hands())
    stage = state.begin("warm: acting", 100)
    for won in (2, 5, 9):
        for n in range(10):
            state.advance(stage, rollout(1.0 if n < won else 0.0))
    state.advance(stage, rollout(1.0))
    assert state.snapshot().underway[0].trend == (0.2, 0.5, 0.9)


def test_kinds_are_shares_of_the_last_stage_that_tried_any_and_errors_are_counted_by_type() -> None:
    state = ProgressState(Hands())
    first, second = state.begin("warm: acting", 4), state.begin("none: val", 1)
    for kind in ("cot", "cot", "pairs", "cot"):
        state.advance(first, rollout(1.0, kind=kind))
    state.advance(second, silent(0.0, 1))
    failed = rollout(None)
    for error in ("RateLimitError: slow down", "RateLimitError: again", "TimeoutError: late", "what is this"):
        state.advance(second, replace(failed, supplement=silent(None, 0).supplement, error=error))
    snapshot = state.snapshot()
    assert (snapshot.kinds, snapshot.kinds_of) == ({"cot": 0.75, "pairs": 0.25}, "warm: acting")
    assert snapshot.errors == {"RateLimitError": 2, "TimeoutError": 1, "what": 1}
    assert snapshot.rollouts == 9


def test_the_last_winner_is_a_supplement_for_a_question_that_failed_without_one() -> None:
    state = ProgressState(Hands())
    bare, acting = state.begin("none: train", 2), state.begin("warm: acting", 3)
    for number, score in enumerate((0.0, 1.0, None)):
        state.advance(bare, silent(score, number))
    state.advance(acting, rollout(1.0, of=query("q1", 1), text="needless"))
    state.advance(acting, rollout(1.0, of=query("q2", 2), text="nobody knows whether it failed"))
    assert state.snapshot().winner is None
    question = replace(query("q0", 0), prompt="Help the model.\nquestion: 2+2?")
    state.advance(acting, rollout(1.0, of=question, kind="pairs", text="right: 4"))
    state.advance(acting, rollout(0.0, of=question, text="worse"))
    assert state.snapshot().winner == Winner("question: 2+2?", "pairs", "right: 4", "warm: acting")


def test_in_spt_the_winner_is_a_question_that_other_instructions_answer() -> None:
    state = ProgressState(Hands())
    state.advance(state.begin("student: val", 1), silent(0.0, 7))
    state.advance(state.begin("round1/candidate2: train", 1), silent(1.0, 7))
    winner = state.snapshot().winner
    assert winner is not None
    assert (winner.kind, winner.text, winner.stage) == ("", "", "round1/candidate2: train")


def test_success_is_what_the_recipe_calls_one() -> None:
    state = ProgressState(Hands())
    state.plan(Plan(threshold=0.5), None)
    stage = state.begin("warm: acting", 2)
    state.advance(stage, rollout(0.5))
    state.advance(stage, rollout(0.4))
    assert state.snapshot().underway[0].success == 0.5


# When it will be done

PLAN = Plan(
    [
        Step("none", runs=20),
        Step("warm", runs=100, samples=200),
        Step("sft", runs=10, samples=10, rows=50),
        Step("round 1", runs=40, samples=80),
        Step("dpo1", runs=10, samples=10, rows=100),
    ]
)


SFT_VAL = Stage("sft", split="val")


def ended(name: str, done: int, seconds: float, stage: Stage = NO_STAGE, kind: Work = "acting") -> StageView:
    return StageView(name, done, done, seconds, rate=done / seconds, stage=stage, kind=kind)


NONE = ended("none: val", 20, 10.0, Stage("none", split="val"))
SAMPLED = ended("warm: sampling", 200, 20.0, Stage("warm"), "sampling")


def test_nobody_can_say_when_work_ends_whose_total_is_only_a_limit() -> None:
    """A few-shot contender needs 16 of the 380 calls that it may make; an hour left would be wrong."""
    hands = Hands()
    state = ProgressState(hands)
    stage = state.begin("labeled_fewshot: calls to compile", 380, is_limit=True)
    for done in range(1, 17):
        hands.now += 1.0
        state.move(stage, done, 380)
    assert (stage.view().rate, stage.view().left) == (1.0, None)


def test_the_time_left_is_not_told_before_each_kind_of_work_was_seen() -> None:
    acting = StageView("warm: acting", 10, 90, 5.0, rate=2.0, left=40.0, stage=Stage("warm"))
    assert seconds_left(PLAN, [NONE, SAMPLED], [acting]) is None


def test_the_time_left_is_what_the_plan_still_holds_at_the_pace_of_late() -> None:
    """SFT's training is half done after 5 s, so 50 rows take 10 s and 100 take 20 s. A sample takes 0.1 s, a run 0.5 s.

    Left: 5 s of training; in the step 10 samples and 10 runs: 6 s; round 1: 8 + 20 s; dpo1: 20 + 1 + 5 s.
    """
    seen = [NONE, SAMPLED, ended("warm: acting", 100, 50.0, Stage("warm"))]
    training = StageView("sft: training", 6, 12, 5.0, rate=1.2, left=5.0, stage=Stage("sft"), kind="training")
    assert seconds_left(PLAN, seen, [training]) == pytest.approx(5 + 6 + 28 + 26)


def test_a_step_that_only_runs_the_program_has_as_much_left_as_its_stages_have_not_run() -> None:
    plan = Plan([Step("student", runs=20), Step("round 1", runs=100)])
    seen = [
        ended("student: val", 20, 10.0, Stage("student", split="val")),
        ended("round1: train", 30, 15.0, Stage("round1", split="train")),
    ]
    impact = StageView("round1/impact0: train", 10, 20, 5.0, 2.0, 5.0, stage=Stage("round1", "impact0", "train"))
    assert seconds_left(plan, seen, [impact]) == 30.0


def test_stages_of_no_plan_have_no_end_in_sight() -> None:
    assert seconds_left(PLAN, [ended("test: other", 3, 1.0)], []) is None


# How often it draws


def test_a_flood_of_events_is_drawn_at_most_four_times_a_second() -> None:
    """10,000 rollouts over 10 seconds, and somebody who would draw after each."""
    hands, seen = Hands(), Seen()
    view = View(seen, clock=hands)
    with EventBus([view]).work("warm: acting", 10_000) as stage:
        for n in range(10_000):
            hands.now = n / 1000
            stage.advance(rollout(1.0))
            view.tick()
    assert len(seen.frames) == 40
    assert seen.last[-1].finished[0].done == 10_000


def test_the_thread_draws_by_itself_and_an_event_costs_less_than_20_microseconds() -> None:
    seen, one = Seen(), rollout(1.0)
    costs: list[float] = []
    with EventBus([View(seen)]).work("warm: acting", 10**6) as stage:
        began = time.monotonic()
        while time.monotonic() - began < 0.6 or not seen.frames:
            start = time.thread_time()
            for _ in range(1000):
                stage.advance(one)
            costs.append((time.thread_time() - start) / 1000)
        seconds = time.monotonic() - began
    assert min(costs) < 20e-6
    assert 1 <= len(seen.frames) <= 1 + 4 * seconds


def test_lines_are_said_in_their_order_above_and_the_end_tells_what_was_spent() -> None:
    seen = Seen()
    bus = EventBus([View(seen)])
    with run_of(bus, Plan(), lambda: BudgetState(Usage(calls=7, seconds=3.0), Limits(actor_calls=10))):
        bus.emit(Note("first"))
        with bus.work("none: val", 1) as stage:
            stage.advance(rollout(1.0))
        bus.emit(Note("last"))
    assert seen.said == ["first", "none: val: 1/1  100% won  0 s", "last", "Spent: 7 of 10 calls, 0:03."]
    assert seen.last[-1].over


def test_a_signals_handler_may_speak_while_the_screen_is_drawn() -> None:
    """It interrupts the main thread wherever it is, so it must wait for no lock that this thread may hold."""
    seen = Seen()
    bus = EventBus([View(seen)])

    def press(*_: object) -> None:
        bus.say("Stopping.")

    before = signal.signal(signal.SIGALRM, press)
    try:
        with bus.work("warm: acting", 10**6) as stage:
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            for _ in range(20_000):
                stage.advance(rollout(1.0))
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert "Stopping." in seen.said


def test_nothing_is_left_running_when_the_screen_is_closed() -> None:
    bus = EventBus([View(Seen(), every=0.01)])
    for _ in range(3):
        with bus.work("none: val", 1), bus.work("other", 1):
            pass
    deadline = time.monotonic() + 5
    while (left := [each for each in threading.enumerate() if each.name == "sgt-view"]) and time.monotonic() < deadline:
        left[0].join(0.1)
    assert not left


# One's own view


def test_a_function_of_ones_own_gets_snapshots_and_the_last_one_has_all() -> None:
    snapshots: list[Snapshot] = []
    bus = EventBus(build_views(snapshots.append))
    with run_of(bus, PLAN, lambda: BudgetState(Usage(calls=2))), bus.work(Stage("none", split="val"), 2) as stage:
        stage.advance(rollout(1.0))
        stage.advance(rollout(0.0))
    last = snapshots[-1]
    assert (last.over, last.rollouts, last.step, last.steps, last.spend) == (True, 2, 1, 5, BudgetState(Usage(calls=2)))
    assert (last.finished[0].success, last.finished[0].mean) == (0.5, 0.5)


def test_a_view_that_fails_is_named_once_and_the_run_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(snapshot: Snapshot) -> None:
        raise ValueError("no such widget")

    bus = EventBus(build_views(broken))
    for _ in range(2):
        with bus.run(), bus.work("none: val", 1) as stage:
            stage.advance()
    told = capsys.readouterr().err
    assert told.count("The view failed (ValueError: no such widget)") == 1


def test_an_observer_of_ones_own_is_taken_as_it_is_and_anything_else_is_refused() -> None:
    class Mine:
        def on_event(self, event: Event) -> None: ...

    mine: Observer = Mine()
    assert build_views(mine) == [mine]
    with pytest.raises(SetupError, match="Expected display_progress"):
        build_views("loud")  # pyright: ignore[reportArgumentType]


# Terminals of any size

_TEXTS = st.text(max_size=60) | st.sampled_from(["数" * 40, "\x1b[2J\x1b[H", "\u202egnp", "a" * 300, "tab\there"])
_COUNTS = st.integers(0, 10**7)
_SECONDS = st.floats(0, 10**6)
_SHARES = st.floats(0, 1)
STAGES = st.builds(
    StageView,
    name=_TEXTS,
    done=_COUNTS,
    total=_COUNTS,
    seconds=_SECONDS,
    rate=_SECONDS,
    left=st.none() | _SECONDS,
    judged=_COUNTS,
    won=st.integers(0, 0),
    mean=st.none() | _SHARES,
    trend=st.lists(_SHARES, max_size=12),
)
SPENDS = st.builds(
    BudgetState,
    st.builds(Usage, calls=_COUNTS, cost=_SECONDS, seconds=_SECONDS),
    st.builds(
        Limits,
        st.none() | st.integers(1, 10**7),
        st.none() | st.floats(0.01, 1e6),
        st.none() | st.floats(1, 1e6),
    ),
    st.sampled_from(["", "Ctrl-C was pressed"]),
)
SNAPSHOTS = st.builds(
    Snapshot,
    seconds=_SECONDS,
    underway=st.lists(STAGES, max_size=4),
    finished=st.lists(
        STAGES | st.builds(StageView, st.just("sft: val"), mean=_SHARES, stage=st.just(SFT_VAL)), max_size=4
    ),
    step=st.integers(0, 9),
    steps=st.integers(0, 9),
    step_name=_TEXTS,
    left=st.none() | _SECONDS,
    rate=_SECONDS,
    rollouts=_COUNTS,
    kinds=st.dictionaries(_TEXTS, _SHARES, max_size=5),
    errors=st.dictionaries(_TEXTS, _COUNTS, max_size=5),
    winner=st.none() | st.builds(Winner, _TEXTS, _TEXTS, _TEXTS, _TEXTS),
    spend=st.none() | SPENDS,
    said=st.lists(_TEXTS, max_size=3),
    over=st.booleans(),
)


@settings(max_examples=200, deadline=None)
@given(snapshot=SNAPSHOTS, width=st.integers(1, 120), height=st.integers(1, 40), ascii_only=st.booleans())
def test_no_line_is_longer_than_the_terminal_and_there_are_no_more_of_them(
    snapshot: Snapshot, width: int, height: int, ascii_only: bool
) -> None:
    lines = render_lines(snapshot, width, height, ascii_only=ascii_only)
    assert len(lines) <= height
    for line in lines:
        assert line.cell_len <= width
        assert line.plain.isprintable()
        assert not ascii_only or line.plain.isascii()


def test_what_matters_most_stays_where_the_terminal_is_short() -> None:
    snapshot = full()
    lines = [[line.plain for line in render_lines(snapshot, 80, rows)] for rows in (20, 5, 1)]
    assert [len(each) for each in lines] == [9, 5, 1]
    assert lines[2][0].startswith("round 1: acting")
    assert any("spent" in line for line in lines[1])


def full() -> Snapshot:
    """A run in the midst of everything."""
    return Snapshot(
        underway=[StageView("round 1: acting", 30, 40, 9.0, 3.0, 3.0, 30, 15, 0.5, (0.2, 0.5))],
        finished=[ended("none: val", 20, 10.0), StageView("sft: val", 20, 20, 5.0, mean=0.521, stage=SFT_VAL)],
        step=4,
        steps=5,
        step_name="round 1",
        left=300.0,
        rate=3.0,
        kinds={"pairs": 0.75, "cot": 0.25},
        errors={"RateLimitError": 2},
        winner=Winner("question: 2+2?", "pairs", "right: 4", "round 1: acting"),
        spend=BudgetState(Usage(calls=120, cost=0.5, seconds=60.0), Limits(actor_calls=400)),
    )


def test_a_wide_terminal_shows_everything() -> None:
    assert [line.plain for line in render_lines(full(), 80, 20)] == [
        "step 4 of 5: round 1  about 5 min left  3.0 rollouts/s",
        "round 1: acting  ━━━━━━━━━━━━━━━━━━──────  30/40  50% won  ▂▅  0:03 left",
        "scores  sft .521",
        "kinds   pairs 75%, cot 25%",
        "spent   120 of 400 calls, $0.50, 1:00  ━━━━━━━─────────────────",
        "errors  RateLimitError 2",
        "winner  question: 2+2?",
        "by      [pairs] right: 4",
        "Ctrl-C ends in good order: what was paid for is saved.",
    ]


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (40, "round 1: acting  30/40  50% won  0:03"),
        (20, "acting  30/40  0:03"),
        (8, "acting"),
    ],
)
def test_a_narrow_terminal_shows_what_fits(width: int, expected: str) -> None:
    assert render_lines(full(), width, 20)[1].plain == expected


def test_after_ctrl_c_the_view_says_what_happens() -> None:
    stopping = replace(full(), spend=BudgetState(stop_reason="Ctrl-C was pressed"))
    assert render_lines(stopping, 80, 3)[-1].plain == "Ctrl-C was pressed: finishing and saving; again stops at once."


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252"])
def test_a_terminal_gets_only_what_its_encoding_holds(encoding: str) -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    screen = Terminal(Console(file=out, force_terminal=True, width=60, height=12))
    screen.show(replace(full(), winner=Winner("Wie viele Bücher? 数", "cot", "→", "sft")))
    screen.say(["数 → ü"])
    screen.close(full())
    told = raw.getvalue().decode(encoding)
    assert "round 1: acting" in told
    assert ("━" in told) == (encoding == "utf-8")


def test_a_terminal_that_becomes_narrower_is_cleared_of_wrapped_lines() -> None:
    """Two lines of 50 columns are wrapped to 3 rows each in 20 columns: four rows more are cleared before."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=60, height=12)
    screen = Terminal(console)
    screen.show(Snapshot(winner=Winner("q" * 42, "cot", "t" * 36, "sft")))
    console.width = 20
    before = len(out.getvalue())
    screen.show(Snapshot())
    assert out.getvalue()[before:].startswith("\x1b[2K\x1b[1A" * 4)


def test_many_lines_at_once_draw_the_view_once() -> None:
    out = io.StringIO()
    screen = Terminal(Console(file=out, force_terminal=True, width=60, height=12))
    screen.show(full())
    before = out.getvalue().count("round 1: acting")
    screen.say([f"line {n}" for n in range(100)])
    assert out.getvalue().count("round 1: acting") == before + 1
    assert "line 98\nline 99\n" in out.getvalue()


def test_the_terminals_lines_stay_and_the_view_goes() -> None:
    out = io.StringIO()
    live = Live(Console(file=out, force_terminal=True, width=60, height=12))
    with EventBus([live]).work("none: val", 1) as stage:
        stage.advance(rollout(1.0))
    assert "none: val: 1/1  100% won  0 s\n" in out.getvalue()


# Pipes


def test_a_pipe_gets_few_plain_lines_however_much_happens() -> None:
    """10,000 rollouts in 60 seconds: a line in 10 seconds, one at the end, one of what was spent."""
    hands, out = Hands(), io.StringIO()
    view = Lines(out, clock=hands)
    bus = EventBus([view])
    with (
        run_of(bus, Plan(), lambda: BudgetState(Usage(calls=9, cost=0.25, seconds=60.0))),
        bus.work("warm: acting", 10_000) as stage,
    ):
        for n in range(10_000):
            hands.now = (n + 1) * 0.006
            stage.advance(rollout(1.0))
            view.tick()
    told = out.getvalue().splitlines()
    assert 6 <= len(told) <= 8
    assert told[-2:] == ["warm: acting: 10,000/10,000  100% won  60 s", "Spent: 9 calls, $0.25, 1:00."]
    assert all(line.isprintable() for line in told)


def test_parts_that_took_no_time_go_without_a_line() -> None:
    hands, out = Hands(), io.StringIO()
    bus = EventBus([Lines(out, clock=hands)])
    parts = (Stage("round1", "impact0", "train"), Stage("round1", "impact1", "train"), Stage("round1", split="val"))
    for each, seconds in zip(parts, (1.0, 60.0, 1.0), strict=True):
        with bus.work(each, 1):
            hands.now += seconds
    assert [line.partition(": ")[0] for line in out.getvalue().splitlines()] == ["round1/impact1", "round1"]


def test_a_terminal_without_a_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Tty())
    monkeypatch.setenv("TERM", "dumb")
    assert [type(each) for each in build_views()] == [Lines]
    monkeypatch.setenv("TERM", "xterm")
    assert [type(each) for each in build_views()] == [Live]


# Notebooks


class Kernel:
    """As much of IPython as a kernel is known by, and what was published."""

    def __init__(self) -> None:
        self.kernel = self
        self.display_pub = self
        self.published: list[tuple[dict[str, str], str, bool]] = []

    def get_ipython(self) -> Kernel:
        return self

    def publish(self, data: dict[str, str], metadata: object, transient: dict[str, str], update: bool) -> None:
        self.published.append((data, transient["display_id"], update))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    found = Kernel()
    monkeypatch.setitem(sys.modules, "IPython", found)  # pyright: ignore[reportArgumentType]
    return found


def test_in_a_notebook_one_output_is_written_anew_and_its_last_state_stays(kernel: Kernel) -> None:
    assert in_notebook()
    [view] = build_views()
    assert isinstance(view, Notebook)
    bus = EventBus([view])
    with run_of(bus, PLAN, lambda: BudgetState(Usage(calls=3))):
        with bus.work("none: val", 1) as stage:
            stage.advance(rollout(1.0))
        view.tick()
        view.tick()
    assert [update for _, _, update in kernel.published] == [False, True]
    assert len({known for _, known, _ in kernel.published}) == 1
    data = kernel.published[-1][0]
    assert "none: val: 1/1" in data["text/plain"]
    assert "1 rollouts in" in data["text/html"]
    assert "\x1b" not in data["text/html"] + data["text/plain"]


CELL = """
from optimizers.core.budget import BudgetState
from optimizers.core.events import EventBus, RunEnded, RunStarted
from optimizers.core.stages import NO_STAGE, Stage
from optimizers.core.usage import Usage, Work
from optimizers.observe.progress import build_views

bus = EventBus(build_views())
bus.emit(RunStarted(spend=lambda: BudgetState(Usage(calls=3, cost=0.1))))
with bus.work("none: val", 200) as work:
    for _ in range(200):
        work.advance()
bus.emit(RunEnded("finished"))
print("after")
"""


@pytest.mark.slow
def test_a_real_kernel_keeps_one_output_of_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", PATHS)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    shown = [each for each in notebook.cells[0].outputs if each["output_type"] == "display_data"]
    assert len(shown) == 1
    assert "none: val" in shown[0]["data"]["text/html"]
    assert "3 calls, $0.10" in shown[0]["data"]["text/plain"]


def test_without_ipython_there_is_no_notebook() -> None:
    assert not in_notebook()


@settings(max_examples=100, deadline=None)
@given(SNAPSHOTS)
def test_html_and_text_hold_nothing_that_a_model_could_have_meant_as_markup(snapshot: Snapshot) -> None:
    hostile = "<script>alert(1)</script><img src=x onerror=y>\"'&\x1b[2J"
    winner = Winner(hostile, hostile, hostile, hostile)
    snapshot = replace(
        snapshot,
        winner=winner,
        said=[hostile],
        step_name=hostile,
        step=1,
        errors={hostile: 1},
        kinds={hostile: 1.0},
        underway=[StageView(hostile)],
        spend=BudgetState(stop_reason=hostile),
    )
    html = as_html(snapshot)
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html
    assert "\x1b" not in html + as_text(snapshot)


def test_many_stages_are_told_by_the_last_ones() -> None:
    html = as_html(Snapshot(finished=[ended(f"round{n}: train", 1, 1.0) for n in range(40)]))
    assert "28 stages before" in html
    assert "round39: train" in html
    assert "round27: train" not in html
