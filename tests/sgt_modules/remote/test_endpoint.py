"""A generator behind an endpoint, on a scripted server: what it sends, what it makes of replies, what it saves."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.clients.base_lm import GLOBAL_HISTORY
from dspy.lm15 import ContextLengthError
from dspy.utils.exceptions import LMError
from runtime_fixtures import tiny_adapter, tiny_model
from sample_requests import requests
from scripted import ScriptedEngine, ScriptedTrainer, reply
from scripted_server import Answer, ScriptedServer, serving

from optimizers import SGTTeleprompter
from optimizers.core.reward import Scorer
from optimizers.rollouts.judging import run_and_score
from sgt_modules import Endpoint, ServedFolder, SupplementedPredictor, SupplementGenerator, VLLMLoRA, supplement
from sgt_modules.embedded import HouseTermsWorld, Sizes, program
from sgt_modules.errors import (
    EndpointError,
    GeneratorNotFoundError,
    SavedStateError,
    SetupError,
)
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.samples import SampleRequest

WORLD = HouseTermsWorld(0, sizes=Sizes(train=4, validation=4, test=4, shifted=4, terms=4, shifted_terms=4))
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with serving(ScriptedServer(lambda prompt: f"[cot] Think of {prompt}")) as running:
        yield running


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    return tiny_adapter(tiny_model(folder / "base"), folder / "sft")


def refused(message: str, status: int = 400, **more: object) -> Answer:
    return status, {"message": message, "type": "invalid_request_error", **more}


def limit_of(body: Mapping[str, Any]) -> int | None:
    """The token limit, under either of the names that OpenAI gave it."""
    return body.get("max_completion_tokens") or body.get("max_tokens")


@pytest.mark.parametrize("engine", ["auto", "lm15", "litellm"])
def test_any_lm_can_be_a_generator(server: ScriptedServer, engine: str) -> None:
    generator = SupplementGenerator.of(server.lm(engine=engine))
    drawn = generator.draw("2+2?")
    assert drawn.supplement == Supplement("cot", "Think of 2+2?")
    assert (drawn.prompt_tokens, drawn.tokens) == (1, 4)
    assert asyncio.run(generator.adraw("2+2?")) == drawn


@pytest.mark.parametrize("engine", ["lm15", "litellm"])
def test_a_sample_is_asked_for_with_its_seed_and_a_supplement_at_inference_without(
    server: ScriptedServer, engine: str
) -> None:
    generator = SupplementGenerator(server.lm(engine=engine, temperature=0.3), max_new_tokens=7)
    generator.sample(["a"], seeds=[5], temperature=0.8)
    generator.draw("b")
    sent = [(body["temperature"], limit_of(body), body.get("seed")) for body in server.requests]
    assert sent == [(0.8, 7, 5), (0.0, 7, None)]


def test_the_user_s_own_settings_of_the_lm_are_sent_along(server: ScriptedServer) -> None:
    quiet = {"chat_template_kwargs": {"enable_thinking": False}}
    SupplementGenerator(server.lm(extra_body=quiet, top_p=0.9)).draw("a")
    assert (server.requests[0]["chat_template_kwargs"], server.requests[0]["top_p"]) == (
        {"enable_thinking": False},
        0.9,
    )


@pytest.mark.parametrize("engine", ["lm15", "litellm"])
def test_a_log_probability_is_the_mean_over_the_reply_s_tokens_and_0_where_none_is_told(engine: str) -> None:
    with serving(ScriptedServer(lambda _: "[cot] Think.", scores=-0.5)) as telling:
        assert SupplementGenerator(telling.lm(engine=engine)).draw("a").logprob == pytest.approx(-0.5)
    with serving(ScriptedServer(lambda _: "[cot] Think.")) as silent:
        assert SupplementGenerator(silent.lm(engine=engine)).draw("a").logprob == 0.0


@pytest.mark.parametrize("tells_why", [True, False])
@pytest.mark.parametrize("engine", ["lm15", "litellm"])
def test_a_reply_that_the_limit_ended_is_trimmed_and_known_as_cut(engine: str, tells_why: bool) -> None:
    server = ScriptedServer(lambda prompt: "[cot] Add. Then go on." if prompt == "long" else "[cot] Add.")
    server.tells_why = tells_why
    with serving(server) as cutting:
        endpoint = Endpoint(cutting.lm(engine=engine))
        generator = SupplementGenerator(endpoint, max_new_tokens=4)
        replies = [
            *list(endpoint.samples(requests(["long", "short"], seeds=[0, 0], max_new_tokens=4))),
            endpoint.ask(SampleRequest("long")),
        ]
        assert [reply.cut for reply in replies] == [True, False, False]
        cut, whole = generator.draw("long").supplement, generator.draw("short").supplement
        assert (cut, cut.cut) == (Supplement("cot", "Add."), True)
        assert (whole, whole.cut) == (Supplement("cot", "Add."), False)


def test_a_coroutine_s_reply_that_the_limit_ended_is_known_as_cut() -> None:
    with serving(ScriptedServer(lambda _: "[cot] Add. Then go on.")) as cutting:
        assert asyncio.run(SupplementGenerator(cutting.lm(), max_new_tokens=4).adraw("a")).supplement.cut


def test_nothing_is_answered_from_a_cache(server: ScriptedServer) -> None:
    generator = SupplementGenerator(server.lm(cache=True))
    generator.sample(["a", "a"], seeds=[1, 2])
    generator.draw("a")
    generator.draw("a")
    assert len(server.requests) == 4


def test_requests_leave_no_history_and_count_as_the_generator_s_own_usage(server: ScriptedServer) -> None:
    lm = server.lm()
    generator, before = SupplementGenerator(lm), len(GLOBAL_HISTORY)
    with dspy.track_usage() as usage:
        generator.draw("one two three")
    assert (lm.history, len(GLOBAL_HISTORY)) == ([], before)
    assert {name: each["prompt_tokens"] for name, each in usage.get_total_tokens().items()} == {generator.name: 3}


def test_samples_come_in_order_with_as_many_under_way_as_the_endpoint_is_set_to() -> None:
    together = threading.Barrier(4, timeout=10)

    def in_fours(prompt: str) -> str:
        together.wait()
        return f"[cot] {prompt}"

    with serving(ScriptedServer(in_fours)) as server:
        generator = SupplementGenerator(Endpoint(server.lm(), concurrency=4))
        drawn = generator.sample([str(n) for n in range(12)], seeds=range(12))
    assert [each.supplement.text for each in drawn] == [str(n) for n in range(12)]
    assert server.most_at_once == 4


def test_a_reply_that_cannot_be_had_is_an_error_and_no_empty_supplement() -> None:
    def broken(prompt: str) -> Answer:
        return refused("Overloaded.", 503) if prompt == "b" else f"[cot] {prompt}"

    with serving(ScriptedServer(broken)) as server:
        generator = SupplementGenerator(Endpoint(server.lm(), concurrency=1))
        with pytest.raises(
            EndpointError, match=r"Expected 3 replies of base@127.*, got 1 and then an error: .*Overloaded"
        ):
            generator.sample(["a", "b", "c"], seeds=[0, 0, 0])
        with pytest.raises(LMError, match="Overloaded"):
            generator.draw("b")


def test_what_fails_for_a_moment_is_tried_again_as_the_lm_says() -> None:
    failing = iter([True, False])

    def recovering(prompt: str) -> Answer:
        return refused("Overloaded.", 503) if next(failing) else f"[cot] {prompt}"

    with serving(ScriptedServer(recovering)) as server:
        assert SupplementGenerator(server.lm(num_retries=1)).draw("a").supplement.text == "a"


def test_in_a_run_of_the_program_a_generator_that_fails_says_nothing_of_the_actor() -> None:
    example = dspy.Example(question="2+2?", answer="4").with_inputs("question")
    with serving(ScriptedServer(lambda _: refused("Overloaded.", 503))) as server:
        wrapped = supplement(dspy.Predict("question -> answer"), generator=server.lm())
        wrapped.set_lm(ScriptedEngine(lambda _: reply(answer="4")).lm())
        run = run_and_score(wrapped, example, 0, None, Scorer(lambda example, prediction: True))
    assert run.rollout.reward is None
    assert "Overloaded" in run.rollout.error


def test_a_prompt_that_is_too_long_gets_no_supplement_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    message = "This model's maximum context length is 8 tokens."
    with serving(ScriptedServer(lambda _: refused(message, code="context_length_exceeded"))) as server:
        generator = SupplementGenerator(server.lm())
        assert not generator.draw("a").supplement
        assert not asyncio.run(generator.adraw("a")).supplement
        assert generator.sample(["a"], seeds=[0])[0].supplement == SILENCE
        with pytest.raises(ContextLengthError):
            generator.engine.ask(SampleRequest("a"))
    assert "does not fit base@" in caplog.text


def test_a_server_that_is_not_there_or_refuses_is_found_by_the_check(server: ScriptedServer) -> None:
    SupplementGenerator(server.lm()).check()
    assert limit_of(server.requests[0]) == 1
    with pytest.raises(GeneratorNotFoundError, match=r"Expected a reply of the generator 'openai/base' at http://127"):
        SupplementGenerator(dspy.LM("openai/base", api_base="http://127.0.0.1:9/v1", api_key="none")).check()
    with (
        serving(ScriptedServer(lambda _: refused("No such model.", 404))) as other,
        pytest.raises(GeneratorNotFoundError, match="No such model"),
    ):
        SupplementGenerator(other.lm()).check()


def test_an_adapter_is_loaded_into_vllm_once_and_asked_for_by_a_name_of_its_own(
    server: ScriptedServer, adapter: Path
) -> None:
    lm = server.lm()
    generator = SupplementGenerator(Endpoint(lm, publish=VLLMLoRA(lm)))
    trained = generator.with_checkpoint(adapter)
    assert generator.with_checkpoint(adapter).name == trained.name
    (name,) = server.adapters
    assert (name.rpartition("-")[0], server.adapters[name]) == ("sft", str(adapter))
    assert server.headers[0]["Authorization"] == "Bearer secret-key"
    assert len(server.headers) == 1
    trained.draw("a")
    generator.draw("a")
    assert [body["model"] for body in server.requests] == [name, "base"]
    assert len({trained.engine.fingerprint, generator.engine.fingerprint}) == 2


def test_an_adapter_that_vllm_has_already_is_asked_for_and_one_it_refuses_is_an_error(
    server: ScriptedServer, adapter: Path, tmp_path: Path
) -> None:
    lm = server.lm()
    assert VLLMLoRA(lm)(adapter) == VLLMLoRA(lm)(adapter)
    with pytest.raises(GeneratorNotFoundError, match="PEFT adapter's folder"):
        VLLMLoRA(lm)(tmp_path)
    with pytest.raises(EndpointError, match=r"got ConnectError"):
        VLLMLoRA(dspy.LM("openai/base", api_base="http://127.0.0.1:9/v1"), wait=0)(adapter)
    with pytest.raises(SetupError, match="names its server"):
        VLLMLoRA(dspy.LM("openai/base"))


def test_vllm_s_refusal_is_told_with_what_the_server_needs(adapter: Path) -> None:
    class Closed(ScriptedServer):
        def _loaded(self, body: object) -> tuple[int, object]:
            return 404, {"detail": "Not Found"}

    with (
        serving(Closed(lambda _: "")) as server,
        pytest.raises(EndpointError, match=r"got 404: .*Not Found.*VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"),
    ):
        VLLMLoRA(server.lm())(adapter)


def test_a_served_folder_is_the_base_with_its_adapter_under_a_name_of_the_weights(adapter: Path) -> None:
    base = adapter.with_name("base")
    served = Path(ServedFolder(base)(adapter))
    assert served.parent == adapter.parent
    assert {"adapter_model.safetensors", "model.safetensors", "config.json", "tokenizer.json"} <= {
        each.name for each in served.iterdir()
    }
    assert ServedFolder(base)(adapter) == str(served)
    whole = Path(ServedFolder(base)(base))
    assert (whole / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()


def test_training_without_a_way_to_the_server_is_refused_before_anything_is_asked(
    server: ScriptedServer, tmp_path: Path
) -> None:
    actor = ScriptedEngine(lambda _: reply(sql="SELECT 1"))

    def compiled(generator: Endpoint | dspy.LM, trainer: ScriptedTrainer | None) -> None:
        folder = tmp_path / "run"
        sgt = SGTTeleprompter(WORLD.metric, generator, trainer=trainer, log_dir=folder, display_progress=False)
        with dspy.context(lm=actor.lm()):
            sgt.compile(program(), trainset=WORLD.train, valset=WORLD.val)

    with pytest.raises(
        SetupError, match=r"Expected a way to publish trained weights .* got none\. Pass generator=Endpoint"
    ):
        compiled(server.lm(), ScriptedTrainer())
    with pytest.raises(SetupError, match=r"Expected a trainer for base@127.*, got none\. Pass trainer=TRLTrainer"):
        compiled(Endpoint(server.lm(), publish=str), None)
    assert (server.requests, actor.asked, list(tmp_path.iterdir())) == ([], [], [])


def test_a_saved_program_reaches_its_endpoint_again_and_holds_no_key(
    server: ScriptedServer, adapter: Path, tmp_path: Path
) -> None:
    lm = server.lm(extra_headers={"Authorization": "secret-header"}, extra_body={"stop_token_ids": [1]})
    generator = SupplementGenerator(Endpoint(lm, publish=lambda _: "sft-1"), temperature=0.2, max_new_tokens=9)
    wrapped = supplement(dspy.ChainOfThought("question -> answer"), generator=generator.with_checkpoint(adapter))
    wrapped.save(tmp_path / "better.json")
    text = (tmp_path / "better.json").read_text()
    assert "secret" not in text
    fresh = supplement(dspy.ChainOfThought("question -> answer"), generator=generator)
    fresh.load(tmp_path / "better.json")
    (loaded,) = [each.generator for _, each in fresh.named_predictors() if isinstance(each, SupplementedPredictor)]
    assert (loaded.temperature, loaded.max_new_tokens) == (0.2, 9)
    assert loaded.write("a") == Supplement("cot", "Think of a")
    sent, headers = server.requests[-1], server.headers[-1]
    assert (sent["model"], sent["stop_token_ids"]) == ("sft-1", [1])
    assert headers["Authorization"] == "secret-header"
    assert loaded.engine.fingerprint == generator.with_checkpoint(adapter).engine.fingerprint


def test_a_file_does_not_send_the_user_s_key_to_an_address_of_its_own(server: ScriptedServer, tmp_path: Path) -> None:
    supplement(dspy.Predict("question -> answer"), generator=server.lm()).save(tmp_path / "better.json")
    for own in ("some/model", dspy.LM("openai/base", api_base="http://elsewhere/v1", api_key="none")):
        other = supplement(dspy.Predict("question -> answer"), generator=own)
        with pytest.raises(SavedStateError, match="allow_unsafe_lm_state=True for a file that you trust"):
            other.load(tmp_path / "better.json")
        other.load(tmp_path / "better.json", allow_unsafe_lm_state=True)
        assert other.generator.name == SupplementGenerator(server.lm()).name


def test_a_hosted_generator_is_saved_without_an_address_and_loads_anywhere() -> None:
    generator = SupplementGenerator(dspy.LM("openai/gpt-4.1-nano", api_key="secret-key"))
    state = json.loads(json.dumps(generator.dump_state()))
    assert "secret" not in json.dumps(state)
    assert SupplementGenerator.from_state(state).name == "gpt-4.1-nano@openai"
    assert pickle.loads(pickle.dumps(generator)).name == "gpt-4.1-nano@openai"
    assert copy.deepcopy(generator) is generator


def test_a_loaded_endpoint_cannot_be_trained_before_it_is_given_a_way_to_the_server(server: ScriptedServer) -> None:
    state = SupplementGenerator(server.lm()).dump_state()
    with pytest.raises(SetupError, match="publish="):
        SupplementGenerator.from_state(state, trusted=True).with_checkpoint(Path("sft"))


def test_settings_of_a_local_model_are_refused_beside_an_endpoint(server: ScriptedServer) -> None:
    with pytest.raises(SetupError, match="settings of a local model"):
        SupplementGenerator(server.lm(), adapter=Path("sft"))
    with pytest.raises(SetupError, match=r"Expected a dspy\.LM, got 'openai/base'"):
        Endpoint("openai/base")  # pyright: ignore[reportArgumentType]
    with pytest.raises(SetupError, match="concurrency of at least 1, got 0"):
        Endpoint(server.lm(), concurrency=0)


def test_a_password_in_an_address_is_neither_saved_nor_told() -> None:
    generator = SupplementGenerator(dspy.LM("openai/base", api_base="http://me:secret@host:1/v1", api_key="none"))
    assert (generator.name, "secret" in json.dumps(generator.dump_state())) == ("base@host:1", False)
    again = SupplementGenerator.from_state(generator.dump_state(), like=generator)
    assert again.engine.fingerprint == generator.engine.fingerprint
