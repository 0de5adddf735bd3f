"""`cluster=` of both teleprompters: the verdict, the run's folder, the report and SPT's impacts count clusters."""

from __future__ import annotations

import json
from pathlib import Path

import dspy
import pytest
from scripted import rollout
from small_compile import WORLD, compiled, helped

from optimizers import SGTTeleprompter
from optimizers.core.evidence import Evidence
from optimizers.core.verdict import write_verdict
from optimizers.observe.report.figures import grouped
from optimizers.spt.impact import compute_impacts
from sgt_modules.embedded import embedded_generator, program
from sgt_modules.errors import SetupError


def evidence(clusters: list[str] | None) -> Evidence:
    """Of eight questions, six turn right: all of three clusters of two."""
    before = [rollout(0.0) for _ in range(8)]
    after = [rollout(1.0)] * 6 + [rollout(0.0)] * 2
    return Evidence(before, {"sft": after}, "sft", clusters=clusters)


def test_questions_that_are_won_together_widen_the_interval() -> None:
    alone, together = (write_verdict(evidence(each)) for each in (None, list("aabbccdd")))
    assert "on 8 questions (n = 8)" in alone
    assert "on 8 questions in 4 clusters (n = 8)" in together
    low, lower = (float(each.split("95 % interval ")[1].split()[0]) for each in (alone, together))
    assert lower < low


def test_questions_of_clusters_of_their_own_are_as_without() -> None:
    assert write_verdict(evidence(list("abcdefgh"))) == write_verdict(evidence(None))


def test_a_run_writes_the_clusters_of_its_splits(tmp_path: Path) -> None:
    better, _ = compiled(helped, tmp_path / "run", cluster=lambda example: example.term or None)
    found = json.loads((tmp_path / "run" / "clusters.json").read_text())
    assert {name: len(numbers) for name, numbers in found.items()} == {"train": len(WORLD.train), "val": len(WORLD.val)}
    assert better.detailed_results.stages


@pytest.mark.parametrize("cluster", [lambda example: example.no_such_field, lambda _: ["not", "hashable"]])
def test_a_cluster_that_cannot_work_is_refused_before_anything_is_paid(tmp_path: Path, cluster: object) -> None:
    sgt = SGTTeleprompter(
        WORLD.metric, embedded_generator(), log_dir=tmp_path / "run", cluster=cluster, display_progress=False
    )
    with dspy.context(lm=dspy.LM("openai/none", api_key="none")), pytest.raises(SetupError, match="Expected cluster"):
        sgt.compile(program(), trainset=WORLD.train, valset=WORLD.val)
    assert not (tmp_path / "run").exists()


def test_an_impact_on_clusters_has_the_error_of_their_means() -> None:
    """Two clusters of means 1 and 0 have a variance of .5 / 2, four independent examples one of .25 * 4/3 / 4."""
    scores = [[0.0] * 4, [1.0, 1.0, 0.0, 0.0]]
    [alone], [together] = (compute_impacts(["Add."], scores, "prefix", each) for each in (None, list("aabb")))
    assert (alone.impact, together.impact) == (0.5, 0.5)
    assert alone.error == pytest.approx((0.25 * 4 / 3 / 4) ** 0.5)
    assert together.error == pytest.approx(0.25**0.5)
    assert together.low < alone.low


def test_runs_of_one_question_are_a_cluster_of_a_group() -> None:
    one, many = (
        grouped([("cot", score, question) for question, score in runs])[0]
        for runs in ([("a", 1.0)] * 10 + [("b", 0.0)] * 10, [(n, float(n < 10)) for n in range(20)])
    )
    assert (one.score, one.runs) == (many.score, many.runs)
    assert one.interval[1] - one.interval[0] > many.interval[1] - many.interval[0]
