"""The rival of our decoding: transformers' own `generate` over batches of prompts, padded on the left.

Prompts of similar length come together, and a batch ends when its longest reply does: what a careful user writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sgt_modules.local.chat_template import render_chat


class PaddedBatches:
    """A model on the CPU that answers chats in padded batches.

    Args:
        folder: The model's folder.
        dtype: The precision of its weights.
        max_new_tokens: The most tokens of a reply.
    """

    def __init__(self, folder: str | Path, dtype: torch.dtype, max_new_tokens: int) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = cast("Any", AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)).eval()
        stops = self.model.generation_config.eos_token_id
        self._ends = torch.tensor([stops] if isinstance(stops, int) else list(stops))
        self._max_new_tokens = max_new_tokens

    def render(self, prompts: Sequence[str]) -> list[str]:
        """Return each prompt as a user's message in the chat template."""
        return [render_chat(self.tokenizer, [{"role": "user", "content": prompt}]) for prompt in prompts]

    def write(self, texts: Sequence[str], size: int, **settings: object) -> tuple[list[str], int]:
        """Continue rendered chats, `size` of them together; return the replies in order, and their tokens.

        A reply's end token counts, the padding after it does not. With `num_return_sequences` the replies to a text
        are consecutive. Without settings the likeliest tokens are chosen.
        """
        replies: dict[int, list[str]] = {}
        tokens = 0
        with torch.inference_mode():
            for places in self._batches(texts, size):
                asked = [texts[place] for place in places]
                ids = self.tokenizer(asked, add_special_tokens=False, padding=True, return_tensors="pt")
                drawn = self.model.generate(
                    input_ids=ids["input_ids"],
                    attention_mask=ids["attention_mask"],
                    max_new_tokens=self._max_new_tokens,
                    **({"do_sample": False} | settings),
                )[:, ids["input_ids"].shape[1] :]
                ended = torch.isin(drawn, self._ends).int()
                tokens += int((ended.cumsum(1) - ended == 0).sum())
                written = self.tokenizer.batch_decode(drawn, skip_special_tokens=True)
                each = len(written) // len(places)
                replies |= {place: written[at * each : (at + 1) * each] for at, place in enumerate(places)}
        return [reply for place in sorted(replies) for reply in replies[place]], tokens

    def _batches(self, texts: Sequence[str], size: int) -> Iterator[list[int]]:
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        return (order[first : first + size] for first in range(0, len(order), size))
