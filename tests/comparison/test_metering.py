"""What a contender pays: each answer once, never more than its budget, and free after a crash."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from contextvars import copy_context
from itertools import count
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils.callback import BaseCallback
from dspy.utils.exceptions import (
    LMAuthError,
    LMError,
    LMRateLimitError,
    LMTransportError,
    LMUnexpectedError,
    LMUnsupportedModelError,
)
from misbehaving_server import FAULTS, NOW, Fault, error, misbehaving
from paid_calls import PayingEngine
from scripted import ScriptedEngine, reply

from optimizers.comparison.metering import PaidAnswers, unmeter
from optimizers.core.budget import Limits
from optimizers.core.prices import Price
from optimizers.rollouts.outages import is_outage, is_permanent
from sgt_modules.errors import SetupError, StoppedError


@pytest.fixture
def open_meter(tmp_path: Path) -> Iterator[Any]:
    """Opens the meter's file, each time as another session does."""
    with ExitStack() as opened:

        def again(limits: Limits | None = None) -> PaidAnswers:
            metering = PaidAnswers(tmp_path / "answers.sqlite", limits)
            opened.callback(metering.close)
            return metering

        yield again


def counting() -> ScriptedEngine:
    """An LM that never says the same twice."""
    numbers = count()
    return ScriptedEngine(lambda _: reply(answer=str(next(numbers))))


def answers(lm: dspy.LM, question: str, times: int = 1, **config: Any) -> list[str]:
    with dspy.context(lm=lm):
        ask = dspy.Predict("question -> answer", **config)
        return [ask(question=question).answer for _ in range(times)]


@pytest.mark.parametrize("temperature", [None, 0.0])
def test_a_greedy_request_is_paid_once(temperature: float | None, open_meter: Any) -> None:
    engine = counting()
    for _ in range(2):
        metering = open_meter()
        lm = metering.meter_lm(engine.lm(), "actor")
        assert answers(lm, "2+2?", 3, temperature=temperature) == ["0"] * 3
        assert answers(lm, "3+3?", temperature=temperature) == ["1"]
        assert metering.usage("actor").calls == 2
    assert len(engine.asked) == 2


def test_a_sampled_request_is_paid_each_time_and_another_session_gets_the_same_answers(open_meter: Any) -> None:
    engine = counting()
    first = open_meter()
    assert answers(first.meter_lm(engine.lm(), "actor"), "2+2?", 3, temperature=0.7) == ["0", "1", "2"]
    second = open_meter()
    lm = second.meter_lm(engine.lm(), "actor")
    assert answers(lm, "2+2?", 3, temperature=0.7) == ["0", "1", "2"]
    assert len(engine.asked) == 3
    assert answers(lm, "2+2?", 1, temperature=0.7) == ["3"]
    assert answers(lm, "2+2?", 1, temperature=0.9) == ["4"]
    assert second.usage("actor").calls == 5


def test_a_request_under_way_is_paid_once_though_many_threads_make_it(open_meter: Any) -> None:
    engine = counting()
    lm = open_meter().meter_lm(engine.lm(), "actor")
    with ThreadPoolExecutor(16) as pool:
        heard = [each for found in pool.map(lambda _: answers(lm, "2+2?"), range(32)) for each in found]
    assert heard == ["0"] * 32
    assert len(engine.asked) == 1


def test_an_error_is_not_kept(open_meter: Any) -> None:
    attempts = count()

    def script(_: str) -> str:
        if next(attempts) == 0:
            raise dspy.lm15.ServerError("busy")
        return reply(answer="4")

    metering = open_meter()
    lm = metering.meter_lm(ScriptedEngine(script).lm(), "actor")
    with pytest.raises(LMError, match="busy"):
        answers(lm, "2+2?")
    assert metering.usage("actor").calls == 0
    assert answers(lm, "2+2?", 2) == ["4", "4"]
    assert metering.usage("actor").calls == 1


@pytest.mark.parametrize("failing", [(0,), (1,), (0, 1, 3)])
def test_the_answers_of_a_session_with_errors_are_those_of_the_next_one(
    failing: tuple[int, ...], open_meter: Any
) -> None:
    attempts = count()

    def script(_: str) -> str:
        if (attempt := next(attempts)) in failing:
            raise dspy.lm15.ServerError("busy")
        return reply(answer=str(attempt))

    engine = ScriptedEngine(script)

    def hear(asked: int) -> list[str]:
        lm, heard = open_meter().meter_lm(engine.lm(), "actor"), list[str]()
        for _ in range(asked):
            with suppress(LMError):
                heard += answers(lm, "2+2?", temperature=0.7)
        return heard

    first = hear(5)
    assert len(first) == 5 - len(failing)
    assert hear(len(first)) == first
    assert len(engine.asked) == 5


def test_errors_in_many_threads_leave_no_number_without_an_answer_and_none_with_two(open_meter: Any) -> None:
    attempts = count()

    def script(_: str) -> str:
        if (attempt := next(attempts)) % 3 == 0:
            raise dspy.lm15.ServerError("busy")
        return reply(answer=str(attempt))

    def ask(lm: dspy.LM) -> list[str]:
        while True:
            with suppress(LMError):
                return answers(lm, "2+2?", temperature=0.7)

    engine = ScriptedEngine(script)
    lm = open_meter().meter_lm(engine.lm(), "actor")
    with ThreadPoolExecutor(16) as pool:
        heard = sorted(each for [each] in pool.map(lambda _: ask(lm), range(40)))
    paid = len(engine.asked)
    assert len(set(heard)) == 40
    assert sorted(answers(open_meter().meter_lm(engine.lm(), "actor"), "2+2?", 40, temperature=0.7)) == heard
    assert len(engine.asked) == paid


def test_purposes_are_paid_for_apart_and_only_the_actor_has_a_limit(open_meter: Any) -> None:
    metering, engine = open_meter(Limits(actor_calls=1)), counting()
    actor, proposer = metering.meter_lm(engine.lm(), "actor"), metering.meter_lm(engine.lm(), "proposer")
    assert answers(actor, "2+2?") == ["0"]
    assert answers(proposer, "2+2?") == ["1"]
    assert answers(proposer, "3+3?") == ["2"]
    assert metering.is_used_up
    metering.begin_test()
    assert answers(actor, "2+2?") == ["3"]
    assert [metering.usage(each).calls for each in ("actor", "proposer", "test")] == [1, 2, 1]


def test_sixteen_threads_never_exceed_the_limit_and_later_calls_fail_at_once(open_meter: Any) -> None:
    engine = counting()
    metering = open_meter(Limits(actor_calls=25))
    lm = metering.meter_lm(engine.lm(), "actor")

    def ask(number: int) -> str:
        try:
            return answers(lm, f"{number}+1?")[0]
        except LMUnexpectedError as problem:
            return "stopped" if isinstance(problem.__cause__, StoppedError) else str(problem)

    with ThreadPoolExecutor(16) as pool:
        heard = list(pool.map(ask, range(100)))
    assert len(engine.asked) == 25
    assert heard.count("stopped") == 75
    assert metering.usage("actor").calls == 25
    assert metering.is_used_up
    again = open_meter(Limits(actor_calls=25))
    assert again.is_used_up
    with pytest.raises(LMUnexpectedError, match="25 of at most 25 actor calls are made"):
        answers(again.meter_lm(engine.lm(), "actor"), "new?")
    known = next(number for number, said in enumerate(heard) if said != "stopped")
    assert answers(again.meter_lm(engine.lm(), "actor"), f"{known}+1?") == [heard[known]]


def asked_until_killed(folder: Path) -> None:
    """Ask five questions, of which the fourth is deadly."""
    engine = PayingEngine(folder / "notes.txt", deadly="3+1?")
    lm = PaidAnswers(folder / "answers.sqlite").meter_lm(engine.lm(), "actor")
    for number in range(5):
        answers(lm, f"{number}+1?")


def test_what_outlived_a_sigkill_is_free(tmp_path: Path, open_meter: Any) -> None:
    process = multiprocessing.get_context("spawn").Process(target=asked_until_killed, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    metering, engine = open_meter(), PayingEngine(tmp_path / "notes.txt")
    lm = metering.meter_lm(engine.lm(), "actor")
    assert [answers(lm, f"{number}+1?") for number in range(5)] == [[str(number)] for number in range(5)]
    mine = [paid.asked for paid in engine.paid() if paid.process == os.getpid()]
    assert len(engine.paid()) - len(mine) == 4
    assert len(mine) == 2  # the deadly one and the one after it
    assert metering.usage("actor").calls == 5


def test_a_program_that_awaits_its_lm_is_metered(open_meter: Any) -> None:
    engine = counting()
    metering = open_meter(Limits(actor_calls=2))

    async def ask(*questions: str) -> list[str]:
        program = dspy.ChainOfThought("question -> answer")
        found = await asyncio.gather(*(program.acall(question=each) for each in questions), return_exceptions=True)
        return [type(each).__name__ if isinstance(each, Exception) else each.answer for each in found]

    engine._script = lambda _: reply(reasoning="so", answer="4")
    with dspy.context(lm=metering.meter_lm(engine.lm(), "actor")):
        assert asyncio.run(ask("2+2?", "3+1?")) == ["4", "4"]
        assert asyncio.run(ask("2+2?", "new?")) == ["4", "LMUnexpectedError"]
    assert len(engine.asked) == metering.usage("actor").calls == 2


def test_tokens_and_dollars_are_counted_and_limited(open_meter: Any) -> None:
    """2 dollars a token read and 3 a token written; a scripted LM counts words."""
    engine = ScriptedEngine(lambda _: "one two three")
    engine.price = Price({"input_cost_per_token": 2.0, "output_cost_per_token": 3.0})  # type: ignore[attr-defined]
    metering = open_meter(Limits(cost_usd=30.0))
    lm = metering.meter_lm(engine.lm(), "actor")
    assert lm("How much is it?") == ["one two three"]
    spent = metering.usage("actor")
    assert (spent.tokens_in, spent.tokens_out, spent.cost) == (4, 3, 4 * 2.0 + 3 * 3.0)
    assert lm("And how much is that?") == ["one two three"]
    assert metering.usage("actor").cost == 17.0 + 19.0
    assert metering.is_used_up
    with pytest.raises(LMUnexpectedError, match=r"\$36.00 of at most \$30.00 are spent"):
        lm("More?")
    assert open_meter().usage("actor").cost == 36.0


def test_a_known_model_has_the_price_of_the_list(open_meter: Any) -> None:
    with misbehaving(Fault(200, FAULTS["empty answer"].body.replace('"content": ""', '"content": "4"'))) as server:
        metering = open_meter()
        lm = server.lm().copy(model="openai/gpt-4o-mini")
        assert metering.meter_lm(lm, "actor")("2+2?") == ["4"]
    spent = metering.usage("actor")
    assert (spent.tokens_in, spent.tokens_out) == (3, 2)
    assert spent.cost == pytest.approx(3 * 0.15e-6 + 2 * 0.60e-6)


@pytest.mark.parametrize(
    ("fault", "kind", "permanent", "retries", "attempts"),
    [
        (Fault(429, error("Rate limit reached.", "rate_limit_exceeded"), NOW), LMRateLimitError, False, 2, 3),
        (FAULTS["wrong key"], LMAuthError, True, 2, 1),
        (FAULTS["no such model"], LMUnsupportedModelError, True, 2, 1),
        (FAULTS["cut before the body"], LMTransportError, False, 0, 1),
    ],
    ids=["rate limit", "wrong key", "no such model", "cut"],
)
def test_a_provider_s_error_is_the_same_through_the_meter(
    fault: Fault, kind: type[LMError], permanent: bool, retries: int, attempts: int, open_meter: Any
) -> None:
    """The LM's own retries stay, and are made once."""
    raised: list[LMError] = []
    for metered in (False, True):
        with misbehaving(fault) as server:
            lm = server.lm(num_retries=retries)
            with pytest.raises(kind) as problem:
                answers(open_meter().meter_lm(lm, "actor") if metered else lm, "2+2?")
            assert len(server.asked) == attempts
        raised.append(problem.value)
    assert type(raised[0]) is type(raised[1])
    assert all(is_outage(each) for each in raised)
    assert [is_permanent(each) for each in raised] == [permanent] * 2
    assert getattr(raised[0], "status", None) == getattr(raised[1], "status", None)


def test_the_program_acts_through_the_meter_and_has_its_own_lms_after_it(open_meter: Any) -> None:
    own, others, metering = counting(), counting(), open_meter()
    program = dspy.ChainOfThought("question -> answer")
    program.set_lm(lm := dspy.LM("scripted/own", engine=own, temperature=0.3, num_retries=7))
    with dspy.context(lm=others.lm()), metering.meter_program(program) as acting:
        assert dspy.settings.lm("Hello?") == [reply(answer="0")]
        copies = [acting, acting.deepcopy(), acting.reset_copy()]
        assert all(each.predict.lm.model == "scripted/own" and each.predict.lm is not lm for each in copies)
        own._script = lambda _: reply(reasoning="so", answer="4")
        assert [each(question="2+2?").answer for each in copies] == ["4"] * 3
    assert metering.usage("actor").calls == len(own.asked) + len(others.asked) == 4
    assert program.predict.lm is lm
    assert all(unmeter(each).predict.lm is lm for each in copies)


def test_a_program_is_saved_with_the_settings_of_its_own_lm(open_meter: Any) -> None:
    program = dspy.Predict("question -> answer")
    program.set_lm(dspy.LM("openai/gpt-4o-mini", temperature=0.3, num_retries=7, timeout=9, api_key="secret"))
    with open_meter().meter_program(program) as acting:
        assert unmeter(acting.deepcopy()).dump_state() == program.dump_state()
    assert program.dump_state()["lm"]["num_retries"] == 7


def test_threads_of_the_program_are_metered_too(open_meter: Any) -> None:
    engine, metering = counting(), open_meter()
    with (
        dspy.context(lm=engine.lm()),
        metering.meter_program(dspy.Predict("question -> answer")) as program,
        ThreadPoolExecutor(4) as pool,
    ):
        asked = [pool.submit(copy_context().run, program, question=f"{number}?") for number in range(8)]
        assert {each.result().answer for each in asked} == {str(number) for number in range(8)}
    assert metering.usage("actor").calls == 8


@pytest.mark.parametrize("lm", [None, "openai/gpt-4o-mini"])
def test_what_is_no_lm_is_refused(lm: object, open_meter: Any) -> None:
    with pytest.raises(SetupError, match=r"Expected a dspy\.LM to compare with"):
        open_meter().meter_lm(lm, "actor")


def test_a_session_that_goes_on_counts_its_questions_as_the_first_did(tmp_path: Path) -> None:
    def asked() -> list[int]:
        counts: list[int] = []
        metering = PaidAnswers(tmp_path / "answers.sqlite")
        lm = metering.meter_lm(ScriptedEngine(str.upper).lm(), "actor")
        for text, temperature in [("a", 0.0), ("a", 0.0), ("b", 1.0), ("b", 1.0), ("c", 0.0)]:
            lm(text, temperature=temperature)
            counts.append(metering.actor_answers)
        metering.close()
        return counts

    assert asked() == asked() == [1, 1, 2, 3, 4]


def test_a_call_counts_once_for_each_tracker_and_callback(tmp_path: Path) -> None:
    heard: list[str] = []

    class Listener(BaseCallback):
        def on_lm_start(self, call_id: str, instance: object, inputs: dict[str, object]) -> None:
            heard.append(call_id)

    metering = PaidAnswers(tmp_path / "answers.sqlite")
    lm = metering.meter_lm(ScriptedEngine(str.upper).lm(), "actor")
    with dspy.context(callbacks=[Listener()]), dspy.track_usage() as usage:
        lm("two words")
    metering.close()
    [entries] = usage.usage_data.values()
    assert [entry["prompt_tokens"] for entry in entries] == [2]
    assert len(heard) == 1
