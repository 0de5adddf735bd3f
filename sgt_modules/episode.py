"""One run of a program: where its supplements come from, which ones were read, and the memory of its predictors.

It is kept in DSPy's settings, which every thread and coroutine that DSPy starts can read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple, cast

import dspy

from sgt_modules.errors import SetupError
from sgt_modules.kinds import SILENCE, Supplement

_EPISODE = "sgt_episode"
_MEMORY = "sgt_memory"


class Place(NamedTuple):
    """One call of a predictor in a run of its program: the predictor's role, and the number of the call (from 0)."""

    role: str
    turn: int = 0


Chooser = Callable[[Place, str], Supplement | None]
"""Returns the supplement for a place and its generator prompt; None lets the generator write it."""

SupplementSource = Mapping[Place, Supplement] | Mapping[str, Supplement] | Chooser | None
"""Where a run's supplements come from: a table by place or by role, a function, or the generator (None)."""


class Call(NamedTuple):
    """A recorded call of a predictor: its place, the generator's prompt, and the supplement.

    `logprob` is the mean log-probability of the supplement's tokens if a generator wrote it. `gated` says that a gate
    dropped the supplement, or that the generator was not asked because of the gate.
    """

    place: Place
    prompt: str
    supplement: Supplement
    logprob: float = 0.0
    gated: bool = False


@dataclass
class Episode:
    """One run of a program, with its supplements chosen by the caller or written by the generator, and recorded.

    `calls` grows as the program runs, in the order in which the supplements are chosen. `lost` is an error message if a
    predictor of the run was called from a thread without the run's context, else empty.
    """

    source: SupplementSource
    calls: list[Call] = field(default_factory=list[Call])
    lost: str = ""
    _calls_begun: Counter[str] = field(default_factory=Counter[str], repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def enter(self, role: str) -> Place:
        """Count a predictor's next call and return its place."""
        with self._lock:
            self._calls_begun[role] += 1
            return Place(role, self._calls_begun[role] - 1)

    def choose(self, place: Place, prompt: str) -> Supplement | None:
        """Return a place's supplement; None lets the generator write it. Places not in a mapping get `SILENCE`."""
        if self.source is None:
            return None
        if not isinstance(self.source, Mapping):
            return self.source(place, prompt)
        source = cast("Mapping[Place | str, Supplement]", self.source)
        return source.get(place, source.get(place.role, SILENCE))

    def record(self, call: Call) -> None:
        """Record one call of a predictor."""
        with self._lock:
            self.calls.append(call)

    @property
    def ordered(self) -> list[Call]:
        """The calls so far, sorted by role (in the order of their first calls) and turn."""
        roles = list(dict.fromkeys(call.place.role for call in self.calls))
        return sorted(self.calls, key=lambda call: (roles.index(call.place.role), call.place.turn))

    @property
    def prompts(self) -> dict[str, list[str]]:
        """The generator's prompts by role, in the order of the calls."""
        return {role: [call.prompt for call in calls] for role, calls in self._calls_by_role().items()}

    @property
    def supplements(self) -> dict[str, list[Supplement]]:
        """The supplements by role, in the order of the calls."""
        return {role: [call.supplement for call in calls] for role, calls in self._calls_by_role().items()}

    def _calls_by_role(self) -> dict[str, list[Call]]:
        roles: dict[str, list[Call]] = {}
        for call in self.ordered:
            roles.setdefault(call.place.role, []).append(call)
        return roles


_RUNNING_EPISODES: dict[str, list[Episode]] = {}
"""The running episodes of this process, by the keys of their predictors."""

_REGISTRY_LOCK = Lock()


@contextmanager
def episode(source: SupplementSource, keys: Collection[str] = ()) -> Iterator[Episode]:
    """Let predictors read the supplements of `source` inside the block; with None the generator's.

    The innermost episode counts. Predictors with one of the `keys` belong to the episode: while it runs, they cannot be
    called from outside of it (see `check_thread`).

    >>> with episode({"self": Supplement("free", "Count twice.")}) as run:
    ...     run.prompts
    {}
    """
    running = Episode(source)
    with _REGISTRY_LOCK:
        for key in keys:
            _RUNNING_EPISODES.setdefault(key, []).append(running)
    try:
        with dspy.context(**{_EPISODE: running}):
            yield running
    finally:
        with _REGISTRY_LOCK:
            for key in keys:
                _RUNNING_EPISODES[key] = [each for each in _RUNNING_EPISODES[key] if each is not running]
                if not _RUNNING_EPISODES[key]:
                    del _RUNNING_EPISODES[key]


def check_thread(key: str, role: str) -> None:
    """Raise `SetupError` if a predictor belongs to an episode but is called from a thread without its context.

    A thread that a program starts by itself does not inherit the context, so the right supplement is unknown. Outside
    of episodes, a program can be called from any thread.
    """
    if not _RUNNING_EPISODES.get(key):
        return
    with _REGISTRY_LOCK:
        episodes = list(_RUNNING_EPISODES.get(key, ()))
        for each in episodes:
            each.lost = (
                f"Expected every call of the predictor {role!r} to carry its run's context, got one from a thread that "
                "the program started without it, so which supplement it should read cannot be known. Start the thread "
                "with dspy.Parallel or Module.batch, or pass the context on: "
                "pool.submit(contextvars.copy_context().run, predictor, ...)."
            )
    if episodes:
        raise SetupError(episodes[0].lost)


def running_episode() -> Episode | None:
    """Return the innermost episode around this call, if any."""
    return cast("Episode | None", dspy.settings.get(_EPISODE))


class RememberedSupplement(NamedTuple):
    """A predictor and its supplement. Holding the predictor keeps its id from being reused."""

    predictor: object
    supplement: Supplement


class Memory:
    """The supplements that the predictors of one run keep. Thread-safe."""

    def __init__(self) -> None:
        self._supplements: dict[int, RememberedSupplement] = {}
        self._places: dict[int, Place] = {}
        self._lock = Lock()

    def place(self, predictor: object, enter: Callable[[], Place]) -> Place:
        """Return the place that all calls of a predictor share; its first call enters it."""
        with self._lock:
            if id(predictor) not in self._places:
                self._places[id(predictor)] = enter()
            return self._places[id(predictor)]

    def recall(self, predictor: object) -> RememberedSupplement | None:
        """Return the supplement that a predictor kept in this run, if any."""
        with self._lock:
            return self._supplements.get(id(predictor))

    def keep(self, predictor: object, supplement: Supplement, *, first: bool = False) -> Supplement:
        """Keep a predictor's supplement until the run ends, and return the one to use.

        With `first`, that is the first one kept, even if several threads write theirs at once; else the latest.
        """
        with self._lock:
            entry = RememberedSupplement(predictor, supplement)
            if first:
                return self._supplements.setdefault(id(predictor), entry).supplement
            self._supplements[id(predictor)] = entry
            return supplement


@contextmanager
def program_run() -> Iterator[Memory]:
    """Give predictors a memory inside the block; the innermost run counts."""
    memory = Memory()
    with dspy.context(**{_MEMORY: memory}):
        yield memory


def running_memory() -> Memory | None:
    """Return the memory of the innermost run around this call, if any."""
    return cast("Memory | None", dspy.settings.get(_MEMORY))
