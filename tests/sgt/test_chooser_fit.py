"""A chooser is fitted on what a run has tried, and measured on queries that it was not fitted on."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
from scripted import ScriptedGenerator, ScriptedTrainer, reply
from small_compile import SMALL, WORLD, compiled, gold

from optimizers import Recipe, fit_chooser
from optimizers.core.records import Query, Reward, Rollout
from optimizers.core.result import result_of
from optimizers.rollouts.queries import query_id
from optimizers.rollouts.sampling import read_query
from optimizers.sgt.chooser_fit import (
    JudgedNote,
    calibrate,
    fit_and_calibrate,
    fit_logistic,
    fit_notes,
    judge_notes,
    place_samples,
)
from optimizers.sgt.policy_groups import queries_of_round
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.errors import SetupError
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.note_chooser import Proposal, propose
from sgt_modules.samples import Sample


def drawn_notes(queries: int, *, seed: int = 0, words: bool = False) -> list[JudgedNote]:
    """Notes whose log-probability decides how often they win, and silence that wins in three of ten queries."""
    rng = random.Random(seed)
    judged: list[JudgedNote] = []
    for number in range(queries):
        samples = [
            Sample(f"note {at}", logprob=rng.uniform(-2, 0), kind=rng.choice(["cot", "free"])) for at in range(4)
        ]
        for each in propose(samples):
            chance = 0.3 if not each.sample.supplement else 1 / (1 + math.exp(-4 * (each.sample.logprob + 1)))
            judged.append(JudgedNote(f"q{number}", f"question {number}?", each, rng.random() < chance))
    return judged


def test_a_fit_agrees_with_the_maximum_by_hand() -> None:
    """One column x in {0, 1} besides the constant, hardly penalised: the log-odds are those of each group.

    Of x = 0 one in four won: log(1/3). Of x = 1 three in four: log(3), so the slope is 2 log(3).
    """
    rows = np.array([[1.0, 0.0]] * 4 + [[1.0, 1.0]] * 4)
    weights = fit_logistic(rows, np.array([1.0, 0, 0, 0, 1, 1, 1, 0]), penalty=1e-9)
    assert weights == pytest.approx([-math.log(3), 2 * math.log(3)], abs=1e-3)


def test_the_gradient_is_zero_at_the_fit_and_separable_notes_stay_finite() -> None:
    rng = np.random.default_rng(0)
    rows = np.hstack([np.ones((60, 1)), rng.normal(size=(60, 3)) * [1, 30, 0.01]])
    won = (rows[:, 2] > 0).astype(float)
    weights = fit_logistic(rows, won, penalty=0.5)
    chances = 1 / (1 + np.exp(-rows @ weights))
    gradient = rows.T @ (chances - won) + np.array([1e-6, 0.5, 0.5, 0.5]) * weights
    assert np.abs(gradient).max() < 1e-5
    assert np.isfinite(fit_logistic(np.ones((5, 1)), np.ones(5))).all()
    with pytest.raises(SetupError, match="penalty above 0"):
        fit_logistic(rows, won, penalty=0.0)


def test_a_fit_finds_what_decides_and_is_calibrated_on_queries_that_it_did_not_see() -> None:
    fitted = fit_and_calibrate(drawn_notes(300))
    found = fitted.calibration
    assert found.queries == 300
    assert found.auc is not None
    assert found.auc > 0.75
    assert found.brier < found.constant_brier - 0.03
    assert all(abs(row.predicted - row.won) < 0.1 for row in found.rows if row.notes > 50)
    assert sum(row.notes for row in found.rows) == found.notes
    fresh = drawn_notes(300, seed=1)
    own = calibrate(
        [fitted.chooser.probabilities(each.prompt, [each.proposal])[0] for each in fresh],
        [each.won for each in fresh],
        queries=300,
    )
    assert own.brier == pytest.approx(found.brier, abs=0.02)


def test_silence_has_the_rate_at_which_queries_were_won_unaided() -> None:
    judged = drawn_notes(300)
    unaided = [each.won for each in judged if not each.proposal.sample.supplement]
    silence = fit_notes(judged, penalty=1e-3).probabilities("other?", [Proposal(Sample("", kind="none"), 0.0)])
    assert silence == pytest.approx([sum(unaided) / len(unaided)], abs=0.01)


def test_a_fit_without_signal_scores_no_better_than_a_constant() -> None:
    rng = random.Random(2)
    judged = [JudgedNote(each.query, each.prompt, each.proposal, rng.random() < 0.5) for each in drawn_notes(60)]
    found = fit_and_calibrate(judged).calibration
    assert found.brier > found.constant_brier - 0.01
    assert found.auc == pytest.approx(0.5, abs=0.12)
    assert "queries" in str(found)


def rollout(query: Query, stage: str, supplement: Supplement, score: float | None, source: str = "direct") -> Rollout:
    return Rollout(query, stage, source, supplement, None if score is None else Reward(score))


def test_notes_are_judged_once_a_query_with_their_share_and_those_asked_by_kind_are_not() -> None:
    one, two = Query("1", 0, "self", "2+2?"), Query("2", 1, "self", "3+3?")
    add, four, cut = Supplement("cot", "Add."), Supplement("answer", "4"), Supplement("free", "so I", cut=True)
    rollouts = [
        rollout(one, "none/train", SILENCE, 1.0, "none"),
        rollout(two, "none/train", SILENCE, 0.0, "none"),
        rollout(one, "round 1", add, 0.0, "predefined"),
        rollout(one, "sft/val", add, 0.0),
        rollout(two, "round 2", cut, None),
        rollout(two, "round 2", four, 0.0),
        rollout(one, "round 2", add, 1.0),
        rollout(one, "round 2", four, 0.0),
    ]
    samples = [add, add, four, SILENCE, cut, four, four, four]
    drawn = [Sample(each.text, logprob=-0.5, kind=each.kind, cut=each.cut) for each in samples]
    judged = judge_notes(rollouts, {"round 2": [*zip("11112222", drawn, strict=True)]})
    assert [(each.query, each.proposal.sample.text, each.proposal.share, each.won) for each in judged] == [
        ("1", "Add.", 0.5, True),
        ("1", "4", 0.25, False),
        ("1", "", 0.25, True),
        ("2", "4", 0.75, False),  # the failed run of the cut note is neither won nor lost
        ("2", "", 0.0, False),
    ]
    others = [Sample(each.text + "?", kind=each.kind) if each.text else each for each in drawn]
    assert judge_notes(rollouts, {"round 2": [*zip("11112222", others, strict=True)]}) == []  # not the rollouts'
    assert judge_notes(rollouts, {"round 2": []}) == []


def notes(texts: str) -> list[Sample]:
    """A sample for each letter; a dash is an empty one."""
    return [Sample("", kind="none") if each == "-" else Sample(each, logprob=-0.5, kind="cot") for each in texts]


THREE = [Query(f"q{number}", number, "self", f"prompt {number}") for number in range(3)]
PROBED = [rollout(query, "none/train", SILENCE, 0.0, "none") for query in THREE]


def tried(outcomes: str, stage: str = "round 2") -> list[Rollout]:
    """Unaided runs of three queries, and the named outcomes of a round: `1a` is note `a` on query 1."""
    asked = [(THREE[int(each[0])], Supplement("cot", each[1])) for each in outcomes.split()]
    return [*PROBED, *(rollout(query, stage, note, 1.0) for query, note in asked)]


@pytest.mark.parametrize(
    ("texts", "outcomes", "recipe", "placed"),
    [
        ("--aabb", "1a 2b", {}, "q0 q0 q1 q1 q2 q2"),  # query 0 got no note, so it has no rollout
        ("aabbcc", "1b 0a", {}, "q0 q0 q1 q1 q2 q2"),  # the run was stopped before query 2
        ("aab", "0a", {}, "q0 q0 q1"),  # the run was stopped while it sampled
        ("--aa", "2a", {"queries_per_round": 2}, "q1 q1 q2 q2"),  # the round took queries 1 and 2
        ("aa--", "2a", {"queries_per_round": 2}, ""),  # in an order that cannot be
    ],
)
def test_samples_of_an_earlier_version_are_placed_by_the_order_of_their_requests(
    texts: str, outcomes: str, recipe: dict[str, int], placed: str
) -> None:
    rollouts = tried(outcomes)
    samples = [(None, each) for each in notes(texts)]
    seed = next(seed for seed in range(99) if [q.index for q in queries_of_round(THREE, 2, 2, seed=seed)] == [1, 2])
    found = place_samples(samples, "round 2", rollouts, {"direct_samples": 2, **recipe}, seed)
    assert [query for query, _ in found] == (placed.split() or [""] * len(texts))
    judged = judge_notes(rollouts, {"round 2": found})
    assert {each.proposal.share for each in judged if each.proposal.sample.text} == ({1.0} if placed else set())


def test_samples_of_an_earlier_version_are_left_out_where_their_places_are_not_known() -> None:
    one, two = Query("qa", 0, "a", "pa"), Query("qb", 0, "b", "pb")
    rollouts = [rollout(each, "none/train", SILENCE, 0.0, "none") for each in (one, two)]
    rollouts += [
        rollout(two, "round 2", Supplement("cot", "y"), 1.0),
        rollout(one, "round 2", Supplement("cot", "x"), 0),
    ]
    unplaced, ids = [(None, each) for each in notes("xxyy")], ["qa", "qa", "qb", "qb"]
    found = place_samples(unplaced, "round 2", rollouts, {"direct_samples": 2}, 0)
    assert judge_notes(rollouts, {"round 2": found}) == []
    known = place_samples([*zip(ids, notes("xxyy"), strict=True)], "round 2", rollouts, {"direct_samples": 2}, 0)
    judged = judge_notes(rollouts, {"round 2": known})
    assert [(each.query, each.proposal.sample.text, each.proposal.share, each.won) for each in judged] == [
        ("qa", "x", 1.0, False),
        ("qa", "", 0.0, False),
        ("qb", "y", 1.0, True),
        ("qb", "", 0.0, False),
    ]


class Varied(ScriptedGenerator):
    """Writes, for its seed, notes of two kinds, an untagged one and none."""

    def said(self, prompt: str, seed: int) -> Supplement:
        kinds = ["background", "cot", "free", "none"]
        kind = kinds[seed % 4]
        return Supplement(kind, "" if kind == "none" else f"Note {seed % 3}.")


def test_a_run_with_two_rounds_gives_a_chooser_and_one_with_a_single_round_says_what_to_do(tmp_path: Path) -> None:
    def answer(text: str) -> str:
        return gold(text) if "[background]" in text else reply(sql="SELECT 1")

    writer = Varied(lambda prompt: SILENCE)
    scripted = {"generator": writer, "trainer": ScriptedTrainer()}
    recipe = Recipe(rounds=2, direct_samples=12, warm_samples=2)
    better, _ = compiled(answer, tmp_path / "two", recipe=recipe, **scripted)
    fitted = fit_chooser(tmp_path / "two", folds=2, penalty=0.1)
    assert fitted == fit_chooser(result_of(better), folds=2, penalty=0.1)
    assert fitted.calibration.queries == len(WORLD.train)
    assert {"background", "cot", "free"} <= set(fitted.chooser.kinds)
    samples = [Sample("Note 1.", kind="cot"), Sample("Note 1.", kind="background"), Sample("Note 1.", kind="free")]
    assert fitted.chooser.choose("any?", samples).kind == "background"
    compiled(answer, tmp_path / "one", recipe=SMALL, **scripted)
    with pytest.raises(SetupError, match="two rounds or more"):
        fit_chooser(tmp_path / "one")


class SometimesSilent(Varied):
    """Writes nothing for one question."""

    def said(self, prompt: str, seed: int) -> Supplement:
        return SILENCE if WORLD.train[0].question in prompt else super().said(prompt, seed)


def test_each_sample_is_stored_with_its_query_and_a_run_from_before_gives_the_same_chooser(tmp_path: Path) -> None:
    def answer(text: str) -> str:
        return gold(text) if "[background]" in text else reply(sql="SELECT 1")

    scripted = {"generator": SometimesSilent(lambda prompt: SILENCE), "trainer": ScriptedTrainer()}
    recipe = Recipe(rounds=2, direct_samples=12, warm_samples=2, silence=False)
    better, _ = compiled(answer, tmp_path, recipe=recipe, **scripted)
    fitted = fit_chooser(tmp_path, folds=2)
    assert fitted.calibration.queries == len(WORLD.train) - 1
    with RolloutStore(tmp_path / "rollouts.sqlite") as store:
        stored = store.samples("round 2")
        assert [read_query(key) for key, _ in stored] == [
            query_id(example, "self") for example in WORLD.train for _ in range(12)
        ]
        store.add_samples("round 2", 0, [(key.partition("/")[0], sample) for key, sample in stored])
    assert fit_chooser(result_of(better), folds=2) == fitted
