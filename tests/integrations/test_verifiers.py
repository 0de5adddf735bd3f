"""The generator as the policy of a `verifiers` environment: prompts, supplements and rewards are those of a compile."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dspy
import pytest
import verifiers.v1 as vf
from dspy.lm15 import RateLimitError, ServerError
from embedded_server import EmbeddedServer, transformers_serving
from real_models import GENERATOR, real_model
from scripted import ScriptedEngine, reply
from scripted_server import ScriptedServer, serving
from small_compile import WORLD, gold, helped
from verifiers.v1.cli.eval.runner import run_eval
from verifiers.v1.configs.cli.eval import EvalConfig

from optimizers.core.fingerprints import scope_of
from optimizers.core.records import Candidate, Rollout
from optimizers.core.reward import Scorer
from optimizers.integrations.supplement_rewards import SupplementRewards
from optimizers.integrations.verifiers import _is_cut, load_environment
from optimizers.rollouts.engine import RolloutEngine
from optimizers.store.rollout_store import RolloutStore
from sgt_modules import KINDS, SupplementGenerator, errors, supplement
from sgt_modules.embedded import HouseTermsWorld, Sizes, embedded_actor, embedded_generator, program
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.generator_prompt import COMPACT, GeneratorPrompt
from sgt_modules.kinds import Supplement
from sgt_modules.replies import read_reply

BIG = HouseTermsWorld(0, sizes=Sizes(train=25, validation=4, test=4, shifted=4, terms=4, shifted_terms=4))
PLAIN = dspy.ChatAdapter(use_json_adapter_fallback=False)


def evaluated(environment: vf.Env[Any], address: str, folder: Path, *, each: int = 1, **more: Any) -> list[Any]:
    """The traces of an evaluation as `vf-eval` makes it, nothing pushed."""
    config = EvalConfig(
        env=environment.config,
        model=more.pop("model", "base"),
        client={"type": "eval", "base_url": address, "api_key_var": "NO_KEY"},
        push=False,
        rich=None,
        output_dir=folder / "outputs",
        num_rollouts=each,
        **more,
    )
    return [trace for episode in asyncio.run(run_eval(config)) for trace in episode.traces]


def ours(
    rows: Sequence[dspy.Example], asked: Sequence[tuple[str, Supplement]], store: Path, generator: SupplementGenerator
) -> list[Rollout]:
    """The rollouts of a compile's engine on supplements, each with the prompt that it was written for."""
    wrapped = supplement(program(), generator=generator)
    with RolloutStore(store) as kept:
        engine = RolloutEngine(wrapped, Scorer(BIG.metric), kept, scope=scope_of(wrapped, BIG.metric), num_threads=4)
        queries = {query.prompt: query for query in engine.probe(rows).queries}
        return engine.run([Candidate(queries[prompt], text, "direct") for prompt, text in asked], rows, "warm")


@pytest.mark.slow
def test_a_hundred_supplements_have_the_rewards_of_a_compile(tmp_path: Path) -> None:
    generator = embedded_generator()
    with dspy.context(lm=embedded_actor(), adapter=PLAIN):
        environment = load_environment(
            program(), BIG.metric, BIG.train, generator=generator, store=tmp_path / "a.sqlite", num_threads=4
        )
        with serving(EmbeddedServer(generator)) as server:
            traces = evaluated(environment, server.address, tmp_path, each=4, max_concurrent=8)
        asked = [(prompt, read_reply(each.text, ended=not each.cut)) for prompt, each in server.written]
        rollouts = ours(BIG.train, asked, tmp_path / "b.sqlite", generator)
    assert len(traces) == len(rollouts) == 100
    assert all(trace.ok for trace in traces), [trace.errors for trace in traces if not trace.ok]
    rewards = sorted(
        (trace.task.data.prompt, trace.assistant_messages[-1].content or "", trace.reward) for trace in traces
    )
    expected = sorted(
        (prompt, each.text, rollout.reward.score if rollout.reward else -1.0)
        for (prompt, each), rollout in zip(server.written, rollouts, strict=True)
    )
    assert rewards == expected
    assert 0 < sum(trace.reward for trace in traces) < 100
    assert {trace.metrics["cut"] for trace in traces} == {0.0, 1.0}
    assert {trace.metrics["silent"] for trace in traces} == {0.0, 1.0}
    distinct = {(prompt, text.render()) for prompt, text in asked if text}
    assert environment.rewards.usage.runs == 25 + len(distinct)
    environment.rewards.close()


def test_a_prompt_is_sent_as_the_generator_reads_it_and_no_thought_is_asked_for(tmp_path: Path) -> None:
    generator = embedded_generator()
    with dspy.context(lm=ScriptedEngine(helped).lm()):
        environment = load_environment(
            program(), WORLD.metric, WORLD.train, generator=generator, store=tmp_path / "a.sqlite"
        )
        with serving(ScriptedServer(lambda _: "[background] Rules.")) as server:
            traces = evaluated(environment, server.address, tmp_path)
    signature = program().signature
    prompts = [generator.prompt_for(signature, row.inputs().toDict(), role="self") for row in WORLD.train]
    assert sorted(body["messages"][0]["content"] for body in server.requests) == sorted(prompts)
    for body in server.requests:
        assert body["max_tokens"] == generator.max_new_tokens
        assert body["chat_template_kwargs"] == {"enable_thinking": False}
        assert len(body["messages"]) == 1
    assert [trace.reward for trace in traces] == [1.0] * 4
    assert [trace.metrics["gain"] for trace in traces] == [1.0] * 4


def test_each_kind_is_asked_for_as_in_the_warm_start(tmp_path: Path) -> None:
    kinds = [KINDS["background"], "units"]
    generator = embedded_generator()
    with dspy.context(lm=ScriptedEngine(helped).lm()):
        environment = load_environment(
            program(), WORLD.metric, WORLD.train, generator=generator, kinds=kinds, store=tmp_path / "a.sqlite"
        )
        with serving(ScriptedServer(lambda _: "Rules differ.")) as server:  # untagged: it is of the kind asked for
            traces = evaluated(environment, server.address, tmp_path)
    assert [(trace.task.data.kind, trace.reward) for trace in traces] == [("background", 1.0), ("units", 0.0)] * 4
    bare = {each.task.data.bare for each in traces}
    sent = {body["messages"][0]["content"] for body in server.requests}
    assert sent == {generator.prompt.asking(prompt, kind) for prompt in bare for kind in kinds}


def rewards_of(tmp_path: Path, engine: ScriptedEngine, metric: Any = WORLD.metric, **options: Any) -> SupplementRewards:
    with dspy.context(lm=engine.lm()):
        return SupplementRewards(
            program(),
            metric,
            WORLD.train,
            store=tmp_path / "r.sqlite",
            **{"num_threads": 4, "generator": embedded_generator(), **options},
        )


def test_a_run_is_on_disk_and_never_paid_twice_however_many_ask_at_once(tmp_path: Path) -> None:
    gate = threading.Event()

    def slow(text: str) -> str:
        if "[background]" in text:
            gate.wait(5)
        return helped(text)

    engine = ScriptedEngine(slow)
    rewards = rewards_of(tmp_path, engine)
    [first, *_] = rewards.tasks()
    assert len(engine.asked) == 4
    text = Supplement("background", "Rules.")

    async def ask() -> list[Rollout]:
        asked = [asyncio.ensure_future(rewards.ascore(first.query, text)) for _ in range(8)]
        await asyncio.sleep(0.1)
        gate.set()
        return await asyncio.gather(*asked)

    assert {rollout.reward and rollout.reward.score for rollout in asyncio.run(ask())} == {1.0}
    assert len(engine.asked) == 5
    rewards.close()
    again = ScriptedEngine(helped)
    reopened = rewards_of(tmp_path, again)
    assert reopened.score(reopened.tasks()[0].query, text).reward is not None
    assert again.asked == []
    assert reopened.usage.calls == 5
    reopened.close()


def test_rewards_that_share_a_store_have_the_prompts_of_their_own_generators(tmp_path: Path) -> None:
    for prompt in (COMPACT, GeneratorPrompt(), COMPACT):
        generator = SupplementGenerator(dspy.LM("openai/elsewhere"), prompt=prompt)
        rewards = rewards_of(tmp_path, ScriptedEngine(helped), generator=generator)
        assert all(task.prompt.startswith(prompt.introduction) for task in rewards.tasks())
        rewards.close()
    assert rewards.usage.runs == 2 * len(WORLD.train)


def test_outages_and_failing_metrics_are_errors_without_a_reward(tmp_path: Path) -> None:
    numbers = itertools.count()

    def failing(text: str) -> str:
        if "[background]" in text and next(numbers) % 2 == 0:
            raise ServerError("down")
        return helped(text)

    with dspy.context(lm=ScriptedEngine(failing).lm()):
        environment = load_environment(
            program(),
            WORLD.metric,
            WORLD.train,
            generator=embedded_generator(),
            store=tmp_path / "a.sqlite",
            num_threads=1,
        )
        with serving(ScriptedServer(lambda _: "[background] Rules.")) as server:
            traces = evaluated(environment, server.address, tmp_path, max_concurrent=1)
    assert [trace.ok for trace in traces] == [False, True, False, True]
    assert "The run of the program has no reward: " in traces[0].errors[-1].message
    assert traces[0].rewards == {"reward": None}


@pytest.mark.parametrize("known", [True, False], ids=["by its prompts", "by one example"])
def test_a_run_without_supplements_is_tried_again_after_an_outage(tmp_path: Path, known: bool) -> None:
    numbers = itertools.count()

    def failing(text: str) -> str:
        if next(numbers) == 0:
            raise ServerError("down")
        return helped(text)

    engine = ScriptedEngine(failing)
    rewards = rewards_of(tmp_path, engine, num_threads=1)
    if known:
        rewards.tasks()
    else:
        assert rewards.unaided(0).reward is None
    paid = len(engine.asked)
    first = rewards.unaided(0)
    assert (first.reward is None, rewards.unaided(0)) == (False, first)
    assert len(engine.asked) == paid + 1
    rewards.close()


def test_a_gain_is_known_once_both_runs_have_a_reward_and_pays_nothing(tmp_path: Path) -> None:
    down = [True]

    def failing(text: str) -> str:
        if down[0] and "[background]" not in text:
            raise ServerError("down")
        return helped(text)

    engine = ScriptedEngine(failing)
    rewards = rewards_of(tmp_path, engine, max_errors=20)
    [first, *_] = rewards.tasks()
    aided = rewards.score(first.query, Supplement("background", "Rules."))
    paid = len(engine.asked)
    assert (aided.reward is None, rewards.gain(aided), len(engine.asked)) == (False, None, paid)
    down[0] = False
    assert rewards.gain(rewards.score(first.query, Supplement("background", "Rules."))) == 1.0
    assert len(engine.asked) == paid + 1
    rewards.close()


def test_the_actor_s_unreadable_answer_is_reward_zero(tmp_path: Path) -> None:
    engine = ScriptedEngine(lambda text: "no field at all" if "[background]" in text else gold(text))
    rewards = rewards_of(tmp_path, engine)
    with dspy.context(adapter=PLAIN):
        rollout = rewards.score(rewards.tasks()[0].query, Supplement("background", "Rules."))
    assert rollout.reward is not None
    assert rollout.reward.score == 0.0
    rewards.close()


def test_actor_calls_are_counted_and_limited(tmp_path: Path) -> None:
    engine = ScriptedEngine(helped)
    rewards = rewards_of(tmp_path, engine, max_actor_calls=6)
    queries = [task.query for task in rewards.tasks()]
    for query in queries[:2]:
        rewards.score(query, Supplement("background", "Rules."))
    with pytest.raises(errors.StoppedError, match="6 of at most 6 actor calls"):
        rewards.score(queries[2], Supplement("background", "Rules."))
    assert rewards.usage.calls == len(engine.asked) == 6
    rewards.close()


def test_a_limit_counts_what_a_shared_store_holds_of_this_program_alone(tmp_path: Path) -> None:
    other = rewards_of(tmp_path, ScriptedEngine(helped))
    first = other.tasks()
    other.close()
    engine = ScriptedEngine(helped)
    with dspy.context(lm=engine.lm("scripted/another")):
        rewards = SupplementRewards(
            program(),
            WORLD.metric,
            WORLD.train,
            generator=embedded_generator(),
            store=tmp_path / "r.sqlite",
            max_actor_calls=len(first),
        )
    assert rewards.usage.calls == 0
    assert len(rewards.tasks()) == len(engine.asked) == len(first)
    rewards.close()
    again = rewards_of(tmp_path, ScriptedEngine(helped), max_actor_calls=len(first))
    assert again.usage.calls == len(first)
    with pytest.raises(errors.StoppedError, match=f"{len(first)} of at most {len(first)} actor calls"):
        again.score(again.tasks()[0].query, Supplement("background", "Rules."))
    again.close()


def test_a_provider_that_fails_always_stops_the_rewards(tmp_path: Path) -> None:
    def limited(text: str) -> str:
        if "[background]" in text:
            raise RateLimitError("slow down")
        return reply(sql="SELECT 1")

    rewards = rewards_of(tmp_path, ScriptedEngine(limited), max_errors=2)
    queries = [task.query for task in rewards.tasks()]
    assert rewards.score(queries[0], Supplement("background", "A.")).reward is None
    with pytest.raises(errors.SGTError, match="in a row"):
        rewards.score(queries[1], Supplement("background", "B."))
    rewards.close()


def test_a_prompt_of_other_rows_is_refused(tmp_path: Path) -> None:
    rewards = rewards_of(tmp_path, ScriptedEngine(helped))
    with dspy.context(lm=ScriptedEngine(helped).lm()):
        other = SupplementRewards(
            program(), WORLD.metric, WORLD.val, generator=embedded_generator(), store=tmp_path / "o.sqlite"
        )
    with pytest.raises(errors.SetupError, match="got one of other rows: number 0"):
        rewards.score(other.tasks()[0].query, Supplement("cot", "A."))
    rewards.close()
    other.close()


def test_what_cannot_work_is_refused_before_a_call(tmp_path: Path) -> None:
    engine = ScriptedEngine(helped)
    with dspy.context(lm=engine.lm()):
        for metric, rows in ((lambda example, prediction: "yes", WORLD.train), (WORLD.metric, [])):
            with pytest.raises(errors.SetupError):
                load_environment(program(), metric, rows, store=tmp_path / "x.sqlite")
    assert engine.asked == []


def greedy(address: str, model: Path) -> dspy.LM:
    return dspy.LM(f"openai/{model}", api_base=address, api_key="none", cache=False, temperature=0.0, max_tokens=64)


def _same_through_a_real_server(tmp_path: Path, model: Path, generator: SupplementGenerator) -> None:
    rows = BIG.train[:6]
    with dspy.context(lm=embedded_actor(), adapter=PLAIN), transformers_serving(tmp_path / "log.txt") as address:
        environment = load_environment(
            program(), BIG.metric, rows, generator=generator, store=tmp_path / "a.sqlite", num_threads=2
        )
        traces = evaluated(
            environment, address, tmp_path, model=str(model), sampling={"temperature": 0.0}, max_concurrent=2
        )
        behind = SupplementGenerator(greedy(address, model), prompt=generator.prompt, max_new_tokens=64)
        prompts = [trace.task.data.prompt for trace in traces]
        written = [sample.supplement for sample in behind.sample(prompts, seeds=[0] * len(prompts), temperature=0.0)]
        rollouts = ours(rows, list(zip(prompts, written, strict=True)), tmp_path / "b.sqlite", generator)
    assert all(trace.ok for trace in traces), [trace.errors for trace in traces]
    read = [
        environment.rewards.read(trace.assistant_messages[-1].content or "", cut=_is_cut(trace)) for trace in traces
    ]
    assert [each.render() for each in read] == [each.render() for each in written]
    assert [trace.reward for trace in traces] == [each.reward and each.reward.score for each in rollouts]
    environment.rewards.close()


@pytest.mark.slow
def test_the_embedded_generator_behind_transformers_serve_is_rewarded_as_ours(tmp_path: Path) -> None:
    _same_through_a_real_server(tmp_path, embedded_folder("generator"), embedded_generator())


@pytest.mark.slow
@pytest.mark.real_model
def test_a_real_generator_behind_transformers_serve_is_rewarded_as_ours(tmp_path: Path) -> None:
    model = real_model(GENERATOR)
    _same_through_a_real_server(tmp_path, model, SupplementGenerator(model, max_new_tokens=64))


def test_importing_the_packages_loads_no_verifiers() -> None:
    import subprocess
    import sys

    code = "import sys, optimizers, sgt_modules, optimizers.cli; print('verifiers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "False"
