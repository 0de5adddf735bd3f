"""A frozen actor on this machine, by a folder or `local:HUB_ID`: on the command line and in Python."""

from __future__ import annotations

import json
from pathlib import Path

import dspy
import pytest
from dspy.utils.exceptions import AdapterParseError
from families import FAMILIES, family_model
from hub_rows import folder_of
from real_models import ACTOR, real_model
from real_rows import real_folder
from typer.testing import CliRunner, Result

from optimizers.cli import app
from optimizers.comparison import compare
from optimizers.tasks import task
from optimizers.tasks.benching import run_bench
from sgt_modules.errors import GeneratorNotFoundError, SetupError
from sgt_modules.lms import ANSWER_TOKENS, acting_as, lm_named, runs_here
from sgt_modules.local.engine import LocalEngine

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of Qwen's shape, whose answers no adapter can read."""
    return family_model(FAMILIES["Qwen3"], tmp_path_factory.mktemp("models") / "qwen")


def sgt(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_a_folder_becomes_an_lm_that_answers_greedily_in_this_process(model: Path) -> None:
    for name in (str(model), f"local:{model}"):
        lm = lm_named(name)
        assert isinstance(lm.engine, LocalEngine)
        assert lm.model == lm.engine.model_name
        assert (lm.engine.max_new_tokens, lm.cache, runs_here(lm)) == (ANSWER_TOKENS, False, True)
    assert lm("Hello.", max_tokens=8) == lm("Hello.", max_tokens=8)


def test_a_folder_that_is_no_model_is_an_error_before_any_row_is_read(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for name in (empty, f"local:{empty}", tmp_path / "nowhere", "local:no/such-model"):
        done = sgt("bench", "gsm8k", "--actor", name, "--data-dir", tmp_path / "no rows either")
        assert isinstance(done.exception, GeneratorNotFoundError), name
    with pytest.raises(GeneratorNotFoundError, match=r"save_pretrained"):
        run_bench(task("gsm8k"), str(empty))


def test_a_precision_is_refused_for_a_model_that_somebody_else_runs() -> None:
    with pytest.raises(SetupError, match="Expected a model on this machine"):
        lm_named("openai/gpt-4.1-mini", dtype="int8")
    with pytest.raises(SetupError, match="Expected a model behind a server"):
        lm_named("local:some/model", api_base="http://localhost:1/v1")


def test_an_answer_that_cannot_be_read_is_a_parse_error_and_not_asked_for_again(model: Path) -> None:
    lm = lm_named(str(model), max_new_tokens=8)
    with acting_as(lm), pytest.raises(AdapterParseError, match="ChatAdapter"):
        dspy.Predict("question -> answer")(question="2+2?")
    assert len(lm.history) == 1


def test_an_adapter_of_the_user_s_stays() -> None:
    mine = dspy.JSONAdapter()
    with dspy.context(adapter=mine), acting_as(lm_named("embedded")):
        assert dspy.settings.adapter is mine


def test_a_bench_and_a_comparison_take_a_folder_and_unreadable_answers_score_0(model: Path, tmp_path: Path) -> None:
    done = sgt(
        *("bench", "gsm8k", "--actor", model, "--data-dir", folder_of("gsm8k", tmp_path / "rows"), "--limit", 2),
        *("--contenders", "none", "--log-dir", tmp_path / "run", "--json"),
    )
    assert done.exit_code == 0, done.output
    [row] = json.loads(done.stdout)["rows"]
    assert (row["test"], row["unanswered"], row["answer"]["actor_calls"]) == (0.0, 0, 1.0)
    splits = task("gsm8k").splits(tmp_path / "rows", limit=2)
    found = compare(
        *(dspy.Predict("question -> answer"), splits.train, splits.val, splits.test, task("gsm8k").metric, ["none"]),
        actor=str(model),
        log_dir=tmp_path / "compared",
        display_progress=False,
    )
    assert (found.row("none").test, found.row("none").unanswered) == (0.0, 0)


@pytest.mark.real_model
def test_a_real_model_in_a_folder_answers_real_questions_of_spider(tmp_path: Path) -> None:
    done = sgt(
        *("bench", "spider", "--actor", real_model(ACTOR), "--data-dir", real_folder("spider"), "--limit", 2),
        *("--contenders", "none", "--log-dir", tmp_path / "run", "--json"),
    )
    assert done.exit_code == 0, done.output
    [row] = json.loads(done.stdout)["rows"]
    assert row["test"] > 0
    assert row["unanswered"] == 0
    assert row["answer"]["actor_out"] < ANSWER_TOKENS
