"""The processes of one run, as `accelerate launch` or `torchrun` start them: who leads, and how the others hear of it.

The main process samples, asks the actor and writes files; the others wait, for hours if need be, until it tells them
what to train. They wait at the launcher's key-value store, where nothing times out, and not in a collective, which
would after half an hour.
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

T = TypeVar("T")

_SIZES: Final = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_CHUNK: Final = 4 * 1024 * 1024  # PyTorch's store takes values of at most 8 MB
_PAUSE: Final = 0.05


class Store(Protocol):
    """What all processes can write to and read from, as PyTorch's stores are."""

    def set(self, key: str, value: str | bytes, /) -> None:
        """Write a value."""
        ...

    def get(self, key: str, /) -> bytes:
        """A value that was written."""
        ...

    def check(self, keys: list[str], /) -> bool:
        """Whether all of these have been written."""
        ...


@dataclass(frozen=True, slots=True)
class _Failure:
    """What the main process tells when it stops."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Team:
    """The processes that work on one thing together, as one of them sees it. `Team()` is a process alone.

    `rank` counts from 0, the main process; `session` tells messages about one thing from those about the next.

    >>> alone = Team()
    >>> alone.main, alone.once(lambda: "made")
    (True, 'made')
    """

    rank: int = 0
    size: int = 1
    store: Store | None = None
    session: int = 0
    _next: Iterator[int] = field(default_factory=count, repr=False, compare=False)

    @property
    def main(self) -> bool:
        """Whether this is the process that samples, pays and writes."""
        return self.rank == 0

    def tell(self, value: object) -> None:
        """Say something to all other processes; they `hear` values in the order they were told in."""
        if self.store is None:
            return
        message, key = pickle.dumps(value), self._key()
        parts = [message[start : start + _CHUNK] for start in range(0, len(message), _CHUNK)]
        for number, part in enumerate(parts):
            self.store.set(f"{key}/{number}", part)
        self.store.set(key, str(len(parts)))

    def hear(self) -> object:
        """What the main process tells next; waits for it. Raises what the main process failed with."""
        assert self.store is not None
        key = self._key()
        while not self.store.check([key]):
            time.sleep(_PAUSE)
        parts = int(self.store.get(key))
        value: object = pickle.loads(b"".join(self.store.get(f"{key}/{number}") for number in range(parts)))
        if isinstance(value, _Failure):
            value.error.add_note("The main process stopped so, and this one with it.")
            raise value.error
        return value

    def once(self, make: Callable[[], T]) -> T:
        """What `make` returns in the main process, in every process; or what it raises."""
        if not self.main:
            return cast("T", self.hear())
        with self.leading():
            value = make()
        self.tell(value)
        return value

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Tell the others if what the main process does inside fails, so that they need not wait for it."""
        try:
            yield
        except BaseException as error:
            if self.main:
                self.tell(_Failure(_portable(error)))
            raise

    def _key(self) -> str:
        return f"sgt/{self.session}/{next(self._next)}"


def gathered() -> Team:
    """This process's place among those that were launched together, for one thing that they do together.

    Every process has to call this as often as the others, in the same order. PyTorch is loaded, and its default process
    group made, only where the environment tells of several processes.
    """
    if not launched(os.environ):
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
    return Team(rank, state.num_processes, cast("Store", store), session)


def launched(environment: Mapping[str, str]) -> bool:
    """Whether the environment tells of more than one process.

    >>> launched({"WORLD_SIZE": "2", "RANK": "0"}), launched({})
    (True, False)
    """
    return any(environment.get(name, "").isdecimal() and int(environment[name]) > 1 for name in _SIZES)


def sharded(environment: Mapping[str, str]) -> bool:
    """Whether the environment tells of weights that are sharded over the processes: `accelerate launch --use_fsdp`.

    >>> sharded({"ACCELERATE_USE_FSDP": "true"}), sharded({})
    (True, False)
    """
    return environment.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def _portable(error: BaseException) -> BaseException:
    """The error as it can be sent: ours and an interrupt as they are, others by their name and text."""
    if isinstance(error, SGTError | KeyboardInterrupt | SystemExit):
        return error
    return MainProcessError(f"The main process stopped with {type(error).__name__}: {error}")
