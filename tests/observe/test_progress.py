"""What a person sees during a run: lines in a pipe, a live view on a terminal, nothing when asked."""

from __future__ import annotations

import io
import itertools

from rich.console import Console
from scripted import rollout

from optimizers.core.events import EventBus
from optimizers.observe.progress import Lines, Live, build_views


def play(bus: EventBus) -> None:
    """A stage of three rollouts: one won, one lost, one without a reward."""
    with bus.work("warm: acting", 3) as stage:
        for score in (1.0, 0.0, None):
            stage.advance(rollout(score))


def test_a_pipe_gets_one_line_at_the_end_of_a_short_stage_with_its_success_rate() -> None:
    out = io.StringIO()
    play(EventBus([Lines(out)]))
    assert out.getvalue() == "warm: acting: 3/3  50% won  0 s\n"


def test_a_long_stage_says_how_far_it_is_and_how_long_it_will_take() -> None:
    out, seconds = io.StringIO(), itertools.count()
    view = Lines(out, every=2.0, clock=lambda: float(next(seconds)))
    with EventBus([view]).work("warm: acting", 30) as stage:
        for _ in range(30):
            stage.advance(rollout(1.0))
            view.tick()
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("warm: acting: 1/30  100% won")
    left = [float(line.split(", ")[1].removesuffix(" s left")) for line in lines if line.endswith("s left")]
    assert len(left) > 5
    assert left[2:] == sorted(left[2:], reverse=True)
    assert left[-1] < left[0] / 5


def test_training_moves_by_steps_of_a_total_that_is_known_later() -> None:
    out = io.StringIO()
    with EventBus([Lines(out)]).work("sft: training", 1) as stage:
        stage.move_to(20, 40)
        stage.move_to(40, 40)
    assert out.getvalue().startswith("sft: training: 40/40")


def test_a_terminal_gets_a_live_bar_with_the_same_numbers() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, record=True)
    play(EventBus([Live(console)]))
    text = console.export_text()
    assert "warm: acting" in text
    assert "3/3" in text
    assert "50% won" in text


def test_silence_is_no_view() -> None:
    play(EventBus(build_views(False)))
    assert build_views(False) == []


def test_without_a_terminal_the_view_is_lines() -> None:
    [view] = build_views()
    assert isinstance(view, Lines)


def test_two_live_stages_at_once_share_one_display_and_end_in_any_order() -> None:
    out = io.StringIO()
    bus = EventBus([Live(Console(file=out, force_terminal=True, width=100))])
    sampling, acting = bus.work("sampling", 2), bus.work("acting", 3)
    first, second = sampling.__enter__(), acting.__enter__()
    first.move_to(2, 2)
    second.advance()
    second.expect(1)
    sampling.__exit__(None, None, None)
    acting.__exit__(None, None, None)
    with bus.work("training", 1) as third:
        third.advance()
    told = out.getvalue()
    assert all(part in told for part in ("sampling", "2/2", "acting", "1/1", "training"))
