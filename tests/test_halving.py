"""Successive halving asks where a stage's aim is likely to be met, and for less than half of its samples."""

from __future__ import annotations

from collections import Counter

import pytest
from scripted import query, rollout

from optimizers.halving import ENOUGH, PROBED, Halving, share_of
from optimizers.records import Candidate, Rollout
from sgt_modules.kinds import Supplement

KINDS = ["cot", "hint", "rule", "pairs", "free"]


def candidates(queries: int, samples: int = 4) -> list[Candidate]:
    """Each query's, by kind."""
    return [
        Candidate(query(f"q{n}", n), Supplement(kind, f"{n}, {at}"), "predefined")
        for n in range(queries)
        for at, kind in enumerate(kind for kind in KINDS for _ in range(samples))
    ]


def outcomes(number: int, won: int, lost: int, kind: str = "cot") -> list[Rollout]:
    """What was tried for a query."""
    return [
        rollout(score, of=query(f"q{number}", number), kind=kind, text=str(at))
        for at, score in enumerate([1.0] * won + [0.0] * lost)
    ]


def test_every_query_has_its_turn_first_and_each_kind_as_often() -> None:
    part = Halving(candidates(4), "warm", threshold=1.0).part(0, [])
    assert Counter(each.query.id for each in part) == {"q0": 12, "q1": 12, "q2": 12, "q3": 12}
    for name in ("q0", "q1", "q2", "q3"):
        often = Counter(each.supplement.kind for each in part if each.query.id == name)
        assert sorted(often.values()) == [2, 2, 2, 3, 3]
    first = Halving(candidates(5), "round 7", threshold=1.0).part(0, [])
    assert [each.supplement.kind for each in first] == KINDS  # each query begins at another kind


@pytest.mark.parametrize(
    ("stage", "best"),
    [("round 2", ["q1", "q2"]), ("warm", ["q3", "q2"])],  # mixed outcomes; many winners, and not enough yet
)
def test_the_promising_half_goes_on(stage: str, best: list[str]) -> None:
    halving = Halving(candidates(4), stage, threshold=1.0)
    tried = [*outcomes(0, 0, 4), *outcomes(1, 2, 2), *outcomes(2, 3, 1), *outcomes(3, 4, 0)]
    halving.part(0, [])
    assert list(dict.fromkeys(each.query.id for each in halving.part(1, tried))) == best


@pytest.mark.parametrize(("stage", "share"), [("warm", 0.78), ("round 1", 0.95), ("round 2", 0.45), ("round 5", 0.1)])
def test_a_share_is_tried_and_nothing_twice(stage: str, share: float) -> None:
    halving, every = Halving(candidates(8), stage, threshold=1.0), candidates(8)
    asked = [each for level in range(halving.levels) for each in halving.part(level, [])]
    assert len(asked) == pytest.approx(share * len(every), abs=1)
    assert share_of(stage) == pytest.approx(share)
    assert len(set(asked)) == len(asked)


def test_a_query_that_nothing_wins_promises_more_than_one_that_everything_wins() -> None:
    halving = Halving(candidates(2), "round 2", threshold=1.0)
    halving.part(0, [])
    assert {each.query.id for each in halving.part(1, [*outcomes(0, 4, 0), *outcomes(1, 0, 4)])} == {"q1"}


def test_a_warm_start_asks_no_more_of_a_query_with_enough_winners() -> None:
    halving = Halving(candidates(2), "warm", threshold=1.0)
    halving.part(0, [])
    tried = [*outcomes(0, ENOUGH, 0), *outcomes(1, 0, 4)]
    assert {each.query.id for each in halving.part(1, tried)} == {"q1"}


def test_the_more_promising_kinds_come_first() -> None:
    halving = Halving(candidates(1), "warm", threshold=1.0)
    halving.part(0, [])
    tried = [*outcomes(0, 2, 0, "rule"), *outcomes(0, 0, 3, "cot"), *outcomes(0, 0, 3, "hint")]
    left = [each.supplement.kind for each in halving.part(1, tried)]
    assert set(left[:3]) == {"rule", "cot"}  # a tie: by the alphabet
    assert not {"rule", "cot"} & set(left[3:])


def test_an_outage_says_nothing_of_a_query() -> None:
    halving = Halving(candidates(2), "round 2", threshold=1.0)
    failed = [rollout(None, of=query("q0", 0), text=str(at)) for at in range(3)]
    halving.part(0, [])
    assert {each.query.id for each in halving.part(1, [*failed, *outcomes(1, 3, 0)])} == {"q0"}


@pytest.mark.parametrize("stage", ["warm", "round 1", "round 2"])
def test_a_query_that_won_all_along_is_only_probed_unless_it_was_luck(stage: str) -> None:
    before = [*outcomes(0, 20, 0), *outcomes(1, 18, 2)]
    halving = Halving(candidates(2), stage, threshold=1.0, before=before)
    first = Counter(each.query.id for each in halving.part(0, []))
    assert first["q0"] == PROBED < first["q1"]
    second = Counter(each.query.id for each in halving.part(1, [*outcomes(0, 1, 1), *outcomes(1, 0, 4)]))
    assert second["q0"] >= PROBED
    assert second["q1"] == 0
