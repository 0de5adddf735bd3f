"""Servers that hold adapters: what is loaded when, what comes back, and what each failure says."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dspy
import pytest
from adapter_holder import AdapterHolder, Dialect
from runtime_fixtures import tiny_adapter, tiny_engine, tiny_model
from scripted_server import serving

from sgt_modules import Endpoint, SGLangLoRA, SupplementGenerator, VLLMLoRA
from sgt_modules.errors import EndpointError, SetupError
from sgt_modules.remote.adapter_servers import AdapterServer
from sgt_modules.samples import SampleRequest

SERVERS: Mapping[Dialect, type[AdapterServer]] = {"vllm": VLLMLoRA, "sglang": SGLangLoRA}
BOTH = pytest.mark.parametrize("dialect", list(SERVERS))
STAGES = 6


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Adapters of six stages over one base, which stands beside them."""
    folder = tmp_path_factory.mktemp("weights")
    base = tiny_model(folder / "base")
    return [tiny_adapter(base, folder / f"dpo{number}", seed=number) for number in range(STAGES)]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as entered:
        yield entered


def says(folder: Path | None, body: Mapping[str, Any]) -> str:
    """Which weights were asked, in the form of a supplement."""
    return f"[cot] {folder.name if folder else 'base'}"


def holder(stack: ExitStack, dialect: Dialect, *, slots: int = 100) -> AdapterHolder:
    server = AdapterHolder(says, dialect=dialect, slots=slots)
    stack.enter_context(serving(server))
    return server


def published(server: AdapterHolder, **options: Any) -> SupplementGenerator:
    lm = server.lm()
    return SupplementGenerator(Endpoint(lm, publish=SERVERS[server.dialect](lm, **options), continues=False))


@BOTH
def test_six_stages_on_a_server_of_two_slots_with_a_restart_write_what_they_write_in_process(
    stack: ExitStack, dialect: Dialect, stages: list[Path]
) -> None:
    base = tiny_engine(stages[0].with_name("base"))
    engines = {path: base.with_adapter(path) for path in stages}
    guard = threading.Lock()

    def written(folder: Path | None, body: Mapping[str, Any]) -> str:
        with guard:  # a server decodes on a thread of its own
            return (
                (base if folder is None else engines[folder]).ask(SampleRequest(body["messages"][-1]["content"])).text
            )

    server = AdapterHolder(written, dialect=dialect, slots=2)
    stack.enter_context(serving(server))
    generator = published(server, slots=2)
    trained = [generator.with_checkpoint(path) for path in stages]
    prompts = ["2+2?", "3+3?"]
    said: list[list[str]] = []
    for number, stage in enumerate(trained):
        if number == 3:
            server.restart()
        said.append([stage.engine.ask(SampleRequest(prompt)).text for prompt in prompts])
    first_again = [trained[0].engine.ask(SampleRequest(prompt)).text for prompt in prompts]
    alone = [[engines[path].ask(SampleRequest(each)).text for each in prompts] for path in stages]
    assert said == alone
    assert first_again == alone[0]
    assert len({tuple(texts) for texts in said}) == STAGES
    assert server.most_loaded == 2


@BOTH
def test_the_adapter_that_was_asked_least_recently_is_unloaded_first(
    stack: ExitStack, dialect: Dialect, stages: list[Path]
) -> None:
    server = holder(stack, dialect)
    generator = published(server, slots=2)
    first, second = (generator.with_checkpoint(path) for path in stages[:2])
    first.write("a")
    generator.with_checkpoint(stages[2])
    assert [name.partition("-")[0] for name in server.unloads] == ["dpo1"]
    assert second.write("a").text == "dpo1"
    assert [name.partition("-")[0] for name in server.unloads] == ["dpo1", "dpo0"]


@BOTH
def test_a_lost_adapter_comes_back_in_a_coroutine_and_once_for_many_threads(
    stack: ExitStack, dialect: Dialect, stages: list[Path]
) -> None:
    server = holder(stack, dialect)
    trained = published(server).with_checkpoint(stages[0])
    server.restart()
    assert asyncio.run(trained.adraw("a")).supplement.text == "dpo0"
    server.restart()
    samples = list(trained.samples([SampleRequest(str(n)) for n in range(40)]))
    assert {each.supplement.text for each in samples} == {"dpo0"}
    assert len(server.loads) == 3


@BOTH
def test_a_server_that_is_starting_is_waited_for(stack: ExitStack, dialect: Dialect, stages: list[Path]) -> None:
    server = holder(stack, dialect)
    server.starting = 2
    trained = published(server, wait=30).with_checkpoint(stages[0])
    server.restart()
    server.starting = 2
    assert trained.write("a").text == "dpo0"


def test_a_server_that_is_down_for_a_while_gets_its_adapter_back(stages: list[Path], tmp_path: Path) -> None:
    first = AdapterHolder(says)
    with serving(first):
        trained = published(first, wait=30).with_checkpoint(stages[0])
        address = first.address
    second = AdapterHolder(says)

    def start_again() -> None:
        time.sleep(1)
        with serving(second, port=int(address.rpartition(":")[2].partition("/")[0])):
            done.wait()

    done = threading.Event()
    thread = threading.Thread(target=start_again)
    thread.start()
    try:
        assert trained.write("a").text == "dpo0"
    finally:
        done.set()
        thread.join()
    assert len(second.loads) == 1


@BOTH
def test_the_model_s_name_is_the_one_that_the_server_knows(
    stack: ExitStack, dialect: Dialect, stages: list[Path]
) -> None:
    server = holder(stack, dialect)
    trained = published(server).with_checkpoint(stages[0])
    (name,) = server.loads
    trained.write("a")
    assert server.requests[-1]["model"] == {"vllm": name, "sglang": f"base:{name}"}[dialect]


REFUSALS: Mapping[str, tuple[tuple[int, object], str]] = {
    "401": ((401, {"error": "Unauthorized"}), r"got 401: .*refuses the LM's api_key"),
    "404 route": ((404, {"detail": "Not Found"}), r"got 404: .*It needs --enable-lora.* and must see that path"),
    "503 for long": ((503, {"message": "loading"}), r"got 503: .*still starting after wait=0 seconds"),
    "wrong base": (
        (400, {"message": "size mismatch for layers.0: [8, 896] from checkpoint, [8, 1536] in the model"}),
        r"got 400: .*must be trained on the base that (vLLM|SGLang) serves",
    ),
    "slots full": (
        (400, {"message": "Maximum number of loaded LoRA adapters is 1. Please unload some."}),
        r"hold other adapters\. Start (vLLM with a higher --max-loras|SGLang with a higher --max-loaded-loras)",
    ),
    "500": ((500, {"message": "CUDA error"}), r"got 500: .*CUDA error"),
}


@BOTH
@pytest.mark.parametrize("case", list(REFUSALS))
def test_each_refusal_says_what_to_do(stack: ExitStack, dialect: Dialect, case: str, stages: list[Path]) -> None:
    refusal, message = REFUSALS[case]
    server = holder(stack, dialect)
    server.failures = [refusal]
    with pytest.raises(EndpointError, match=rf"Expected (vLLM|SGLang) at .*load_lora_adapter.*{message}") as raised:
        published(server, wait=0).with_checkpoint(stages[0])
    assert "secret-key" not in str(raised.value)


@BOTH
def test_an_adapter_whose_folder_the_server_does_not_see_is_named(
    stack: ExitStack, dialect: Dialect, stages: list[Path]
) -> None:
    server = holder(stack, dialect)
    server.seen_as, server.root = "/", Path("/nowhere")
    with pytest.raises(EndpointError, match=r"No adapter found for .*and must see that path"):
        published(server).with_checkpoint(stages[0])


@BOTH
@pytest.mark.parametrize("status", [400, 409])
def test_an_adapter_that_is_loaded_already_is_asked_for(
    stack: ExitStack, dialect: Dialect, status: int, stages: list[Path]
) -> None:
    server = holder(stack, dialect)
    published(server).with_checkpoint(stages[0])
    server.failures = [(409, {"message": "Conflict"})] if status == 409 else []
    assert published(server).with_checkpoint(stages[0]).write("a").text == "dpo0"


@BOTH
def test_a_full_server_gets_room_from_adapters_of_this_run(
    stack: ExitStack, dialect: Dialect, stages: list[Path]
) -> None:
    server = holder(stack, dialect, slots=1)
    generator = published(server, slots=4)
    assert [generator.with_checkpoint(path).write("a").text for path in stages[:3]] == ["dpo0", "dpo1", "dpo2"]


def test_a_server_that_hangs_ends_with_its_timeout(stack: ExitStack, stages: list[Path]) -> None:
    class Hanging(AdapterHolder):
        def answered(self, route: str, body: dict[str, Any], headers: Mapping[str, str]) -> tuple[int, object]:
            time.sleep(1)
            return super().answered(route, body, headers)

    server = Hanging(says)
    stack.enter_context(serving(server))
    with pytest.raises(EndpointError, match=r"got ReadTimeout.*did not answer within timeout=0\.2 seconds"):
        published(server, timeout=0.2).with_checkpoint(stages[0])


@BOTH
def test_weights_go_to_a_shared_folder_that_the_server_sees_under_another_name(
    stack: ExitStack, dialect: Dialect, stages: list[Path], tmp_path: Path
) -> None:
    server = holder(stack, dialect)
    server.seen_as, server.root = "/models", tmp_path / "shared"
    generator = published(server, share=tmp_path / "shared", seen_as="/models")
    assert generator.with_checkpoint(stages[0]).write("a").text.startswith("dpo0-")
    (copied,) = (tmp_path / "shared").iterdir()
    assert sorted(each.name for each in copied.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_weights_go_to_a_url_that_both_sides_reach(stack: ExitStack, stages: list[Path]) -> None:
    import fsspec

    server = AdapterHolder(says)
    asked: list[str] = []

    class Remote(AdapterHolder):
        def _load(self, body: Mapping[str, str]) -> tuple[int, object]:
            asked.append(body["lora_path"])
            return 200, "Success"

    server = Remote(says)
    stack.enter_context(serving(server))
    published(server, share="memory://adapters").with_checkpoint(stages[0])
    (path,) = asked
    files = fsspec.filesystem("memory")
    assert path.startswith("memory://adapters/dpo0-")
    written = files.cat_file(f"{path.removeprefix('memory:/')}/adapter_model.safetensors")
    assert written == (stages[0] / "adapter_model.safetensors").read_bytes()


def test_settings_that_cannot_work_are_refused_at_once() -> None:
    lm = dspy.LM("openai/base", api_base="http://127.0.0.1:9/v1")
    with pytest.raises(SetupError, match="slots of at least 1"):
        VLLMLoRA(lm, slots=0)
    with pytest.raises(SetupError, match="Expected share= with seen_as="):
        SGLangLoRA(lm, seen_as="/models")
    with pytest.raises(SetupError, match="names its server"):
        SGLangLoRA(dspy.LM("openai/base"))
