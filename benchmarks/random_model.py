"""A randomly initialised Qwen3 of a given shape as a folder, with a tokenizer of the vocabulary's size: no hub.

Such a model's texts mean nothing; its cost equals that of a trained model of its shape. A token is a word, so a text
has exactly the requested number of tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from sgt_modules.kinds import KINDS

START, END, PAD, UNKNOWN = "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|unknown|>"
ROLES = ("system", "user", "assistant")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|> {{ message['role'] }} {{ message['content'] }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)
CHAT_TOKENS = 5
"""The tokens that the template adds to one user message."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A Qwen3's dimensions, named as in its `config.json`; the output head is the embedding table."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int

    def linears(self) -> Iterator[tuple[int, int]]:
        """Return the input and output width of each linear layer in a block."""
        queries, keys = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        yield from ((self.hidden_size, queries), (self.hidden_size, keys), (self.hidden_size, keys))
        yield (queries, self.hidden_size)
        yield from ((self.hidden_size, self.intermediate_size), (self.hidden_size, self.intermediate_size))
        yield (self.intermediate_size, self.hidden_size)

    @property
    def body(self) -> int:
        """Return the weights of all linear layers in all blocks: every token passes through them."""
        return self.num_hidden_layers * sum(reads * writes for reads, writes in self.linears())

    @property
    def head(self) -> int:
        """Return the weights of the output head: a token passes through it if the next one is predicted."""
        return self.hidden_size * self.vocab_size

    def adapter(self, rank: int) -> int:
        """Return the weights of a LoRA adapter on all linear layers of all blocks."""
        return self.num_hidden_layers * rank * sum(reads + writes for reads, writes in self.linears())


SHAPES = {
    # As in the config.json of Qwen/Qwen3-1.7B: 1.72 B weights, of which 0.31 B are the embedding table.
    "qwen3-1.7b": Shape(
        hidden_size=2048,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=6144,
        vocab_size=151_936,
        max_position_embeddings=40_960,
    ),
    "tiny": Shape(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        intermediate_size=64,
        vocab_size=512,
        max_position_embeddings=1024,
    ),
}


def write_model(shape: Shape, folder: Path, *, seed: int = 0) -> Path:
    """Return the model's folder, in bfloat16; write it if it is missing. A GPU draws the weights if there is one."""
    if not (folder / "model.safetensors").is_file():
        tokenizer = word_tokenizer(shape.vocab_size)
        config = Qwen3Config(
            **{name: getattr(shape, name) for name in shape.__slots__},
            rope_theta=1_000_000.0,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            dtype="bfloat16",
        )
        with torch.random.fork_rng(), torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            torch.manual_seed(seed)
            model = Qwen3ForCausalLM(config).to(torch.bfloat16)
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder, max_shard_size="100GB")
    return folder


def word_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of `size` words: marks, roles, the kinds' tags, and `w0`, `w1`, ... for the rest."""
    known = [END, PAD, START, UNKNOWN, *ROLES, *(f"[{kind}]" for kind in KINDS)]
    words = [*known, *(f"w{number}" for number in range(size - len(known)))]
    model = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, unk_token=UNKNOWN))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model, eos_token=END, pad_token=PAD, unk_token=UNKNOWN, additional_special_tokens=[START]
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def random_text(words: int, shape: Shape, rng: random.Random) -> str:
    """Return a text of that many tokens."""
    most = shape.vocab_size - len(ROLES) - len(KINDS) - 4
    return " ".join(f"w{rng.randrange(most)}" for _ in range(words))
