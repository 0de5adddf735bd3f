"""The options that SGT and SPT share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import dspy

from optimizers.core.budget import Limits

if TYPE_CHECKING:
    from optimizers.core.events import Plan

Examples = Sequence[dspy.Example]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings(ABC):
    """The options that SGT and SPT share, and what a session asks of a method's own options.

    `num_threads` program runs are made at once, of at most `max_run_seconds` each; after `max_errors` runs in a row
    without a reward everything stops. `seed` seeds every choice. `limits` is what the run may spend. Rollouts are in
    `store`, or else in the folder `log_dir`. `version` is the user's word for code that cannot be read.
    """

    metric: Callable[..., object]
    num_threads: int | None = None
    max_errors: int = 10
    seed: int = 0
    log_dir: Path | None = None
    limits: Limits = field(default_factory=Limits)
    store: str | Path | None = None
    max_run_seconds: float | None = None
    only: Sequence[str] | None = None
    version: str = ""

    @property
    @abstractmethod
    def may_change_on_resume(self) -> Mapping[str, object]:
        """Settings in `run.json` that may change when a run goes on in its folder."""

    @abstractmethod
    def must_match_on_resume(self, trainset: Examples, valset: Examples) -> Mapping[str, object]:
        """Settings in `run.json` that must be the same when a run goes on in its folder."""

    @abstractmethod
    def planned(self, student: dspy.Module, train: int, validation: int) -> Plan:
        """The expected steps of a run on so many examples."""
