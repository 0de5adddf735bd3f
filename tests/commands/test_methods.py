"""`--method` and `--algorithm` of `sgt compile` and `sgt estimate`: what each compiles, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from optimizers.cli import app
from sgt_modules.embedded import HouseTermsWorld, Sizes, program
from sgt_modules.errors import GeneratorNotFoundError, SetupError
from sgt_modules.service.program_file import open_program
from sgt_modules.winner_lookup import WinnerLookup
from sgt_modules.wrapping import supplemented_predictors

WORLD = HouseTermsWorld(0, sizes=Sizes(train=4, validation=4, test=4, shifted=4, terms=4, shifted_terms=4))
PROGRAM = """
from sgt_modules.embedded import HouseTermsWorld, Sizes, program

metric = HouseTermsWorld(0, sizes=Sizes(train=4, validation=4, test=4, shifted=4, terms=4, shifted_terms=4)).metric

def even(example, prediction):
    return len(prediction.sql) % 2 == 0
"""
GIVEN = ["users_program:program", "--train", "train.jsonl", "--val", "val.jsonl", "--metric", "users_program:metric"]
EMBEDDED = [*GIVEN, "--lm", "embedded", "--generator", "embedded"]


@pytest.fixture(autouse=True)
def app_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's module, data and a log, in which the command is called."""
    (tmp_path / "users_program.py").write_text(PROGRAM)
    for name, split in (("train", WORLD.train), ("val", WORLD.val)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(each.toDict()) for each in split) + "\n")
    rows = [
        {
            "inputs": dict(each.inputs().items()),
            "output": {"sql": "SELECT 1"},
            "score": 1.0,
            "supplement": "[cot] Look.",
        }
        for each in WORLD.train
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "users_program", raising=False)
    return tmp_path


def printed(*words: str, code: int = 0) -> Any:
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == code, (done.output, done.exception)
    return json.loads(done.output)


def stages(content: dict[str, Any]) -> list[str]:
    return [each["name"] for each in content["stages"]]


def refusal(*words: str) -> str:
    failed = CliRunner().invoke(app, words).exception
    assert isinstance(failed, SetupError)
    return str(failed)


def test_the_estimate_has_the_stages_of_the_method_and_of_the_algorithm() -> None:
    rounds = ["--rounds", "2"]
    assert stages(printed("estimate", *EMBEDDED, *rounds))[-1] == "dpo2"
    grpo = printed("estimate", *EMBEDDED, *rounds, "--algorithm", "grpo")
    assert stages(grpo) == ["none", "warm", "sft", "round 1", "grpo1", "round 2", "grpo2"]
    nearest = printed("estimate", *EMBEDDED, "--method", "nearest_winner")
    assert stages(nearest) == ["none", "warm", "round 1", "nearest"]
    alone = printed("estimate", *EMBEDDED, "--method", "nearest_winner", "--rounds", "0")
    assert stages(alone) == ["none", "warm", "nearest"]
    assert alone["total"]["actor_calls"] < nearest["total"]["actor_calls"]


def test_grpo_is_compiled_and_its_run_is_not_resumed_with_dpo() -> None:
    given = [*EMBEDDED, "--rounds", "1", "--log-dir", "run", "--max-actor-calls", "6"]
    content = printed("compile", *given, "--algorithm", "grpo", code=3)
    assert (content["selected"], Path(content["report"]).is_file()) == ("none", True)
    assert json.loads(Path("run/run.json").read_text())["settings"]["recipe"]["algorithm"] == "grpo"
    assert "algorithm" in refusal("compile", *given)


@pytest.mark.slow
def test_grpo_from_the_shell_trains_a_stage_of_grpo() -> None:
    """Whether an answer's length is even depends on the note, so rewards within a group differ."""
    given = [*EMBEDDED, "--metric", "users_program:even", "--rounds", "1", "--log-dir", "run"]
    content = printed("compile", *given, "--algorithm", "grpo")
    assert (list(content["scores"]), content["stopped"]) == (["none", "sft", "grpo1"], "")
    assert Path("run/checkpoints/grpo1/adapter_model.safetensors").is_file()


def test_the_nearest_winner_is_compiled_reported_and_resumed_for_nothing() -> None:
    given = [*EMBEDDED, "--method", "nearest_winner", "--rounds", "0", "--log-dir", "run"]
    content = printed("compile", *given)
    assert list(content["scores"]) == ["none", "nearest"]
    assert Path(content["report"]).is_file()
    assert not Path("run/checkpoints").exists()
    again = printed("compile", *given)
    assert (again["scores"], again["actor_calls"]) == (content["scores"], content["actor_calls"])
    assert printed("inspect", "run")["selected"] == content["selected"]
    assert "method" in refusal("compile", *EMBEDDED, "--log-dir", "run")


def test_a_log_alone_is_looked_up_without_a_generator_and_its_program_has_no_model() -> None:
    looks_up = ["--method", "nearest_winner", "--generator", "none"]
    given = [*GIVEN, "--lm", "embedded", *looks_up]
    assert "neither a generator, a closed recipe nor logged outcomes" in refusal("compile", *given)
    content = printed("compile", *given, "--log", "log.jsonl", "--log-dir", "run")
    assert list(content["scores"]) == ["none", "nearest"]
    assert content["actor_calls"] <= len(WORLD.train) + 3 * len(WORLD.val)
    opened = open_program(program(), Path(content["program"]))
    for _, each in supplemented_predictors(opened):
        assert isinstance(each.generator.engine, WinnerLookup)


def test_mixtures_that_cannot_work_are_refused_before_anything_is_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    nearest = [*EMBEDDED, "--method", "nearest_winner"]
    for command in ("compile", "estimate"):
        said = refusal(command, *nearest, "--algorithm", "grpo")
        assert said.startswith("Expected --algorithm grpo with --method sgt, got --method nearest_winner")
    assert "Expected --probe 3 with --method sgt" in refusal("estimate", *nearest, "--probe", "3")
    lm = [*GIVEN, "--lm", "embedded", "--generator", "openai/gpt-4.1-mini"]
    assert "Set OPENAI_API_KEY" in refusal("compile", *lm, "--method", "nearest_winner")
    failed = CliRunner().invoke(app, ["compile", *lm]).exception
    assert isinstance(failed, GeneratorNotFoundError), "a model that is trained is a hub id, not a provider's"
    unknown = CliRunner().invoke(app, ["compile", *EMBEDDED, "--algorithm", "ppo"])
    assert unknown.exit_code == 2
    assert "--algorithm" in unknown.output
