"""Families of models as people use them, small and random: their configs, special tokens and chat templates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

WINDOW = 24
"""Tokens that a sliding window sees: fewer than most prompts have."""

_SIZES: dict[str, object] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "initializer_range": 0.3,
}

_CHATML = (
    "{%- for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{%- endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_QWEN3 = _CHATML.replace(
    "<|im_start|>assistant\n",
    "<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}",
)
_SMOLLM3 = (
    "<|im_start|>system\nToday: {{ strftime_now('%d %B %Y') }}\nReasoning: "
    "{{ '/think' if enable_thinking else '/no_think' }}\n"
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% set messages = messages[1:] %}{% endif %}"
    "<|im_end|>\n"
) + _QWEN3
_LLAMA = (
    "{{ bos_token }}{%- set today = strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024' %}"
    "<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ today }}\n\n"
    "{%- if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% set messages = messages[1:] %}{% endif %}"
    "<|eot_id|>{%- for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{{ message.content | trim }}<|eot_id|>{%- endfor %}"
    "{%- if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_TURNS = (
    "{%- for message in messages %}{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}{%- endif %}"
)
_GEMMA = (
    "{{ bos_token }}"
    "{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{%- endif %}"
    + _TURNS
    + "<start_of_turn>{{ 'model' if message.role == 'assistant' else message.role }}\n"
    "{{ message.content | trim }}<end_of_turn>\n{%- endfor %}"
    "{%- if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_MISTRAL = (
    "{{ bos_token }}"
    + _TURNS
    + "{%- if message.role == 'user' %}[INST] {{ message.content }} [/INST]"
    + "{%- else %} {{ message.content }}{{ eos_token }}{%- endif %}{%- endfor %}"
)


@dataclass(frozen=True, slots=True)
class Family:
    """One family: `begin` stands before every text, `ends` stop a reply (the first is the tokenizer's own)."""

    architecture: str
    template: str
    ends: tuple[str, ...]
    begin: str | None = None
    marks: tuple[str, ...] = ()
    config: Mapping[str, object] = field(default_factory=dict)
    takes_system: bool = True
    tells_date: bool = False


_ALTERNATE = ["sliding_attention", "full_attention", "sliding_attention"]

_GEMMA_2 = Family(
    "gemma2",
    _GEMMA,
    ("<eos>", "<end_of_turn>"),
    "<bos>",
    ("<start_of_turn>",),
    {"sliding_window": WINDOW, "layer_types": _ALTERNATE, "query_pre_attn_scalar": 16},
    takes_system=False,
)

FAMILIES = {
    "Qwen3": Family("qwen3", _QWEN3, ("<|im_end|>", "<|endoftext|>"), marks=("<|im_start|>",)),
    "Llama": Family(
        "llama",
        _LLAMA,
        ("<|eot_id|>", "<|end_of_text|>"),
        "<|begin_of_text|>",
        ("<|start_header_id|>", "<|end_header_id|>"),
        tells_date=True,
    ),
    "Gemma 2": _GEMMA_2,
    "Gemma 3": replace(_GEMMA_2, architecture="gemma3_text"),
    "Mistral": Family(
        "mistral",
        _MISTRAL,
        ("</s>",),
        "<s>",
        ("[INST]", "[/INST]"),
        {"sliding_window": WINDOW},
        takes_system=False,
    ),
    "SmolLM2": Family("llama", _CHATML, ("<|im_end|>",), marks=("<|im_start|>",)),
    "SmolLM3": Family(
        "smollm3",
        _SMOLLM3,
        ("<|im_end|>", "<|end_of_text|>"),
        marks=("<|im_start|>",),
        config={"no_rope_layer_interval": 2},
        tells_date=True,
    ),
    "LFM2 (convolutions)": Family(
        "lfm2",
        "{{ bos_token }}" + _CHATML,
        ("<|im_end|>",),
        "<|startoftext|>",
        ("<|im_start|>",),
        {"layer_types": ["conv", "full_attention", "conv"], "block_ff_dim": 32, "conv_L_cache": 3},
    ),
}


def family_tokenizer(family: Family) -> PreTrainedTokenizerFast:
    """A token a byte and one a mark; encoding by itself puts `begin` in front, as the real ones do."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(BPE({letter: place for place, letter in enumerate(alphabet)}, []))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token=family.begin, eos_token=family.ends[0], pad_token="<pad>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [*family.ends[1:], *family.marks]})
    if family.begin is not None:
        begin = (family.begin, tokenizer.bos_token_id)
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{family.begin} $A", special_tokens=[begin]
        )
    tokenizer.chat_template = family.template
    return tokenizer


def family_model(family: Family, folder: Path) -> Path:
    """A random model of the family with its tokenizer, as a `transformers` folder.

    Its generation settings ask for what hub models ask for, which an engine leaves out.
    """
    tokenizer = family_tokenizer(family)
    ends = [int(tokenizer.convert_tokens_to_ids(end)) for end in family.ends]
    config = AutoConfig.for_model(
        family.architecture,
        **_SIZES,
        **family.config,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.6, top_k=3, top_p=0.9, repetition_penalty=1.5, eos_token_id=ends
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pictures_model(folder: Path) -> Path:
    """A random Gemma 3 of pictures and text, as its larger checkpoints are: a vision tower stands beside."""
    family = FAMILIES["Gemma 3"]
    tokenizer = family_tokenizer(family)
    size, ends = len(tokenizer), [int(tokenizer.convert_tokens_to_ids(end)) for end in family.ends]
    text = {**_SIZES, "sliding_window": WINDOW, "layer_types": _ALTERNATE, "query_pre_attn_scalar": 16}
    sides = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        "gemma3",
        text_config={**text, "vocab_size": size + 3, "pad_token_id": tokenizer.pad_token_id},
        vision_config={**sides, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        image_token_index=size,
        boi_token_index=size + 1,
        eoi_token_index=size + 2,
        eos_token_id=ends,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    model.generation_config = GenerationConfig(eos_token_id=ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
