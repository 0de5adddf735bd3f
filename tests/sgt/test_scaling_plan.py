"""The plan for a hundred times more counts what the recipe asks for, and a failure costs what the package repeats."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace
from pathlib import Path
from statistics import mean

import cost
import pytest
import scaling_measures
import scaling_plan
from places import ROOT
from scaling_numbers import TUNED, Cluster, Method, Phase, Setup, Software, bytes_a_pair, phases
from scaling_plan import Outcome, simulate, total

from optimizers.sgt.recipe import Auto, Recipe

PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
CALM, SOFTWARE = Cluster(failures_a_node_a_day=0.0), Software()
HEAVY = Method(Recipe.auto("heavy"), queries=1_000_000)
STORMY = Cluster(failures_a_node_a_day=0.5)


def hours(
    method: Method = HEAVY, cluster: Cluster = CALM, setup: Setup = TUNED, software: Software = SOFTWARE
) -> float:
    return sum(each.hours for each in simulate(method, cluster, setup, software))


def lost(cluster: Cluster, setup: Setup = TUNED) -> float:
    runs = [simulate(HEAVY, cluster, setup, SOFTWARE, seed=seed) for seed in range(40)]
    return mean(sum(each.lost for each in run) for run in runs)


def test_the_page_holds_the_tables_as_they_are_computed_now() -> None:
    for table in scaling_plan.tables():
        assert table in PAGE, f"Put this into docs/scaling.md:\n{table}"


@pytest.mark.parametrize("size", ["light", "medium", "heavy"])
@pytest.mark.parametrize("cluster", [CALM, STORMY])
def test_a_plan_makes_the_calls_samples_and_pairs_of_its_recipe(size: Auto, cluster: Cluster) -> None:
    method = Method(Recipe.auto(size), queries=3_000, validation=70)
    run = simulate(method, cluster, TUNED, SOFTWARE)
    most, stages = cost.calls(method.recipe), 1 + method.recipe.rounds
    assert sum(each.phase.calls for each in run) == 3_000 * (most.total + 1) + 70 * (stages + 1)
    assert sum(each.phase.samples for each in run) == 3_000 * most.sampled + 70 * stages
    rounds = sum(each.phase.tokens for each in run if each.phase.name.endswith("train"))
    assert rounds == 3_000 * cost.pairs(method.recipe) * 2 * (cost.PROMPT + cost.SUPPLEMENT)


def test_sft_trains_on_no_more_rows_than_the_recipe_keeps_of_a_kind() -> None:
    few, many = (
        next(each.tokens for each in phases(replace(HEAVY, queries=queries)) if each.name == "SFT")
        for queries in (1_000, 1_000_000)
    )
    assert few == many == 3 * 200 * 9 * (cost.PROMPT + cost.SUPPLEMENT)


def test_a_recipe_without_sft_has_no_such_phase() -> None:
    assert "SFT" not in {each.name for each in phases(Method(Recipe(sft=False), queries=1))}


def test_a_small_plan_by_hand() -> None:
    """10 queries, 1 validation example, a warm start alone: 11 unaided runs, then 450 calls at one a second."""
    method = Method(Recipe(rounds=0, sft=False), queries=10, validation=1)
    software = replace(SOFTWARE, bytes_held=1.0, bytes_exploring=3.0, bytes_stored=10.0)
    unaided, warm = simulate(method, replace(CALM, actor_calls_a_minute=60), TUNED, software)
    assert (unaided.hours, warm.hours) == (pytest.approx(11 / 3600), pytest.approx(450 / 3600))
    assert warm.bound == unaided.bound == "the actor's limit"
    assert (unaided.memory, warm.memory) == (33, 11 + 450 * 3)
    assert warm.stored == 461 * 10


def test_a_training_by_hand() -> None:
    """1,000 tokens a second a GPU, 16 rows a step: 16 of 100 GPUs work, 16,000 tokens a second."""
    [train] = [each for each in phases(Method(Recipe(rounds=1), 1_000)) if each.name == "round 1: train"]
    cluster = replace(CALM, tokens_trained_a_second_a_gpu=1_000)
    terms = scaling_plan.train_terms(train, cluster, Setup())
    assert terms["rows a step"] == pytest.approx(train.tokens / 16_000 / 3600)
    assert terms["training"] == pytest.approx(train.tokens / 100_000 / 3600)
    assert terms["sending rows"] == pytest.approx(1_000 * 40 * bytes_a_pair() * 99 / 1e9 / 3600)
    assert scaling_plan.train_terms(train, cluster, replace(TUNED, own_job=True))["sending rows"] == 0


def test_the_bound_is_the_part_that_takes_longest() -> None:
    for setup in (Setup(), TUNED):
        for each in simulate(HEAVY, CALM, setup, SOFTWARE):
            assert each.terms[each.bound] == max(each.terms.values())
            if not each.phase.tokens:
                assert each.hours == pytest.approx(each.terms[each.bound])


@pytest.mark.parametrize(
    ("changed", "bound"),
    [
        (Setup(), "calls at once"),
        (replace(TUNED, requests=16), "samples at once"),
        (replace(CALM, tokens_written_a_second_a_gpu=1.0), "sampling"),
        (replace(SOFTWARE, python_seconds=0.1), "the main process's Python"),
        (replace(SOFTWARE, stored_a_second=10.0), "the store"),
    ],
)
def test_what_is_made_scarce_becomes_the_bound(changed: Setup | Cluster | Software, bound: str) -> None:
    warm = simulate(
        HEAVY,
        changed if isinstance(changed, Cluster) else CALM,
        changed if isinstance(changed, Setup) else TUNED,
        changed if isinstance(changed, Software) else SOFTWARE,
    )[1]
    assert warm.bound == bound


MORE = [
    *(replace(CALM, **{name: 2 * getattr(CALM, name)}) for name in (
        "gpus", "tokens_written_a_second_a_gpu", "tokens_trained_a_second_a_gpu", "actor_calls_a_minute", "network",
    )),
    *(replace(TUNED, **{name: 2 * getattr(TUNED, name)}) for name in ("threads", "requests", "rows_a_step")),
    replace(SOFTWARE, stored_a_second=2 * SOFTWARE.stored_a_second),
    replace(SOFTWARE, python_seconds=SOFTWARE.python_seconds / 2),
]  # fmt: skip


@pytest.mark.parametrize("more", MORE, ids=range(len(MORE)))
def test_more_of_anything_never_takes_longer(more: Cluster | Setup | Software) -> None:
    for setup in (Setup(), TUNED):
        base = hours(setup=setup)
        if isinstance(more, Cluster):
            assert hours(cluster=more, setup=setup) <= base
        elif isinstance(more, Software):
            assert hours(setup=setup, software=more) <= base
    if isinstance(more, Setup):
        assert hours(setup=more) <= hours()


def test_without_failures_nothing_is_lost_or_paid_again() -> None:
    for each in simulate(HEAVY, CALM, TUNED, SOFTWARE, seed=3):
        assert (each.failures, each.lost, each.again) == (0, 0.0, 0)


def test_more_failures_cost_more_hours() -> None:
    took = [lost(replace(CALM, failures_a_node_a_day=rate)) for rate in (0.0, 0.005, 0.02, 0.04)]
    assert took == sorted(took)
    assert took[0] == 0 < took[1]


def test_a_failure_repeats_at_most_what_was_in_progress() -> None:
    for seed in range(20):
        for each in simulate(HEAVY, Cluster(), TUNED, SOFTWARE, seed=seed):
            assert each.again <= each.failures * max(TUNED.threads, TUNED.requests)
            assert each.lost >= -1e-9


def test_training_as_a_job_of_its_own_loses_less_to_failures() -> None:
    assert lost(Cluster(), replace(TUNED, own_job=True)) < lost(Cluster()) / 4


def test_a_training_without_saved_steps_takes_the_time_of_a_renewal() -> None:
    """Work W that begins again at each failure, at rate L, takes (exp(L W) - 1) / L on average, with no restart."""
    cluster = replace(Cluster(), failures_a_node_a_day=1.0, restart_seconds=0.0)
    method = Method(Recipe.auto("light"), queries=400_000)
    setup = replace(TUNED, own_job=True)

    def train(seed: int) -> Outcome:
        run = simulate(method, cluster, setup, SOFTWARE, seed=seed)
        return next(each for each in run if each.phase.name == "round 2: train")

    work = train(0).terms["training"]
    rate = cluster.training_nodes / 24
    assert work * rate > 0.3
    assert mean(train(seed).hours for seed in range(3_000)) == pytest.approx(math.expm1(rate * work) / rate, rel=0.06)


def test_a_run_that_fails_while_it_resumes_resumes_again() -> None:
    slow = replace(SOFTWARE, resumed_seconds=20 * SOFTWARE.resumed_seconds)
    few, many = (total(HEAVY, Cluster(failures_a_node_a_day=0.001), TUNED, each, seeds=40) for each in (SOFTWARE, slow))
    assert many.hours - many.calm > 5 * (few.hours - few.calm)


def test_limits_are_where_a_plan_of_that_size_meets_them() -> None:
    found = scaling_plan.limits(HEAVY, CALM, TUNED, SOFTWARE)
    assert list(found.values()) == sorted(found.values())
    method = replace(HEAVY, queries=round(found["the main process's memory is full"]), validation=0)
    assert total(method, CALM, TUNED, SOFTWARE, seeds=1).memory == pytest.approx(CALM.memory, rel=0.01)
    week = replace(HEAVY, queries=round(found["the actor's limit: a week"]), validation=0)
    acting = sum(each.terms.get("the actor's limit", 0.0) for each in simulate(week, CALM, TUNED, SOFTWARE))
    assert acting == pytest.approx(7 * 24, rel=0.01)


def test_a_phase_without_work_takes_no_time() -> None:
    assert set(scaling_plan.explore_terms(Phase("nothing"), CALM, TUNED, SOFTWARE).values()) == {0.0}


def test_every_number_has_a_source() -> None:
    table = scaling_plan.sources_table(Cluster(), Setup(), Software())
    rows = [line.split(" | ") for line in table.splitlines()[2:]]
    assert len(rows) == sum(len(each.__slots__) for each in (Cluster, Setup, Software))
    assert all(len(row) == 3 and len(row[2]) > 5 for row in rows)


def test_a_rollout_of_an_earlier_stage_takes_the_memory_that_the_plan_says() -> None:
    tracemalloc.start()
    held = list(cost.rollouts(1_000))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / len(held) == pytest.approx(SOFTWARE.bytes_held, rel=0.15)


def test_the_loop_that_is_measured_stores_every_rollout_and_pays_none_again(tmp_path: Path) -> None:
    found = scaling_measures.measure_loop(str(tmp_path / "rollouts.sqlite"), 2, 2)
    assert found.rollouts == 90
    assert 0 < found.processor < 1
    assert 0 < found.resumed < 1
