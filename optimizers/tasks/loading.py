"""Rows of a data set on the hub, or of a folder in the same schema. Of the tasks, it alone reads with `datasets`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, cast

import dspy
import httpx
from pydantic import BaseModel, BeforeValidator, ValidationError

from optimizers.tasks.rows import BadRow, Placed, Pools, Split
from sgt_modules.errors import TaskDataError

RowT = TypeVar("RowT", bound=BaseModel)

PartT = TypeVar("PartT")


def _decoded(value: object) -> object:
    """A list or mapping that stands as JSON in a text, as in a CSV file; anything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


Nested = Annotated[PartT, BeforeValidator(_decoded)]
"""A column that holds a list or a mapping, which a CSV file holds as JSON."""

Reader = Callable[..., Iterable[Mapping[str, Any]]]
"""`datasets.load_dataset`, told which columns are wanted, or what stands for it."""

_Parts = Mapping[Split, Sequence[tuple[str, Iterable[Mapping[str, Any]]]]]
"""Rows by split, from files or splits of the hub by name."""

_FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}
_ALIASES = {"validation": ("validation", "valid", "val", "dev")}


@dataclass(frozen=True)
class HubData(Generic[RowT]):
    """A data set on the hub, at a revision, and how its rows become examples: a task's loader.

    `splits` says which of the hub's splits each of ours draws from; one that is not named shares. `row` is the schema
    of a row, `example` what becomes of it (the folder of local data beside it), which may raise `ValueError`.
    `left_out` gives a reason for rows that are no part of the task. `files` are names under which a local folder may
    hold a hub's split, best first; by default the split's own.

    Called with a folder it reads that: a file a split, by the start of its name, as Parquet, JSON lines, JSON or CSV
    (in CSV, lists and mappings are written as JSON). Rows that do not fit are named by file and index, from 0.

    Raises:
        TaskDataError: the data set is gated, missing or out of reach, or the folder holds no file for it.
    """

    hub: str
    configuration: str | None
    revision: str
    splits: Mapping[Split, Sequence[str]]
    row: type[RowT]
    example: Callable[[RowT, Path | None], dspy.Example]
    files: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    left_out: Callable[[RowT], str] = lambda _: ""

    def __call__(self, data_dir: Path | None, *, reader: Reader | None = None) -> Pools:
        """The rows, from `data_dir` where it is given; `reader` stands for `datasets.load_dataset`."""
        if data_dir is None:
            return self.from_hub(None, reader=reader)
        notes: list[str] = []
        found = self._in_folder(data_dir, notes)
        parts: _Parts = {
            split: [(file.name, _of_file(file, reader or _load_dataset, [*self.row.model_fields])) for file in files]
            for split, files in found.items()
        }
        return self._pools(parts, str(data_dir), data_dir, notes)

    def from_hub(self, folder: Path | None, *, reader: Reader | None = None) -> Pools:
        """The hub's rows, with a folder that holds what they refer to."""
        origin = f"{self.hub}{f' ({self.configuration})' if self.configuration else ''} at {self.revision}"
        parts: _Parts = {
            split: [(name, self._of_hub(name, reader or _load_dataset)) for name in names]
            for split, names in self.splits.items()
        }
        return self._pools(parts, origin, folder, [])

    def _of_hub(self, split: str, reader: Reader) -> Iterable[Mapping[str, Any]]:
        from datasets.exceptions import DatasetsError

        try:
            columns = [*self.row.model_fields]
            return reader(self.hub, self.configuration, split=split, revision=self.revision, columns=columns)
        except (DatasetsError, OSError, ValueError, httpx.HTTPError) as problem:
            said = str(problem).partition("\n")[0]
            if "gated" in str(problem).casefold():
                raise TaskDataError(
                    f"{self.hub} is gated: accept its terms on its page on the hub and log in with `hf auth login`, "
                    f"or pass a folder of its rows as data_dir (--data-dir). The hub said: {said}"
                ) from problem
            raise TaskDataError(
                f"{self.hub} cannot be read from the hub: {said} Check the connection, or pass a folder of its rows "
                "as data_dir (--data-dir)."
            ) from problem

    def _in_folder(self, folder: Path, notes: list[str]) -> dict[Split, list[Path]]:
        """The files of each of our splits; each file once."""
        if not folder.is_dir():
            raise TaskDataError(f"Expected a folder of rows, but {folder} is none.")
        homes = [home for name in (self.configuration, ".", "data") if name and (home := folder / name).is_dir()]
        every = [[each for each in sorted(home.iterdir()) if each.suffix in _FORMATS] for home in homes]
        for files in every:
            claimed: set[Path] = set()
            found: dict[Split, list[Path]] = {
                split: [file for name in names for file in self._files_of(name, files, claimed, notes)]
                for split, names in self.splits.items()
            }
            if any(found.values()):
                return found
        if len(alone := [file for files in every for file in files]) == 1:
            return {next(iter(self.splits)): alone}
        names = [name for names in self.splits.values() for name in names]
        raise TaskDataError(
            f"Expected a file for {' or '.join(names)} in {folder}, such as {names[0]}.jsonl (or .parquet, .json, "
            f".csv), found {', '.join(each.name for each in alone) or 'none'}."
        )

    def _files_of(self, split: str, files: Sequence[Path], claimed: set[Path], notes: list[str]) -> list[Path]:
        names = self.files.get(split) or _ALIASES.get(split, (split,))
        found = [[file for file in files if _is_called(file, name) and file not in claimed] for name in names]
        chosen = next((group for group in found if group), [])
        others = [file.name for group in found for file in group if file not in chosen]
        if others:
            notes.append(f"{', '.join(others)} left out, as {chosen[0].name} holds the split {split}.")
        claimed.update(file for group in found for file in group)
        return chosen

    def _pools(
        self,
        parts: _Parts,
        origin: str,
        folder: Path | None,
        notes: list[str],
    ) -> Pools:
        rows: dict[Split, list[Placed]] = {}
        bad: list[BadRow] = []
        skipped: dict[str, int] = {}
        for split, sources in parts.items():
            rows[split] = []
            for name, source in sources:
                for index, raw in enumerate(source):
                    found = self._read(raw, f"{name}[{index}]", folder)
                    if isinstance(found, BadRow):
                        bad.append(found)
                    elif isinstance(found, str):
                        skipped[found] = skipped.get(found, 0) + 1
                    else:
                        rows[split].append(found)
        notes += [f"{count} rows left out: {reason}." for reason, count in skipped.items()]
        return Pools(rows, origin, bad, tuple(notes))

    def _read(self, raw: Mapping[str, Any], place: str, folder: Path | None) -> Placed | BadRow | str:
        """A row as an example, what is wrong with it, or why it is left out."""
        try:
            row = self.row.model_validate(raw)
            return self.left_out(row) or Placed(self.example(row, folder), place)
        except ValidationError as problem:
            return BadRow(place, "; ".join(_said(each) for each in problem.errors()[:3]))
        except ValueError as problem:
            return BadRow(place, str(problem))


def _said(problem: Mapping[str, Any]) -> str:
    field_ = ".".join(map(str, problem["loc"]))
    return f"{field_ + ': ' if field_ else ''}{problem['msg']}"


def _is_called(file: Path, name: str) -> bool:
    """Whether a file's name is this one, or begins with it: `train.jsonl`, `train-00000-of-00001.parquet`.

    >>> _is_called(Path("dev_question_answer.jsonl"), "dev"), _is_called(Path("development.csv"), "dev")
    (True, False)
    """
    stem = file.stem.casefold()
    return stem == name or stem.startswith((f"{name}-", f"{name}_", f"{name}."))


def _of_file(file: Path, reader: Reader, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    kind = _FORMATS[file.suffix]
    more: dict[str, Any] = _as_text(file) if kind == "csv" else {}
    try:
        yield from reader(kind, data_files=str(file), split="train", streaming=True, columns=columns, **more)
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise TaskDataError(f"Expected {file} to hold rows as {kind}, but it cannot be read: {problem}") from problem


def _as_text(file: Path) -> dict[str, Any]:
    """Every column of a CSV file as it is written: `007` is no number and `None` not nothing."""
    from datasets import Features, Value

    with file.open(encoding="utf-8-sig", newline="") as lines:
        columns = next(csv.reader(lines), [])
    return {"features": Features({name: Value("string") for name in columns}), "keep_default_na": False}


def _load_dataset(*names: Any, columns: Sequence[str], **settings: Any) -> Iterable[Mapping[str, Any]]:
    """The rows, where there are such columns with these alone: an image that nobody asks for is not decoded."""
    import datasets

    found = cast("Any", datasets.load_dataset(*names, **settings))
    known = [name for name in columns if name in (found.column_names or ())]
    return found.select_columns(known) if known else found
