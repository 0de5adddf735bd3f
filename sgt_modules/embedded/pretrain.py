"""Pretrain the embedded models from scratch: `python -m sgt_modules.embedded.pretrain`.

It trains three actors and one generator, seeded, on the CPU. The weights in the package come from this command.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from sgt_modules.embedded.models import WEIGHTS
from sgt_modules.embedded.rules import pieces as rules_pieces
from sgt_modules.embedded.rules import stream as rules_stream
from sgt_modules.embedded.streams import Turn, stream
from sgt_modules.embedded.tokenizer import END, PAD, START, build_tokenizer, pieces
from sgt_modules.local.devices import bfloat16_is_fast

POOL = 32
"""Batches that are drawn ahead and sorted by length, to save padding."""

TOKENS_A_ROW = 64
"""A batch has about `batch` times as many tokens."""

RULES, HARD_RULES = "rules", "hard rules"
"""The streams of house rules, which have their own vocabulary; the others are of house terms."""

LOG_EVERY = 100
"""Steps between two log lines."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A model's recipe: its size, seed, stream and training length.

    `widening` is the width of the feed-forward layers, as a multiple of the model's width. With `start`, training
    continues from that model's weights, which must have the same size: a generator then already knows how to copy
    words. A second row with the same name continues from the first.
    """

    name: str
    stream: str
    hidden: int
    layers: int
    seed: int
    steps: int
    batch: int = 96
    learning_rate: float = 2.5e-3
    start: str = ""
    widening: int = 3

    def config(self, vocabulary: int, end: int, pad: int) -> Qwen3Config:
        """Build the model's configuration for a vocabulary and its end and padding tokens."""
        return Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.widening * self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.hidden // 32,
            num_key_value_heads=self.hidden // 64,
            head_dim=32,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            eos_token_id=end,
            pad_token_id=pad,
            bos_token_id=None,
        )


FOLLOWER = Recipe(
    "rule-follower", RULES, hidden=128, layers=4, seed=4, steps=3000, batch=24, learning_rate=3e-3, widening=1
)

RECIPES: tuple[Recipe, ...] = (
    Recipe("actor", "actor", hidden=128, layers=4, seed=1, steps=4000),
    Recipe("second-actor", "actor", hidden=192, layers=3, seed=2, steps=1800),
    Recipe("generator", "generator", hidden=128, layers=4, seed=3, steps=1000, learning_rate=2e-3, start="actor"),
    FOLLOWER,
    replace(FOLLOWER, seed=5, steps=2000, learning_rate=2.5e-3, start=FOLLOWER.name),
    replace(FOLLOWER, stream=HARD_RULES, seed=6, steps=1500, learning_rate=2e-3, start=FOLLOWER.name),
    replace(FOLLOWER, seed=7, steps=600, learning_rate=1e-3, start=FOLLOWER.name),
)


Row = tuple[list[int], list[int]]
"""A conversation's token ids and targets."""


class Encoder:
    """Encodes conversations as token ids and targets; a target of -100 is not learned."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._encode = lru_cache(maxsize=4096)(lambda text: tokenizer.encode(text, add_special_tokens=False))

    def __call__(self, turns: list[Turn]) -> Row:
        """Return ids and targets of the same length."""
        ids: list[int] = []
        targets: list[int] = []
        for turn in turns:
            head, body = self._encode(f"{START}{turn.role}\n"), self._encode(f"{turn.content}{END}")
            ids += [*head, *body, *self._encode("\n")]
            targets += [-100] * len(head) + (body if turn.learned else [-100] * len(body)) + [-100]
        return ids, targets


def batches(recipe: Recipe, encode: Encoder, pad: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches of ids and targets, each [rows, width], with similar token counts and rows of similar length."""
    if recipe.stream in (RULES, HARD_RULES):
        more = rules_stream.HARD if recipe.stream == HARD_RULES else ()
        conversations = rules_stream.stream(recipe.seed, more=more)
    else:
        conversations = stream(recipe.stream, recipe.seed)
    shuffle = torch.Generator().manual_seed(recipe.seed)
    while True:
        pool = sorted((encode(next(conversations)) for _ in range(POOL * recipe.batch)), key=lambda row: len(row[0]))
        cuts = list(_cut(pool, recipe.batch * TOKENS_A_ROW))
        for index in torch.randperm(len(cuts), generator=shuffle).tolist():
            width = len(cuts[index][-1][0])
            yield (
                torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in cuts[index]]),
                torch.tensor([targets + [-100] * (width - len(targets)) for _, targets in cuts[index]]),
            )


def _cut(pool: Sequence[Row], budget: int) -> Iterator[list[Row]]:
    """Split rows that are sorted by length into runs of at most `budget` tokens, padding included."""
    rows: list[Row] = []
    for row in pool:
        if rows and len(row[0]) * (len(rows) + 1) > budget:
            yield rows
            rows = []
        rows.append(row)
    yield rows


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate: linear warm-up over 100 steps, then a cosine down to a twentieth."""
    if step < 100:
        return recipe.learning_rate * (step + 1) / 100
    progress = (step - 100) / max(1, recipe.steps - 100)
    return recipe.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


def pretrain(recipe: Recipe, output: Path) -> None:
    """Train a model and save it with its tokenizer as a `transformers` folder."""
    torch.manual_seed(recipe.seed)
    of_rules = recipe.stream in (RULES, HARD_RULES)
    tokenizer = build_tokenizer(rules_pieces.pieces() if of_rules else pieces())
    end, pad = (int(tokenizer.vocab[token]) for token in (END, PAD))
    if recipe.start:
        model = Qwen3ForCausalLM.from_pretrained(output / recipe.start, use_safetensors=True)
    else:
        model = Qwen3ForCausalLM(recipe.config(len(tokenizer), end, pad))
    size = sum(each.numel() for each in model.parameters())
    print(f"{recipe.name}: {size:,} parameters, vocabulary {len(tokenizer)}", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.05)
    began, recent = time.perf_counter(), []
    for step, (ids, targets) in enumerate(itertools.islice(batches(recipe, Encoder(tokenizer), pad), recipe.steps)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        loss = _loss(model, ids, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent.append(loss.item())
        if (step + 1) % LOG_EVERY == 0:
            mean, seconds = sum(recent) / len(recent), time.perf_counter() - began
            print(f"  step {step + 1}/{recipe.steps}  loss {mean:.4f}  {seconds:.0f} s", flush=True)
            recent = []
    model.save_pretrained(output / recipe.name)
    tokenizer.save_pretrained(output / recipe.name)


def _loss(model: Qwen3ForCausalLM, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy over the target tokens; only they go through the output head.

    A processor that must emulate bfloat16 is far faster in single precision.
    """
    learned = targets[:, 1:] != -100
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_is_fast()):
        logits = model.lm_head(model.model(ids).last_hidden_state[:, :-1][learned])
    return cross_entropy(logits.float(), targets[:, 1:][learned])


def main() -> None:
    """Pretrain all models, or the named ones, in the table's order: the generator continues from the actor."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = list(dict.fromkeys(recipe.name for recipe in RECIPES))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(names)}; all by default")
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="where each model's folder goes")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(names):
        parser.error(f"no model {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    for recipe in RECIPES:
        if not arguments.names or recipe.name in arguments.names:
            pretrain(recipe, arguments.output)


if __name__ == "__main__":
    main()
