"""Where calls are spared, what may still tell something is tried, and nothing twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from scripted import ScriptedGenerator, ScriptedTrainer, query, rollout
from small_compile import SMALL, compiled, gold

from optimizers.core.cost import Cost
from optimizers.core.records import Candidate, Rollout
from optimizers.sgt.adaptive import CandidateScheduler, share_of
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.kinds import SILENCE, Supplement

KINDS = ["cot", "hint", "rule", "pairs", "free"]


def candidates(queries: int, samples: int = 4) -> list[Candidate]:
    """Each query's, by kind."""
    return [
        Candidate(query(f"q{n}", n), Supplement(kind, f"{n}, {at}"), "predefined")
        for n in range(queries)
        for at, kind in enumerate(kind for kind in KINDS for _ in range(samples))
    ]


def outcomes(number: int, won: int, lost: int) -> list[Rollout]:
    """What was tried for a query."""
    return [
        rollout(score, of=query(f"q{number}", number), text=str(at))
        for at, score in enumerate([1.0] * won + [0.0] * lost)
    ]


def of_query(found: list[Candidate]) -> Counter[str]:
    return Counter(each.query.id for each in found)


@pytest.mark.parametrize(("round_", "each"), [(0, 10), (1, 20), (2, 12), (3, 6), (5, 6)])
def test_a_share_of_each_query_is_tried(round_: int, each: int) -> None:
    """Of 20: half, all, three fifths and three tenths."""
    found = CandidateScheduler(candidates(4), round_, threshold=1.0).first
    assert of_query(found) == dict.fromkeys(("q0", "q1", "q2", "q3"), each)
    assert len(set(found)) == len(found)
    assert share_of(round_).open * 20 == pytest.approx(each)


def test_each_kind_has_its_turn_and_each_query_begins_at_another() -> None:
    found = CandidateScheduler(candidates(5), 2, threshold=1.0).first
    for name in ("q0", "q1", "q2", "q3", "q4"):
        often = Counter(each.supplement.kind for each in found if each.query.id == name)
        assert sorted(often.values()) == [2, 2, 2, 3, 3]
    firsts = {each.query.id: each.supplement.kind for each in reversed(found)}
    assert list(firsts.values())[::-1] == KINDS


def test_the_likeliest_of_what_was_asked_for_no_kind_come_first() -> None:
    sure = {"a": -0.1, "b": -0.9, "c": -0.5, "d": -0.2}
    direct = [Candidate(query("q0"), Supplement("cot", text), "direct", sure[text]) for text in sure]
    assert [each.supplement.text for each in CandidateScheduler(direct, 2, threshold=1.0).first] == ["a", "d"]


@pytest.mark.parametrize("round_", range(4))
def test_a_settled_query_is_only_probed_unless_it_was_luck(round_: int) -> None:
    """q0 won all along, q1 nineteen times of twenty-one, q2 never, and of q3 nothing is known."""
    before = [*outcomes(0, 20, 0), *outcomes(1, 19, 2), *outcomes(2, 0, 20)]
    scheduler = CandidateScheduler(candidates(4), round_, threshold=1.0, before=before)
    share, probes = round(share_of(round_).open * 20), share_of(round_).settled
    assert of_query(scheduler.first) == +Counter({"q0": probes, "q1": share, "q2": share, "q3": share})
    assert scheduler.reopen(outcomes(0, 2, 0)) == []
    again = scheduler.reopen([*outcomes(0, 1, 1), *outcomes(1, 0, 4)])
    assert of_query(again) == +Counter({"q0": share - probes})
    assert not set(again) & set(scheduler.first)


def test_a_query_whose_runs_all_failed_without_a_reward_is_not_settled() -> None:
    before = [rollout(None, of=query("q0", 0), text=str(at)) for at in range(3)]
    assert len(CandidateScheduler(candidates(1), 2, threshold=1.0, before=before).first) == 12


def at_price(number: int, *prices: float) -> list[Rollout]:
    """Successes of a query, each at its price."""
    return [
        replace(rollout(1.0, of=query(f"q{number}", number), text=str(at)), price=price)
        for at, price in enumerate(prices)
    ]


def test_a_query_whose_winners_differ_in_price_is_not_settled() -> None:
    """Of q0 one winner saves a third of the other's price, of q1 a fiftieth, and q2 has no prices."""
    before = [*at_price(0, 0.2, 0.3), *at_price(1, 0.49, 0.5), *at_price(2, 0.0, 0.0)]
    scheduler = CandidateScheduler(candidates(3), 2, threshold=1.0, before=before)
    assert of_query(scheduler.first) == {"q0": 12, "q1": 2, "q2": 2}
    again = scheduler.reopen([*at_price(1, 0.2, 0.3), *at_price(2, 0.0, 0.0)])
    assert of_query(again) == {"q1": 10}


class Wordy(ScriptedGenerator):
    """Writes another note for each seed, every second one at length."""

    def said(self, prompt: str, seed: int) -> Supplement:
        return Supplement("cot", f"Look up {seed}." + " Look it up." * (40 * (seed % 2)))


def test_a_compile_samples_on_where_every_note_wins_and_some_are_short(tmp_path: Path) -> None:
    """The actor needs no help, so without prices every question is settled from the start.

    Then 28 calls: 4 questions unaided in each of two sets, 2 notes for each of 4 in two pools, and 4 validated notes.
    With prices, questions whose first notes differ in length are tried further, in both pools.
    """
    generator = Wordy(lambda _: SILENCE, model=str(embedded_folder("generator")))  # its tokenizer counts the price
    calls: list[int] = []
    for name, cost in (("free", None), ("priced", Cost(supplement_tokens=0.001))):
        recipe = replace(SMALL, warm_samples=2, adaptive=True, cost=cost)
        _, engine = compiled(gold, tmp_path / name, recipe=recipe, generator=generator, trainer=ScriptedTrainer())
        calls.append(len(engine.asked))
    assert calls == [28, 59]
