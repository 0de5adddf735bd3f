"""An agent that reaches the goal in fewer steps wins over one that needs more, once steps have a price."""

from __future__ import annotations

import json
import random
from pathlib import Path

import dspy
import pytest
from scripted import ScriptedEngine, ScriptedGenerator, ScriptedTrainer, reply
from small_compile import SMALL, WORLD, named, teleprompter

from optimizers import Query, Recipe, Reward, Rollout
from optimizers.core.cost import Cost
from optimizers.core.result import result_of
from optimizers.sgt.costs import drop_dear_winners
from optimizers.sgt.preference_pairs import preference_pairs
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.kinds import SILENCE, Supplement

ASKED = Query("q1", 0, "agent", "question: who pays?")


def run(text: str, score: float, price: float, kind: str = "cot", query: Query = ASKED) -> Rollout:
    supplement = Supplement(kind, text) if text else SILENCE
    return Rollout(query, "dpo1", "direct", supplement, Reward(score), price=price)


def pairs(*rollouts: Rollout, margin: float | None = None, threshold: float = 1.0) -> list[tuple[str, str, str]]:
    made = preference_pairs(rollouts, rng=random.Random(0), margin=margin, threshold=threshold)
    return sorted((each.category, each.chosen, each.rejected) for each in made)


def test_of_two_successes_the_one_that_cost_less_is_preferred() -> None:
    assert pairs(run("Look.", 1, 0.1), run("Wander.", 1, 0.4)) == [("cheaper", "[cot] Look.", "[cot] Wander.")]


def test_only_the_cheapest_successes_are_preferred_to_others() -> None:
    made = pairs(run("Look.", 1, 0.1), run("See.", 1, 0.102), run("Wander.", 1, 0.2), run("Roam.", 1, 0.4))
    assert {chosen for _, chosen, _ in made} == {"[cot] Look.", "[cot] See."}
    assert {rejected for _, _, rejected in made} == {"[cot] Wander.", "[cot] Roam."}
    assert len(made) == 4


def test_a_small_saving_is_no_reason_to_prefer() -> None:
    assert pairs(run("Look.", 1, 0.39), run("Wander.", 1, 0.4)) == []


def test_a_dear_success_still_wins_over_a_cheap_failure() -> None:
    assert pairs(run("Wander.", 1, 0.9), run("Stop.", 0, 0.1)) == [("intra", "[cot] Wander.", "[cot] Stop.")]
    assert pairs(run("Wander.", 1, 2.9), run("Stop.", 0, 0.1), margin=0.1) == []


def test_with_a_margin_the_net_rewards_decide() -> None:
    near, far = run("Look.", 1, 0.1), run("Wander.", 1, 0.4)
    assert pairs(near, far, margin=0.2) == [("intra", "[cot] Look.", "[cot] Wander.")]
    assert pairs(near, far, margin=0.31) == []


def test_silence_is_rejected_for_its_steps_but_chosen_only_where_nearly_all_win() -> None:
    silent, note = run("", 1, 0.1), run("Look.", 1, 0.5)
    lost = [run(f"Stop {n}.", 0, 0.1) for n in range(3)]
    assert ("cheaper", "[none]", "[cot] Look.") in pairs(silent, note)
    assert not [each for each in pairs(silent, note, *lost) if each[0] == "cheaper"]
    assert ("cheaper", "[cot] Look.", "[none]") in pairs(run("", 1, 0.5), run("Look.", 1, 0.1), *lost)


def test_rows_of_sft_leave_out_the_winners_of_which_the_query_has_a_cheaper_one() -> None:
    other = Query("q2", 1, "agent", "question: who sells?")
    near, far, lost, alone = run("A.", 1, 0.1), run("B.", 1, 0.4), run("C.", 0, 0.9), run("B.", 1, 0.4, query=other)
    assert list(drop_dear_winners([near, far, lost, alone], threshold=1.0)) == [near, lost, alone]
    free = [run("A.", 1, 0.0), run("B.", 1, 0.0)]
    assert drop_dear_winners(free, threshold=1.0) is free


class Wanderer(dspy.Module):
    """Asks until the answer is no longer `wait`, six times at most."""

    def __init__(self) -> None:
        super().__init__()
        self.look = dspy.Predict("tables: str, question: str, tries: int -> sql: str")

    def forward(self, tables: str, question: str) -> dspy.Prediction:
        found = dspy.Prediction(sql="")
        for tries in range(6):
            found = self.look(tables=tables, question=question, tries=tries)
            if found.sql != "wait":
                break
        return dspy.Prediction(sql=found.sql)


def answer(text: str) -> str:
    """Always right in the end: at once with a definition, otherwise at the fourth call."""
    asked = next(each for split in WORLD.splits.values() for each in split if each.question in text)
    tries = int(text.rpartition("[[ ## tries ## ]]")[2].split()[0])
    return reply(sql=WORLD.gold_sql(asked) if "[background]" in text or tries == 3 else "wait")


def compiled(folder: Path, recipe: Recipe, **changes: object) -> tuple[dspy.Module, ScriptedEngine]:
    base = str(embedded_folder("generator"))
    writer = ScriptedGenerator(
        lambda prompt: named(prompt, "cot"),
        trained=ScriptedGenerator(lambda prompt: named(prompt, "background"), model=base),
        model=base,
    )
    engine = ScriptedEngine(answer)
    given = {"generator": writer, "trainer": ScriptedTrainer(), "recipe": recipe, "scope": "episode"} | changes
    with dspy.context(lm=engine.lm()):
        better = teleprompter(folder, **given).compile(Wanderer(), trainset=WORLD.train, valset=WORLD.val)
    return better, engine


PRICED = Recipe(**{**{name: getattr(SMALL, name) for name in SMALL.__slots__}, "cost": Cost(steps=0.1)})


def test_a_compile_with_a_price_selects_the_stage_that_needs_fewer_steps(tmp_path: Path) -> None:
    result = result_of(compiled(tmp_path / "run", PRICED)[0])
    none, best = result.stage("none"), result.best
    assert (none.score, best.score) == (1.0, 1.0)
    assert best.name != "none"
    assert none.cost is not None
    assert best.cost is not None
    assert (none.cost.used.steps, best.cost.used.steps) == (4.0, 1.0)
    assert (none.cost.net, best.cost.net) == (pytest.approx(0.6), pytest.approx(0.9))
    rows = [json.loads(line) for line in (tmp_path / "run/training/sft.jsonl").read_text().splitlines()]
    assert {row["kind"] for row in rows} == {"background"}
    categories = [json.loads(line) for line in (tmp_path / "run/training/dpo1.jsonl").read_text().splitlines()]
    assert {row["category"] for row in categories} == {"cheaper"}
    assert all(row["chosen"].startswith("[background]") for row in categories)
    costs = json.loads((tmp_path / "run/costs.json").read_text())
    assert costs["stages"]["none"]["steps"] == 4.0
    page = (tmp_path / "run/report.html").read_text()
    assert "Quality against cost" in page
    assert "0.1 a step" in page
    assert any("net score" in note for note in result.notes)
    assert result.verdict.startswith("With its costs, ")


def test_without_a_price_more_steps_make_no_difference_and_no_file(tmp_path: Path) -> None:
    result = result_of(compiled(tmp_path / "run", SMALL)[0])
    assert result.selected == "none"
    assert result.best.cost is None
    assert not (tmp_path / "run/costs.json").exists()
    assert "Quality against cost" not in (tmp_path / "run/report.html").read_text()
    assert "cost" not in json.loads((tmp_path / "run/run.json").read_text())["settings"]["recipe"]


def test_another_price_uses_the_paid_rollouts(tmp_path: Path) -> None:
    _, first = compiled(tmp_path / "one", SMALL, store=tmp_path / "shared.sqlite")
    better, second = compiled(tmp_path / "two", PRICED, store=tmp_path / "shared.sqlite")
    assert result_of(better).selected != "none"
    assert len(second.asked) < len(first.asked) / 2  # only what the better stages ask in validation and round 1
