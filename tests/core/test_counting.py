"""Each call of the actor's LM is counted where it is made, and none is made that the budget does not allow."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from uuid import uuid4

import dspy
import prompted
import pytest
from dspy.lm15 import Message, Request, Response
from scripted import ScriptedEngine, ScriptedTrainer, reply
from small_compile import teleprompter, writer

from optimizers.core.budget import Budget, Limits
from optimizers.core.prices import Price
from optimizers.core.reward import Scorer
from optimizers.core.usage import Usage
from optimizers.rollouts.engine import RolloutEngine
from optimizers.store.rollout_store import RolloutStore
from sgt_modules import supplement
from sgt_modules.errors import StoppedError

PARTS = 9
EXAMPLES = [dspy.Example(question=f"{n}+1?", answer=str(n + 1)).with_inputs("question") for n in range(16)]


class Parts(dspy.Module):
    """Asks its predictor about `PARTS` parts of a question, in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.qa = dspy.Predict("question -> answer")
        self.way = way

    def forward(self, question: str) -> dspy.Prediction:
        found = WAYS[self.way](self.qa, [f"{question} {part}" for part in range(PARTS)])
        return dspy.Prediction(answer=found[0].answer)


def in_batch(qa: dspy.Module, questions: Sequence[str]) -> list[dspy.Prediction]:
    examples = [dspy.Example(question=each).with_inputs("question") for each in questions]
    return qa.batch(examples, num_threads=2, disable_progress_bar=True)


def in_parallel(qa: dspy.Module, questions: Sequence[str]) -> list[dspy.Prediction]:
    return dspy.Parallel(num_threads=2, disable_progress_bar=True)([(qa, {"question": each}) for each in questions])


def in_a_tracker(qa: dspy.Module, questions: Sequence[str]) -> list[dspy.Prediction]:
    """The program tracks its own usage, which DSPy forgets in a batch."""
    with dspy.track_usage() as usage:
        first = qa(question=questions[0])
        assert sum(map(len, usage.usage_data.values())) == 1
        return [first, *in_batch(qa, questions[1:])]


def in_threads(qa: dspy.Module, questions: Sequence[str]) -> list[dspy.Prediction]:
    with ThreadPoolExecutor(2) as pool:
        return [each.result() for each in [pool.submit(copy_context().run, qa, question=each) for each in questions]]


def in_a_loop(qa: dspy.Module, questions: Sequence[str]) -> list[dspy.Prediction]:
    async def gather() -> list[dspy.Prediction]:
        return await asyncio.gather(*(qa.acall(question=each) for each in questions))

    return asyncio.run(gather())


def in_turn(qa: dspy.Module, questions: Sequence[str]) -> list[dspy.Prediction]:
    return [qa(question=each) for each in questions]


WAYS: dict[str, Callable[[dspy.Module, Sequence[str]], list[dspy.Prediction]]] = {
    "batch": in_batch,
    "Parallel": in_parallel,
    "its own tracker": in_a_tracker,
    "threads with the context": in_threads,
    "asyncio": in_a_loop,
    "in turn": in_turn,
}


def exact(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    return example.answer == prediction.answer


def answering() -> ScriptedEngine:
    """An LM of a known price: 2 dollars a token read and 3 a token written."""
    engine = ScriptedEngine(lambda text: reply(answer="1"))
    engine.price = Price({"input_cost_per_token": 2.0, "output_cost_per_token": 3.0})  # type: ignore[attr-defined]
    return engine


def acted(folder: Path, program: dspy.Module, engine: ScriptedEngine, limits: Limits, threads: int = 4) -> Usage:
    """What the folder's store says was paid for a probe of all examples, which may be stopped."""
    with RolloutStore(folder / "rollouts.sqlite") as store, dspy.context(lm=engine.lm()):
        wrapped = supplement(program, generator="no/model")
        actor = RolloutEngine(wrapped, Scorer(exact), store, "scope", num_threads=threads, budget=Budget(limits))
        try:
            actor.probe(EXAMPLES)
        except StoppedError:
            assert limits != Limits()
        assert actor.usage.calls == store.spent().calls
        return store.spent()


@pytest.mark.parametrize("way", WAYS)
def test_every_call_is_counted_however_the_program_makes_it(way: str, tmp_path: Path) -> None:
    engine = answering()
    # DSPy's progress bars of several batches at once get in each other's way, and then a run fails
    threads = 1 if way in ("batch", "Parallel", "its own tracker") else 4
    spent = acted(tmp_path, Parts(way), engine, Limits(), threads)
    assert spent.calls == len(engine.asked) == PARTS * len(EXAMPLES)
    assert spent.tokens_in == sum(len(text.split()) for text in engine.asked)
    assert spent.cost == 2.0 * spent.tokens_in + 3.0 * spent.tokens_out > 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("most", [5, 20])
def test_no_call_is_made_beyond_the_limit_however_the_program_makes_it(way: str, most: int, tmp_path: Path) -> None:
    engine = answering()
    assert acted(tmp_path, Parts(way), engine, Limits(actor_calls=most)).calls == len(engine.asked) == most


def test_dollars_exceed_their_limit_by_the_calls_in_flight_at_most(tmp_path: Path) -> None:
    engine = answering()
    spent = acted(tmp_path, Parts("batch"), engine, Limits(cost_usd=2000.0))
    assert spent.calls == len(engine.asked)
    most_a_call = 2.0 * max(len(text.split()) for text in engine.asked) + 3.0 * 10
    assert 2000.0 <= spent.cost <= 2000.0 + 8 * most_a_call


class Swallowing(dspy.Module):
    """Makes something of every error."""

    def __init__(self) -> None:
        super().__init__()
        self.qa = dspy.Predict("question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        for part in range(PARTS):
            with contextlib.suppress(Exception):
                self.qa(question=f"{question} {part}")
        return dspy.Prediction(answer="1")


def test_a_run_that_the_budget_ends_has_no_reward_and_is_paid_for(tmp_path: Path) -> None:
    engine = answering()
    spent = acted(tmp_path, Swallowing(), engine, Limits(actor_calls=2), threads=1)
    assert spent.calls == len(engine.asked) == 2
    with RolloutStore(tmp_path / "rollouts.sqlite") as store:
        rollouts = list(store.rollouts())
    assert {rollout.reward for rollout in rollouts} == {None}
    assert {rollout.error for rollout in rollouts} == {"StoppedError: 2 of at most 2 actor calls are made"}


@pytest.mark.parametrize("place", ["predictor", "LM", "call"])
def test_a_request_for_three_answers_counts_three(place: str, tmp_path: Path) -> None:
    class Three(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qa = dspy.Predict("question -> answer", **({"n": 3} if place == "predictor" else {}))

        def forward(self, question: str) -> dspy.Prediction:
            config = {"config": {"n": 3}} if place == "call" else {}
            return self.qa(question=question, **config)

    program, engine = Three(), answering()
    program.set_lm(dspy.LM("scripted/actor", engine=engine, cache=False, **({"n": 3} if place == "LM" else {})))
    assert acted(tmp_path, program, engine, Limits()).calls == len(engine.asked) == 3 * len(EXAMPLES)


def test_a_bare_predictor_that_asks_for_three_answers_counts_three_and_stays_within_the_budget(tmp_path: Path) -> None:
    engine = answering()
    predictor = dspy.Predict("question -> answer", n=3)
    assert acted(tmp_path, predictor, engine, Limits(actor_calls=20)).calls == len(engine.asked) == 18


class Wordless:
    """An engine whose provider reports no tokens."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def complete(self, request: Request) -> Response:
        self.asked.append(request)
        return Response(
            id=None, model=request.model, message=Message.assistant(reply(answer="1")), finish_reason="stop",
            usage=dspy.lm15.Usage(),
        )  # fmt: skip

    def lm(self) -> dspy.LM:
        return dspy.LM("scripted/actor", engine=self, cache=False)


@pytest.mark.parametrize("program", [dspy.Predict("question -> answer"), Parts("batch")])
def test_calls_whose_provider_reports_no_tokens_are_counted_too(program: dspy.Module, tmp_path: Path) -> None:
    engine = Wordless()
    spent = acted(tmp_path, program, engine, Limits(actor_calls=20))  # pyright: ignore[reportArgumentType]
    assert spent.calls == len(engine.asked) == (20 if isinstance(program, Parts) else len(EXAMPLES))


def test_answers_from_the_cache_are_free_and_do_not_use_the_budget_up(tmp_path: Path) -> None:
    engine = answering()
    lm = dspy.LM(f"scripted/{uuid4().hex}", engine=engine, async_engine=engine.lm()._async_engine_spec)
    with dspy.context(lm=lm):
        for example in EXAMPLES:
            Parts("in turn")(**example.inputs())
        paid = len(engine.asked)
        with RolloutStore(tmp_path / "rollouts.sqlite") as store:
            wrapped = supplement(Parts("batch"), generator="no/model")
            actor = RolloutEngine(
                wrapped, Scorer(exact), store, "scope", num_threads=8, budget=Budget(Limits(actor_calls=3))
            )
            assert len(actor.probe(EXAMPLES).rollouts) == len(EXAMPLES)
            assert store.spent().calls == 0
    assert len(engine.asked) == paid == PARTS * len(EXAMPLES)


def test_what_a_run_that_is_given_up_has_cost_is_counted(tmp_path: Path) -> None:
    class Stuck(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qa = dspy.Predict("question -> answer")

        def forward(self, question: str) -> dspy.Prediction:
            self.qa(question=question)
            time.sleep(5)
            return self.qa(question=question)

    engine = answering()
    with RolloutStore(tmp_path / "rollouts.sqlite") as store, dspy.context(lm=engine.lm()):
        wrapped = supplement(Stuck(), generator="no/model")
        actor = RolloutEngine(wrapped, Scorer(exact), store, "scope", num_threads=1, max_run_seconds=0.5)
        actor.probe(EXAMPLES[:1])
        assert actor.usage.calls == store.spent().calls == 1


def test_the_first_run_is_made_alone_where_calls_are_limited(tmp_path: Path) -> None:
    """Then what a run costs is known, and runs that the budget would cut short are not begun."""
    under_way, most = 0, 0
    lock = threading.Lock()

    class Slow(Parts):
        def forward(self, question: str) -> dspy.Prediction:
            nonlocal under_way, most
            with lock:
                under_way += 1
                most = max(most, under_way)
            try:
                return super().forward(question)
            finally:
                with lock:
                    under_way -= 1

    engine = answering()
    assert acted(tmp_path, Slow("in turn"), engine, Limits(actor_calls=3 * PARTS), threads=8).calls == 3 * PARTS
    with RolloutStore(tmp_path / "rollouts.sqlite") as store:
        assert [rollout.reward is not None for rollout in store.rollouts()] == [True] * 3 * PARTS
    assert most <= 2


def asks_sgt(folder: Path, **changes: object) -> object:
    return teleprompter(folder, exact, generator=writer(), trainer=ScriptedTrainer(), **changes)


@pytest.mark.parametrize("way", ["batch", "Parallel"])
def test_a_compile_of_a_program_that_calls_in_parallel_stays_within_its_budget(way: str, tmp_path: Path) -> None:
    engine = answering()
    train, val = EXAMPLES[:4], EXAMPLES[4:8]
    with dspy.context(lm=engine.lm()):
        better = asks_sgt(tmp_path, max_actor_calls=20).compile(Parts(way), trainset=train, valset=val)  # type: ignore[attr-defined]
    assert len(engine.asked) == better.detailed_results.spent.actor_calls == 20
    assert better.detailed_results.spent.cost > 0


def test_an_estimate_knows_the_calls_that_a_program_makes_in_a_batch(tmp_path: Path) -> None:
    engine = answering()
    with dspy.context(lm=engine.lm()):
        found = asks_sgt(tmp_path).estimate(Parts("batch"), EXAMPLES[:4], EXAMPLES[4:8], probe=2)  # type: ignore[attr-defined]
    assert found.probe.calls == PARTS
    assert found.probe.cost > 0
    assert found.stages[0].actor_calls == PARTS * 8


def test_spt_counts_the_calls_that_its_student_makes_in_a_batch(tmp_path: Path) -> None:
    engine, corrector = answering(), prompted.corrector([prompted.FIRST] * 4)
    with dspy.context(lm=engine.lm()):
        spt = prompted.spt(corrector, tmp_path, max_actor_calls=20)
        better = spt.compile(Parts("batch"), trainset=EXAMPLES[:4], valset=EXAMPLES[4:8])
    assert len(engine.asked) == better.detailed_results.spent.actor_calls == 20
