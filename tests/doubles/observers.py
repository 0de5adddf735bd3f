"""Observers of a run's events."""

from __future__ import annotations

from dataclasses import dataclass, field

from optimizers.core.events import Event


@dataclass
class Recorder:
    """An observer that keeps each event, and how many calls of it were under way at most."""

    events: list[Event] = field(default_factory=list[Event])
    underway: int = 0
    most: int = 0

    def on_event(self, event: Event) -> None:
        self.underway += 1
        self.most = max(self.most, self.underway)
        self.events.append(event)
        self.underway -= 1
