"""A run is written as tables that `datasets` reads, and its training rows as TRL reads them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import datasets
import pytest
from scripted import query, rollout
from typer.testing import CliRunner

from optimizers.cli import app
from optimizers.core.records import PreferencePair, Rollout, SFTExample
from optimizers.observe.export import Format, export
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.errors import RunFolderError, SetupError
from sgt_modules.local.chat_template import render_chat

SFT = [
    SFTExample("q1", "cot", "Help with q1.", "[cot] Ünits first", cut=True),
    SFTExample("q2", "hint", "Help.", "[hint] 4"),
]
PAIRS = [PreferencePair("q1", "inter", "Help with q1.", "[cot] think", "[answer] 5", rejected_cut=True)]
ROLLOUTS = [
    replace(rollout(1.0, of=query("q1", 1)), output={"answer": "Ünits"}, cost=0.5, writer="f00d"),
    replace(rollout(None, of=query("q2", 2)), error="timeout"),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder of two rollouts, SFT rows, and the pairs of two rounds."""
    folder = tmp_path / "run"
    with RolloutStore(folder / "rollouts.sqlite") as store:
        store.add_all(ROLLOUTS, "scope")
        store.reuse(replace(ROLLOUTS[0], stage="dpo1"), "scope")
    (folder / "training").mkdir()
    for stage, rows in {"dpo2": PAIRS, "dpo1": PAIRS, "sft": SFT}.items():
        text = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
        (folder / "training" / f"{stage}.jsonl").write_text(text, encoding="utf-8")
    return folder


def read(output: Path, to: Format, table: str) -> datasets.Dataset:
    if to == "hub-format":
        return datasets.load_dataset(str(output), table, split="train", cache_dir=str(output.parent / "cache"))
    kind, end = ("json", "jsonl") if to == "jsonl" else ("parquet", "parquet")
    cache = str(output.parent / "cache")
    return datasets.load_dataset(kind, data_files=str(output / f"{table}.{end}"), split="train", cache_dir=cache)


def turn(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


@pytest.mark.parametrize("to", ["parquet", "jsonl", "hub-format"])
def test_what_is_written_is_read_again_by_datasets(run: Path, tmp_path: Path, to: Format) -> None:
    written = export(run, to, tmp_path / "out")
    assert [(each.table, each.rows) for each in written] == [("rollouts", 3), ("sft", 2), ("preference", 2)]
    assert all(each.file.is_file() for each in written)
    rows = read(tmp_path / "out", to, "rollouts")
    assert rows["stage"][:] == ["sft", "sft", "dpo1"]
    assert rows["score"][:] == [1.0, None, 1.0]
    assert rows[0] == {
        "run": "run", "stage": "sft", "source": "predefined", "query": "q1", "position": 1, "predictor": "self",
        "turn": 0, "prompt": "Help with q1.", "kind": "cot", "supplement": "think", "cut": False, "others": "[]",
        "score": 1.0, "feedback": "", "output": '{"answer": "Ünits"}', "error": "", "logprob": 0.0, "tokens_in": 0,
        "tokens_out": 0, "seconds": 0.0, "cost": 0.5, "writer": "f00d",
    }  # fmt: skip
    assert rows[1]["error"] == "timeout"
    sft = read(tmp_path / "out", to, "sft")
    assert sft[0] == {
        "prompt": turn("user", "Help with q1."),
        "completion": turn("assistant", "[cot] Ünits first"),
        "query": "q1",
        "kind": "cot",
        "stage": "sft",
        "cut": True,
    }
    preference = read(tmp_path / "out", to, "preference")
    assert preference["stage"][:] == ["dpo1", "dpo2"]
    assert (preference[0]["chosen_cut"], preference[0]["rejected_cut"]) == (False, True)
    assert preference[0]["chosen"] == turn("assistant", "[cot] think")
    assert preference[0]["rejected"] == turn("assistant", "[answer] 5")
    assert not [each for each in tmp_path.iterdir() if each.name.startswith((".", "out."))]


def test_trl_puts_the_rows_into_the_template_that_the_generator_reads(run: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer
    from trl.data_utils import apply_chat_template, is_conversational

    tokenizer = AutoTokenizer.from_pretrained(embedded_folder("generator"))
    export(run, "parquet", tmp_path / "out")
    for table, columns in (("sft", {"prompt", "completion"}), ("preference", {"prompt", "chosen", "rejected"})):
        row = read(tmp_path / "out", "parquet", table)[0]
        said = {name: row[name] for name in columns}
        assert is_conversational(said)
        applied = apply_chat_template(said, tokenizer, enable_thinking=False)
        assert set(applied) == columns
        assert applied["prompt"] == render_chat(tokenizer, row["prompt"])


def test_a_run_that_has_not_trained_has_rollouts_only(run: Path, tmp_path: Path) -> None:
    for each in (run / "training").iterdir():
        each.unlink()
    (only,) = export(run, "hub-format", tmp_path / "out")
    assert (only.table, only.rows) == ("rollouts", 3)
    assert read(tmp_path / "out", "hub-format", "rollouts").num_rows == 3


def test_a_store_that_several_runs_share_is_exported_with_the_run_of_each_row(tmp_path: Path) -> None:
    path = tmp_path / "shared.sqlite"
    for name in ("b", "a"):
        with RolloutStore(path, run=name) as store:
            store.add(ROLLOUTS[0], "scope")
    export(tmp_path, "jsonl", tmp_path / "out", store=f"sqlite:///{path}")
    assert read(tmp_path / "out", "jsonl", "rollouts")["run"][:] == ["a", "b"]


def test_more_rollouts_than_a_batch_are_all_written_in_order(run: Path, tmp_path: Path) -> None:
    many: list[Rollout] = [rollout(1.0, of=query(f"q{n}", n)) for n in range(2500)]
    with RolloutStore(run / "rollouts.sqlite") as store:
        store.add_all(many, "another scope")
    export(run, "parquet", tmp_path / "out")
    assert read(tmp_path / "out", "parquet", "rollouts")["position"][3:] == list(range(2500))


@pytest.mark.parametrize("line", ["{", '["prompt"]', "[" * 100_000])
def test_a_row_that_is_no_object_is_told_with_its_place_and_nothing_is_written(
    run: Path, tmp_path: Path, line: str
) -> None:
    with (run / "training" / "dpo1.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(RunFolderError, match=r"dpo1\.jsonl, line 2"):
        export(run, "jsonl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_link_out_of_the_run_is_not_followed(run: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.jsonl").write_text('{"prompt": "mine", "completion": "mine"}\n')
    (run / "training" / "sft.jsonl").unlink()
    (run / "training" / "sft.jsonl").symlink_to(tmp_path / "secret.jsonl")
    assert [each.table for each in export(run, "jsonl", tmp_path / "out")] == ["rollouts", "preference"]


def test_what_cannot_be_exported_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="holds something already"):
        export(run, "jsonl", run)
    with pytest.raises(RunFolderError, match=r"holds no rollouts\.sqlite"):
        export(tmp_path / "nowhere", "jsonl", tmp_path / "out")
    RolloutStore(tmp_path / "new" / "rollouts.sqlite").close()
    with pytest.raises(RunFolderError, match="holds no rollouts yet"):
        export(tmp_path / "new", "jsonl", tmp_path / "out")
    with pytest.raises(SetupError, match=r"Expected a format of parquet, jsonl, hub-format, or merged .*, got .csv."):
        export(run, "csv", tmp_path / "out")  # pyright: ignore[reportArgumentType]


def test_the_command_says_what_it_wrote(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    said = CliRunner().invoke(app, ["export", str(run), "--to", "jsonl", "--output", str(output)])
    assert said.exit_code == 0
    assert said.stdout.splitlines() == [
        f"{output / 'rollouts.jsonl'}: 3 rows",
        f"{output / 'sft.jsonl'}: 2 rows",
        f"{output / 'preference.jsonl'}: 2 rows",
    ]
