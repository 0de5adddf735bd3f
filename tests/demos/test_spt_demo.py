"""The demonstration of SPT at the smallest scale: what it writes, what it prints, and that a seed fixes all of it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from optimizers.cli import app, main
from optimizers.demos.house_rules import PromptDemonstration, PromptScale, demonstrate_prompts
from optimizers.demos.house_rules_tables import show_prompt_demonstration
from optimizers.spt.recipe import SPTRecipe
from sgt_modules.embedded import acting
from sgt_modules.embedded.rules import RuleSizes, list_program

pytestmark = pytest.mark.slow

TINY = PromptScale(RuleSizes(train=24, validation=16, test=16), SPTRecipe(rounds=2, impact_examples=10), panels=1)


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory: pytest.TempPathFactory) -> PromptDemonstration:
    folder = tmp_path_factory.mktemp("demo") / "run"
    return demonstrate_prompts(0, variant="pc", log_dir=folder, scale=TINY, display=False)


def test_the_summary_has_the_public_format(demonstration: PromptDemonstration) -> None:
    written = json.loads((demonstration.result.log_dir / "summary.json").read_text())
    assert written == json.loads(json.dumps(demonstration.summary))
    assert {"task", "seed", "actor", "generator", "splits", "scores", "selected", "p_value"} <= set(written)
    assert {"kinds", "leakage", "lengths", "gated", "actor_calls", "generator_calls", "notes"} <= set(written)
    assert {"tokens", "seconds", "peak_rss_mb", "peak_mb", "method", "prompts", "impact"} <= set(written)
    assert (written["task"], written["method"]) == ("house-rules", "spt_pc")
    assert written["splits"] == {"train": 24, "val": 16, "test": 16}
    stages = ["none", *(each.name for each in demonstration.result.rounds if each.accepted)]
    assert list(written["scores"]) == list(written["prompts"]) == stages
    assert all(set(row) == {"val", "test"} and 0 <= row["test"] <= 1 for row in written["scores"].values())
    assert set(written["p_value"]) == {"none"}
    assert set(written["tokens"]) == {"actor_in", "actor_out", "generator_in", "generator_out"}
    assert written["tokens"]["generator_in"] > 0
    assert written["generator_calls"] in (8, 9)
    assert set(written["impact"]["spearman"]) == {"run", "prefix", "leave_one_out"}
    assert len(written["impact"]["panel"]) == 11
    assert all(row["truth"] in (-1, 0, 1) for row in written["impact"]["rounds"])


def test_the_first_prompt_is_the_worlds_and_the_selected_one_is_the_programs(
    demonstration: PromptDemonstration,
) -> None:
    summary = demonstration.summary
    assert summary["prompts"]["none"] == demonstration.world.instructions
    loaded = list_program()
    loaded.load(demonstration.result.log_dir / "program.json")
    assert loaded.predict.signature.instructions == summary["prompts"][summary["selected"]]
    with acting("rule-follower"):
        answers = [loaded(**example.inputs()).answer for example in demonstration.world.test]
    assert answers == [rollout.output["answer"] for rollout in demonstration.test_rollouts[summary["selected"]]]


def test_the_same_seed_gives_the_same_prompts_scores_and_impacts(
    demonstration: PromptDemonstration, tmp_path: Path
) -> None:
    again = demonstrate_prompts(0, variant="pc", log_dir=tmp_path / "run", scale=TINY, display=False)
    changing = ("seconds", "peak_rss_mb")
    first, second = (
        {key: value for key, value in each.summary.items() if key not in changing} for each in (demonstration, again)
    )
    assert first == second


def test_the_tables_fit_eighty_columns_and_name_every_stage(demonstration: PromptDemonstration) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    show_prompt_demonstration(demonstration, console)
    text = console.export_text()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert f"{demonstration.summary['selected']} *" in text
    for name in demonstration.summary["scores"]:
        assert name in text
    assert "Spearman of impact and truth" in text


def test_an_unknown_method_is_named_with_those_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["sgt", "demo", "--method", "dpo"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "Expected the method sgt, spt" in capsys.readouterr().err


def test_the_command_tells_of_the_method() -> None:
    from typer.testing import CliRunner

    assert "--method" in CliRunner().invoke(app, ["demo", "--help"]).output
