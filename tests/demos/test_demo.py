"""The demonstration at the smallest scale: what it writes, what it prints, and that a seed fixes all of it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from optimizers import Recipe
from optimizers.cli import app, main
from optimizers.demos.house_terms import TINY_SCALE, Demonstration, Scale, demonstrate
from optimizers.demos.house_terms_tables import show_demonstration
from optimizers.store.rollout_store import RolloutStore
from sgt_modules import supplement
from sgt_modules.embedded import Sizes, acting, embedded_generator, program
from sgt_modules.embedded.models import embedded_folder

pytestmark = pytest.mark.slow

CONTROLS = {"lookup": {"val", "shifted"}, "elimination": set(), "oracle": {"shifted"}, "oracle_glossary": set()}
"""The controls' rows, each with its splits besides test."""

TINY = Scale(
    Sizes(train=16, validation=8, test=16, shifted=8, terms=4, shifted_terms=4),
    Recipe(
        rounds=2, warm_samples=2, pool_samples=1, direct_samples=6, concat=1, max_per_kind=10, pair_cap=4, gate=True
    ),
)


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory: pytest.TempPathFactory) -> Demonstration:
    return demonstrate(0, log_dir=tmp_path_factory.mktemp("demo") / "run", scale=TINY, display=False)


def test_the_summary_has_the_public_format(demonstration: Demonstration) -> None:
    written = json.loads((demonstration.result.log_dir / "summary.json").read_text())
    assert written == json.loads(json.dumps(demonstration.summary))
    assert {"task", "seed", "actor", "generator", "splits", "scores", "selected", "p_value"} <= set(written)
    assert {"kinds", "leakage", "lengths", "gated", "actor_calls", "generator_calls"} <= set(written)
    assert {"tokens", "seconds", "peak_rss_mb", "peak_mb"} <= set(written)
    peaks = written["peak_mb"]["rss"]
    assert list(peaks) == [stage.name for stage in demonstration.result.stages]
    assert 0 < max(peaks.values()) <= written["peak_rss_mb"]
    assert written["splits"] == {"train": 16, "val": 8, "test": 16, "shifted": 8}
    stages = list(written["scores"])
    assert stages[:5] == ["none", "untrained", "sft", "dpo1", "dpo2"]
    trained = [stage.name for stage in demonstration.result.stages]
    assert stages == ["none", "untrained", *trained[1:], *CONTROLS]
    on_test = {"test", "test_terms", "test_plain"}
    for name, row in written["scores"].items():
        more = CONTROLS.get(name, {"val", "shifted", "transfer"})
        assert set(row) == on_test | more
        assert all(0 <= score <= 1 for score in row.values())
    assert set(written["p_value"]) == {"none", "sft", "lookup", "elimination"}
    assert set(written["tokens"]) == {"actor_in", "actor_out", "generator_in", "generator_out"}
    assert set(written["seconds"]) == {"total", "sampling", "acting", "training"}
    for shares in written["kinds"].values():
        assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
    assert set(written["kinds"]) == set(written["leakage"]) == {"untrained", *trained[1:], "lookup"}
    assert set(written["lengths"]) == set(stages) - {"none"}
    assert written["lengths"]["oracle_glossary"] == 0
    assert all(length >= 0 for length in written["lengths"].values())
    assert set(written["gated"]) == {"val", "test", "shifted", "transfer"}
    assert all(0 <= share <= 1 for share in written["gated"].values())


def test_controls_say_what_the_outcomes_and_the_truth_give_without_training(demonstration: Demonstration) -> None:
    """The embedded actor uses the true meaning in its supplement, on terms of training as on others."""
    summary, scores = demonstration.summary, demonstration.summary["scores"]
    assert scores["oracle"]["test_terms"] > scores["none"]["test_terms"]
    assert scores["oracle"]["shifted"] > scores["none"]["shifted"]
    for name in ("oracle", "elimination"):
        assert scores[name]["test_plain"] == scores["none"]["test_plain"]
    lookup, val = summary["lookup"], scores["lookup"]["val"]
    assert lookup["validation"][str(lookup["neighbours"])] == max(lookup["validation"].values()) == val
    assert lookup["gain"] == pytest.approx(scores[summary["selected"]]["test"] - scores["lookup"]["test"], abs=2e-4)
    assert lookup["interval"][0] <= lookup["gain"] <= lookup["interval"][1]
    assert summary["elimination"]["terms"] == 4
    assert 0 <= summary["elimination"]["right"] <= 4


def test_the_small_model_that_does_not_know_the_answer_s_form_is_skipped_with_the_reason(
    demonstration: Demonstration,
) -> None:
    assert list(demonstration.summary["skipped"]) == ["small_model"]
    assert "none of the 16 answers" in demonstration.summary["skipped"]["small_model"]


def test_a_finished_demonstration_is_scored_again_without_asking_any_model(demonstration: Demonstration) -> None:
    """The same folder: nothing is trained, sampled or asked again, only what is stored is read."""
    folder = demonstration.result.log_dir
    before = count_rollouts(folder)
    again = demonstrate(0, log_dir=folder, scale=TINY, display=False)
    assert count_rollouts(folder) == before
    same = ("scores", "p_value", "lookup", "elimination", "skipped", "actor_calls", "tokens")
    assert {key: again.summary[key] for key in same} == {key: demonstration.summary[key] for key in same}


def count_rollouts(folder: Path) -> tuple[int, dict[str, int]]:
    with RolloutStore(folder / "rollouts.sqlite") as store:
        return store.count(), {run: store.spent(run).calls for run in store.runs()}


def test_the_same_seed_gives_the_same_scores_kinds_and_adapters(demonstration: Demonstration, tmp_path: Path) -> None:
    again = demonstrate(0, log_dir=tmp_path / "run", scale=TINY, display=False)
    same = (
        "generator_calls",
        "scores",
        "selected",
        "p_value",
        "kinds",
        "leakage",
        "lengths",
        "gated",
        "actor_calls",
        "tokens",
        "lookup",
        "elimination",
    )
    assert {key: again.summary[key] for key in same} == {key: demonstration.summary[key] for key in same}
    prints = [
        [stage.checkpoint.fingerprint for stage in each.result.stages if stage.checkpoint]
        for each in (demonstration, again)
    ]
    assert prints[0] == prints[1]
    assert len(set(prints[0])) == 3


def test_the_tables_fit_eighty_columns_and_show_questions_before_and_after(demonstration: Demonstration) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    show_demonstration(demonstration, console)
    text = console.export_text()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "…" not in text.split("Selected:")[0]
    assert f"{demonstration.summary['selected']} *" in text
    for stage in (*demonstration.summary["scores"], "small_model"):
        assert stage in text
    assert "Over lookup (neighbours: " in text
    assert "what training is worth" in " ".join(text.split())


def test_the_saved_program_answers_the_same_when_it_is_loaded_again(demonstration: Demonstration) -> None:
    result = demonstration.result
    fresh = program() if result.selected == "none" else supplement(program(), generator=embedded_generator())
    fresh.load(result.log_dir / "program.json")
    after = demonstration.stage_rollouts[result.selected]["test"]
    with acting():
        answers = [fresh(**example.inputs()).sql for example in demonstration.world.test]
    assert answers == [rollout.output["sql"] for rollout in after]


def test_the_command_tells_its_options_without_loading_a_model() -> None:
    from typer.testing import CliRunner

    shown = CliRunner().invoke(app, ["demo", "--help"])
    assert shown.exit_code == 0
    for option in ("--seed", "--log-dir", "--quick", "--silent"):
        assert option in shown.output


def test_a_users_mistake_ends_with_one_line_and_exit_code_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.setattr("sys.argv", ["sgt", "demo", "--silent", "--log-dir", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    line, _ = capsys.readouterr().err.splitlines()
    assert line.startswith("sgt: ")
    assert "Choose an empty folder" in line


def test_an_actor_of_one_s_own_is_scored_with_the_same_controls(tmp_path: Path) -> None:
    """The second embedded actor in a folder stands for it: it knows how a term is explained, in a supplement alone."""
    folder = embedded_folder("second-actor")
    made = demonstrate(0, actor=str(folder), log_dir=tmp_path / "run", scale=TINY_SCALE, display=False)
    scores = made.summary["scores"]
    assert list(scores)[-4:] == list(CONTROLS)
    assert set(scores["none"]) == {"val", "test", "test_terms", "test_plain", "shifted"}
    assert scores["oracle"]["test_terms"] > scores["none"]["test_terms"]
    assert scores["oracle"]["test_plain"] == scores["none"]["test_plain"]
    assert made.summary["actor"].startswith("sgt/second-actor-")
    assert not {"oracle", "oracle_glossary", "elimination"} & set(made.summary["kinds"])
    console = Console(width=80, record=True, file=io.StringIO())
    show_demonstration(made, console)
    text = console.export_text()
    assert "oracle_glossary" in text
    assert "actor 2" not in text
