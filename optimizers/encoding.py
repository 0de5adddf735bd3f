"""Training rows as token ids: the prompt exactly as the engine reads it, and the reply with its end token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from sgt_modules.errors import TrainingError
from sgt_modules.reading import render_chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Texts = Sequence[tuple[str, tuple[str, ...]]]
"""Of each row, the user message and the reply to it: one in SFT, chosen and rejected in DPO."""


@dataclass(frozen=True, slots=True)
class Row:
    """Token ids of a prompt and of its completions, each with its end token.

    >>> Row([1, 2], ([3], [4, 5])).length
    4
    """

    prompt: list[int]
    completions: tuple[list[int], ...]

    @property
    def length(self) -> int:
        """Tokens of the longest sequence."""
        return len(self.prompt) + max(map(len, self.completions))

    @property
    def tokens(self) -> int:
        """Tokens of all sequences: the prompt once with each completion."""
        return sum(len(self.prompt) + len(each) for each in self.completions)


def encode(texts: Texts, tokenizer: PreTrainedTokenizerBase, end: int) -> list[Row]:
    """Rows as token ids.

    Prompt and completion are encoded apart, so that no token crosses the border: the completion's first token is
    predicted from what the model sees at inference. A chat template writes its own special tokens; none is added.
    """
    prompts = {text: render_chat(tokenizer, [{"role": "user", "content": text}]) for text, _ in texts}
    wanted = dict.fromkeys((*prompts.values(), *(reply for _, replies in texts for reply in replies)))
    ids = dict(zip(wanted, tokenizer(list(wanted), add_special_tokens=False)["input_ids"], strict=True))
    return [Row(ids[prompts[text]], tuple([*ids[reply], end] for reply in replies)) for text, replies in texts]


def end_of_turn(stops: int | Sequence[int] | None, tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends a reply: the tokenizer's end token, unless generation stops at others only (`stops`, the
    generation config's `eos_token_id`). Raises `TrainingError` where there is none.
    """
    ends = [] if stops is None else [stops] if isinstance(stops, int) else list(stops)
    own = cast("int | None", tokenizer.eos_token_id)
    if own is None and not ends:
        raise TrainingError(
            f"Expected a model with an end token, got {tokenizer.name_or_path!r} without one, which could never learn "
            "to stop. Set eos_token in its tokenizer."
        )
    return own if own is not None and (own in ends or not ends) else ends[0]


def fitting(rows: Sequence[Row], max_length: int) -> list[Row]:
    """The rows of at most `max_length` tokens. Raises `TrainingError` where that leaves none.

    >>> len(fitting([Row([1, 2], ([3],)), Row([1], ([3],))], max_length=2))
    1
    """
    kept = [row for row in rows if row.length <= max_length]
    if not kept:
        raise TrainingError(
            f"Expected rows of at most max_length={max_length} tokens, got {len(rows)} that are all longer, the "
            f"shortest {min(row.length for row in rows)}. Raise max_length, or shorten the inputs."
        )
    return kept
