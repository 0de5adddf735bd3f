"""A DPO round of 1,000 pairs, 20 samples a query, of 1,000 prompt and 100 completion tokens: ours and TRL's.

The model is a Qwen3 of four layers with random weights, and the texts are random. Completions are made of sixteen
words: chosen ones take three fifths of theirs from the first eight, rejected ones two fifths. See
`preference_rounds.py` for what is equal on both sides. TRL takes minutes, so there is one repeat, and it tries steps of
8 pairs alone.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from preference_rounds import STEPS_OF_8, Round, compare
from random_model import CHAT_TOKENS, Shape, write_model

from optimizers.core.records import Query, Reward, Rollout
from optimizers.sgt.preference_pairs import preference_pairs
from sgt_modules.kinds import KINDS, Supplement

BAR = 8.0
PROMPT, COMPLETION = 1000, 100
PAIRS, SAMPLES, QUERIES = 1000, 20, 30
LEARNING_RATE = 3e-3
WAYS, TRIED_ON = STEPS_OF_8, 32

OFTEN = 0.6
"""The share of a chosen completion's words that come from the first half; of a rejected one's, the rest."""

FOUR_LAYERS = Shape(
    hidden_size=64,
    num_hidden_layers=4,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=32,
    intermediate_size=192,
    vocab_size=2048,
    max_position_embeddings=2048,
)
WORDS = 2000
"""The words of prompts; completions use the first `2 * FEW`, in two halves."""

FEW = 8


def supplements(rng: random.Random) -> Iterator[Rollout]:
    """Return twenty supplements a query, of four kinds; eight of them won."""
    kinds = list(KINDS)[:4]
    for index in range(QUERIES):
        prompt = " ".join(f"w{rng.randrange(WORDS)}" for _ in range(PROMPT - CHAT_TOKENS))
        for number in range(SAMPLES):
            won = number // 4 % 2
            first = OFTEN if won else 1 - OFTEN
            halves = [rng.random() >= first for _ in range(COMPLETION - 2)]
            text = " ".join(f"w{rng.randrange(FEW) + half * FEW}" for half in halves)
            supplement = Supplement(kinds[number % 4], text)
            yield Rollout(Query(str(index), index, "self", prompt), "dpo", "direct", supplement, Reward(float(won)))


def main() -> None:
    """Measure, print a table, and then the figure."""
    every = preference_pairs(supplements(random.Random(0)), rng=random.Random(0))
    border = every[PAIRS - 1].query
    held = [pair for pair in every[PAIRS:] if pair.query != border]
    with tempfile.TemporaryDirectory() as scratch:
        model = write_model(FOUR_LAYERS, Path(scratch) / "model")
        round_ = Round(model, every[:PAIRS], held, LEARNING_RATE, PROMPT + COMPLETION, 1, WAYS, TRIED_ON)
        compare(round_, "seconds of a DPO round of 1,000 pairs, 1,000 + 100 tokens", BAR)


if __name__ == "__main__":
    main()
