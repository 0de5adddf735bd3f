"""One run of a program: whose supplements are read in it, which were, and what its predictors remember until it ends.

Kept among DSPy's settings, which reach every thread and coroutine that DSPy starts.
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
    """One call of a predictor within a run of its program: the predictor's role, and which of its calls (from 0)."""

    role: str
    turn: int = 0


Chooser = Callable[[Place, str], Supplement | None]
"""The supplement for a place and the prompt that the generator would read there; None leaves it to the generator."""

SupplementSource = Mapping[Place, Supplement] | Mapping[str, Supplement] | Chooser | None
"""Whose supplements a run reads: by place, by role (every turn the same), as something decides, or the generator's."""


class Call(NamedTuple):
    """One call of a predictor as it was: where, what the generator read or would have read, and the supplement.

    `logprob` is the mean log-probability of its tokens where a generator wrote it; `gated` says that a gate dropped
    what it wrote, or did not let it write.
    """

    place: Place
    prompt: str
    supplement: Supplement
    logprob: float = 0.0
    gated: bool = False


@dataclass
class Episode:
    """One run of a program with supplements that somebody chose, or a recording of those that the generator chose.

    `calls` fills as the program runs, in the order in which its predictors finish choosing. `lost` says what to change
    where a predictor of the run was called from a thread that does not know the run.
    """

    given: SupplementSource
    calls: list[Call] = field(default_factory=list[Call])
    lost: str = ""
    _begun: Counter[str] = field(default_factory=Counter[str], repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def enter(self, role: str) -> Place:
        """The place of a predictor's next call."""
        with self._lock:
            self._calls_begun[role] += 1
            return Place(role, self._calls_begun[role] - 1)

    def choose(self, place: Place, prompt: str) -> Supplement | None:
        """The supplement that is given for a place; None: the generator's. What a mapping does not name is silent."""
        if self.given is None:
            return None
        if not isinstance(self.given, Mapping):
            return self.given(place, prompt)
        given = cast("Mapping[Place | str, Supplement]", self.given)
        return given.get(place, given.get(place.role, SILENCE))

    def record(self, call: Call) -> None:
        """Note one call of a predictor."""
        with self._lock:
            self.calls.append(call)

    @property
    def ordered(self) -> list[Call]:
        """The calls so far by place: roles in the order of their first calls, then turns."""
        roles = list(dict.fromkeys(call.place.role for call in self.calls))
        return sorted(self.calls, key=lambda call: (roles.index(call.place.role), call.place.turn))

    @property
    def prompts(self) -> dict[str, list[str]]:
        """What the generator read or would have read, by role, in the order of the calls."""
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
"""The episodes that are under way in this process, by the keys of the predictors that belong to them."""

_REGISTRY_LOCK = Lock()


@contextmanager
def episode(given: SupplementSource, keys: Collection[str] = ()) -> Iterator[Episode]:
    """Inside, a predictor reads the supplement that `given` has for its place, else none; with None the generator's.

    The innermost episode counts. Predictors of these `keys` belong to the episode: outside of it they may not be
    called while it lasts (see `check_thread`).

    >>> with episode({"self": Supplement("free", "Count twice.")}) as run:
    ...     run.prompts
    {}
    """
    running = Episode(given)
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
    """Raise `SetupError` where a predictor belongs to an episode, and is called by a thread that does not know it.

    A thread that a program starts by itself has none of its maker's context, so whose supplement it should read cannot
    be known. Programs in use belong to no episode, and may be called from any thread.
    """
    if not _RUNNING_EPISODES.get(key):
        return
    with _REGISTRY_LOCK:
        concerned = list(_RUNNING_EPISODES.get(key, ()))
        for each in concerned:
            each.lost = (
                f"Expected every call of the predictor {role!r} to carry its run's context, got one from a thread that "
                "the program started without it, so which supplement it should read cannot be known. Start the thread "
                "with dspy.Parallel or Module.batch, or pass the context on: "
                "pool.submit(contextvars.copy_context().run, predictor, ...)."
            )
    if concerned:
        raise SetupError(concerned[0].lost)


def running_episode() -> Episode | None:
    """The innermost episode around this call, if any."""
    return cast("Episode | None", dspy.settings.get(_EPISODE))


class RememberedSupplement(NamedTuple):
    """What a predictor remembers, and the predictor itself: while it is held, no other object gets its id."""

    predictor: object
    supplement: Supplement


class Memory:
    """What the predictors of one run remember of their supplements. Safe from many threads."""

    def __init__(self) -> None:
        self._supplements: dict[int, RememberedSupplement] = {}
        self._places: dict[int, Place] = {}
        self._lock = Lock()

    def place(self, predictor: object, enter: Callable[[], Place]) -> Place:
        """The one place that all calls of a predictor share, entered by its first one."""
        with self._lock:
            if id(predictor) not in self._places:
                self._places[id(predictor)] = enter()
            return self._places[id(predictor)]

    def recall(self, predictor: object) -> RememberedSupplement | None:
        """What a predictor kept in this run."""
        with self._lock:
            return self._supplements.get(id(predictor))

    def keep(self, predictor: object, supplement: Supplement, *, first: bool = False) -> Supplement:
        """Remember a predictor's supplement until the run ends, and give back the one that holds.

        `first`: the earliest holds, even where several threads had theirs written at once; else the latest.
        """
        with self._lock:
            kept = RememberedSupplement(predictor, supplement)
            if first:
                return self._supplements.setdefault(id(predictor), kept).supplement
            self._supplements[id(predictor)] = kept
            return supplement


@contextmanager
def program_run() -> Iterator[Memory]:
    """Inside, predictors remember; the innermost run counts."""
    memory = Memory()
    with dspy.context(**{_MEMORY: memory}):
        yield memory


def running_memory() -> Memory | None:
    """The memory of the innermost run around this call, if any."""
    return cast("Memory | None", dspy.settings.get(_MEMORY))
