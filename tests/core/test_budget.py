"""A budget is asked before each spend, and exceeded by nothing but what was under way."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dspy
import pytest
from scripted import ScriptedEngine, reply

from optimizers.core.budget import Budget, Limits
from optimizers.core.reward import Scorer
from optimizers.core.usage import Usage
from optimizers.rollouts.engine import RolloutEngine
from optimizers.store.rollout_store import RolloutStore
from sgt_modules import supplement
from sgt_modules.errors import SetupError, StoppedError

EXAMPLES = [dspy.Example(question=f"{n}+1?", answer=str(n + 1)).with_inputs("question") for n in range(600)]


class Twice(dspy.Module):
    """Asks its LM twice a run."""

    def __init__(self) -> None:
        super().__init__()
        self.draft = dspy.Predict("question -> answer")
        self.check = dspy.Predict("question, draft -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        return self.check(question=question, draft=self.draft(question=question).answer)


def made(tmp_path: Path, student: dspy.Module, limits: Limits, threads: int = 8) -> tuple[int, str]:
    """How many calls a probe of 600 examples made under these limits, and why it stopped."""

    def slowly(text: str) -> str:
        time.sleep(0.001)
        return reply(answer="1")

    engine = ScriptedEngine(slowly)
    with RolloutStore(tmp_path / "rollouts.sqlite") as store, dspy.context(lm=engine.lm()):
        scorer = Scorer(lambda example, prediction: example.answer == prediction.answer)
        program = supplement(student, generator="no/model")
        actor = RolloutEngine(program, scorer, store, "scope", num_threads=threads, budget=Budget(limits))
        with pytest.raises(StoppedError) as stop:
            actor.probe(EXAMPLES)
        assert sum(rollout.reward is not None for rollout in store.rollouts()) >= len(engine.asked) // 2
    return len(engine.asked), str(stop.value)


@pytest.mark.parametrize("most", [1, 10, 500])
def test_a_program_of_one_call_makes_exactly_as_many_as_it_may(tmp_path: Path, most: int) -> None:
    calls, said = made(tmp_path, dspy.Predict("question -> answer"), Limits(actor_calls=most))
    assert calls == most
    assert said == f"{most} of at most {most} actor calls are made"


@pytest.mark.parametrize("most", [1, 10, 500])
def test_a_program_of_two_calls_exceeds_the_limit_by_what_is_in_flight_at_most(tmp_path: Path, most: int) -> None:
    calls, _ = made(tmp_path, Twice(), Limits(actor_calls=most))
    assert most <= calls <= most + 8


def test_dollars_and_seconds_are_limits_too() -> None:
    now = 100.0
    budget = Budget(Limits(cost_usd=0.5, seconds=30.0), clock=lambda: now)
    with budget.reserve_run() as charge:
        charge(Usage(runs=1, calls=1, cost=0.4))
    budget.check()
    now = 130.0
    with pytest.raises(StoppedError, match="30 of at most 30 seconds are over"):
        budget.check()
    now = 129.0
    with budget.reserve_run() as charge:
        charge(Usage(runs=1, calls=1, cost=0.2))
    with pytest.raises(StoppedError, match=r"\$0.60 of at most \$0.50 are spent"):
        budget.check()


def test_dollars_besides_the_programs_count_to_the_limit_and_not_to_what_it_spent() -> None:
    budget = Budget(Limits(cost_usd=1.0), Usage(runs=1, cost=0.25), other_cost=0.25)
    budget.add_other_cost(0.25)
    budget.check()
    budget.add_other_cost(0.25)
    with pytest.raises(StoppedError, match=r"\$1.00 of at most \$1.00 are spent"):
        budget.check()
    assert budget.usage.cost == 0.25


def test_what_earlier_sessions_spent_counts() -> None:
    with pytest.raises(StoppedError, match="7 of at most 5 actor calls"):
        Budget(Limits(actor_calls=5), Usage(runs=7, calls=7)).check()
    with pytest.raises(StoppedError, match="60 of at most 60 seconds"):
        Budget(Limits(seconds=60), seconds=60.0).check()


def test_a_run_that_cost_nothing_makes_room_for_another() -> None:
    budget, paid = Budget(Limits(actor_calls=2)), threading.Semaphore(0)

    def run(calls: int) -> None:
        with budget.reserve_run() as charge:
            time.sleep(0.01)
            charge(Usage(runs=1, calls=calls))
            paid.release()

    with ThreadPoolExecutor(4) as pool:  # two come from a cache, so all four are let in
        list(pool.map(run, [0, 0]))
        list(pool.map(run, [1, 1]))
    assert budget.usage == Usage(runs=4, calls=2)


def test_a_run_that_is_told_to_stop_spends_nothing_more() -> None:
    budget = Budget()
    budget.stop("Enough")
    with pytest.raises(StoppedError, match="Enough"), budget.reserve_run():
        pytest.fail("it was let in")


@pytest.mark.parametrize("limits", [{"actor_calls": 0}, {"cost_usd": -1.0}, {"seconds": 0}])
def test_a_limit_that_allows_nothing_is_refused(limits: dict[str, float]) -> None:
    with pytest.raises(SetupError, match=r"Expected max_.* above 0.*Leave it out for no limit"):
        Limits(**limits)
