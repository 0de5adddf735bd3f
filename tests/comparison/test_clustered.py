"""Questions that share a cluster count together in comparisons, controls, summaries and reports; seeds are paired."""

from __future__ import annotations

import json
from pathlib import Path

import dspy
import pytest
import silence
from run_folders import met, run_folder
from scripted import ScriptedEngine, reply

from optimizers.comparison import Problem, compare_problems, pooled
from optimizers.comparison.cells import write_legend
from optimizers.comparison.control_rows import Controls, build_control_row
from optimizers.comparison.leaderboard import rank_rows
from optimizers.comparison.outcomes import TrialOutcome
from optimizers.comparison.result import Comparison
from optimizers.comparison.seed_differences import compare_by_seed
from optimizers.comparison.summary import compute_p_value
from optimizers.core.records import Rollout
from optimizers.core.statistics import holm, mcnemar
from optimizers.observe.report import read_run, run_page
from optimizers.tasks import task
from sgt_modules.embedded import HouseTermsWorld, find_term
from sgt_modules.embedded.rules import HouseRulesWorld

TERMS = {str(unit): f"term-{unit // 6}" for unit in range(36)}
"""Six terms of six questions each."""


def outcomes() -> list[TrialOutcome]:
    """`better` learns four of the six terms whole, and loses none."""
    none = TrialOutcome("none", 0, dict.fromkeys(TERMS, 0.0))
    return [none, TrialOutcome("better", 0, {unit: float(int(unit) < 24) for unit in TERMS})]


def test_a_gain_of_whole_terms_counts_by_terms_and_not_by_questions() -> None:
    """Four terms: 2 of 2**4 flips are as far from 0. Twenty-four questions would have a p-value of 2 / 2**24."""
    alone, clustered = rank_rows(outcomes())[1], rank_rows(outcomes(), clusters=TERMS)[1]
    assert (alone.p_value, alone.questions, alone.clusters) == (mcnemar(24, 0), 36, 36)
    assert (clustered.p_value, clustered.questions, clustered.clusters) == (2 / 16, 36, 6)
    assert alone.interval is not None
    assert clustered.interval is not None
    assert clustered.interval[0] < alone.interval[0] < alone.interval[1] < clustered.interval[1]
    assert alone.smallest_gain is not None
    assert clustered.smallest_gain is not None
    assert clustered.smallest_gain > 2 * alone.smallest_gain


def test_the_legend_says_how_many_clusters_there_are_and_which_test_was_used() -> None:
    assert "36 questions" in write_legend(rank_rows(outcomes(), clusters=TERMS))
    assert "form 6 clusters" in write_legend(rank_rows(outcomes(), clusters=TERMS))
    assert "flip the signs of whole clusters" in write_legend(rank_rows(outcomes(), clusters=TERMS))
    assert "Every question is its own cluster" in write_legend(rank_rows(outcomes()))
    assert "exact McNemar" in write_legend(rank_rows(outcomes()))


def test_a_term_of_one_world_is_not_that_of_another(tmp_path: Path) -> None:
    """Both worlds have a term `zoka`; with plain questions there are six clusters."""

    def metric(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> float:
        return float(prediction.answer == "yes")

    def split(name: str, *terms: str) -> list[dspy.Example]:
        named = [dspy.Example(question=f"{name} {n}", term=term) for n, term in enumerate(terms)]
        return [each.with_inputs("question") for each in named]

    problems = {
        seed: Problem(
            dspy.Predict("question -> answer"),
            metric,
            split(f"train {seed}", "zoka"),
            split(f"val {seed}", "zoka"),
            split(f"test {seed}", "zoka", "zoka", "", "mibu"),
            cluster=find_term,
        )
        for seed in (0, 1)
    }
    with dspy.context(lm=ScriptedEngine(lambda _: reply(answer="yes")).lm()):
        found = compare_problems(problems, ["none"], log_dir=tmp_path, display_progress=False)
    assert (found.row("none").questions, found.row("none").clusters) == (8, 6)
    assert Comparison.read(tmp_path) == found


def test_the_worlds_and_spider_say_what_their_questions_share() -> None:
    world, rules = HouseTermsWorld(0), HouseRulesWorld(0)
    shared = {find_term(example) for example in world.test}
    assert shared == {term.word for term in world.terms} | {None}
    assert {rules.find_kind(example) for example in rules.test} == {rules.find_kind(example) for example in rules.train}
    spider = task("spider").cluster
    assert spider is not None
    wordings = [dspy.Example(db_id="pets", query="SELECT 1", question=each) for each in ("One?", "Which one?")]
    assert spider(wordings[0]) == spider(wordings[1]) != spider(dspy.Example(db_id="cars", query="SELECT 1"))


def scored(*scores: float | None) -> list[Rollout]:
    return [met("test", number, score) for number, score in enumerate(scores)]


def test_a_control_s_row_allows_for_clusters_and_leaves_out_questions_without_a_score() -> None:
    none, selected = scored(0, 0, 0, 0, None, 0), scored(1, 1, 1, 1, 1, None)
    row = build_control_row("selected", selected, none=none, clusters=["a", "a", "b", "b", "b", None])
    assert (row.questions, row.clusters, row.p_none) == (5, 2, 0.5)
    assert build_control_row("selected", selected, none=none).p_none == mcnemar(4, 0)


def test_pooled_programs_share_no_cluster() -> None:
    def of_program() -> Controls:
        rollouts = {"none": scored(0, 0), "selected": scored(1, 1)}
        rows = [build_control_row(name, each, clusters=["zoka", "zoka"]) for name, each in rollouts.items()]
        clusters = {name: ["zoka", "zoka"] for name in rollouts}
        return Controls("sft", rows, scored=rollouts, clusters=clusters)

    both = pooled([of_program(), of_program()])
    assert (both.row("selected").clusters, both.row("selected").p_none) == (2, 0.5)
    assert "form 2 clusters" in str(both).replace("\n", " ")


def test_a_summary_s_p_value_is_mcnemar_s_only_for_independent_questions() -> None:
    before, after = scored(0, 0, 0, 0, 0, None), scored(1, 1, 1, 1, 1, 1)
    assert compute_p_value(before, after) == mcnemar(5, 0)
    assert compute_p_value(before, after, clusters=["a", "a", "b", "b", "c", "c"]) == 2 / 8


def test_a_run_s_page_allows_for_the_clusters_in_its_folder(tmp_path: Path) -> None:
    before = [met("none/test", number, 0.0) for number in range(6)]
    after = [met("sft/test", number, 1.0, kind="cot", text="Think.") for number in range(6)]
    folder = run_folder(tmp_path, [*before, *after], summary={"selected": "sft"})
    split = read_run(folder).split
    assert read_run(folder).scores(split)[1].p_value == mcnemar(6, 0)
    assert "Every question is its own cluster" in run_page(read_run(folder))
    (folder / "clusters.json").write_text(json.dumps({split: [0, 0, 1, 1, 2, 2]}))
    row = read_run(folder).scores(split)[1]
    assert (row.p_value, row.questions, row.clusters) == (2 / 8, 6, 3)
    assert "form 3 clusters" in run_page(read_run(folder))


def by_seed(shift: float, *, seeds: int = 8) -> dict[str, dict[int, float]]:
    """Scores of `sgt`, of a contender that is higher by `shift`, and of one that is as often higher as lower."""
    sgt = {seed: 0.6 + 0.01 * seed for seed in range(seeds)}
    return {
        "sgt": sgt,
        "sgt_without_sft": {seed: score + shift + (0.04, -0.04)[seed % 2] for seed, score in sgt.items()},
        "sgt_without_ood": {seed: score + (0.04, -0.04)[seed % 2] for seed, score in sgt.items()},
    }


def test_a_part_is_needed_only_where_the_test_over_eight_seeds_says_so() -> None:
    lower, equal = compare_by_seed(by_seed(-0.2))
    assert (lower.name, lower.shown, equal.shown) == ("sgt_without_sft", "lower", "no difference")
    assert [lower.adjusted, equal.adjusted] == holm([lower.test.p_value, equal.test.p_value])
    assert compare_by_seed(by_seed(0.2))[0].shown == "higher"
    assert compare_by_seed(by_seed(-0.2, seeds=7))[0].shown == "too few seeds"
    assert compare_by_seed({"none": {0: 0.1, 1: 0.2}}) == compare_by_seed(by_seed(-0.2, seeds=1)) == ()


def test_a_comparison_shows_its_differences_by_seed() -> None:
    trials = [
        TrialOutcome(name, seed, {f"{seed}-{unit}": score for unit in range(4)})
        for name, own in by_seed(-0.2).items()
        for seed, score in own.items()
    ]
    found = Comparison("worlds", "no limit", tuple(range(8)), rank_rows(trials))
    [row] = [line for line in found.to_markdown().splitlines() if line.startswith("| sgt_without_sft | 8 |")]
    assert row.endswith("| lower |")
    assert "Compared with sgt, by seed" in str(found)
    assert [each["shown"] for each in found.content()["by_seed"]] == ["lower", "no difference"]


@pytest.mark.parametrize(("lost", "said"), [(0.3, "scores lower"), (0.0, "no difference is shown")])
def test_what_silence_costs_is_said_only_where_the_test_shows_it(
    lost: float, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(8):
        for name in ("loud", "quiet"):
            terms = 0.9 - (lost + (0.04, -0.04)[seed % 2] if name == "quiet" else 0)
            scores = {"test_terms": terms, "test_plain": 0.5, "shifted": 0.1}
            summary = {
                "scores": {"none": {"test_terms": 0.0, "test_plain": 0.5, "shifted": 0.1}, "sft": scores},
                "selected": "sft",
                "lengths": {"sft": 20.0},
                "gated": {"test": 0.0, "shifted": 0.0},
                "actor_calls": 100,
            }
            folder = tmp_path / f"{name}-{seed}"
            folder.mkdir()
            (folder / "summary.json").write_text(json.dumps(summary))
    monkeypatch.setattr("sys.argv", ["silence.py", "--folder", str(tmp_path)])
    silence.main()
    [line] = [each for each in capsys.readouterr().out.splitlines() if each.startswith("term questions:")]
    assert said in line
