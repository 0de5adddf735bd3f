"""A table of training prompts and the supplements that won for them, and the backend that looks supplements up in it.

It stands where a generator has its model: no weights, no tokens, no device.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NoReturn, TypedDict, cast

import numpy as np

from sgt_modules.errors import SavedStateError, SetupError
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.samples import SILENT, Sample, SampleRequest
from sgt_modules.saving.state_checks import check_mapping, read_whole_number
from sgt_modules.tf_idf import TfIdf


@dataclass(frozen=True, slots=True)
class WinnerTable:
    """The supplements that won, and for each training prompt which of them won there.

    `supplements` stand in the order in which a tie is decided, and so do `prompts`. `won` has for each prompt the
    positions of its winners in `supplements`; a position occurs once for each training query of that prompt.

    >>> table = WinnerTable((Supplement("cot", "Add."),), ("2+2?",), ((0,),))
    >>> WinnerTable.load_state(table.dump_state()) == table
    True
    """

    supplements: tuple[Supplement, ...] = ()
    prompts: tuple[str, ...] = ()
    won: tuple[tuple[int, ...], ...] = ()

    def __len__(self) -> int:
        """The number of different training prompts."""
        return len(self.prompts)

    def dump_state(self) -> dict[str, object]:
        """Return the table as JSON; it holds the training prompts."""
        return {
            "supplements": [[each.kind, each.text, each.cut] for each in self.supplements],
            "rows": [[prompt, list(won)] for prompt, won in zip(self.prompts, self.won, strict=True)],
        }

    @staticmethod
    def load_state(state: object) -> WinnerTable:
        """Load a saved table; raise `SavedStateError` for anything else."""
        content = check_mapping(state, "a table of winners")
        supplements: list[Supplement] = []
        for each in _read_list(content, "supplements"):
            match each:
                case [str(kind), str(text), bool(cut)]:
                    supplements.append(Supplement(kind, text, cut))
                case _:
                    raise _invalid("[kind, text, cut]", each)
        prompts: list[str] = []
        won: list[tuple[int, ...]] = []
        for each in _read_list(content, "rows"):
            match each:
                case [str(prompt), list(positions)] if all(
                    type(at) is int and 0 <= at < len(supplements) for at in cast("list[object]", positions)
                ):
                    prompts.append(prompt)
                    won.append(tuple(cast("list[int]", positions)))
                case _:
                    raise _invalid("[prompt, positions of supplements]", each)
        return WinnerTable(tuple(supplements), tuple(prompts), tuple(won))


EMPTY = WinnerTable()
"""A table without prompts, in which no supplement is found."""


class LookupReference(TypedDict):
    """`WinnerLookup.reference` in a saved program: the whole table."""

    winners: dict[str, object]
    neighbours: int


class WinnerLookup:
    """The backend of a generator that writes nothing: it reads the nearest winner from a table.

    Of the supplements that won for the `neighbours` most similar training prompts, the one that won most often is
    taken, among equals the one of the most similar prompt, then the table's order. Without a winner there is no
    supplement. Prompts are similar by their rare words (`TfIdf`). The seed, kind and temperature of a request make no
    difference.

    >>> table = WinnerTable((Supplement("background", "Over 45."),), ("the zoka customers", "all"), ((0,), ()))
    >>> WinnerLookup(table, 1).choose("list zoka customers").render(), WinnerLookup(table, 1).choose("list all")
    ('[background] Over 45.', Supplement(kind='none', text=''))
    """

    def __init__(self, table: WinnerTable = EMPTY, neighbours: int = 1) -> None:
        if neighbours < 1:
            raise SetupError(f"Expected neighbours of at least 1, got {neighbours!r}.")
        self.table, self.neighbours = table, neighbours

    @property
    def name(self) -> str:
        """A short name for people and for counting usage."""
        return "nearest-winner"

    @property
    def identity(self) -> str:
        """The name in `run.json`."""
        return self.name

    @property
    def fingerprint(self) -> str:
        """A hash (hex) of the table, with the number of neighbours."""
        return f"lookup of {self._hash} among {self.neighbours}"

    @property
    def context(self) -> int | None:
        """None: no prompt is too long."""
        return None

    def count(self, prompt: str) -> int:
        """Count a prompt's words."""
        return len(prompt.split())

    def choose(self, prompt: str) -> Supplement:
        """Return the nearest winner of a prompt."""
        table = self.table
        if not table.prompts:
            return SILENCE
        wins, first = Counter[int](), dict[int, int]()
        for rank, row in enumerate(self._find_nearest(prompt)):
            for position in table.won[row]:
                wins[position] += 1
                first.setdefault(position, rank)
        if not wins:
            return SILENCE
        return table.supplements[min(wins, key=lambda position: (-wins[position], first[position], position))]

    def ask(self, request: SampleRequest) -> Sample:
        """Return the nearest winner as a sample, read already."""
        found = self.choose(request.prompt)
        return Sample(found.text, kind=found.kind, cut=found.cut) if found else SILENT

    async def aask(self, request: SampleRequest) -> Sample:
        """Do the same as `ask`, for coroutines."""
        return self.ask(request)

    def samples(self, requests: Sequence[SampleRequest], *, at_once: int = 1) -> Iterator[Sample]:
        """Look the supplement of each request up."""
        return map(self.ask, requests)

    def with_checkpoint(self, path: Path) -> NoReturn:
        """Raise `SetupError`: there are no weights."""
        raise _untrainable()

    def check(self) -> None:
        """Do nothing: the table is there."""

    def check_trainable(self) -> None:
        """Raise `SetupError`: there are no weights."""
        raise _untrainable()

    def reference(self) -> Mapping[str, object]:
        """Return the whole table: a saved program needs no other file."""
        return LookupReference(winners=self.table.dump_state(), neighbours=self.neighbours)

    @staticmethod
    def from_reference(state: Mapping[str, object]) -> WinnerLookup:
        """Load a saved table; raise `SavedStateError` for another form."""
        table = WinnerTable.load_state(state["winners"])
        return WinnerLookup(table, read_whole_number(state, "neighbours", 1))

    @cached_property
    def _hash(self) -> str:
        return hashlib.sha256(json.dumps(self.table.dump_state()).encode()).hexdigest()[:16]

    @cached_property
    def _index(self) -> TfIdf:
        return TfIdf(self.table.prompts)

    def _find_nearest(self, prompt: str) -> list[int]:
        """Return the rows of the most similar prompts; equal ones stand in the table's order."""
        similarities = np.round(self._index.similarities(prompt), 5)
        return [int(row) for row in np.argsort(-similarities, kind="stable")[: self.neighbours]]


def _untrainable() -> SetupError:
    return SetupError(
        "Expected a generator whose weights can be trained, got one that looks supplements up among training queries. "
        "Pass a small model: a hub id, a folder, or SupplementGenerator(...)."
    )


def _read_list(state: Mapping[str, object], name: str) -> list[object]:
    value = state.get(name)
    if not isinstance(value, list):
        raise _invalid(f"a list as {name!r}", value)
    return cast("list[object]", value)


def _invalid(expected: str, value: object) -> SavedStateError:
    return SavedStateError(
        f"Expected {expected} in a saved table of winners, got {repr(value)[:60]}. Save the program again."
    )
