"""The real run: `sgt bench` with a generator of one's own, its controls and summary, and what `make real` needs."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from hub_rows import folder_of
from places import ROOT
from scripted import ScriptedEngine, reply

from optimizers import Recipe, TrainingSettings
from optimizers.store.rollout_store import RolloutStore
from optimizers.tasks import task
from optimizers.tasks.benching import REAL_CONTENDERS, BenchResult, run_bench
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.kinds import KINDS

pytestmark = pytest.mark.slow

TWO = {name: KINDS[name] for name in ("background", "cot")}
TINY = Recipe(rounds=1, warm_samples=1, pool_samples=1, ood_kinds=1, concat=1, max_per_kind=8, pair_cap=2, kinds=TWO)
PUBLIC = {
    *("task", "seed", "actor", "generator", "splits", "scores", "selected", "p_value", "kinds", "leakage"),
    *("actor_calls", "generator_calls", "tokens", "seconds", "peak_rss_mb"),
}


def solves_when_told(text: str) -> str:
    """An actor that adds where it reads background, and where there are many pens."""
    pens = int(re.findall(r"Ann has (\d+) pens", text)[-1])
    return reply(answer=f"#### {pens + 2}" if "[background]" in text or pens % 2 else "I do not know.")


def queries_when_told(text: str) -> str:
    """An actor that writes the right query where it reads background, and for even prices."""
    price = int(re.findall(r"costs (\d+)", text)[-1])
    told = "[background]" in text or price % 2 == 0
    return reply(sql=f"SELECT item FROM shop WHERE price = {price}" if told else "SELECT 0")


def shop(folder: Path) -> Path:
    """A folder of Spider's form: one database, and a question for each of its prices."""
    database = folder / "database" / "shop" / "shop.sqlite"
    database.parent.mkdir(parents=True)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE shop (item TEXT, price INTEGER)")
        connection.executemany("INSERT INTO shop VALUES (?, ?)", [(f"item {n}", n) for n in range(24)])
        connection.commit()
    rows = [
        {"db_id": "shop", "question": f"Which costs {n}?", "query": f"SELECT item FROM shop WHERE price  =  {n}"}
        for n in range(24)
    ]
    (folder / "dev.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> BenchResult:
    """A bench of a generator in a folder, with controls, on a task whose prompts are short."""
    home = tmp_path_factory.mktemp("bench")
    return run_bench(
        task("gsm8k"),
        ScriptedEngine(solves_when_told).lm(),
        data_dir=folder_of("gsm8k", home / "rows", 40),
        limit=8,
        generator=f"local:{embedded_folder('generator')}",
        trainer=TRLTrainer(embedded_folder("generator"), TrainingSettings(sft_epochs=1, batch_size=8)),
        recipe=TINY,
        controls=True,
        budget=500,
        num_threads=8,
        log_dir=home / "run",
        display_progress=False,
    )


def test_a_generator_of_one_s_own_is_compared_with_few_shot_contenders(found: BenchResult) -> None:
    assert [row.name for row in found.comparison.rows] == list(REAL_CONTENDERS)
    assert not found.comparison.skipped


def test_the_controls_have_a_row_a_stage_and_each_kind_always_on_validation(found: BenchResult) -> None:
    [controls] = found.controls
    names = [row.name for row in controls.rows]
    expected = {"none", "selected", "untrained", "sft", "dpo1", "shuffled", "lookup", "small_model"}
    assert {name for name in names if not name.startswith("always")} == expected
    always = [row for row in controls.rows if row.name.startswith("always")]
    assert [row.name for row in always] == ["always_background", "always_cot"]
    for row in always:
        assert re.fullmatch(r"(sft|dpo1), on validation", row.note)
        assert row.score is not None


def test_the_summary_stands_in_the_run_s_folder_in_the_public_format(found: BenchResult) -> None:
    content = json.loads((found.comparison.log_dir / "sgt" / "seed-0" / "sgt" / "summary.json").read_text())
    assert set(content) >= PUBLIC
    assert (content["task"], content["actor"]) == ("gsm8k", "scripted/actor")
    assert content["splits"] == {"train": 8, "val": 8, "test": 8}
    assert set(content["scores"]) == {"none", "untrained", "sft", "dpo1"}
    assert set(content["scores"]["sft"]) == {"val", "test"}
    assert content["scores"]["none"]["test"] == pytest.approx(found.comparison.row("none").test)


def test_the_gold_query_is_in_the_training_examples_and_never_reaches_what_sgt_asks(tmp_path: Path) -> None:
    engine = ScriptedEngine(queries_when_told)
    folder = shop(tmp_path / "rows")
    made = run_bench(
        task("spider"),
        engine.lm(),
        data_dir=folder,
        trainer=TRLTrainer(embedded_folder("generator"), TrainingSettings(sft_epochs=1, batch_size=8)),
        limit=4,
        contenders=["labeled_fewshot", "sgt"],
        generator=str(embedded_folder("generator")),
        recipe=TINY,
        num_threads=4,
        log_dir=tmp_path / "run",
        display_progress=False,
    )
    assert not made.comparison.row("labeled_fewshot").skipped
    pools = task("spider").read(folder)
    golds = {each.example.query for each in pools.all_rows}
    home = tmp_path / "run" / "sgt" / "seed-0" / "sgt"
    with RolloutStore(home / "rollouts.sqlite") as store:
        prompts = {rollout.query.prompt for rollout in store.rollouts()}
    assert prompts
    assert not [gold for gold in golds for prompt in prompts if gold in prompt]
    demos = (tmp_path / "run" / "labeled_fewshot" / "seed-0" / "program.json").read_text()
    assert any(gold in demos for gold in golds)


def test_make_real_says_in_one_message_which_models_and_rows_it_needs(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("SGT_REAL")}
    env |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "benchmarks/real.py", "--quick"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    for word in ("Qwen/Qwen2.5-Coder-0.5B-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", "SGT_REAL_MODELS"):
        assert word in line
    assert "Rows: SGT_REAL_DATA is not set." in line
