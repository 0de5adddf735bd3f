"""The bus of a run's events: order, threads, signals, and observers that fail."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from dataclasses import fields
from typing import Any, get_args

import pytest
from observers import Recorder
from places import ROOT
from scripted import rollout

from optimizers.core.events import (
    Event,
    EventBus,
    Note,
    Observer,
    PhaseStarted,
    Progress,
    RolloutDone,
    RunEnded,
    RunStarted,
    WorkEnded,
    WorkStarted,
)
from optimizers.core.stages import Stage


class Broken:
    """An observer that raises on every note, with advice."""

    name = "broken.json"

    def __init__(self) -> None:
        self.calls = 0

    def on_event(self, event: Event) -> None:
        self.calls += 1
        if isinstance(event, Note):
            problem = OSError("no such host for key sk-0123456789abcdef")
            problem.add_note("Plug it in.")
            raise problem


def test_a_work_emits_its_begin_each_step_and_its_end() -> None:
    seen, won = Recorder(), rollout(1.0)
    with EventBus([seen]).work("warm: acting", 9) as work:
        work.advance()
        work.advance(won)
        work.expect(3)
        work.move_to(3, 3)
    number = work.number
    assert seen.events == [
        WorkStarted(number, "warm: acting", 9),
        Progress(number, 1, 9),
        RolloutDone(number, won),
        Progress(number, 2, 3),
        Progress(number, 3, 3),
        WorkEnded(number),
    ]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ((Stage("warm"), 1, "sampling"), "warm: sampling"),
        ((Stage("round1", "impact0", "train"), 1), "round1/impact0: train"),
        (("a contender: test", 1), "a contender: test"),
    ],
)
def test_a_work_of_a_stage_is_named_by_it_and_what_it_does(given: Any, name: str) -> None:
    seen = Recorder()
    with EventBus([seen]).work(*given):
        pass
    [started] = [each for each in seen.events if isinstance(each, WorkStarted)]
    stage = given[0] if isinstance(given[0], Stage) else Stage("")
    assert (started.name, started.stage, started.kind) == (name, stage, (*given, "acting")[2])


@pytest.mark.parametrize(
    ("error", "ending"), [(None, "finished"), (ValueError("no"), "failed"), (KeyboardInterrupt(), "stopped")]
)
def test_a_run_says_how_it_ended(error: BaseException | None, ending: str) -> None:
    seen = Recorder()
    try:
        with EventBus([seen]).run():
            if error is not None:
                raise error
    except (ValueError, KeyboardInterrupt):
        pass
    started, ended = seen.events
    assert isinstance(started, RunStarted)
    assert isinstance(ended, RunEnded)
    assert ended.ending == ending


def test_events_of_many_threads_come_one_at_a_time_and_none_is_lost() -> None:
    seen = Recorder()
    bus = EventBus([seen])
    with bus.work("warm: acting", 8000) as work:
        threads = [threading.Thread(target=lambda: [work.advance(rollout(1.0)) for _ in range(500)]) for _ in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert Counter(type(each) for each in seen.events) == {WorkStarted: 1, RolloutDone: 4000, WorkEnded: 1}
    assert seen.most == 1


def test_an_observer_that_fails_is_dropped_with_one_note_and_the_others_go_on() -> None:
    broken, seen = Broken(), Recorder()
    bus = EventBus([broken, seen])
    for event in (PhaseStarted("round 1"), Note("one"), Note("two")):
        bus.emit(event)
    assert broken.calls == 2
    assert seen.events == [
        PhaseStarted("round 1"),
        Note("one"),
        Note(
            "broken.json gets no more events of this run (OSError: no such host for key <key>). The run itself "
            "goes on. Plug it in."
        ),
        Note("two"),
    ]


def test_two_observers_that_fail_on_each_others_notes_cost_two_notes() -> None:
    first, second, seen = Broken(), Broken(), Recorder()
    EventBus([first, second, seen]).emit(Note("one"))
    assert seen.events[0] == Note("one")
    assert ["broken.json gets no more events" in str(each) for each in seen.events[1:]] == [True, True]


def test_what_a_signals_handler_emits_while_its_thread_hands_out_an_event_comes_after_that_event() -> None:
    seen = Recorder()

    class Interrupted:
        def on_event(self, event: Event) -> None:
            if isinstance(event, PhaseStarted):
                signal.raise_signal(signal.SIGALRM)

    bus = EventBus([Interrupted(), seen])
    before = signal.signal(signal.SIGALRM, lambda *_: bus.say("Stopping."))
    try:
        bus.emit(PhaseStarted("round 1"))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert seen.events == [PhaseStarted("round 1"), Note("Stopping.", for_result=False)]


def test_an_observer_is_a_class_of_one_method() -> None:
    assert isinstance(Recorder(), Observer)
    assert not isinstance(object(), Observer)


def test_the_page_of_the_events_has_each_event_with_each_of_its_fields() -> None:
    page = (ROOT / "docs/events.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:3] for line in page.splitlines() if line.startswith("|")]
    named: dict[str, set[str]] = {}
    event = ""
    for first, second in rows:
        event = first.strip(" `") or event
        named.setdefault(event, set()).update(each.strip(" `") for each in second.split(","))
    assert {each.__name__: {one.name for one in fields(each)} for each in get_args(Event)} == {
        name: found for name, found in named.items() if name[:1].isupper()
    }
