"""A run as data sets: its rollouts as a flat table, and the rows it was trained on as TRL reads them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, get_args

from optimizers.core.records import Rollout
from optimizers.core.run_folder import RunFolder
from optimizers.core.safe_reading import read_rows
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.errors import RunFolderError, SetupError, SGTError

if TYPE_CHECKING:
    import datasets

Format = Literal["parquet", "jsonl", "hub-format"]
"""`parquet` and `jsonl`: a file a table; `hub-format`: a folder that `datasets.load_dataset` reads, with a card."""

SFT = ("prompt", "completion", "query", "kind", "stage", "cut")
PREFERENCE = ("prompt", "chosen", "rejected", "query", "category", "stage", "chosen_cut", "rejected_cut")
GROUPED = ("prompt", "completion", "query", "kind", "reward", "stage", "cut")
_FLAGS = ("cut", "chosen_cut", "rejected_cut")

_ROLLOUTS = {
    "run": "string",
    "stage": "string",
    "source": "string",
    "query": "string",
    "position": "int64",
    "predictor": "string",
    "turn": "int64",
    "prompt": "string",
    "kind": "string",
    "supplement": "string",
    "cut": "bool",
    "others": "string",  # JSON: what every other place read, as [role, turn, kind, text]
    "score": "float64",
    "feedback": "string",
    "output": "string",  # JSON
    "error": "string",
    "logprob": "float64",
    "tokens_in": "int64",
    "tokens_out": "int64",
    "seconds": "float64",
    "cost": "float64",
    "writer": "string",
}

_Rows = Iterator[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Exported:
    """One table that was written: its name, its file, and its rows."""

    table: str
    file: Path
    rows: int


def export(
    run_folder: str | Path, to: Format, output: str | Path, *, store: str | Path | None = None
) -> list[Exported]:
    """Write a run's tables into a new folder; what was written.

    `rollouts` has a row for each rollout that a stage met. `sft` (prompt, completion) and `preference` (prompt, chosen,
    rejected) are there where the run has trained, and after GRPO `grouped` (prompt, completion, reward; the samples of
    a query are a group): their rows stand in its folder as `training/<stage>.jsonl`, and are
    written as turns of a chat, so that TRL puts them into the model's own template, as the generator does; behind
    a text that is `cut` (`chosen_cut`, `rejected_cut`) this package teaches no end token. Rows go from disk to disk, so
    a store may be larger than memory. `store` is the run's, where that is not in its folder.

    Raises:
        RunFolderError: the folder holds no rollouts, or rows that cannot be read; or `output` holds something.
    """
    if to not in get_args(Format):
        raise SetupError(
            f"Expected a format of {', '.join(get_args(Format))}, or merged or adapter for weights, got {to!r}."
        )
    folder, output = RunFolder(Path(run_folder)), Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise RunFolderError(f"{output} holds something already. Choose a new folder to export to.")
    if store is None and not folder.store.is_file():
        raise RunFolderError(f"{folder.path} holds no {folder.store.name}, so there is no run to export.")
    draft = output.with_name(f"{output.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        written = _written(folder, str(store or folder.store), to, draft)
        if output.exists():
            output.rmdir()
        draft.rename(output)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return [Exported(each.table, output / each.file.relative_to(draft), each.rows) for each in written]


def _written(folder: RunFolder, store: str, to: Format, draft: Path) -> list[Exported]:
    files = [str(each) for each in folder.training_files]
    tables: dict[str, tuple[Callable[..., _Rows], Mapping[str, object]]] = {
        "rollouts": (rollout_rows, {"store": store}),
        "sft": (training_rows, {"files": files, "columns": SFT}),
        "preference": (training_rows, {"files": files, "columns": PREFERENCE}),
        "grouped": (training_rows, {"files": files, "columns": GROUPED}),
    }
    data = draft / "data" if to == "hub-format" else draft
    data.mkdir(parents=True)
    end = "jsonl" if to == "jsonl" else "parquet"
    written: list[Exported] = []
    with TemporaryDirectory(dir=draft.parent, prefix=".export-") as cache, _without_bars():
        for table, (rows, given) in tables.items():
            if next(rows(**given), None) is None:
                continue
            made = _made(rows, given, _features(table), cache)
            file = data / f"{table}.{end}"
            _write(made, file)
            written.append(Exported(table, file, len(made)))
            del made
    if not written or written[0].table != "rollouts":
        raise RunFolderError(f"{folder.path} holds no rollouts yet, so there is nothing to export.")
    if to == "hub-format":
        (draft / "README.md").write_text(card(written), encoding="utf-8")
    return written


def _made(
    rows: Callable[..., _Rows], given: Mapping[str, object], features: datasets.Features, cache: str
) -> datasets.Dataset:
    """The rows on disk, as Arrow."""
    import datasets
    from datasets.exceptions import DatasetGenerationError

    try:
        return datasets.Dataset.from_generator(rows, features=features, cache_dir=cache, gen_kwargs=dict(given))
    except DatasetGenerationError as problem:
        raise (problem.__cause__ if isinstance(problem.__cause__, SGTError) else problem) from None


def _features(table: str) -> datasets.Features:
    import datasets

    text, flag = datasets.Value("string"), datasets.Value("bool")
    if table == "rollouts":
        return datasets.Features({name: datasets.Value(kind) for name, kind in _ROLLOUTS.items()})
    columns = {"sft": SFT, "preference": PREFERENCE, "grouped": GROUPED}[table]
    chat = set(columns[: columns.index("query")])
    turns = [{"role": text, "content": text}]
    kinds = {**dict.fromkeys(chat, turns), **dict.fromkeys(_FLAGS, flag), "reward": datasets.Value("float64")}
    return datasets.Features({name: kinds.get(name, text) for name in columns})


def _write(rows: datasets.Dataset, file: Path) -> None:
    if file.suffix == ".jsonl":
        rows.to_json(file, lines=True, force_ascii=False)
    else:
        rows.to_parquet(file)


def rollout_rows(store: str) -> _Rows:
    """Every rollout that a stage of any run met, as a row of the flat table."""
    with RolloutStore(store if "://" in store else Path(store)) as opened:
        for run in opened.runs():
            for rollout in opened.iter_rollouts(run=run):
                yield _flat(rollout, run)


def _flat(rollout: Rollout, run: str) -> dict[str, Any]:
    query, reward = rollout.query, rollout.reward
    others = [[*place, each.kind, each.text] for place, each in query.others]
    return {
        "run": run,
        "stage": rollout.stage,
        "source": rollout.source,
        "query": query.id,
        "position": query.index,
        "predictor": query.predictor,
        "turn": query.turn,
        "prompt": query.prompt,
        "kind": rollout.supplement.kind,
        "supplement": rollout.supplement.text,
        "cut": rollout.supplement.cut,
        "others": json.dumps(others, ensure_ascii=False),
        "score": None if reward is None else reward.score,
        "feedback": "" if reward is None else reward.feedback,
        "output": json.dumps(dict(rollout.output), ensure_ascii=False),
        "error": rollout.error,
        "logprob": rollout.logprob,
        "tokens_in": rollout.tokens_in,
        "tokens_out": rollout.tokens_out,
        "seconds": rollout.seconds,
        "cost": rollout.cost,
        "writer": rollout.writer,
    }


def training_rows(files: Sequence[str], columns: Sequence[str]) -> _Rows:
    """The rows of the files that have these columns; those up to `query` become turns of a chat."""
    said = columns[: columns.index("query")]
    for file in map(Path, files):
        for row in read_rows(file):
            if all(name in row for name in said) and ("reward" in row) == ("reward" in columns):
                texts = {name: str(row.get(name, "")) for name in columns}
                flags = {name: bool(row.get(name)) for name in columns if name in _FLAGS}
                turns = {name: _turn(name, texts[name]) for name in said}
                reward = {"reward": float(row["reward"])} if "reward" in columns else {}
                yield {**texts, **turns, **flags, **reward, "stage": file.stem}


def _turn(column: str, text: str) -> list[dict[str, str]]:
    return [{"role": "user" if column == "prompt" else "assistant", "content": text}]


def card(tables: Sequence[Exported]) -> str:
    """The data set's card: where each table lies, and what it holds."""
    configs = "\n".join(
        f"- config_name: {each.table}\n  data_files: data/{each.file.name}" + ("\n  default: true" if n == 0 else "")
        for n, each in enumerate(tables)
    )
    holds = {
        "rollouts": "each run of the actor: what was asked, which supplement it read, what came of it",
        "sft": "supplements that worked, as `prompt` and `completion`",
        "preference": "a better and a worse supplement, as `prompt`, `chosen` and `rejected`",
        "grouped": "the generator's own samples, as `prompt`, `completion` and `reward`; a `query` is a group",
    }
    lines = "\n".join(f"- `{each.table}`, {each.rows:,} rows: {holds[each.table]}." for each in tables)
    return f"""---
configs:
{configs}
---

# Rollouts of Supplement Generation Training

{lines}

`datasets.load_dataset(folder, "{tables[-1].table}")` reads a table.
"""


@contextmanager
def _without_bars() -> Iterator[None]:
    """Inside, `datasets` shows no progress."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
