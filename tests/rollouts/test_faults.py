"""What a provider does wrong, one rule each: an outage never becomes a reward of 0; a permanent refusal stops a run."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dspy
import httpx
import pytest
from dspy.clients import execution
from dspy.utils.exceptions import LMError
from misbehaving_server import FAULTS, KEY, Fault, MisbehavingServer, Script, error, misbehaving
from places import PATHS
from scripted import ScriptedGenerator, reply

from optimizers import SGTTeleprompter
from optimizers.core.records import Reward, Rollout
from optimizers.core.reward import Metric, Scorer
from optimizers.rollouts.engine import RolloutEngine
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.errors import ProviderRefusedError, SetupError, SGTError
from sgt_modules.kinds import Supplement
from sgt_modules.wrapping import supplement

EXAMPLES = [dspy.Example(question=f"{n}+1?", answer="4").with_inputs("question") for n in range(6)]
ENGINES = pytest.mark.parametrize("engine", ["lm15", "litellm"])
"""DSPy's native route, and litellm's."""

OUTAGES = {
    "429 with Retry-After": "LMRateLimitError",
    "429 without Retry-After": "LMRateLimitError",
    "500": "LMServerError",
    "503": "LMServerError",
    "cut before the body": "LMTransportError|LMServerError",
    "cut in the middle of the body": "LMTransportError|LMServerError",
    "an error with status 200": "LMServerError",
    "no JSON": "LMProviderError|LMServerError",
    "JSON of the wrong shape": "LMProviderError|LMServerError",
    "a JSON list": "LMUnexpectedError|LMServerError",
    "no choices": "LMProviderError",
    "nothing written": "LMProviderError",
    "prompt too long": "ContextWindowExceededError",
    "bad request": "LMInvalidRequestError",
    "no access": "LMAuthError|LMInvalidRequestError",
}
ANSWERED = ["refusal", "content filter", "empty answer", "null answer", "an answer without its fields"]
REFUSED = {
    "wrong key": "LMAuthError",
    "no such model": "LMUnsupportedModelError",
    "429, quota used up": "LMBillingError",
}
RETRIED = {"429 with Retry-After", "429 without Retry-After", "500", "503", "cut before the body"} | {
    "cut in the middle of the body",
    "an error with status 200",
}


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long DSPy would have waited before each of its retries; nobody waits."""
    seconds: list[float] = []
    delay = execution._delay

    def at_once(problem: Exception, attempt: int) -> float:
        seconds.append(delay(problem, attempt))
        return 0.0

    monkeypatch.setattr(execution, "_delay", at_once)
    return seconds


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RolloutStore]:
    with RolloutStore(tmp_path / "rollouts.sqlite") as opened:
        yield opened


def exact(example: dspy.Example, prediction: dspy.Prediction) -> bool:
    return example.answer == prediction.answer


def acting(
    lm: dspy.LM,
    store: RolloutStore,
    *,
    program: dspy.Module | None = None,
    metric: Metric = exact,
    threads: int = 1,
    max_errors: int = 3,
    max_run_seconds: float | None = None,
) -> RolloutEngine:
    wrapped = supplement(
        program or dspy.Predict("question -> answer"),
        generator=ScriptedGenerator(lambda _: Supplement("cot", "Count.")),
    )
    wrapped.set_lm(lm)
    scope = lm.kwargs["api_base"]
    return RolloutEngine(
        wrapped,
        Scorer(metric),
        store,
        scope,
        num_threads=threads,
        max_errors=max_errors,
        max_run_seconds=max_run_seconds,
    )


def of(fault: str | Fault, engine: str, store: RolloutStore, **settings: object) -> tuple[Rollout, MisbehavingServer]:
    """The rollout of one example on a server that does nothing else."""
    with misbehaving(FAULTS[fault] if isinstance(fault, str) else fault) as server:
        return acting(server.lm(engine, **settings), store).probe(EXAMPLES[:1]).rollouts[0], server


@ENGINES
@pytest.mark.parametrize("fault", OUTAGES)
def test_an_outage_is_a_rollout_without_a_reward(
    fault: str, engine: str, store: RolloutStore, waits: list[float]
) -> None:
    rollout, _ = of(fault, engine, store, num_retries=2)
    assert rollout.reward is None
    assert rollout.error.partition(":")[0] in OUTAGES[fault].split("|")
    assert store.rollouts() == [rollout]


@ENGINES
@pytest.mark.parametrize("fault", ANSWERED)
def test_an_answer_that_is_none_is_the_actor_s_failure(fault: str, engine: str, store: RolloutStore) -> None:
    rollout, server = of(fault, engine, store)
    assert rollout.reward == Reward(0.0)
    assert rollout.error.startswith("AdapterParseError:")
    assert len(server.asked) == 2  # DSPy asks a second time, for JSON


@ENGINES
@pytest.mark.parametrize("at", [1, 2])
def test_an_outage_beside_an_answer_that_cannot_be_read_is_still_one(
    at: int, engine: str, store: RolloutStore, waits: list[float]
) -> None:
    """DSPy asks a second time, for JSON; either reply may be none."""
    asked: list[str] = []

    def script(prompt: str, attempt: int) -> Fault | str:
        asked.append(prompt)
        return FAULTS["no choices"] if len(asked) == at else "I would rather not."

    with misbehaving(script) as server:
        rollout = acting(server.lm(engine, num_retries=0), store).probe(EXAMPLES[:1]).rollouts[0]
    assert rollout.reward is None
    assert rollout.error.startswith("LMProviderError:")


@ENGINES
@pytest.mark.parametrize("fault", REFUSED)
def test_a_provider_that_takes_no_call_stops_the_run_at_its_first_one(
    fault: str, engine: str, store: RolloutStore, waits: list[float]
) -> None:
    with misbehaving(FAULTS[fault]) as server:
        actor = acting(server.lm(engine, num_retries=2), store, max_errors=100)
        with pytest.raises(
            ProviderRefusedError, match=f"stopped at once: {REFUSED[fault]}.*Correct the LM's key"
        ) as stop:
            actor.probe(EXAMPLES)
    assert len(server.asked) == 1
    assert KEY not in str(stop.value)
    assert [each.reward for each in store.rollouts()] == [None]


@ENGINES
@pytest.mark.parametrize("fault", sorted(RETRIED))
def test_what_may_pass_is_tried_again_and_then_counts_as_if_nothing_had_been(
    fault: str, engine: str, store: RolloutStore, waits: list[float]
) -> None:
    with misbehaving(lambda _, attempt: FAULTS[fault] if attempt < 3 else reply(answer="4")) as server:
        rollout = acting(server.lm(engine, num_retries=2), store).probe(EXAMPLES[:1]).rollouts[0]
    assert (rollout.reward, rollout.error, len(server.asked), len(waits)) == (Reward(1.0), "", 3, 2)


@ENGINES
def test_each_retry_waits_twice_as_long(engine: str, store: RolloutStore, waits: list[float]) -> None:
    of("500", engine, store, num_retries=3)
    assert waits == [1, 2, 4]


def test_a_retry_waits_as_long_as_the_provider_says(store: RolloutStore, waits: list[float]) -> None:
    of(Fault(429, error("Slow down."), {"Retry-After": "7"}), "lm15", store, num_retries=1)
    assert waits == [7]


@ENGINES
def test_an_lm_s_own_timeout_ends_a_call_that_hangs_and_is_tried_again(
    engine: str, store: RolloutStore, waits: list[float]
) -> None:
    rollout, server = of("hang", engine, store, timeout=0.2, num_retries=1)
    assert rollout.reward is None
    assert rollout.error.partition(":")[0] in ("LMTimeoutError", "LMTransportError")
    assert len(server.asked) == 2


class TwoCalls(dspy.Module):
    """Thinks, then answers; `make_of` decides what becomes of an error of the second call."""

    def __init__(self, make_of: Callable[[Exception], dspy.Prediction] | None = None) -> None:
        super().__init__()
        self.think, self.answer = dspy.Predict("question -> thought"), dspy.Predict("question, thought -> answer")
        self.make_of = make_of

    def forward(self, question: str) -> dspy.Prediction:
        thought = self.think(question=question).thought
        try:
            return self.answer(question=question, thought=thought)
        except Exception as problem:
            if self.make_of is None:
                raise
            return self.make_of(problem)


def second_call(fault: str) -> Script:
    """Answers the first call, and not the second one."""
    return lambda prompt, _: FAULTS[fault] if "## thought ## ]]\nhm" in prompt else reply(thought="hm")


def a_default(problem: Exception) -> dspy.Prediction:
    return dspy.Prediction(answer="unknown")


def wrapped_up(problem: Exception) -> dspy.Prediction:
    raise RuntimeError("The chain broke.") from problem


def spoken_of(problem: Exception) -> dspy.Prediction:
    raise RuntimeError("The chain broke.")


@pytest.mark.parametrize("fault", ["500", "cut before the body", "no JSON", "JSON of the wrong shape"])
@pytest.mark.parametrize("make_of", [None, a_default, wrapped_up, spoken_of])
def test_an_outage_is_one_whatever_the_program_makes_of_it_after_a_first_answer(
    make_of: Callable[[Exception], dspy.Prediction] | None, fault: str, store: RolloutStore
) -> None:
    with misbehaving(second_call(fault)) as server:
        rollout = acting(server.lm(), store, program=TwoCalls(make_of)).probe(EXAMPLES[:1]).rollouts[0]
    assert rollout.reward is None
    assert rollout.error.startswith(("LMServerError", "LMTransportError", "LMProviderError"))
    assert rollout.output == ({"answer": "unknown"} if make_of is a_default else {})


@pytest.mark.parametrize("make_of", [None, wrapped_up, spoken_of])
def test_a_refused_prompt_says_nothing_even_as_the_program_s_own_error(
    make_of: Callable[[Exception], dspy.Prediction] | None, store: RolloutStore
) -> None:
    with misbehaving(second_call("prompt too long")) as server:
        assert acting(server.lm(), store, program=TwoCalls(make_of)).probe(EXAMPLES[:1]).rollouts[0].reward is None


def test_a_program_that_copes_with_a_refused_prompt_is_judged_by_what_it_returns(store: RolloutStore) -> None:
    with misbehaving(second_call("prompt too long")) as server:
        actor = acting(server.lm(), store, program=TwoCalls(a_default))
        assert actor.probe(EXAMPLES[:1]).rollouts[0].reward == Reward(0.0)


def test_a_program_that_trips_over_the_second_answer_has_failed(store: RolloutStore) -> None:
    with misbehaving(second_call("an answer without its fields")) as server:
        actor = acting(server.lm(), store, program=TwoCalls(wrapped_up))
        assert actor.probe(EXAMPLES[:1]).rollouts[0].reward == Reward(0.0)


@pytest.mark.parametrize("module", [dspy.BestOfN, dspy.Refine])
def test_best_of_n_is_not_judged_by_the_attempts_that_an_outage_left(
    module: Callable[..., dspy.Module], store: RolloutStore, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = threading.Event()

    def first_down(prompt: str, attempt: int) -> Fault | str:
        if failed.is_set():
            return reply(answer="4")
        failed.set()
        return FAULTS["500"]

    program = module(module=dspy.Predict("question -> answer"), N=2, reward_fn=lambda args, p: 0.0, threshold=1.0)
    with misbehaving(first_down) as server:
        rollout = acting(server.lm(), store, program=program).probe(EXAMPLES[:1]).rollouts[0]
    assert rollout.reward is None
    assert "LMServerError" in rollout.error


class WithoutDSPy(dspy.Module):
    """Asks the LM directly, then a service that is down."""

    def __init__(self, problem: Exception) -> None:
        super().__init__()
        self.solve = dspy.Predict("question -> answer")
        self.problem = problem

    def forward(self, question: str) -> dspy.Prediction:
        lm = self.solve.lm
        assert lm is not None
        lm(question)
        raise self.problem


@pytest.mark.parametrize(
    ("problem", "reward"),
    [
        (httpx.ConnectError("no route to the retriever"), None),
        (ConnectionResetError("the database hung up"), None),
        (TimeoutError("the tool took too long"), None),
        (FileNotFoundError("the actor named a file that is not there"), Reward(0.0)),
        (ValueError("not a number"), Reward(0.0)),
    ],
)
def test_a_network_that_fails_under_the_program_is_an_outage_and_its_own_trouble_with_an_answer_is_not(
    problem: Exception, reward: Reward | None, store: RolloutStore
) -> None:
    with misbehaving(lambda _, __: "4") as server:
        rollout = acting(server.lm(), store, program=WithoutDSPy(problem)).probe(EXAMPLES[:1]).rollouts[0]
    assert rollout.reward == reward


def test_a_judge_s_outage_is_no_reward_even_where_the_metric_makes_a_zero_of_it(store: RolloutStore) -> None:
    with misbehaving(lambda _, __: reply(answer="4")) as server, misbehaving(FAULTS["503"]) as judging:
        judge = judging.lm()

        def judged(example: dspy.Example, prediction: dspy.Prediction) -> float:
            try:
                return float(judge("Is it right?")[0])
            except LMError:
                return 0.0

        rollout = acting(server.lm(), store, metric=judged).probe(EXAMPLES[:1]).rollouts[0]
    assert (rollout.reward, rollout.output) == (None, {"answer": "4"})
    assert rollout.error.startswith("LMServerError")


def test_a_metric_that_raises_on_every_example_stops_the_run_after_max_errors(store: RolloutStore) -> None:
    def broken(example: dspy.Example, prediction: dspy.Prediction) -> bool:
        raise LookupError("no gold rows")

    with misbehaving(lambda _, __: reply(answer="4")) as server:
        with pytest.raises(SGTError, match=r"3 runs of the actor in a row gave no reward; the last: .*no gold rows"):
            acting(server.lm(), store, metric=broken).probe(EXAMPLES)
        assert len(server.asked) == 3


def test_an_outage_that_lasts_stops_the_run_after_max_errors(store: RolloutStore) -> None:
    with misbehaving(FAULTS["503"]) as server:
        with pytest.raises(SGTError, match=r"3 runs of the actor in a row gave no reward; the last: LMServerError"):
            acting(server.lm(), store).probe(EXAMPLES)
        assert len(server.asked) == 3


def test_a_run_that_hangs_is_given_up_and_the_others_go_on(store: RolloutStore) -> None:
    with misbehaving(lambda prompt, _: FAULTS["hang"] if "2+1?" in prompt else reply(answer="4")) as server:
        began = time.perf_counter()
        rollouts = acting(server.lm(), store, threads=2, max_run_seconds=1.0).probe(EXAMPLES).rollouts
        assert time.perf_counter() - began < 5
    assert [each.reward for each in rollouts] == [Reward(1.0)] * 2 + [None] + [Reward(1.0)] * 3
    assert rollouts[2].error.startswith("RunTimeoutError: the run took longer than max_run_seconds=1 and was given up.")


def test_a_run_in_time_is_what_it_would_have_been_and_its_errors_reach_the_caller(store: RolloutStore) -> None:
    with misbehaving(lambda _, __: reply(answer="4")) as server:
        lm = server.lm()
        free = acting(lm, store).probe(EXAMPLES[:2]).rollouts
        with RolloutStore(":memory:") as other:
            timed = acting(lm, other, max_run_seconds=60).probe(EXAMPLES[:2]).rollouts
    assert [(r.reward, r.output, r.tokens_in) for r in timed] == [(r.reward, r.output, r.tokens_in) for r in free]


HANGING = """
import dspy
from misbehaving_server import FAULTS, misbehaving
from optimizers.core.reward import Scorer
from optimizers.rollouts.engine import RolloutEngine
from optimizers.store.rollout_store import RolloutStore

open_ended = misbehaving(FAULTS["hang"])  # never closed: the call goes on hanging
program = dspy.Predict("question -> answer")
program.set_lm(open_ended.__enter__().lm())
scorer, store = Scorer(lambda e, p: True), RolloutStore(":memory:")
actor = RolloutEngine(program, scorer, store, "s", num_threads=1, max_run_seconds=0.2)
print(actor.probe([dspy.Example(question="?").with_inputs("question")]).rollouts[0].error)
"""


def test_a_run_that_hangs_does_not_keep_the_process_from_ending() -> None:
    paths = PATHS
    ended = subprocess.run(
        [sys.executable, "-c", HANGING],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout.partition(":")[0]) == (0, "RunTimeoutError"), ended.stderr


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_a_time_limit_that_is_none_is_refused_at_once(seconds: float) -> None:
    with pytest.raises(SetupError, match="Expected max_run_seconds above 0 or None"):
        SGTTeleprompter(exact, ScriptedGenerator(lambda _: Supplement("cot", "")), max_run_seconds=seconds)
