"""The embedded tokenizer: every text comes back, and the text that never changes is a handful of tokens."""

from __future__ import annotations

import itertools

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgt_modules.embedded.company import SCHEMA
from sgt_modules.embedded.program import PROGRAM_SIGNATURES
from sgt_modules.embedded.streams import stream
from sgt_modules.embedded.tokenizer import END, START, build_tokenizer

TOKENIZER = build_tokenizer()


def encode(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_comes_back_from_its_tokens(text: str) -> None:
    if not any(special in text for special in (START, END, "<|endoftext|>")):
        assert TOKENIZER.decode(encode(text)) == text


@pytest.mark.parametrize("signature", PROGRAM_SIGNATURES, ids=lambda each: ",".join(each.fields))
def test_a_whole_dspy_prompt_is_at_most_fifty_tokens(signature: type[dspy.Signature]) -> None:
    inputs = {"tables": SCHEMA, "question": "How many zoka customers are there?"}
    if "supplement" in signature.input_fields:
        inputs["supplement"] = "[background] zoka means age > 45."
    messages = dspy.ChatAdapter().format(signature, [], inputs)
    prompt = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert len(encode(prompt)) <= 50


def test_a_conversation_is_tokenized_alike_in_one_piece_and_message_by_message() -> None:
    for turns in itertools.islice(stream("actor", 21), 60):
        whole = "".join(f"{START}{turn.role}\n{turn.content}{END}\n" for turn in turns)
        parts = [[f"{START}{turn.role}\n", f"{turn.content}{END}", "\n"] for turn in turns]
        assert encode(whole) == [token for texts in parts for text in texts for token in encode(text)]


def test_a_condition_and_a_word_are_the_same_tokens_wherever_they_stand() -> None:
    condition, word = encode("age > 45"), encode("zoka")
    assert len(condition) == len(word) == 2
    for text in ("[background] zoka means age > 45.", "[definition] zoka = age > 45", "of zoka WHERE age > 45 AND"):
        tokens = encode(text)
        for wanted in (condition, word):
            assert any(tokens[start : start + 2] == wanted for start in range(len(tokens)))
