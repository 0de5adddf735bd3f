"""Small real things for the tests of the runtime: a random Qwen3 of 20,000 parameters, and a scripted actor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Literal

import dspy
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from sgt_modules import SupplementGenerator
from sgt_modules.local.batching import Share
from sgt_modules.local.engine import LocalEngine

CHAT = (
    "{% for message in messages %}<s>{{ message['role'] }}\n{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = Tokenizer(BPE({letter: place for place, letter in enumerate(alphabet)}, []))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    model.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, eos_token="</s>", pad_token="<pad>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<s>"]})
    tokenizer.chat_template = CHAT
    return tokenizer


def tiny_model(folder: Path, *, seed: int = 0, window: int = 512) -> Path:
    """A random Qwen3 with its tokenizer, as a `transformers` folder."""
    tokenizer = tiny_tokenizer()
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=window,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_adapter(model: Path, folder: Path, *, seed: int = 0, bias: Literal["none", "all"] = "none") -> Path:
    """A random LoRA adapter for a tiny model, as a PEFT folder."""
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = get_peft_model(
            AutoModelForCausalLM.from_pretrained(model),
            LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM", bias=bias),
        )
    adapted.save_pretrained(folder)
    return folder


def tiny_engine(model: Path, *, share: Share = "prefix") -> LocalEngine:
    return LocalEngine(model, dtype="float64", device="cpu", max_new_tokens=12, share=share)


def tiny_generator(model: Path) -> SupplementGenerator:
    return SupplementGenerator(tiny_engine(model), max_new_tokens=12)


class Scripted:
    """An actor for `dspy.LM(engine=...)` that answers every field with `ok` and keeps the requests it got."""

    def __init__(self, *fields: str) -> None:
        self.fields = fields
        self.requests: list[dspy.lm15.Request] = []

    def complete(self, request: dspy.lm15.Request) -> dspy.lm15.Response:
        self.requests.append(request)
        text = "\n\n".join(f"[[ ## {name} ## ]]\nok" for name in self.fields) + "\n\n[[ ## completed ## ]]"
        return dspy.lm15.Response(
            id=None,
            model=request.model,
            message=dspy.lm15.Message.assistant(text),
            finish_reason="stop",
            usage=dspy.lm15.Usage(input_tokens=1, output_tokens=1),
        )

    def stream(self, request: dspy.lm15.Request) -> Iterator[object]:
        return iter(dspy.lm15.response_to_events(self.complete(request)))

    def __deepcopy__(self, memo: dict[int, object]) -> Scripted:
        return self


class AsyncScripted:
    """The same actor for coroutines."""

    def __init__(self, actor: Scripted) -> None:
        self.actor = actor

    async def complete(self, request: dspy.lm15.Request) -> dspy.lm15.Response:
        return self.actor.complete(request)

    async def stream(self, request: dspy.lm15.Request) -> AsyncIterator[object]:
        for event in self.actor.stream(request):
            yield event


def scripted_lm(*fields: str) -> tuple[dspy.LM, Scripted]:
    actor = Scripted(*fields)
    return dspy.LM("scripted/actor", engine=actor, async_engine=AsyncScripted(actor), cache=False), actor
