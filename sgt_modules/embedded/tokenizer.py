"""The embedded models' tokenizer: a table of pieces that may contain spaces; a text gets the fewest pieces.

A model of 1 M parameters on two cores reads a few dozen tokens in a millisecond. So the text that never changes - the
adapter's markers, the instructions, the requests for kinds - must be few tokens. The pieces are listed here instead of
learned, so that an invented word is always its two syllables, and a condition always the same two tokens, at any place.
Other text falls back to characters and bytes: every text can be encoded and decoded.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import dspy

from sgt_modules.embedded.company import TABLES
from sgt_modules.embedded.phrasing import FREE_STYLE, PREDEFINED
from sgt_modules.embedded.program import PROGRAM_SIGNATURES, AnswerInSQL, field_markers
from sgt_modules.embedded.questions import FORMS, INSTRUCTIONS, SYLLABLES
from sgt_modules.generator_prompt import COMPACT
from sgt_modules.kinds import FREE, KINDS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

HOLE = "\0"
"""Marks a place where a text varies."""

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _adapter_pieces() -> Iterator[str]:
    """Yield the text that `dspy.ChatAdapter` writes for a signature, cut at the holes, and again at line ends."""
    adapter = dspy.ChatAdapter()
    for signature in PROGRAM_SIGNATURES:
        inputs = dict.fromkeys(signature.input_fields, HOLE)
        full = dspy.Example(**inputs, **dict.fromkeys(signature.output_fields, HOLE))
        partial = dspy.Example(tables=HOLE, question=HOLE, sql=HOLE)
        for message in adapter.format(signature, cast("Any", [full, partial]), inputs):
            content = message["content"].replace(signature.instructions, HOLE)
            for part in content.split(HOLE):
                yield part
                yield from part.splitlines(keepends=True)
                yield from re.split(r"(\[\[ ## \w+ ## \]\])", part)


def _house_pieces() -> Iterator[str]:
    yield from SYLLABLES
    for table in TABLES.values():
        yield from (table.line, f"{table.line}\n")
        yield from (table.name, f" {table.name}", table.label, f" {table.label}")
        for column in (*table.texts, *table.numbers):
            yield from (column, f" {column}", f"{column} =", f"{column} >", f"{column} <")
        for values in table.texts.values():
            for value in values:
                yield from (f" '{value}'", f" {value}", value)
        for number in table.numbers.values():
            for mark in number.marks:
                yield from (f" {mark}", str(mark))


def _template_pieces() -> Iterator[str]:
    """Yield the fixed text between the holes of every question and query template."""
    hole = re.compile(r"\{\w+\}")
    for form in FORMS:
        for text in (form.sql, *form.questions):
            for part in hole.split(text):
                yield from (part, part.strip())
    yield from (" with ", " over", " under", " where ", " WHERE ", " FROM", " AND ", "SELECT ")


def _supplement_pieces() -> Iterator[str]:
    for kind in (*PREDEFINED, *FREE_STYLE):
        yield from (f"[{kind}] ", f"[{kind}]")
    yield from (" means ", "The table is ", ". ", ".", ". So filter on that.", "About ", "; ", ": ", " is ", " = ")
    yield from ("Do not read ", " as ", "; read it as ", "Right: ", ". Wrong: ", "Filter ", " by ")
    yield from ("1. Use ", ". 2. Check ", ". 3. Answer.")


def _prompt_pieces() -> Iterator[str]:
    """Yield the text of the generator's prompt, cut at the inputs and at the instructions."""
    for kind in (None, *KINDS.values(), FREE, *FREE_STYLE):
        prompt = COMPACT.asking(COMPACT.write(AnswerInSQL, {"tables": HOLE, "question": HOLE}), kind)
        yield from prompt.split(HOLE)
        yield from prompt.replace(INSTRUCTIONS, HOLE).split(HOLE)
    yield from (INSTRUCTIONS, "system\n", "user\n", "assistant\n", "\n\n")
    yield from field_markers()


def pieces() -> list[str]:
    """List the pieces of the vocabulary, each once, in a fixed order."""
    every: Iterable[str] = (
        *string.printable,
        *_prompt_pieces(),
        *_house_pieces(),
        *_template_pieces(),
        *_supplement_pieces(),
        *_adapter_pieces(),
    )
    return list(dict.fromkeys(piece for piece in every if piece))


def build_tokenizer(own_pieces: Sequence[str] | None = None) -> PreTrainedTokenizerFast:
    """Build a fast tokenizer of `transformers` from pieces (by default `pieces()`), with a chat template like Qwen3's.

    Segmentation is Unigram with equal scores, which gives the fewest pieces; unknown characters become bytes.
    """
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import Unigram
    from transformers import PreTrainedTokenizerFast

    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = [(PAD, -100.0), (START, -100.0), (END, -100.0), *((byte, -100.0) for byte in fallback)]
    # Among equally few pieces, a space goes with the word after it: the same segmentation at any place.
    own_pieces = pieces() if own_pieces is None else own_pieces
    vocabulary += [(piece, -1.001 if piece.endswith(" ") else -1.0) for piece in own_pieces]
    model = Tokenizer(Unigram(vocabulary, unk_id=0, byte_fallback=True))
    model.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, eos_token=END, pad_token=PAD, padding_side="left")
    tokenizer.add_special_tokens({"additional_special_tokens": [START]})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
