"""Training rows as token ids: the prompt exactly as the engine reads it, then the reply and its end token.

A reply that a limit cut has no end token: the model would learn to stop at such places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, cast

from sgt_modules.errors import TrainingError
from sgt_modules.local.chat_template import render_chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Target(NamedTuple):
    """A reply to train on; `cut` if a limit ended it, not the model. `advantage` is GRPO's.

    >>> Target("[cot] Add them.").cut
    False
    """

    text: str
    cut: bool = False
    advantage: float = 0.0


Texts = Sequence[tuple[str, tuple[Target, ...]]]
"""For each row the user message, and the replies to it: one in SFT and GRPO, chosen and rejected in DPO."""

_REPLY = "This is the reply."


@dataclass(frozen=True, slots=True)
class TokenRow:
    """Token ids of a prompt and of its completions, each with its end token unless it was cut.

    `advantage` is that of GRPO's only completion.

    >>> row = TokenRow([1, 2], ([3], [4, 5]))
    >>> row.length, row.shared_length
    (4, 5)
    """

    prompt: list[int]
    completions: tuple[list[int], ...]
    advantage: float = field(default=0.0, repr=False)

    @property
    def length(self) -> int:
        """Tokens of the longest sequence."""
        return len(self.prompt) + max(map(len, self.completions))

    @property
    def shared_length(self) -> int:
        """Tokens of a block, which is one sequence: the prompt once, and completions that do not see each other."""
        return len(self.prompt) + sum(map(len, self.completions))

    @property
    def tokens(self) -> int:
        """Tokens of all sequences: the prompt once with each completion."""
        return sum(len(self.prompt) + len(each) for each in self.completions)


def encode(texts: Texts, tokenizer: PreTrainedTokenizerBase, end: int) -> list[TokenRow]:
    """Encode rows as token ids; `end` is the end token.

    Encodes prompt and completion separately, so that no token spans both: the completion's first token is predicted
    from what the model reads at inference. A chat template writes its own special tokens; no other is added.
    """
    prompts = {text: render_chat(tokenizer, [{"role": "user", "content": text}]) for text, _ in texts}
    distinct = list(dict.fromkeys((*prompts.values(), *(reply.text for _, replies in texts for reply in replies))))
    ids = dict(zip(distinct, tokenizer(distinct, add_special_tokens=False)["input_ids"], strict=True))
    return [
        TokenRow(
            ids[prompts[text]],
            tuple([*ids[reply], *([] if cut else [end])] for reply, cut, _ in replies),
            replies[0].advantage,
        )
        for text, replies in texts
    ]


def find_end_token(stops: int | Sequence[int] | None, tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends a reply. `stops` are the tokens that stop generation: the generation config's `eos_token_id`.

    Of several stops, the one that the chat template writes after an assistant's turn. If it writes none of them, the
    tokenizer's own end token if that stops generation, else the first stop. Without stops, the tokenizer's own. Raises
    `TrainingError` if there is neither.
    """
    ends = [] if stops is None else [stops] if isinstance(stops, int) else list(stops)
    own = cast("int | None", tokenizer.eos_token_id)
    if own is None and not ends:
        raise TrainingError(
            f"Expected a model with an end token, got {tokenizer.name_or_path!r} without one, which could never learn "
            "to stop. Set eos_token in its tokenizer."
        )
    if len(ends) > 1:
        written = next((token for token in _tokens_after_reply(tokenizer) if token in ends), None)
        if written is not None:
            return written
    return own if own is not None and (own in ends or not ends) else ends[0]


def _tokens_after_reply(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that the chat template writes after an assistant's turn, in a conversation that continues."""
    turns = [("user", "Question?"), ("assistant", _REPLY), ("user", "Question?")]
    text = render_chat(tokenizer, [{"role": role, "content": content} for role, content in turns])
    return list(tokenizer(text.rpartition(_REPLY)[2], add_special_tokens=False)["input_ids"])


def drop_long_rows(rows: Sequence[TokenRow], max_length: int) -> list[TokenRow]:
    """The rows of at most `max_length` tokens. Raises `TrainingError` if there is none.

    >>> len(drop_long_rows([TokenRow([1, 2], ([3],)), TokenRow([1], ([3],))], max_length=2))
    1
    """
    kept = [row for row in rows if row.length <= max_length]
    if not kept:
        raise TrainingError(
            f"Expected rows of at most max_length={max_length} tokens, got {len(rows)} that are all longer, the "
            f"shortest {min(row.length for row in rows)}. Raise max_length, or shorten the inputs."
        )
    return kept


def describe_long_rows(rows: Sequence[TokenRow], max_length: int) -> list[str]:
    """A note on the rows that `drop_long_rows` drops, none if it keeps all.

    >>> describe_long_rows([TokenRow([1], ([2],)), TokenRow([1, 2, 3], ([4],))], max_length=3)[0][:84]
    '1 of 2 rows had more than max_length=3 tokens (the longest 4) and took no part in tr'
    """
    lengths = [row.length for row in rows]
    count = sum(length > max_length for length in lengths)
    if not count:
        return []
    note = (
        f"{count} of {len(rows)} rows had more than max_length={max_length} tokens (the longest {max(lengths)}) and "
        "took no part in training; none was cut. Raise max_length, or shorten the inputs."
    )
    return [note]
