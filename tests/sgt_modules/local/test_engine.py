from __future__ import annotations

import asyncio
import copy
import gc
import math
import pickle
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dspy
import pytest
import torch
from dspy.lm15 import Config, ContextLengthError, Message, Request, UnsupportedFeatureError
from places import ROOT
from runtime_fixtures import tiny_adapter, tiny_engine, tiny_model
from sample_requests import requests
from transformers import AutoModelForCausalLM

from sgt_modules.errors import GeneratorNotFoundError
from sgt_modules.local.batching import TokenRequest, cut_batches
from sgt_modules.local.chat_template import render_chat
from sgt_modules.local.decoding import Decoder
from sgt_modules.local.devices import _find_core_setter
from sgt_modules.local.engine import LocalEngine
from sgt_modules.samples import SampleRequest

# PEFT 0.21 asks transformers 5.23 by a deprecated name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

PROMPTS = ["one", "two words", "the third prompt is longer", "the third", "one", "z" * 60]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def engine(folder: Path) -> LocalEngine:
    return tiny_engine(folder)


def ask(text: str, **config: object) -> Request:
    return Request(model="m", messages=(Message.user(text),), config=Config(**config))


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_a_reply_does_not_depend_on_the_rest_of_its_batch(engine: LocalEngine, temperature: float) -> None:
    together = engine.sample(requests(PROMPTS, seeds=range(6), temperature=temperature))
    alone = [engine.sample(requests([p], seeds=[s], temperature=temperature))[0] for s, p in enumerate(PROMPTS)]
    assert [each.text for each in together] == [each.text for each in alone]
    assert [each.logprob for each in together] == pytest.approx([each.logprob for each in alone])


def test_a_seed_gives_the_same_sample_and_another_seed_another(engine: LocalEngine) -> None:
    first, again, other = engine.sample(requests(["one"] * 3, seeds=[7, 7, 8]))
    assert first == again
    assert first.text != other.text


def test_temperature_zero_takes_the_likeliest_token_whatever_the_seed(engine: LocalEngine, folder: Path) -> None:
    first, other = engine.sample(requests(["one"] * 2, seeds=[1, 2], temperature=0.0))
    assert first == other
    ids, chosen, end = _greedy(folder, engine, "one", 12)
    assert first.prompt_tokens == ids
    assert first.tokens == len(chosen)
    assert first.cut != end
    assert first.logprob == pytest.approx(sum(chosen) / len(chosen), abs=1e-6)


def test_draws_follow_the_models_distribution(engine: LocalEngine) -> None:
    drawn = engine.sample(requests(["one"] * 2000, seeds=range(2000), max_new_tokens=1))
    expected = {each.text: math.exp(each.logprob) for each in drawn if each.text}
    for text, probability in sorted(expected.items(), key=lambda item: -item[1])[:5]:
        if sum(other == text for other in expected) == 1 and "�" not in text:
            share = sum(each.text == text for each in drawn) / len(drawn)
            assert share == pytest.approx(probability, abs=4 * math.sqrt(probability / len(drawn)))


def test_one_seed_over_many_prompts_gives_independent_draws(engine: LocalEngine) -> None:
    request = [TokenRequest((1, 2, place), 0, 1.0, 4) for place in range(3)]
    from sgt_modules.local.decoding import _draw_uniforms

    assert len(set(_draw_uniforms(request, 4).ravel())) == 12


def test_the_token_limit_ends_a_reply_that_the_model_has_not_ended(engine: LocalEngine) -> None:
    cut = engine.sample(requests(["one"], seeds=[0], max_new_tokens=3))[0]
    whole = engine.sample(requests(["one"], seeds=[0], max_new_tokens=12))[0]
    assert cut.tokens == 3
    assert cut.cut
    assert whole.tokens > 3


def test_requests_with_different_limits_share_a_batch(engine: LocalEngine) -> None:
    decoder = engine._get_decoder()
    ids = engine.encoder.encode([{"role": "user", "content": "one"}])
    token_requests = [TokenRequest(ids, 0, 1.0, limit) for limit in (2, 5, 12)]
    done = decoder.decode(token_requests, 10_000)
    assert [done[request].tokens for request in token_requests[:2]] == [2, 5]
    alone = [decoder.decode([request], 10_000)[request] for request in token_requests]
    assert [done[request].text for request in token_requests] == [each.text for each in alone]


def test_a_row_that_has_ended_takes_no_part_in_later_steps(engine: LocalEngine) -> None:
    decoder, steps = engine._get_decoder(), list[int]()

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].shape[1] == 1:
            steps.append(len(inputs[0]))

    token_requests = [
        TokenRequest((*range(5, 25), place), 0, float(place % 2), limit)
        for place, limit in enumerate((2, 5, 12, 12, 7))
    ]
    with decoder._model.borrow() as model, model.get_input_embeddings().register_forward_pre_hook(note):
        done = decoder.decode(token_requests, 10_000)
    lengths = [done[request].tokens for request in token_requests]
    assert steps == [sum(length > step for length in lengths) for step in range(max(lengths))]
    assert lengths[:2] == [2, 5]
    for request in token_requests:
        alone = decoder.decode([request], 10_000)[request]
        assert (done[request].text, done[request].cut) == (alone.text, alone.cut)
        assert done[request].logprob == pytest.approx(alone.logprob)


def test_batches_stay_within_their_tokens() -> None:
    token_requests = [TokenRequest(tuple(range(length)), length, 1.0, 5) for length in (1, 30, 2, 2, 15, 3)]
    cut = cut_batches(token_requests, 40)
    assert sorted(request.seed for batch in cut for request in batch) == sorted(
        request.seed for request in token_requests
    )
    assert all(len(b) * (max(len(j.ids) for j in b) + 5) <= 40 for b in cut)


def test_many_threads_are_served_together_and_each_gets_its_own_answer(engine: LocalEngine) -> None:
    prompts = [f"prompt {place}" for place in range(32)]
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda prompt: engine.complete(ask(prompt)).text, prompts))
    assert answers == [each.text for each in engine.sample(requests(prompts, seeds=[0] * 32, temperature=0.0))]


def test_requests_that_come_while_the_model_loads_are_one_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the first of many waits for its reply alone, and all others wait for it."""
    engine, sizes, asked = tiny_engine(folder), [], threading.Event()
    load, decode = engine._load_decoder, Decoder.decode

    def load_late() -> Decoder:
        assert asked.wait(30)
        return load()

    def count(self: Decoder, batch: Sequence[TokenRequest], *rest: object, **options: Any) -> object:
        sizes.append(len(batch))
        return decode(self, batch, *rest, **options)

    monkeypatch.setattr(engine, "_load_decoder", load_late)
    monkeypatch.setattr(Decoder, "decode", count)
    futures = [engine._submit(TokenRequest((1, 2, place), 0, 0.0, 3)) for place in range(9)]
    asked.set()
    assert [each.result(30).tokens for each in futures] == [3] * 9
    assert sizes == [9]


def test_a_small_model_uses_one_core_for_several_callers_and_all_cores_for_one(folder: Path) -> None:
    """The callers' own threads keep their cores, and so does `sample`, which uses no queue."""
    if _find_core_setter() is None:
        pytest.skip("no OpenMP that can be told by thread")
    engine, cores, before = tiny_engine(folder), set[int](), torch.get_num_threads()

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        cores.add(torch.get_num_threads())

    with engine._get_decoder()._model.borrow() as model:  # not while the worker needs it
        hook = model.get_input_embeddings().register_forward_pre_hook(note)
    torch.set_num_threads(3)
    try:
        engine.sample(requests(["one", "two", "six"], seeds=[0, 0, 0]))
        assert cores == {3}
        cores.clear()
        engine._load_queued()([TokenRequest((1, 2, place), 0, 0.0, 3) for place in range(4)])
        assert cores == {1}
        cores.clear()
        engine.ask(SampleRequest("one"))
        assert cores == {3}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
        hook.remove()


def test_a_request_is_answered_with_its_usage_and_its_reason_to_stop(engine: LocalEngine) -> None:
    response = engine.complete(ask("one", max_tokens=3, temperature=1.0, seed=5))
    expected = engine.sample(requests(["one"], seeds=[5], max_new_tokens=3))[0]
    assert response.text == expected.text
    assert (response.usage.input_tokens, response.usage.output_tokens) == (expected.prompt_tokens, 3)
    assert response.finish_reason == "length"


def test_a_stop_text_cuts_the_reply(engine: LocalEngine) -> None:
    text = engine.complete(ask("one")).text
    response = engine.complete(ask("one", stop=(text[4:6],)))
    assert response.text == text[: text.find(text[4:6])]
    assert response.finish_reason == "stop"


def test_requests_without_a_seed_get_a_new_sample_each_time_and_the_same_in_another_process(folder: Path) -> None:
    def draws() -> list[str]:
        engine = tiny_engine(folder)
        return [engine.complete(ask("one", temperature=1.0)).text for _ in range(3)]

    first = draws()
    assert len(set(first)) == 3
    assert draws() == first


def test_a_prompt_beyond_the_window_fails_for_its_caller_only(engine: LocalEngine) -> None:
    with ThreadPoolExecutor(2) as pool:
        long, short = pool.submit(engine.complete, ask("x" * 600)), pool.submit(engine.complete, ask("one"))
        with pytest.raises(ContextLengthError, match="fewer than 512 tokens"):
            long.result()
        assert short.result().usage.output_tokens


def test_a_reply_is_limited_by_what_the_window_leaves(engine: LocalEngine) -> None:
    room = 512 - engine.sample(requests([""], seeds=[0]))[0].prompt_tokens
    reply = engine.sample(requests(["x" * (room - 2)], seeds=[0]))[0]
    assert reply.tokens <= 2


@pytest.mark.parametrize("setting", [{"top_k": 5}, {"logprobs": 1}, {"response_format": {"type": "json_object"}}])
def test_settings_that_the_engine_does_not_support_are_refused(engine: LocalEngine, setting: dict[str, object]) -> None:
    with pytest.raises(UnsupportedFeatureError, match=next(iter(setting))):
        engine.complete(ask("one", **setting))


def test_a_reply_begins_with_its_opening_which_counts_as_read(engine: LocalEngine) -> None:
    plain, opened = engine.sample(requests(["one"] * 2, seeds=[0, 0], openings=["", "[cot]"], max_new_tokens=6))
    assert opened.text.startswith("[cot]")
    assert opened.prompt_tokens > plain.prompt_tokens
    assert (opened.tokens <= 6, opened.logprob < 0) == (True, True)
    assert engine.ask(SampleRequest("one", seed=0, temperature=1.0, opening="[cot]", max_new_tokens=6)) == opened
    assert engine.sample(requests(["one"], seeds=[0], max_new_tokens=6))[0] == plain


def test_a_small_top_p_takes_the_likeliest_tokens_and_a_large_one_draws_as_without(engine: LocalEngine) -> None:
    prompts, seeds = ["one"] * 8, list(range(8))
    greedy = engine.sample(requests(["one"], seeds=[0], temperature=0.0, max_new_tokens=6))[0]
    narrow = engine.sample(requests(prompts, seeds=seeds, top_p=1e-6, max_new_tokens=6))
    wide = engine.sample(requests(prompts, seeds=seeds, top_p=1.0, max_new_tokens=6))
    half = engine.sample(requests(prompts, seeds=seeds, top_p=0.5, max_new_tokens=6))
    assert {each.text for each in narrow} == {greedy.text}
    assert len({each.text for each in wide}) > 1
    assert half != wide
    alone = [engine.sample(requests(["one"], seeds=[seed], top_p=0.5, max_new_tokens=6))[0] for seed in seeds]
    assert alone == half
    mixed = engine.sample(
        [
            *requests(prompts, seeds=seeds, top_p=0.5, max_new_tokens=6),
            *requests(prompts, seeds=seeds, max_new_tokens=6),
        ]
    )
    assert mixed == [*half, *wide]


def test_a_prompt_that_is_too_long_gets_an_empty_reply_among_others(engine: LocalEngine) -> None:
    long, short = engine.sample(requests(["x" * 600, "one"], seeds=[0, 0], max_new_tokens=4))
    assert (long.text, long.tokens) == ("", 0)
    assert short == engine.sample(requests(["one"], seeds=[0], max_new_tokens=4))[0]
    with pytest.raises(ContextLengthError):
        engine.ask(SampleRequest("x" * 600))


def test_dspy_talks_to_the_model_with_and_without_threads(engine: LocalEngine) -> None:
    lm = dspy.LM(engine.model_name, engine=engine, async_engine=engine.asynchronous(), cache=False, max_tokens=4)
    expected = engine.sample(requests(["one"], seeds=[0], temperature=0.0, max_new_tokens=4))[0].text
    assert lm("one") == [expected]
    assert asyncio.run(lm.acall("one")) == [expected]
    assert engine.model_name == f"sgt/tiny-{engine.fingerprint[:12]}"


def test_an_adapter_changes_replies_and_fingerprint(engine: LocalEngine, folder: Path, tmp_path: Path) -> None:
    adapted = engine.with_adapter(tiny_adapter(folder, tmp_path / "adapter"))
    assert adapted.fingerprint != engine.fingerprint
    assert adapted.sample(requests(["one"], seeds=[0])) != engine.sample(requests(["one"], seeds=[0]))
    assert adapted.with_adapter(None).sample(requests(["one"], seeds=[0])) == engine.sample(
        requests(["one"], seeds=[0])
    )


def test_an_unmerged_adapter_in_half_precision_works_too(folder: Path, tmp_path: Path) -> None:
    adapter = tiny_adapter(folder, tmp_path / "adapter")
    engine = LocalEngine(folder, adapter=adapter, dtype="bfloat16", device="cpu", max_new_tokens=4)
    assert engine.sample(requests(["one", "two"], seeds=[0, 0]))[0].tokens > 0


def test_copies_are_the_same_engine_and_pickles_are_references(engine: LocalEngine) -> None:
    assert copy.deepcopy(engine) is engine
    data = pickle.dumps(engine)
    assert len(data) < 2000
    assert pickle.loads(data).sample(requests(["one"], seeds=[3])) == engine.sample(requests(["one"], seeds=[3]))


def test_a_saved_lm_loads_with_its_engine(engine: LocalEngine) -> None:
    lm = dspy.LM(engine.model_name, engine=engine, async_engine=engine.asynchronous(), cache=False, max_tokens=4)
    restored = dspy.LM.load_state(lm.dump_state(), allow_custom_lm_class=True)
    assert restored("one") == lm("one")


def test_other_weights_than_those_saved_are_refused(tmp_path: Path) -> None:
    state = tiny_engine(tiny_model(tmp_path / "tiny", seed=1)).dump_state()
    tiny_model(tmp_path / "tiny", seed=2)
    with pytest.raises(GeneratorNotFoundError, match="Restore the files"):
        LocalEngine.load_state(state).sample(requests(["one"], seeds=[0]))


def test_the_error_for_a_missing_model_or_adapter_says_what_is_needed(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(GeneratorNotFoundError, match="save_pretrained"):
        LocalEngine(tmp_path / "nothing").check()
    (tmp_path / "empty").mkdir()
    with pytest.raises(GeneratorNotFoundError, match=r"config\.json"):
        LocalEngine(tmp_path / "empty").check()
    with pytest.raises(GeneratorNotFoundError, match="PEFT"):
        LocalEngine(folder, adapter=tmp_path / "empty").check()


def test_pickled_weights_are_refused_and_next_to_safetensors_never_opened(tmp_path: Path, folder: Path) -> None:
    model = shutil.copytree(folder, tmp_path / "model")
    (model / "pytorch_model.bin").write_bytes(b"no weights at all")
    assert tiny_engine(model).sample(requests(["one"], seeds=[0])) == tiny_engine(folder).sample(
        requests(["one"], seeds=[0])
    )
    (model / "model.safetensors").unlink()
    with pytest.raises(GeneratorNotFoundError, match=r"got only \['pytorch_model.bin'\].*safe_serialization=True"):
        LocalEngine(model).check()
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(GeneratorNotFoundError, match=r"got only \['adapter_model.bin'\]"):
        LocalEngine(folder, adapter=adapter).check()


def test_a_hub_that_has_no_answer_is_an_error_that_says_which_folder_would_do() -> None:
    with pytest.raises(GeneratorNotFoundError, match=r"`hf download no-such/model --local-dir FOLDER` and pass that"):
        LocalEngine("no-such/model").check()


def test_an_error_of_the_worker_reaches_its_caller(folder: Path) -> None:
    broken = LocalEngine(folder, dtype="float7", device="cpu")
    with pytest.raises(dspy.lm15.ProviderError, match="float7"):
        broken.complete(ask("one"))


def test_an_engine_nobody_uses_is_collected_and_its_worker_ends(folder: Path) -> None:
    engine = tiny_engine(folder)
    before = set(threading.enumerate())
    engine.ask(SampleRequest("one"))
    (worker,) = set(threading.enumerate()) - before
    gone = weakref.ref(engine)
    del engine
    gc.collect()
    worker.join(5)
    assert gone() is None
    assert not worker.is_alive()


def test_the_global_random_state_is_left_alone(engine: LocalEngine) -> None:
    before = torch.random.get_rng_state()
    engine.sample(requests(["one"], seeds=[0]))
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_tokenizer_without_a_chat_template_is_refused(engine: LocalEngine) -> None:
    plain = copy.deepcopy(engine.tokenizer)
    plain.chat_template = None
    with pytest.raises(GeneratorNotFoundError, match="instruction-tuned"):
        render_chat(plain, [{"role": "user", "content": "one"}])


def test_importing_the_package_loads_no_torch() -> None:
    heavy = "[name for name in ('torch', 'transformers', 'peft', 'trl') if name in sys.modules]"
    code = f"import sys, sgt_modules; sgt_modules.LocalEngine; sys.exit(str({heavy}) if {heavy} else 0)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def _greedy(folder: Path, engine: LocalEngine, prompt: str, limit: int) -> tuple[int, list[float], bool]:
    """Prompt length, log-probabilities of the likeliest tokens, and whether the end came: token by token, by hand."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    text = render_chat(engine.tokenizer, [{"role": "user", "content": prompt}])
    ids = engine.tokenizer(text, add_special_tokens=False)["input_ids"]
    start, chosen = len(ids), []
    while len(chosen) < limit:
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        ids.append(int(logprobs.argmax()))
        chosen.append(float(logprobs.max()))
        if ids[-1] == engine.tokenizer.eos_token_id:
            return start, chosen, True
    return start, chosen, False


_ENDS = """
import threading
import time
from sgt_modules.embedded import embedded_actor

actor, answered = embedded_actor(), threading.Event()

def ask(number):
    while True:
        actor(f"question {number}? " * 20)
        answered.set()

for number in range(8):
    threading.Thread(target=ask, args=(number,), daemon=True).start()
answered.wait()
time.sleep(0.2)
raise SystemExit(7)
"""


@pytest.mark.slow
def test_a_script_that_ends_while_a_batch_is_decoded_ends_with_its_own_exit_code() -> None:
    """The interpreter's end in the middle of PyTorch would abort it: 134 for a shell, -6 here."""
    ended = subprocess.run([sys.executable, "-c", _ENDS], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 7, ended.stderr


def test_a_template_that_always_opens_a_thought_is_refused_before_weights_are_loaded(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "tiny")
    template = folder / "chat_template.jinja"
    chat = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant: "
    template.write_text(chat + "<think>\n", encoding="utf-8")
    with pytest.raises(
        GeneratorNotFoundError, match=r"thinking can be switched off.*Use a model that can.*chat_template\.jinja"
    ):
        LocalEngine(folder).check()
    template.write_text(chat + "<think>\n\n</think>\n\n", encoding="utf-8")
    LocalEngine(folder).check()
    template.write_text(chat + "{% if enable_thinking %}<think>\n{% endif %}", encoding="utf-8")
    LocalEngine(folder).check()
