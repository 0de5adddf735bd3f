"""A call that cannot be told to belong to a run is an error; a program in use may be called from any thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path

import dspy
import pytest
from scripted import ScriptedEngine, ScriptedGenerator, ScriptedTrainer, reply
from small_compile import teleprompter, writer

from optimizers.core.reward import Scorer
from optimizers.rollouts.engine import RolloutEngine
from optimizers.store.rollout_store import RolloutStore
from sgt_modules import supplement
from sgt_modules.episode import episode
from sgt_modules.errors import SetupError
from sgt_modules.kinds import Supplement

EXAMPLES = [dspy.Example(question=f"{n}+1?", answer=str(n + 1)).with_inputs("question") for n in range(9)]


class Pooled(dspy.Module):
    """Asks its predictor from a pool of plain threads, with or without the caller's context."""

    def __init__(self, *, carried: bool, swallow: bool = False) -> None:
        super().__init__()
        self.qa = dspy.Predict("question -> answer")
        self.carried, self.swallow = carried, swallow

    def forward(self, question: str) -> dspy.Prediction:
        with ThreadPoolExecutor(1) as pool:
            ask = [copy_context().run, self.qa] if self.carried else [self.qa]
            future = pool.submit(*ask, question=question)
            if self.swallow and future.exception() is not None:
                return dspy.Prediction(answer="none")
            return future.result()


@pytest.fixture
def configured() -> Iterator[ScriptedEngine]:
    """An LM that every thread knows, as `dspy.configure` sets it."""
    engine = ScriptedEngine(lambda text: reply(answer="helped" if "supplement ##" in text else "alone"))
    before = dspy.settings.lm
    dspy.configure(lm=engine.lm())
    yield engine
    dspy.configure(lm=before)


def advising() -> ScriptedGenerator:
    return ScriptedGenerator(lambda prompt: Supplement("cot", "Count."))


def exact(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    return example.answer == prediction.answer


@pytest.mark.parametrize("swallow", [False, True])
def test_a_plain_thread_in_a_run_is_an_error_that_names_the_remedy_and_draws_nothing(
    swallow: bool, tmp_path: Path, configured: ScriptedEngine
) -> None:
    generator = advising()
    program = supplement(Pooled(carried=False, swallow=swallow), generator=generator)
    with RolloutStore(tmp_path / "rollouts.sqlite") as store:
        actor = RolloutEngine(program, Scorer(exact), store, "scope", num_threads=4)
        with pytest.raises(SetupError, match=r"'qa'.*dspy\.Parallel or Module\.batch.*copy_context\(\)\.run"):
            actor.probe(EXAMPLES)
        assert not [rollout for rollout in store.rollouts() if rollout.reward is not None]
    assert generator.asked == configured.asked == []


def test_a_thread_that_carries_the_context_reads_the_supplement_of_its_run(
    tmp_path: Path, configured: ScriptedEngine
) -> None:
    generator = advising()
    program = supplement(Pooled(carried=True), generator=generator)
    with RolloutStore(tmp_path / "rollouts.sqlite") as store:
        probe = RolloutEngine(program, Scorer(exact), store, "scope", num_threads=4).probe(EXAMPLES)
    assert {rollout.output["answer"] for rollout in probe.rollouts} == {"alone"}
    assert generator.asked == []
    assert len(configured.asked) == len(EXAMPLES)


def test_a_compile_of_a_program_with_plain_threads_stops_at_its_first_run(
    tmp_path: Path, configured: ScriptedEngine
) -> None:
    optimizer = teleprompter(tmp_path, exact, generator=writer(), trainer=ScriptedTrainer())
    with pytest.raises(SetupError, match="carry its run's context"):
        optimizer.compile(Pooled(carried=False), trainset=EXAMPLES[:5], valset=EXAMPLES[5:])
    assert configured.asked == []


def test_a_program_in_use_answers_any_thread_while_another_with_its_generator_is_run(
    configured: ScriptedEngine,
) -> None:
    generator = advising()
    deployed = supplement(Pooled(carried=False), generator=generator)
    run = supplement(deployed, generator=generator)
    with episode({}, [run.qa.run_key]):
        assert deployed(question="1+1?").answer == "helped"
        copied = run.deepcopy()
        with pytest.raises(SetupError, match="carry its run's context"):
            copied(question="1+1?")
    assert run(question="1+1?").answer == copied(question="1+1?").answer == "helped"


@pytest.mark.parametrize("carried", [False, True])
def test_the_tools_of_an_agent_may_use_threads_that_carry_the_context(
    carried: bool, tmp_path: Path, configured: ScriptedEngine
) -> None:
    said = iter(range(1000))

    class Agent(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = dspy.Predict("question -> answer")
            self.react = dspy.ReAct("question -> answer", tools=[dspy.Tool(self.look, name="look")], max_iters=2)

        def look(self, what: str) -> str:
            found: list[str] = []

            def work() -> None:
                with contextlib.suppress(SetupError):
                    found.append(self.inner(question=what).answer)

            thread = threading.Thread(target=copy_context().run if carried else work, args=(work,) if carried else ())
            thread.start()
            thread.join()
            return "".join(found)

        def forward(self, question: str) -> dspy.Prediction:
            return self.react(question=question)

    def script(text: str) -> str:
        if "next_tool_name" in text:
            done = next(said) % 2
            name, args = ("finish", "{}") if done else ("look", '{"what": "it"}')
            return reply(next_thought="hm", next_tool_name=name, next_tool_args=args)
        return reply(reasoning="so", answer="7")

    configured._script = script
    program = supplement(Agent(), generator=advising())
    with RolloutStore(tmp_path / "rollouts.sqlite") as store:
        actor = RolloutEngine(program, Scorer(exact), store, "scope", num_threads=1)
        if not carried:
            with pytest.raises(SetupError, match="carry its run's context"):
                actor.probe(EXAMPLES[:1])
            return
        probe = actor.probe(EXAMPLES[:1])
        assert actor.usage.calls == len(configured.asked) == 4
    roles = [query.predictor for query in probe.queries]
    assert roles == ["inner", "react.react", "react.react", "react.extract.predict"]
