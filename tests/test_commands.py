"""The `sgt` command as a person meets it: its output, its JSON, its exit codes, and what it says of a mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from run_folders import explored, met, run_folder, validated
from typer.testing import CliRunner

from optimizers.cli import app, main
from optimizers.comparison.embedded import SETTINGS
from optimizers.comparison.result import Comparison
from optimizers.comparison.standing import Row
from optimizers.training import TrainingSettings
from sgt_modules.embedded import HouseTermsWorld, Sizes

PROGRAM = """
from sgt_modules.embedded import HouseTermsWorld, Sizes, program
import dspy

metric = HouseTermsWorld(0, sizes=Sizes(train=4, validation=4, test=4, shifted=4, terms=4, shifted_terms=4)).metric
answers = dspy.Predict("question -> answer")
number = 4
"""


def said(*words: str) -> Any:
    """What a command prints as JSON."""
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_folder(tmp_path / "run")


@pytest.fixture
def app_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's module and data, in which the command is called."""
    (tmp_path / "users_app.py").write_text(PROGRAM)
    world = HouseTermsWorld(0, sizes=Sizes(train=4, validation=4, test=4, shifted=4, terms=4, shifted_terms=4))
    for name, split in (("train", world.train), ("val", world.val)):
        rows = [json.dumps(each.toDict()) for each in split]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "users_app", raising=False)
    return tmp_path


def test_the_command_s_help_loads_nothing_heavy() -> None:
    heavy = ("dspy", "torch", "transformers", "sqlalchemy", "scipy", "pandas", "litellm", "jinja2", "fastapi")
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom optimizers.cli import app\n"
        "done = CliRunner().invoke(app, ['--help'])\nassert done.exit_code == 0\n"
        f"print(sorted(set({heavy}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


COMMANDS = ["demo", "compare", "bench", "export", "compile", "estimate", "report", "inspect", "doctor", "serve"]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_s_help_has_an_example_and_says_of_json(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"])
    assert shown.exit_code == 0
    assert f"sgt {command} " in " ".join(shown.output.split())
    assert "--json" in shown.output or command == "serve"


def test_a_report_is_written_where_it_is_wanted(run: Path, tmp_path: Path) -> None:
    told = said("report", str(run), "--out", str(tmp_path / "page.html"))
    page = tmp_path / "page.html"
    assert {name: told[name] for name in ("report", "bytes")} == {"report": str(page), "bytes": page.stat().st_size}
    printed = CliRunner().invoke(app, ["report", str(run)]).output.splitlines()
    assert printed[0] == str(run / "report.html")
    assert any(line.split()[:3] == ["timeout", "1", "1"] for line in printed)


def test_a_comparison_s_folder_is_reported_as_one(tmp_path: Path) -> None:
    found = Comparison("sums", "100 actor calls", (0,), (Row("none", 0.5, (0.2, 0.8)),), tmp_path)
    (tmp_path / "comparison.json").write_text(json.dumps(found.content()))
    assert "100 actor calls a contender" in Path(said("report", str(tmp_path))["report"]).read_text()


def test_inspect_tells_the_stages_first(run: Path) -> None:
    told = said("inspect", str(run))
    assert told["selected"] == "dpo1"
    assert [(each["stage"], each["score"]) for each in told["scores"]["val"]] == [
        ("none", 0.25),
        ("sft", 0.5),
        ("dpo1", 0.75),
    ]
    assert told["rollouts"]["warm/train"] == 3


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (["--stage", "dpo1"], ["[pairs] dpo1 0", "[cot] dpo1 1", "[cot] dpo1 2", "[cot] dpo1 3"]),
        (["--stage", "dpo1/val", "--reward", "lost"], ["[cot] dpo1 3"]),
        (["--kind", "pairs", "--reward", "won"], ["[pairs] 4, not 5", "[pairs] sft 0", "[pairs] dpo1 0"]),
        (["--reward", "unanswered"], [f"[hint] {'x' * 40}"]),
        (["--reward", "0.5:1", "--stage", "warm"], ["[cot] think", "[pairs] 4, not 5"]),
        (["--query", "train-1", "--reward", "lost"], ["", "[cot] think again"]),
        (["--query", "2"], ["", "[cot] sft 2", "[cot] dpo1 2"]),
        (["--text", "AGAIN"], ["[cot] think again"]),
    ],
)
def test_inspect_filters(run: Path, filters: list[str], found: list[str]) -> None:
    told = said("inspect", str(run), *filters)
    assert [each["supplement"] for each in told["rollouts"]] == found
    assert told["found"] == len(found)


def test_a_query_s_winners_stand_beside_its_losers_word_for_word(run: Path) -> None:
    shown = CliRunner().invoke(app, ["inspect", str(run), "--query", "train-1"], env={"COLUMNS": "80"}).output
    assert "question: 1" in shown
    assert "won (1)" in shown
    assert "lost (2)" in shown
    [line] = [line for line in shown.splitlines() if "[pairs] 4, not 5" in line]
    assert "(no supplement)" in line


def test_a_supplement_cannot_command_the_terminal(tmp_path: Path) -> None:
    rollouts = [*validated(), *explored(), met("warm", 0, 1.0, kind="cot", text="\x1b]0;owned\x07 [bold]x[/bold]")]
    shown = CliRunner().invoke(app, ["inspect", str(run_folder(tmp_path / "run", rollouts)), "--text", "owned"]).output
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "[bold]x" in shown


def test_a_list_says_how_much_it_leaves_out(run: Path) -> None:
    shown = CliRunner().invoke(app, ["inspect", str(run), "--stage", "sft", "--limit", "1"]).output
    assert "4 found; the first 1 are shown." in shown


def test_a_user_s_program_and_data_are_estimated_compiled_and_saved(app_folder: Path) -> None:
    given = ["users_app:program", "--train", "train.jsonl", "--val", "val.jsonl", "--metric", "users_app:metric"]
    given += ["--lm", "embedded", "--generator", "embedded", "--rounds", "1"]
    told = said("estimate", *given)
    assert [each["name"] for each in told["stages"]] == ["none", "warm", "sft", "round 1", "dpo1"]
    assert told["total"]["actor_calls"] == sum(each["actor_calls"] for each in told["stages"])
    short = CliRunner().invoke(
        app, ["compile", *given, "--log-dir", "run", "--max-actor-calls", "6", "--report-to", "tensorboard", "--json"]
    )
    assert short.exit_code == 3
    content = json.loads(short.output)
    assert content["selected"] == "none"
    assert "a larger budget to go on" in content["stopped"]
    assert Path(content["program"]).is_file()
    assert Path(content["report"]).is_file()
    assert list(Path("run/tensorboard").glob("events.*"))
    wrong = CliRunner().invoke(app, ["compile", *given, "--report-to", "tensorboard, excel"])
    assert "got 'excel'" in str(wrong.exception)


TRAIN = ["--train", "train.jsonl", "--metric", "users_app:metric"]
MISTAKES = {
    "no colon": (["users_app.program", *TRAIN], "Expected a program as module:attribute, got 'users_app.program'"),
    "no module": (["nowhere:program", *TRAIN], "there is none of that name"),
    "no attribute": (["users_app:programm", *TRAIN], "'programm' is not there"),
    "no program": (["users_app:number", *TRAIN], "Expected a dspy.Module at 'users_app:number'"),
    "no file": (["users_app:program", "--train", "gone.jsonl", "--metric", "users_app:metric"], "no file gone.jsonl"),
    "no such kind": (["users_app:program", "--train", "x.txt", "--metric", "users_app:metric"], ".jsonl, .csv, .parq"),
    "no input": (["users_app:answers", *TRAIN, "--inputs", "title"], "Row 1 of train.jsonl lacks title"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_with_where_to_read_more_and_exit_code_two(
    app_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    words, told = MISTAKES[name]
    monkeypatch.setattr("sys.argv", ["sgt", "estimate", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    line, more = capsys.readouterr().err.splitlines()
    assert (ended.value.code, line.startswith("sgt: "), told in line) == (2, True, True), line
    assert more.startswith("More: docs/errors.md#")


@pytest.mark.parametrize("verbose", [False, True])
def test_what_nobody_expected_is_one_line_without_secrets_and_a_traceback_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verbose: bool
) -> None:
    (tmp_path / "broken_app.py").write_text("raise OSError('the key sk-proj-0123456789 is wrong')")
    monkeypatch.chdir(tmp_path)
    words = ["estimate", "broken_app:program", "--train", "x.jsonl", "--metric", "m:m"]
    monkeypatch.setattr("sys.argv", ["sgt", *(["--verbose"] if verbose else []), *words])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == 1
    assert error.splitlines()[-1] == "sgt: OSError: the key <key> is wrong (sgt --verbose COMMAND shows where)"
    assert ("Traceback" in error) is verbose


ROWS = [{"question": "2+2?", "answer": "4"}, {"question": "2+3?", "answer": "5"}]


@pytest.mark.parametrize("end", ["jsonl", "csv", "parquet"])
def test_examples_are_read_from_each_kind_of_file(tmp_path: Path, end: str) -> None:
    import pandas as pd

    from optimizers.user_files import examples_in

    file, frame = tmp_path / f"data.{end}", pd.DataFrame(ROWS)
    match end:
        case "jsonl":
            frame.to_json(file, orient="records", lines=True)
        case "csv":
            frame.to_csv(file, index=False)
        case _:
            frame.to_parquet(file)
    examples = examples_in(file, ["question"])
    assert [each.toDict() for each in examples] == [{**row, "answer": str(row["answer"])} for row in ROWS]
    assert dict(examples[0].inputs().items()) == {"question": "2+2?"}


def test_the_doctor_names_keys_and_never_tells_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMEONES_API_KEY", "sk-proj-0123456789")
    done = CliRunner().invoke(app, ["doctor", "--quick", "--json"])
    assert (done.exit_code, "sk-proj" in done.output) == (0, False)
    told = {each["name"]: each for each in json.loads(done.output)["findings"]}
    assert "SOMEONES_API_KEY" in told["keys"]["said"]
    assert told["embedded models"]["state"] == told["dspy"]["state"] == "fine"


def test_the_doctor_s_verdict_on_a_model_that_is_not_there_is_bad() -> None:
    done = CliRunner().invoke(app, ["doctor", "--quick", "--model", "/no/such/model"])
    assert done.exit_code == 1
    assert done.output.splitlines()[-1] == "Broken: model /no/such/model"


def test_the_doctor_s_tiny_run_goes_through_every_step() -> None:
    from optimizers.doctor import examined

    [*_, found] = examined(run=True)
    assert (found.name, found.state) == ("a tiny run", "fine")
    assert "actor calls" in found.said


def test_the_embedded_generator_is_trained_with_the_settings_that_so_small_a_model_wants(app_folder: Path) -> None:
    """Those for 1.7 B parameters would hardly move it."""
    given = ["users_app:program", "--train", "train.jsonl", "--metric", "users_app:metric", "--lm", "embedded"]
    short = [*given, "--generator", "embedded", "--log-dir", "run", "--max-actor-calls", "1", "--json"]
    assert CliRunner().invoke(app, ["compile", *short]).exit_code == 3
    kept = json.loads(Path("run/run.json").read_text())["settings"]
    assert SETTINGS.sft_learning_rate > 10 * TrainingSettings().sft_learning_rate
    assert str(SETTINGS.sft_learning_rate) in json.dumps(kept)
