from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import dspy
import pytest
import torch
from dspy.lm15 import Config, Message, Request
from families import FAMILIES, Family, family_model, family_tokenizer
from runtime_fixtures import tiny_adapter
from sample_requests import requests
from transformers import AutoModelForCausalLM

from optimizers.core.records import SFTExample
from optimizers.training.losses import IGNORED
from optimizers.training.shared_dpo import SharedDPOTrainer
from optimizers.training.side_effects import keep_random_states, silence
from optimizers.training.supervised import SupervisedTrainer
from optimizers.training.tokenisation import Target, Texts, TokenRow, encode, find_end_token
from optimizers.training.trainer import LoRASettings, TrainingSettings
from optimizers.training.trl_arguments import StageInputs
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules.errors import GeneratorNotFoundError
from sgt_modules.local.batching import Share, TokenRequest
from sgt_modules.local.chat_template import render_chat
from sgt_modules.local.decoding import Decoder
from sgt_modules.local.engine import LocalEngine
from sgt_modules.local.loading import LoadedModel
from sgt_modules.samples import SampleRequest

# PEFT 0.21 asks transformers 5.23 by a deprecated name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

PROMPTS = ["one", "two words", "the first of two long ones, past any window", "the first of two long ones", "one"]


@dataclass(frozen=True)
class Shape:
    family: Family
    folder: Path
    engine: LocalEngine


@pytest.fixture(scope="module", params=FAMILIES)
def shape(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shape:
    family = FAMILIES[request.param]
    folder = family_model(family, tmp_path_factory.mktemp("family") / "model")
    return Shape(family, folder, LocalEngine(folder, dtype="float64", device="cpu", max_new_tokens=16))


DIFFERENT = ("Qwen3", "Gemma 3", "LFM2 (convolutions)")
"""Families whose layers differ most: full attention, also sliding windows, also convolutions."""

mostly_slow = pytest.mark.parametrize(
    "shape",
    [pytest.param(name, marks=() if name in DIFFERENT else pytest.mark.slow) for name in FAMILIES],
    indirect=True,
    scope="module",
)
"""A long test: quick on the families that differ most."""


def likeliest(folder: Path, ids: list[int], ends: tuple[int, ...], limit: int) -> list[int]:
    """The likeliest tokens, each from a whole pass without a cache; the first end token is the last of them."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    chosen: list[int] = []
    while len(chosen) < limit and not set(chosen) & set(ends):
        with torch.no_grad():
            logits = model(torch.tensor([[*ids, *chosen]]), use_cache=False).logits
        chosen.append(int(logits[0, -1].argmax()))
    return chosen


def test_a_model_of_each_family_says_what_it_would_say_without_any_cache_or_batch(shape: Shape) -> None:
    tokenizer = shape.engine.tokenizer
    ends = tuple(tokenizer.convert_tokens_to_ids(list(shape.family.ends)))
    replies = shape.engine.sample(requests(PROMPTS, seeds=range(5), temperature=0.0))
    for prompt, reply in zip(PROMPTS, replies, strict=True):
        text = render_chat(tokenizer, [{"role": "user", "content": prompt}])
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        expected = likeliest(shape.folder, ids, ends, 16)
        assert reply.text == tokenizer.decode(expected, skip_special_tokens=True)
        assert reply.tokens == len(expected)


@mostly_slow
@pytest.mark.parametrize("budget", [100_000, 250])
def test_a_sample_does_not_depend_on_its_batch(shape: Shape, budget: int) -> None:
    engine = LocalEngine(shape.folder, dtype="float64", device="cpu", max_batch_tokens=budget, max_new_tokens=16)
    prompts, seeds = PROMPTS * 3, range(15)
    together = engine.sample(requests(prompts, seeds=seeds))
    alone = [engine.sample(requests([prompt], seeds=[seed]))[0] for prompt, seed in zip(prompts, seeds, strict=True)]
    assert [each.text for each in together] == [each.text for each in alone]
    assert [each.logprob for each in together] == pytest.approx([each.logprob for each in alone])
    assert len({each.text for each in together}) > 10


@mostly_slow
def test_a_batch_says_the_same_where_rows_leave_it_as_they_end_and_where_they_stay(shape: Shape) -> None:
    """The first is what a CPU does, the second what a GPU does."""
    loaded = LoadedModel((shape.folder,), device="cpu", dtype="float64")
    leaving, staying = (Decoder(loaded, shape.engine.tokenizer, drop_ended_rows=each) for each in (True, False))
    token_requests = [
        TokenRequest(shape.engine.encoder.encode([{"role": "user", "content": prompt}]), seed, heat, limit)
        for prompt in PROMPTS
        for seed, heat, limit in ((0, 0.0, 16), (1, 1.0, 16), (2, 1.0, 5))
    ]
    for room in (100_000, 250):
        first, second = (decoder.decode(token_requests, room) for decoder in (leaving, staying))
        for request in token_requests:
            assert replace(first[request], logprob=0.0) == replace(second[request], logprob=0.0)
            assert first[request].logprob == pytest.approx(second[request].logprob)


GROUPED = [
    f"{head} {tail}"
    for head in ("The first of two long questions, which two prompts ask.", "The other one, past any window")
    for tail in ("Count.", "Count twice, then say how many.", "Say no more than a word.")
]
"""Prompts of two families, that all begin alike."""


@mostly_slow
def test_prompts_that_share_what_they_begin_with_say_what_each_says_by_itself(shape: Shape) -> None:
    tree, batch = (sharing(shape, share) for share in ("prefix", "batch"))
    asked, seeds = [*GROUPED, *PROMPTS], range(len(GROUPED) + len(PROMPTS))
    for temperature in (0.0, 1.0):
        shared = tree.sample(requests(asked, seeds=seeds, temperature=temperature))
        others = batch.sample(requests(asked, seeds=seeds, temperature=temperature))
        each = zip(asked, seeds, strict=True)
        alone = [tree.sample(requests([one], seeds=[seed], temperature=temperature))[0] for one, seed in each]
        assert [each.text for each in shared] == [each.text for each in others] == [each.text for each in alone]
        assert [each.logprob for each in shared] == pytest.approx([each.logprob for each in alone])


def sharing(shape: Shape, share: Share) -> LocalEngine:
    return LocalEngine(shape.folder, dtype="float64", device="cpu", max_new_tokens=16, share=share)


def test_an_adapter_changes_what_it_says_and_can_be_taken_off(shape: Shape, tmp_path: Path) -> None:
    plain = shape.engine.sample(requests(PROMPTS, seeds=range(5)))
    adapted = shape.engine.with_adapter(tiny_adapter(shape.folder, tmp_path / "adapter"))
    assert adapted.sample(requests(PROMPTS, seeds=range(5))) != plain
    assert shape.engine.sample(requests(PROMPTS, seeds=range(5))) == plain


TURNS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "</s>")
"""What the families' templates write after a reply, one each."""


def rows_of_trainer(
    shape: Shape, texts: Texts, kind: type[SupervisedTrainer | SharedDPOTrainer], folder: Path
) -> list[TokenRow]:
    """The token ids that a trainer's rows hold."""
    tokenizer, bare = shape.engine.tokenizer, AutoModelForCausalLM.from_pretrained(shape.folder)
    rows = encode(texts, tokenizer, find_end_token(bare.generation_config.eos_token_id, tokenizer))
    settings = TrainingSettings(lora=LoRASettings(rank=2), batch_size=2, gradient_checkpointing=False)
    with silence(), keep_random_states():
        trainer = kind.of(StageInputs(bare, tokenizer, rows, settings, folder, seed=0))
    if isinstance(trainer, SharedDPOTrainer):
        pairs = trainer._pairs
        sides = [[pairs.completions[number] for number in couple] for couple in pairs.pairs]
        return [TokenRow(pairs.prompts[one.prompt], (one.ids, other.ids)) for one, other in sides]
    held = list(trainer.train_dataset)
    ends = [row["labels"].count(IGNORED) for row in held]
    assert [row["labels"][end:] for row, end in zip(held, ends, strict=True)] == [
        row["input_ids"][end:] for row, end in zip(held, ends, strict=True)
    ]
    return [TokenRow(row["input_ids"][:end], (row["input_ids"][end:],)) for row, end in zip(held, ends, strict=True)]


@pytest.mark.parametrize("kind", [SupervisedTrainer, SharedDPOTrainer])
def test_training_reads_the_tokens_that_inference_reads(
    shape: Shape, kind: type[SupervisedTrainer | SharedDPOTrainer], tmp_path: Path
) -> None:
    """Each trainer's own rows, token for token what the engine decodes from, and then the reply with its end."""
    prompts, replies = ["Which of them?", "And\n\nhow  many? "], ["[plan] Look.", "[cot] Count."]
    tokenizer, count = shape.engine.tokenizer, 1 if kind is SupervisedTrainer else 2
    rows = rows_of_trainer(shape, [(prompt, tuple(map(Target, replies[:count]))) for prompt in prompts], kind, tmp_path)
    (end,) = [mark for mark in shape.family.ends if mark in TURNS]
    for prompt, row in zip(prompts, rows, strict=True):
        request = shape.engine._make_token_request(Request(model="m", messages=(Message.user(prompt),)))
        assert tuple(row.prompt) == request.ids
        if shape.family.begin is not None:
            assert row.prompt.count(tokenizer.bos_token_id) == 1
        assert [tokenizer.decode(ids) for ids in row.completions] == [f"{reply}{end}" for reply in replies[:count]]


def test_a_reply_learns_to_end_as_the_chat_template_ends_it(shape: Shape) -> None:
    """So the conversation goes on as the model met it before; the end is also one that stops the engine."""
    tokenizer = shape.engine.tokenizer
    stops = AutoModelForCausalLM.from_pretrained(shape.folder).generation_config.eos_token_id
    end = find_end_token(stops, tokenizer)
    said = [("user", "one"), ("assistant", "two"), ("user", "three")]
    text = render_chat(tokenizer, [{"role": role, "content": content} for role, content in said])
    assert text.partition("two")[2].startswith(tokenizer.decode([end]))
    assert end in stops


@mostly_slow
def test_an_adapter_trained_on_any_family_is_worn_by_the_engine(shape: Shape, tmp_path: Path) -> None:
    """One word learned by heart: said, and ended."""
    settings = TrainingSettings(
        lora=LoRASettings(rank=8, alpha=32), batch_size=4, gradient_accumulation=1, sft_epochs=12,
        sft_learning_rate=1e-2, schedule="constant",
    )  # fmt: skip
    rows = [SFTExample("q", "free", "Say it.", "ok")] * 8
    sft = TRLTrainer(shape.folder, settings).sft(rows, start=None, output=tmp_path / "sft", seed=0)
    (reply,) = shape.engine.with_adapter(sft.path).sample(requests(["Say it."], seeds=[0], temperature=0.0))
    assert (reply.text, reply.tokens, reply.cut) == ("ok", 3, False)


def test_a_system_text_is_read_once_whether_or_not_the_family_has_the_role(shape: Shape) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one"}]
    text = render_chat(shape.engine.tokenizer, messages)
    assert text.count("Be brief.") == 1
    assert ("Be brief.\n\none" in text) != shape.family.takes_system
    assert text.index("Be brief.") < text.index("one")


def test_demonstrations_and_neighbours_of_one_role_are_all_read(shape: Shape) -> None:
    said = [("system", "rule"), ("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("user", "q3")]
    text = render_chat(shape.engine.tokenizer, [{"role": role, "content": content} for role, content in said])
    places = [text.index(content) for _, content in said]
    assert places == sorted(places)


def test_thinking_is_off(shape: Shape) -> None:
    text = render_chat(shape.engine.tokenizer, [{"role": "user", "content": "one"}])
    if "<think>" in shape.family.template:
        assert text.endswith("<think>\n\n</think>\n\n")
    assert "/think\n" not in text


def test_a_prompt_is_the_same_every_day(shape: Shape) -> None:
    text = render_chat(shape.engine.tokenizer, [{"role": "user", "content": "one"}])
    assert ("26 Jul" in text) == shape.family.tells_date


def test_dspy_talks_to_it(shape: Shape) -> None:
    lm = dspy.LM(shape.engine.model_name, engine=shape.engine, cache=False)
    config = Config(max_tokens=4)
    request = Request(model=lm.model, system="Be brief.", messages=(Message.user("one"),), config=config)
    assert lm(request).text == shape.engine.complete(request).text
    assert lm("one", max_tokens=4) == [shape.engine.ask(SampleRequest("one", max_new_tokens=4)).text]


def test_single_precision_agrees_with_double(shape: Shape) -> None:
    single = LocalEngine(shape.folder, dtype="float32", device="cpu", max_new_tokens=1)
    double = [
        each.logprob
        for each in shape.engine.sample(requests(PROMPTS, seeds=range(5), temperature=0.0, max_new_tokens=1))
    ]
    replies = single.sample(requests(PROMPTS, seeds=range(5), temperature=0.0))
    assert [each.logprob for each in replies] == pytest.approx(double, abs=1e-3)


def test_a_template_that_takes_no_user_is_refused_with_its_own_words() -> None:
    tokenizer = family_tokenizer(FAMILIES["Mistral"])
    with pytest.raises(GeneratorNotFoundError, match="Roles must alternate"):
        render_chat(tokenizer, [{"role": "assistant", "content": "one"}])
