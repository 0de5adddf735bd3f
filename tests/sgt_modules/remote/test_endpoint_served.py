"""A generator and an actor behind a real OpenAI-compatible server: `transformers serve` on the embedded models.

The server samples only where the model's own `generation_config.json` says so, decodes a request at a time, and draws
from one random stream, which a request's seed sets: equal seeds give equal replies only where requests do not overlap.
It tells no log-probabilities, and ends an assistant's message that it should go on with.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import dspy
import httpx
import pytest
from runtime_fixtures import tiny_adapter

from optimizers import Recipe, SGTTeleprompter, TrainingSettings
from optimizers.core.result import result_of
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules import Endpoint, LocalEngine, ServedFolder, SupplementGenerator, supplement
from sgt_modules.embedded import HouseTermsWorld, Sizes, program
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.generator_prompt import COMPACT
from sgt_modules.kinds import FREE, KINDS

WORLD = HouseTermsWorld(0, sizes=Sizes(train=4, validation=4, test=4, shifted=4, terms=4, shifted_terms=4))
PROMPTS = [COMPACT.write(program().signature, example.inputs().toDict()) for example in WORLD.train]
NEW_TOKENS = 64
ROUTES = pytest.mark.parametrize("route", ["lm15", "litellm"])
"""DSPy's native route, and litellm's."""

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server in a process of its own, which ends with the tests."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with (
        log.open("wb") as out,
        subprocess.Popen([*command, "--device", "cpu", "--model-timeout", "-1"], stdout=out, stderr=out) as server,
    ):
        try:
            if not _answers(server, f"http://127.0.0.1:{port}/health"):
                pytest.fail(f"transformers serve did not start: {log.read_text()[-2000:]}")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.kill()


def _answers(server: subprocess.Popen[bytes], health: str) -> bool:
    """Whether the server is there within two minutes."""
    until = time.monotonic() + 120
    while time.monotonic() < until and server.poll() is None:
        try:
            if httpx.get(health).is_success:
                return True
        except httpx.TransportError:
            time.sleep(0.1)
    return False


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded generator with a configuration that lets the server sample."""
    folder = tmp_path_factory.mktemp("models") / "generator"
    shutil.copytree(embedded_folder("generator"), folder)
    config = folder / "generation_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "do_sample": True, "top_k": 0}))
    return folder


def served(address: str, folder: Path, route: str = "auto") -> dspy.LM:
    return dspy.LM(
        f"openai/{folder}",
        api_base=address,
        api_key="none",
        engine=route,
        cache=False,
        temperature=0.0,
        max_tokens=NEW_TOKENS,
    )


def generator_at(address: str, base: Path, route: str = "auto", concurrency: int = 4) -> SupplementGenerator:
    endpoint = Endpoint(served(address, base, route), publish=ServedFolder(base), concurrency=concurrency)
    return SupplementGenerator(endpoint, max_new_tokens=NEW_TOKENS)


def opening(model: LocalEngine | Endpoint) -> SupplementGenerator:
    """The generator that reads the text it was trained on, and whose replies are opened with their kind."""
    return SupplementGenerator(model, max_new_tokens=NEW_TOKENS, prompt=replace(COMPACT, opens=True))


@pytest.fixture(scope="module")
def local() -> SupplementGenerator:
    """The same weights in this process."""
    return SupplementGenerator(LocalEngine(embedded_folder("generator"), dtype="float32"), max_new_tokens=NEW_TOKENS)


@ROUTES
def test_a_served_generator_writes_what_a_local_one_writes(
    address: str, base: Path, route: str, local: SupplementGenerator
) -> None:
    behind = generator_at(address, base, route)
    behind.check()
    here = local.sample(PROMPTS, seeds=[0] * 4, temperature=0.0)
    assert behind.sample(PROMPTS, seeds=[0] * 4, temperature=0.0) == [replace(each, logprob=0.0) for each in here]
    assert behind.draw(PROMPTS[0]) == replace(here[0], logprob=0.0)
    assert asyncio.run(behind.adraw(PROMPTS[0])) == replace(here[0], logprob=0.0)


@ROUTES
def test_a_served_generator_draws_by_the_seed(address: str, base: Path, route: str) -> None:
    behind = generator_at(address, base, route, concurrency=1)
    first, again, other = (
        [each.supplement.text for each in behind.sample(PROMPTS * 2, seeds=range(seed, seed + 8), temperature=1.0)]
        for seed in (0, 0, 100)
    )
    assert first == again
    assert other != first
    assert len(set(first)) > 4


@ROUTES
def test_a_server_that_cannot_continue_is_found_out_and_asked_without_an_opening(
    address: str, base: Path, route: str
) -> None:
    endpoint = Endpoint(served(address, base, route))
    plain = Endpoint(served(address, base, route), continues=False)
    kinds = [KINDS["pairs"]] * 4
    first, other = (
        opening(each).sample(PROMPTS, seeds=[0] * 4, kinds=kinds, temperature=0.0) for each in (endpoint, plain)
    )
    assert endpoint.continues is False
    assert first == other


@ROUTES
def test_text_completions_are_opened_as_a_local_model_s_replies_are(
    address: str, base: Path, route: str, local: SupplementGenerator
) -> None:
    behind = opening(Endpoint(served(address, base, route), tokenizer=base))
    behind.check()
    kinds = [KINDS["pairs"], KINDS["mistakes"], "units", FREE]
    here = opening(local.engine).sample(PROMPTS, seeds=[0] * 4, kinds=kinds, temperature=0.0)
    drawn = behind.sample(PROMPTS, seeds=[0] * 4, kinds=kinds, temperature=0.0)
    assert drawn == [replace(each, logprob=0.0) for each in here]
    assert [each.supplement.kind for each in drawn[:3]] == ["pairs", "mistakes", "units"]


def test_trained_weights_are_asked_for_at_the_server(
    address: str, base: Path, local: SupplementGenerator, tmp_path: Path
) -> None:
    checkpoint = tiny_adapter(embedded_folder("generator"), tmp_path / "sft")
    trained, here = generator_at(address, base).with_checkpoint(checkpoint), local.with_checkpoint(checkpoint)
    written = trained.write(PROMPTS[0])
    assert written == here.write(PROMPTS[0])
    assert written != local.write(PROMPTS[0])


@ROUTES
def test_an_actor_behind_a_server_answers_as_one_in_this_process(
    address: str, route: str, local: SupplementGenerator
) -> None:
    engine = LocalEngine(embedded_folder("actor"), dtype="float32", max_new_tokens=NEW_TOKENS)
    wrapped = supplement(program(), generator=local)
    answers = []
    for lm in (
        served(address, embedded_folder("actor"), route),
        dspy.LM(engine.model_name, engine=engine, cache=False),
    ):
        with dspy.context(lm=lm):
            answers.append([wrapped(**example.inputs()).sql for example in WORLD.val])
    assert answers[0] == answers[1]


def test_a_program_is_compiled_with_generator_and_actor_behind_a_server(
    address: str, base: Path, tmp_path: Path
) -> None:
    """The embedded actor is rarely right in so small a run: any metric that tells two answers apart will do."""

    def even(example: dspy.Example, prediction: dspy.Prediction) -> bool:
        return len(prediction.sql) % 2 == 0

    kinds = {name: KINDS[name] for name in ("background", "pairs")}
    settings = TrainingSettings(sft_epochs=1, batch_size=8, gradient_checkpointing=False, max_length=512)
    sgt = SGTTeleprompter(
        even,
        generator_at(address, base).engine,
        recipe=Recipe(rounds=1, warm_samples=2, pool_samples=2, ood_kinds=1, concat=1, kinds=kinds),
        trainer=TRLTrainer(base, settings),
        num_threads=4,
        log_dir=tmp_path / "run",
        display_progress=False,
    )
    adapter = dspy.ChatAdapter(use_json_adapter_fallback=False)
    with dspy.context(lm=served(address, embedded_folder("actor")), adapter=adapter):
        better = sgt.compile(program(), trainset=WORLD.train, valset=WORLD.val)
        result = result_of(better)
        assert [stage.name for stage in result.stages] == ["none", "sft", "dpo1"]
        assert result.spent.generator_calls > 4 * 3 * 2
        assert result.spent.actor_calls > 0
        trained = result.generator_of("dpo1")
        assert trained is not None
        wrapped = supplement(program(), generator=trained)
        said = wrapped(question=WORLD.val[0].question).sql
        wrapped.save(tmp_path / "better.json")
        loaded = supplement(program(), generator=generator_at(address, base))
        loaded.load(tmp_path / "better.json")
        assert loaded(question=WORLD.val[0].question).sql == said
