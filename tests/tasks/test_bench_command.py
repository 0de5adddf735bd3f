"""`sgt bench`: the check of a task's rows, and a whole compile and comparison with an actor behind HTTP."""

from __future__ import annotations

import json
import re
from pathlib import Path

import dspy
import pytest
from hub_rows import folder_of, rows_of, write
from real_rows import real_folder
from scripted import ScriptedEngine, reply
from scripted_server import ScriptedServer, serving
from typer.testing import CliRunner, Result

from optimizers import Recipe, TrainingSettings
from optimizers.cli import app, main
from optimizers.comparison.cells import render_text
from optimizers.tasks import task
from optimizers.tasks.benching import run_bench
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.errors import NoActorError, RunFolderError, SetupError
from sgt_modules.kinds import KINDS

TWO = {name: KINDS[name] for name in ("background", "cot")}
TINY = Recipe(rounds=1, warm_samples=1, pool_samples=1, ood_kinds=1, concat=1, max_per_kind=8, pair_cap=2, kinds=TWO)
FAST = TrainingSettings(sft_epochs=1, batch_size=8)


def sgt(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def solves_when_told(text: str) -> str:
    """An actor that adds where it reads background, and where there are many pens; it replays known answers."""
    pens = int(re.findall(r"Ann has (\d+) pens", text)[-1])
    return reply(answer=f"#### {pens + 2}" if "[background]" in text or pens % 2 else "I do not know.")


@pytest.mark.parametrize("name", ["gsm8k", "spider", "hotpotqa", "truthfulqa", "mmlu", "medqa"])
def test_the_check_of_real_rows_prints_one_json_and_nothing_else(name: str) -> None:
    folder = real_folder(name)
    done = sgt("bench", name, "--data-dir", folder, "--check", "--json")
    content = json.loads(done.stdout)
    assert done.exit_code == 0
    assert list(content) == ["task", "rows", "gold_score", "bad_rows"]
    assert (content["task"], content["gold_score"], content["bad_rows"]) == (name, 1.0, [])
    assert content["rows"] >= 150


def test_the_check_ends_with_code_1_where_a_row_is_bad_and_names_it(tmp_path: Path) -> None:
    write([*rows_of("gsm8k", 2), {"question": "?", "answer": "none"}], tmp_path / "train.jsonl")
    shown = sgt("bench", "gsm8k", "--data-dir", tmp_path, "--check")
    assert "train.jsonl[2]: answer: expected it to end" in shown.stdout
    done = sgt("bench", "gsm8k", "--data-dir", tmp_path, "--check", "--json")
    assert (shown.exit_code, done.exit_code) == (1, 1)
    content = json.loads(done.stdout)
    assert (content["rows"], content["gold_score"]) == (3, 1.0)
    assert content["bad_rows"] == [
        {"place": "train.jsonl[2]", "problem": "answer: expected it to end in '#### ' and a number, got 'none'"}
    ]


def test_what_cannot_work_ends_with_one_line_and_where_to_read_more_and_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["nothing", "--check"], ["gsm8k", "--check"], ["gsm8k"], ["gsm8k", "--metric", "f1", "--check"]):
        monkeypatch.setattr("sys.argv", ["sgt", "bench", *arguments])
        with pytest.raises(SystemExit, match="2"):
            main()
        said = capsys.readouterr()
        line, more = said.err.splitlines()
        assert (said.out, line[:5], more[:19]) == ("", "sgt: ", "More: docs/errors.m")


def test_an_actor_must_be_named(tmp_path: Path) -> None:
    done = sgt("bench", "gsm8k", "--data-dir", folder_of("gsm8k", tmp_path))
    assert isinstance(done.exception, NoActorError)


@pytest.mark.slow
def test_sgt_is_compiled_for_an_actor_behind_http_and_compared(tmp_path: Path) -> None:
    """Of 20 test questions the actor solves those with an odd number of pens; with background, all."""
    folder = folder_of("gsm8k", tmp_path / "rows", 60)
    with serving(ScriptedServer(solves_when_told)) as server:
        found = run_bench(
            task("gsm8k"),
            server.lm(),
            data_dir=folder,
            limit=20,
            recipe=TINY,
            trainer=TRLTrainer(embedded_folder("generator"), FAST),
            num_threads=8,
            log_dir=tmp_path / "run",
            display_progress=False,
        )
    none, trained = found.comparison.row("none"), found.comparison.row("sgt")
    asked = [int(re.findall(r"\d+", folder_question(folder, place))[0]) for place in found.splits["test"]["rows"]]
    assert len(asked) == 20
    assert none.test == pytest.approx(sum(pens % 2 for pens in asked) / 20)
    assert not trained.skipped
    assert trained.test is not None
    assert trained.test >= none.test
    assert trained.compiling.actor_calls >= 20 * 3
    inner = tmp_path / "run" / "sgt" / "seed-0" / "sgt"
    assert {each.name for each in (inner / "checkpoints").iterdir()} == {"sft", "dpo1"}
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert recorded == {"comparison": "gsm8k", "splits": found.splits}
    assert len(server.requests) >= trained.compiling.actor_calls


def folder_question(folder: Path, place: str) -> str:
    name, index = re.fullmatch(r"(.*)\[(\d+)\]", place).groups()
    return json.loads((folder / name).read_text().splitlines()[int(index)])["question"]


@pytest.mark.slow
def test_the_command_compiles_and_compares_on_real_rows_and_prints_json(tmp_path: Path) -> None:
    """Two questions a split: the actor behind HTTP answers from the rows where it reads background."""
    folder = real_folder("gsm8k")
    rows = [
        json.loads(line) for name in ("train", "test") for line in (folder / f"{name}.jsonl").read_text().splitlines()
    ]
    known = {row["question"]: row["answer"] for row in rows}

    def replays(text: str) -> str:
        asked = next(question for question in known if question in text)
        return reply(answer=known[asked] if "[background]" in text else "I do not know.")

    with serving(ScriptedServer(replays)) as server:
        done = sgt(
            *("bench", "gsm8k", "--actor", "openai/base", "--api-base", server.address, "--data-dir", folder),
            *("--limit", 2, "--log-dir", tmp_path / "run", "--json"),
        )
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert [row["name"] for row in content["rows"]] == ["none", "sgt"]
    assert content["rows"][0]["test"] == 0.0
    assert not content["rows"][1]["skipped"]
    assert [len(content["splits"][split]["rows"]) for split in ("train", "val", "test")] == [2, 2, 2]
    assert any("The embedded generator knows" in note for note in content["notes"])


def test_other_splits_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    folder = folder_of("gsm8k", tmp_path / "rows")
    settings = {
        "data_dir": folder,
        "limit": 3,
        "contenders": ["none"],
        "log_dir": tmp_path / "run",
        "display_progress": False,
    }
    actor = ScriptedEngine(solves_when_told).lm()
    run_bench(task("gsm8k"), actor, **settings)
    with pytest.raises(RunFolderError, match=r"splits\.seed changed from 0 to 1"):
        run_bench(task("gsm8k"), actor, split_seed=1, **settings)


def test_a_judge_s_agreement_with_exact_match_is_reported(tmp_path: Path) -> None:
    """The actor always says 4, in words; by exact match none is right, and the judge takes those that expect 4."""
    write(rows_of("hle", 8), tmp_path / "test.jsonl")

    def verdict(text: str) -> str:
        expected = text.partition("[[ ## expected ## ]]\n")[2].partition("\n")[0]
        return reply(reason="By value.", same=str(expected == "4"))

    judged = task("hle").with_judge(ScriptedEngine(verdict).lm("scripted/judge"))
    actor = ScriptedEngine(lambda _: reply(answer="It is four.")).lm()
    found = run_bench(
        judged,
        actor,
        data_dir=tmp_path,
        contenders=["none"],
        log_dir=tmp_path / "run",
        display_progress=False,
        num_threads=1,
    )
    judge = found.content()["judge"]
    rows = {f"test.jsonl[{n}]": row for n, row in enumerate(rows_of("hle", 8))}
    tested = [rows[place]["answer"] for place in found.splits["test"]["rows"]]
    tried = rows[found.splits["train"]["rows"][0]]["answer"]  # the metric is tried once, on a gold answer
    agreed = sum(answer != "4" for answer in tested) + (tried == "4")
    assert judge["answers"] == len(tested) + 1
    assert judge["agrees_with_exact_match"] == pytest.approx(agreed / (len(tested) + 1))
    assert (judge["model"], judge["unread"]) == ("scripted/judge", 0)
    assert "The judge: model scripted/judge" in render_text(found, width=200)


OWN = """
import dspy
from optimizers.tasks import Task

TASK = Task(
    name="sums",
    description="A sum.",
    program="question -> answer",
    metric=lambda example, prediction, trace=None: example.answer == prediction.answer,
    loader=lambda folder: [
        dspy.Example(question=f"Ann has {n} pens", answer=f"#### {n + 2}").with_inputs("question") for n in range(30)
    ],
)
"""


def test_a_task_of_one_s_own_is_benched_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "bench_own_sums.py").write_text(OWN)
    with serving(ScriptedServer(solves_when_told)) as server:
        done = sgt(
            *(
                "bench",
                f"{tmp_path / 'bench_own_sums.py'}:TASK",
                "--actor",
                "openai/base",
                "--api-base",
                server.address,
            ),
            *("--contenders", "none,labeled_fewshot", "--log-dir", tmp_path / "run", "--limit", 8),
        )
    assert done.exit_code == 0, done.output
    assert "labeled_fewshot" in done.stdout
    assert re.search(r"sums: no limit a contender, seeds 0", done.stdout)


def test_the_house_terms_need_no_actor_to_be_named(tmp_path: Path) -> None:
    done = sgt("bench", "house_terms", "--contenders", "none", "--limit", 6, "--log-dir", tmp_path / "run", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["rows"][0]["test"] is not None


def test_another_contender_s_lm_is_needed_where_it_writes_instructions(tmp_path: Path) -> None:
    found = run_bench(
        task("gsm8k"),
        ScriptedEngine(solves_when_told).lm(),
        data_dir=folder_of("gsm8k", tmp_path / "rows"),
        limit=4,
        contenders=["gepa"],
        log_dir=tmp_path / "run",
        display_progress=False,
    )
    assert "pass reflection_lm" in found.comparison.row("gepa").skipped


def test_a_split_seed_draws_other_questions() -> None:
    one, other = (task("house_terms").splits(limit=20, seed=seed).record["test"] for seed in (0, 1))
    assert one != other


def test_an_unknown_contender_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    engine = ScriptedEngine(solves_when_told)
    with pytest.raises(SetupError, match="no contender 'gepetto'"):
        run_bench(
            task("gsm8k"),
            engine.lm(),
            data_dir=folder_of("gsm8k", tmp_path / "rows"),
            contenders=["gepetto"],
            log_dir=tmp_path / "run",
        )
    assert not engine.asked


def test_the_embedded_actor_is_a_name_too() -> None:
    from optimizers.tasks.calling import load_actor

    assert load_actor("embedded").model == load_actor("", task("house_terms")).model
    assert isinstance(load_actor("openai/any", api_base="http://localhost:1/v1"), dspy.LM)


def test_each_split_has_a_limit_of_its_own(tmp_path: Path) -> None:
    done = sgt(
        *("bench", "house_terms", "--contenders", "none", "--limit", "6,4,9", "--log-dir", tmp_path / "run", "--json")
    )
    assert done.exit_code == 0, done.output
    splits = json.loads(done.stdout)["splits"]
    assert [len(splits[split]["rows"]) for split in ("train", "val", "test")] == [6, 4, 9]


@pytest.mark.parametrize("limit", ["3,4", "0", "2,0,2", "some", "1,2,3,4", "-1"])
def test_a_limit_that_is_neither_a_number_nor_three_is_refused(limit: str, tmp_path: Path) -> None:
    done = sgt("bench", "house_terms", "--contenders", "none", f"--limit={limit}", "--log-dir", tmp_path / "run")
    assert "--limit N or TRAIN,VAL,TEST" in str(done.exception)
    assert not (tmp_path / "run").exists()
