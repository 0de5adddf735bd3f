"""Training rows as token ids: the prompt exactly as the engine reads it, and the reply with its end token.

No end token stands behind a reply that the model did not end: it would learn to stop where a limit once cut it off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

from sgt_modules.errors import TrainingError
from sgt_modules.local.chat_template import render_chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Target(NamedTuple):
    """A reply to train on; `cut` where the model did not end it itself.

    >>> Target("[cot] Add them.").cut
    False
    """

    text: str
    cut: bool = False


Texts = Sequence[tuple[str, tuple[Target, ...]]]
"""Of each row, the user message and the reply to it: one in SFT, chosen and rejected in DPO."""

_REPLY = "This is the reply."


@dataclass(frozen=True, slots=True)
class Row:
    """Token ids of a prompt and of its completions, each with its end token unless it was cut.

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
    wanted = dict.fromkeys((*prompts.values(), *(reply.text for _, replies in texts for reply in replies)))
    ids = dict(zip(wanted, tokenizer(list(wanted), add_special_tokens=False)["input_ids"], strict=True))
    return [
        Row(ids[prompts[text]], tuple([*ids[reply], *([] if cut else [end])] for reply, cut in replies))
        for text, replies in texts
    ]


def end_of_turn(stops: int | Sequence[int] | None, tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends a reply: of those that stop generation (`stops`, the generation config's `eos_token_id`; the
    tokenizer's own end token where it names none), the one that the chat template writes after an assistant's turn.

    Where the template writes none of them, it is the tokenizer's own, or the first that stops. Raises `TrainingError`
    where nothing would.
    """
    ends = [] if stops is None else [stops] if isinstance(stops, int) else list(stops)
    own = cast("int | None", tokenizer.eos_token_id)
    if own is None and not ends:
        raise TrainingError(
            f"Expected a model with an end token, got {tokenizer.name_or_path!r} without one, which could never learn "
            "to stop. Set eos_token in its tokenizer."
        )
    if len(ends) > 1:
        written = next((token for token in _after_a_reply(tokenizer) if token in ends), None)
        if written is not None:
            return written
    return own if own is not None and (own in ends or not ends) else ends[0]


def _after_a_reply(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the chat template writes after an assistant's turn in a conversation that goes on, as tokens."""
    said = [("user", "Question?"), ("assistant", _REPLY), ("user", "Question?")]
    text = render_chat(tokenizer, [{"role": role, "content": content} for role, content in said])
    return list(tokenizer(text.rpartition(_REPLY)[2], add_special_tokens=False)["input_ids"])


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


def said_of_length(rows: Sequence[Row], max_length: int) -> list[str]:
    """A sentence on the rows that `fitting` leaves out, none if it keeps all.

    >>> said_of_length([Row([1], ([2],)), Row([1, 2, 3], ([4],))], max_length=3)[0][:84]
    '1 of 2 rows had more than max_length=3 tokens (the longest 4) and took no part in tr'
    """
    lengths = [row.length for row in rows]
    count = sum(length > max_length for length in lengths)
    if not count:
        return []
    said = (
        f"{count} of {len(rows)} rows had more than max_length={max_length} tokens (the longest {max(lengths)}) and "
        "took no part in training; none was cut. Raise max_length, or shorten the inputs."
    )
    return [said]
