"""Loads the rows of a data set, from the hub or from a folder in the same schema. Imports `datasets` lazily."""

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


def _decode_json(value: object) -> object:
    """Decode a list or mapping that is JSON in a text, as in a CSV file; return anything else unchanged."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


Nested = Annotated[PartT, BeforeValidator(_decode_json)]
"""A column with a list or a mapping, which a CSV file stores as JSON."""

DatasetReader = Callable[..., Iterable[Mapping[str, Any]]]
"""`datasets.load_dataset` with the names of the wanted columns, or a replacement."""

_Parts = Mapping[Split, Sequence[tuple[str, Iterable[Mapping[str, Any]]]]]
"""Rows by split, then by the name of their file or hub split."""

_FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}
_ALIASES = {"validation": ("validation", "valid", "val", "dev")}


@dataclass(frozen=True)
class HubData(Generic[RowT]):
    """A task's loader: a data set on the hub at a revision, and how its rows become examples.

    `splits` names the hub's splits for each of ours; a split without an entry shares. `row` is the schema of a row.
    `example` turns a row into an example, given the folder of local data; it may raise `ValueError`. `skip_reason`
    returns why a row is no part of the task, or an empty text. `files` are file names that a local folder may use for a
    hub's split, best first; the default is the split's name.

    Called with a folder, it reads one file per split, by the beginning of its name, as Parquet, JSON lines, JSON or CSV
    (in CSV, lists and mappings are JSON). Rows that do not fit are listed by file and index, from 0.

    Raises:
        TaskDataError: the data set is gated, missing or unreachable, or the folder holds no file for it.
    """

    hub: str
    configuration: str | None
    revision: str
    splits: Mapping[Split, Sequence[str]]
    row: type[RowT]
    example: Callable[[RowT, Path | None], dspy.Example]
    files: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    skip_reason: Callable[[RowT], str] = lambda _: ""

    def __call__(self, data_dir: Path | None, *, reader: DatasetReader | None = None) -> Pools:
        """Read the rows, from `data_dir` if it is given; `reader` replaces `datasets.load_dataset`."""
        if data_dir is None:
            return self.from_hub(None, reader=reader)
        notes: list[str] = []
        files_by_split = self._find_files(data_dir, notes)
        parts: _Parts = {
            split: [(file.name, _read_file(file, reader or _load_dataset, [*self.row.model_fields])) for file in files]
            for split, files in files_by_split.items()
        }
        return self._build_pools(parts, str(data_dir), data_dir, notes)

    def from_hub(self, folder: Path | None, *, reader: DatasetReader | None = None) -> Pools:
        """Read the hub's rows; `folder` holds the files that the rows refer to."""
        origin = f"{self.hub}{f' ({self.configuration})' if self.configuration else ''} at {self.revision}"
        parts: _Parts = {
            split: [(name, self._read_hub(name, reader or _load_dataset)) for name in names]
            for split, names in self.splits.items()
        }
        return self._build_pools(parts, origin, folder, [])

    def _read_hub(self, split: str, reader: DatasetReader) -> Iterable[Mapping[str, Any]]:
        from datasets.exceptions import DatasetsError

        try:
            columns = [*self.row.model_fields]
            return reader(self.hub, self.configuration, split=split, revision=self.revision, columns=columns)
        except (DatasetsError, OSError, ValueError, httpx.HTTPError) as problem:
            reason = str(problem).partition("\n")[0]
            if "gated" in str(problem).casefold():
                raise TaskDataError(
                    f"{self.hub} is gated: accept its terms on its page on the hub and log in with `hf auth login`, "
                    f"or pass a folder of its rows as data_dir (--data-dir). The hub says: {reason}"
                ) from problem
            raise TaskDataError(
                f"{self.hub} cannot be read from the hub: {reason} Check the connection, or pass a folder of its rows "
                "as data_dir (--data-dir)."
            ) from problem

    def _find_files(self, folder: Path, notes: list[str]) -> dict[Split, list[Path]]:
        """Return the files of each of our splits; each file counts once."""
        if not folder.is_dir():
            raise TaskDataError(f"Expected a folder of rows, but {folder} is not a folder.")
        homes = [home for name in (self.configuration, ".", "data") if name and (home := folder / name).is_dir()]
        every = [[each for each in sorted(home.iterdir()) if each.suffix in _FORMATS] for home in homes]
        for files in every:
            claimed: set[Path] = set()
            by_split: dict[Split, list[Path]] = {
                split: [file for name in names for file in self._claim_files(name, files, claimed, notes)]
                for split, names in self.splits.items()
            }
            if any(by_split.values()):
                return by_split
        if len(alone := [file for files in every for file in files]) == 1:
            return {next(iter(self.splits)): alone}
        names = [name for names in self.splits.values() for name in names]
        raise TaskDataError(
            f"Expected a file for {' or '.join(names)} in {folder}, such as {names[0]}.jsonl (or .parquet, .json, "
            f".csv), found {', '.join(each.name for each in alone) or 'none'}."
        )

    def _claim_files(self, split: str, files: Sequence[Path], claimed: set[Path], notes: list[str]) -> list[Path]:
        names = self.files.get(split) or _ALIASES.get(split, (split,))
        groups = [[file for file in files if _has_name(file, name) and file not in claimed] for name in names]
        chosen = next((group for group in groups if group), [])
        others = [file.name for group in groups for file in group if file not in chosen]
        if others:
            notes.append(f"{', '.join(others)} skipped, as {chosen[0].name} holds the split {split}.")
        claimed.update(file for group in groups for file in group)
        return chosen

    def _build_pools(self, parts: _Parts, origin: str, folder: Path | None, notes: list[str]) -> Pools:
        rows: dict[Split, list[Placed]] = {}
        bad: list[BadRow] = []
        skipped: dict[str, int] = {}
        for split, sources in parts.items():
            rows[split] = []
            for name, source in sources:
                for index, raw in enumerate(source):
                    outcome = self._parse_row(raw, f"{name}[{index}]", folder)
                    if isinstance(outcome, BadRow):
                        bad.append(outcome)
                    elif isinstance(outcome, str):
                        skipped[outcome] = skipped.get(outcome, 0) + 1
                    else:
                        rows[split].append(outcome)
        notes += [f"{count} rows skipped: {reason}." for reason, count in skipped.items()]
        return Pools(rows, origin, bad, tuple(notes))

    def _parse_row(self, raw: Mapping[str, Any], place: str, folder: Path | None) -> Placed | BadRow | str:
        """Return a row as an example, its fault, or why it is skipped."""
        try:
            row = self.row.model_validate(raw)
            return self.skip_reason(row) or Placed(self.example(row, folder), place)
        except ValidationError as problem:
            return BadRow(place, "; ".join(_describe_error(each) for each in problem.errors()[:3]))
        except ValueError as problem:
            return BadRow(place, str(problem))


def _describe_error(problem: Mapping[str, Any]) -> str:
    field_ = ".".join(map(str, problem["loc"]))
    return f"{field_ + ': ' if field_ else ''}{problem['msg']}"


def _has_name(file: Path, name: str) -> bool:
    """Return whether a file has this name, or begins with it: `train.jsonl`, `train-00000-of-00001.parquet`.

    >>> _has_name(Path("dev_question_answer.jsonl"), "dev"), _has_name(Path("development.csv"), "dev")
    (True, False)
    """
    stem = file.stem.casefold()
    return stem == name or stem.startswith((f"{name}-", f"{name}_", f"{name}."))


def _read_file(file: Path, reader: DatasetReader, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    kind = _FORMATS[file.suffix]
    more: dict[str, Any] = _csv_options(file) if kind == "csv" else {}
    try:
        yield from reader(kind, data_files=str(file), split="train", streaming=True, columns=columns, **more)
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise TaskDataError(f"Expected {file} to hold rows as {kind}, but it cannot be read: {problem}") from problem


def _csv_options(file: Path) -> dict[str, Any]:
    """Return options that read every column of a CSV file as text: `007` is no number, `None` is a word."""
    from datasets import Features, Value

    with file.open(encoding="utf-8-sig", newline="") as lines:
        columns = next(csv.reader(lines), [])
    return {"features": Features({name: Value("string") for name in columns}), "keep_default_na": False}


def _load_dataset(*names: Any, columns: Sequence[str], **settings: Any) -> Iterable[Mapping[str, Any]]:
    """Load rows with only these columns, if they exist: an image that nothing reads is not decoded."""
    import datasets

    rows = cast("Any", datasets.load_dataset(*names, **settings))
    present = [name for name in columns if name in (rows.column_names or ())]
    return rows.select_columns(present) if present else rows
