"""The `sgt` command as a person meets it: its output, its JSON, its exit codes, and what it says of a mistake."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import dspy
import pytest
from run_folders import explored, met, run_folder, validated
from scripted import ScriptedEngine, reply
from typer.testing import CliRunner

from optimizers.cli import app, main
from optimizers.comparison.leaderboard import Row
from optimizers.comparison.result import Comparison
from optimizers.core.user_files import input_names
from optimizers.training.embedded import SETTINGS
from optimizers.training.trainer import TrainingSettings
from sgt_modules.embedded import HouseTermsWorld, Sizes
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.errors import GeneratorNotFoundError, RunFolderError, SetupError
from sgt_modules.lms import check_lm, lm_named
from sgt_modules.saving.weights import resolve

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


COMMANDS = [
    "demo",
    "compare",
    "bench",
    "export",
    "adopt",
    "compile",
    "estimate",
    "report",
    "inspect",
    "doctor",
    "serve",
    "up",
]


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
    "no attribute": (["users_app:programm", *TRAIN], "'programm' is not there. Did you mean 'program'?"),
    "no module of nearly that name": (["user_app:program", *TRAIN], "Did you mean 'users_app'?"),
    "another letter case": (["users_app:Answers", *TRAIN], "Did you mean 'answers'?"),
    "no key": (["users_app:program", *TRAIN, "--lm", "openai/gpt-4.1-mini"], "got none. Set OPENAI_API_KEY."),
    "no such folder": (
        ["users_app:program", *TRAIN, "--lm", "models/mine"],
        "there is no such folder here, and no pro",
    ),
    "an empty folder": (["users_app:program", *TRAIN, "--lm", "empty"], "Expected config.json and *.safetensors"),
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
    (app_folder / "empty").mkdir()
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
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

    from optimizers.core.user_files import read_examples

    file, frame = tmp_path / f"data.{end}", pd.DataFrame(ROWS)
    match end:
        case "jsonl":
            frame.to_json(file, orient="records", lines=True)
        case "csv":
            frame.to_csv(file, index=False)
        case _:
            frame.to_parquet(file)
    examples = read_examples(file, ["question"])
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


@pytest.mark.slow
def test_the_doctor_s_tiny_run_goes_through_every_step() -> None:
    from optimizers.commands.machine_check import examine_machine

    [*_, found] = examine_machine(run=True)
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


NOT_ASCII = "caf\xe9 \u2264 \U0001f600"


def in_a_process(*words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", "from optimizers.cli import main; main()", *words]
    return subprocess.run(command, capture_output=True, check=False, env={**os.environ, **environment})


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        pytest.param({"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, marks=pytest.mark.slow),
    ],
)
def test_a_run_is_shown_where_standard_output_knows_ascii_alone(tmp_path: Path, environment: dict[str, str]) -> None:
    rollouts = [*validated(), *explored(), met("warm", 0, 1.0, kind="cot", text=NOT_ASCII)]
    folder = str(run_folder(tmp_path / "run", rollouts))
    ascii_only = {**environment, "LANG": "C", "LC_ALL": "C", "COLUMNS": "200"}
    shown = in_a_process("inspect", folder, "--text", "caf", **ascii_only)
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert rb"caf\xe9 \u2264 \U0001f600" in shown.stdout
    as_json = in_a_process("inspect", folder, "--text", "caf", "--json", **ascii_only)
    [found] = json.loads(as_json.stdout.decode("ascii"))["rollouts"]
    assert found["supplement"] == f"[cot] {NOT_ASCII}"


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_report_is_written_and_named_where_the_folder_s_name_is_no_text(tmp_path: Path, words: list[str]) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/run\xff\xe9"))
    shutil.copytree(run_folder(tmp_path / "run"), folder)
    for environment in ({"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "utf-8"}):
        done = in_a_process("report", str(folder), *words, **environment)
        assert (done.returncode, done.stderr) == (0, b""), environment
        assert rb"run\udcff\udce9" in done.stdout
        if words:
            assert Path(json.loads(done.stdout)["report"]) == folder / "report.html"
        assert "run" in (folder / "report.html").read_text(encoding="utf-8")
        (folder / "report.html").unlink()


def test_json_is_in_the_letters_themselves_where_standard_output_has_them(run: Path, tmp_path: Path) -> None:
    done = in_a_process("report", str(run), "--out", str(tmp_path / "caf\xe9.html"), "--json", PYTHONIOENCODING="utf-8")
    assert b"caf\xc3\xa9.html" in done.stdout


class Answering(dspy.Module):
    """A program of a class of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        return self.answers(question=question)


def test_nothing_looks_up_a_forward_so_that_dspy_warns_of_it(caplog: pytest.LogCaptureFixture) -> None:
    from optimizers.core.reward import Scorer

    class Judging(dspy.Module):
        def forward(self, example: dspy.Example, prediction: dspy.Prediction) -> float:
            return 1.0

    logger = logging.getLogger("dspy.primitives.module")
    logger.addHandler(caplog.handler)
    try:
        assert input_names(Answering()) == ["question"]
        assert Scorer(Judging())(dspy.Example(), dspy.Prediction()).score == 1.0
        assert caplog.records == []
        _ = Answering().forward
        assert "directly is discouraged" in caplog.text
    finally:
        logger.removeHandler(caplog.handler)


def test_a_key_is_asked_for_before_anything_else_and_only_where_one_is_needed() -> None:
    missing = {
        "openai/gpt-4.1-mini": "OPENAI_API_KEY",
        "anthropic/claude-sonnet-4-5": "ANTHROPIC_API_KEY",
        "gemini/gemini-2.0-flash": "GEMINI_API_KEY or GOOGLE_API_KEY",
    }
    for name, keys in missing.items():
        with pytest.raises(SetupError, match=f"Set {keys}"):
            check_lm(dspy.LM(name), environment={})
        check_lm(dspy.LM(name), environment={keys.split()[-1]: "a key"})
        check_lm(dspy.LM(name, api_key="a key"), environment={})
        check_lm(dspy.LM(name, api_base="http://localhost:1/v1"), environment={})
    check_lm(dspy.LM("openai/gpt-4.1-mini"), environment={"OPENAI_API_BASE": "http://localhost:1/v1"})
    check_lm(dspy.LM("ollama_chat/qwen3"), environment={})
    check_lm(ScriptedEngine(lambda text: reply(answer="4")).lm(), environment={})


def damaged(folder: Path, name: str) -> None:
    weights = folder / "model.safetensors"
    match name:
        case "no tokenizer":
            (folder / "tokenizer.json").unlink()
            (folder / "tokenizer_config.json").unlink()
        case "no template":
            (folder / "chat_template.jinja").unlink()
        case "no JSON":
            (folder / "config.json").write_text("x")
        case "a list":
            (folder / "config.json").write_text("[]")
        case "an encoder":
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
        case "a pointer":
            weights.write_text("version https://git-lfs.github.com/spec/v1\n")
        case _:
            weights.write_bytes(weights.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("no tokenizer", "Expected a tokenizer in|chat template"),
        ("no template", "Expected a model with a chat template"),
        ("no JSON", "Expected a config.json that transformers reads"),
        ("a list", "Expected a config.json that transformers reads"),
        ("an encoder", "Expected a model that writes text .*, got 'BertModel'"),
        ("a pointer", "Expected weights in safetensors"),
        ("cut off", "Expected [0-9,]+ bytes of weights"),
    ],
)
def test_a_folder_whose_model_cannot_answer_is_refused_before_the_first_call(
    tmp_path: Path, name: str, told: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(embedded_folder("rule-follower"), folder)
    assert lm_named(str(folder)).model.startswith("sgt/")
    damaged(folder, name)
    with pytest.raises(GeneratorNotFoundError, match=told):
        lm_named(str(folder))


def test_a_model_that_is_not_here_is_said_to_be_not_downloaded_and_not_compared_with_its_own_name() -> None:
    with pytest.raises(GeneratorNotFoundError) as refused:
        resolve("Qwen/Qwen3-1.7B-that-nobody-has")
    said = str(refused.value)
    assert said.startswith(
        "The model 'Qwen/Qwen3-1.7B-that-nobody-has' cannot be loaded: it is not a folder here, it has not"
    )
    assert "such as" not in said
    assert "HF_HUB_OFFLINE is set" in said or "Check the network" in said


def test_a_check_of_rows_is_told_in_words_and_as_json_only_when_asked_for() -> None:
    shown = CliRunner().invoke(app, ["bench", "house_terms", "--check"])
    assert (shown.exit_code, shown.stdout) == (
        0,
        "house_terms: 404 rows, mean gold score 1. Every gold answer scores 1.0.\n",
    )
    assert said("bench", "house_terms", "--check")["rows"] == 404


LONG = "x" * 300


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["report", "run", "--out", f"{LONG}.html"], "has a name that is too long"),
        (["report", "run", "--out", "train.jsonl/page.html"], "is below a path that is no folder"),
        (["report", "run", "--out", "."], "is a folder"),
        (["export", "run", "--to", "jsonl", "--output", LONG], "has a name that is too long"),
        (["compile", "users_app:program", *TRAIN, "--lm", "embedded", "--out", LONG], "has a name that is too long"),
        (["compare", "--page", LONG], "has a name that is too long"),
    ],
)
def test_a_path_that_cannot_be_written_is_a_mistake_of_the_command_s_and_found_first(
    app_folder: Path, words: list[str], told: str
) -> None:
    run_folder(app_folder / "run")
    failed = CliRunner().invoke(app, words).exception
    assert isinstance(failed, SetupError)
    assert told in str(failed)


@pytest.mark.parametrize("place", [LONG, "a-file/below"])
def test_a_run_s_folder_that_cannot_be_made_is_refused_as_a_mistake(tmp_path: Path, place: str) -> None:
    from optimizers.core.run_folder import RunFolder

    (tmp_path / "a-file").touch()
    with pytest.raises(RunFolderError, match="Choose another log_dir"):
        RunFolder.create(tmp_path / place)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused_as_a_mistake(tmp_path: Path) -> None:
    from optimizers.commands.output import check_writable
    from optimizers.core.run_folder import RunFolder

    tmp_path.chmod(0o500)
    try:
        for path in (tmp_path, tmp_path / "run"):
            with pytest.raises(RunFolderError):
                RunFolder.create(path)
        with pytest.raises(SetupError, match="is read-only"):
            check_writable(tmp_path / "page.html", what="the page")
    finally:
        tmp_path.chmod(0o700)


def test_a_stream_writes_what_its_encoding_lacks_as_escapes() -> None:
    from optimizers.commands.output import escape_unencodable

    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    escape_unencodable(stream, None, io.StringIO())
    stream.write("caf\xe9 \udcff")
    stream.flush()
    assert raw.getvalue() == rb"caf\xe9 \udcff"


def test_a_method_that_is_nearly_right_is_asked_about() -> None:
    assert "Did you mean 'spt_pc'" in str(CliRunner().invoke(app, ["demo", "--method", "spt_pcc"]).exception)
    assert "Did you mean 'gsm8k'?" in str(CliRunner().invoke(app, ["bench", "gsmk8", "--check"]).exception)
