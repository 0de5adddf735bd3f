"""The processes of one run, as `accelerate launch` or `torchrun` start them, and messages from the main one.

The main process samples, calls the actor and writes files. The others wait, perhaps for hours, until it sends what to
train. They wait at the launcher's key-value store, which has no time limit; a collective would fail after half an hour.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Final, Protocol, TypeVar, cast

from sgt_modules.errors import MainProcessError, SGTError

_Computed = TypeVar("_Computed")

_SIZE_VARIABLES: Final = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_CHUNK: Final = 4 * 1024 * 1024  # PyTorch's store takes values of at most 8 MB
_PAUSE: Final = 0.05


class KeyValueStore(Protocol):
    """A store that all processes can write to and read from, as PyTorch's stores are."""

    def set(self, key: str, value: str | bytes, /) -> None:
        """Write a value."""
        ...

    def get(self, key: str, /) -> bytes:
        """Read a value."""
        ...

    def check(self, keys: list[str], /) -> bool:
        """Whether all of these keys have a value."""
        ...


@dataclass(frozen=True, slots=True)
class _Failure:
    """The message that the main process stopped with an error."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Team:
    """The processes that work on one thing together, seen from one of them. `Team()` is a single process.

    `rank` counts from 0, the main process; `session` separates the messages of one team from those of the next.

    >>> alone = Team()
    >>> alone.is_main, alone.run_once(lambda: "result")
    (True, 'result')
    """

    rank: int = 0
    size: int = 1
    store: KeyValueStore | None = None
    session: int = 0
    _next: Iterator[int] = field(default_factory=count, repr=False, compare=False)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that samples, pays and writes."""
        return self.rank == 0

    def send(self, value: object) -> None:
        """Send a value to all other processes; they `receive` values in the order of sending."""
        if self.store is None:
            return
        message, key = pickle.dumps(value), self._next_key()
        parts = [message[start : start + _CHUNK] for start in range(0, len(message), _CHUNK)]
        for number, part in enumerate(parts):
            self.store.set(f"{key}/{number}", part)
        self.store.set(key, str(len(parts)))

    def receive(self) -> object:
        """Wait for the next value that the main process sends. Raises the error with which it stopped."""
        assert self.store is not None
        key = self._next_key()
        while not self.store.check([key]):
            time.sleep(_PAUSE)
        parts = int(self.store.get(key))
        value: object = pickle.loads(b"".join(self.store.get(f"{key}/{number}") for number in range(parts)))
        if isinstance(value, _Failure):
            value.error.add_note("The main process stopped with this error, and so did this process.")
            raise value.error
        return value

    def run_once(self, compute: Callable[[], _Computed]) -> _Computed:
        """Call `compute` in the main process alone; every process returns its result, or raises its error."""
        if not self.is_main:
            return cast("_Computed", self.receive())
        with self.send_failure():
            value = compute()
        self.send(value)
        return value

    @contextmanager
    def send_failure(self) -> Iterator[None]:
        """If the main process fails inside, send its error to the others, so that they do not wait for it."""
        try:
            yield
        except BaseException as error:
            if self.is_main:
                self.send(_Failure(_make_portable(error)))
            raise

    def _next_key(self) -> str:
        return f"sgt/{self.session}/{next(self._next)}"


def join_team() -> Team:
    """This process's place in a new team of all processes that were launched together.

    Every process has to call this equally often, in the same order. Loads PyTorch and starts its default process group
    only if the environment says that there are several processes.
    """
    if not is_launched(os.environ):
        return Team()
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env
    from torch.distributed.distributed_c10d import _get_default_store

    state = PartialState(cpu=not torch.cuda.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU"))
    if state.num_processes == 1:
        return Team()
    store, rank = _get_default_store(), state.process_index
    session = store.add(f"sgt/sessions/{rank}", 1)
    return Team(rank, state.num_processes, cast("KeyValueStore", store), session)


def is_launched(environment: Mapping[str, str]) -> bool:
    """Whether the environment says that there are several processes.

    >>> is_launched({"WORLD_SIZE": "2", "RANK": "0"}), is_launched({})
    (True, False)
    """
    return any(environment.get(name, "").isdecimal() and int(environment[name]) > 1 for name in _SIZE_VARIABLES)


def is_sharded(environment: Mapping[str, str]) -> bool:
    """Whether the environment says that weights are sharded over the processes: `accelerate launch --use_fsdp`.

    >>> is_sharded({"ACCELERATE_USE_FSDP": "true"}), is_sharded({})
    (True, False)
    """
    return environment.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def _make_portable(error: BaseException) -> BaseException:
    """An error that can be pickled: our errors and interrupts unchanged, others as a message with name and text."""
    if isinstance(error, SGTError | KeyboardInterrupt | SystemExit):
        return error
    return MainProcessError(f"The main process stopped with {type(error).__name__}: {error}")
