"""A prompt taken apart into sentences: a table of what is one sentence and what is two."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizers.spt.sentences import split_sentences

FENCED = "```python\nx = 1. \ny = a.b\n\nprint(x). Done.\n```\n"

CASES = {
    "abbreviations": ["Ask Dr. Smith, e.g. at 3.5 p.m. today. ", "See Fig. 2, i.e. the left one."],
    "addresses and numbers": ["Visit www.a.com now. ", "Version 1.2.3 is out."],
    "marks": ["Wait... ", "Really?! ", "Think first! ", "Why?"],
    "quotes": ['He said "Stop." and left. ', "We went."],
    "inline code": ["Use `a. B` and `df.head()` here. ", "Then stop."],
    "wrapped lines": ["A sentence that goes\non here. ", "Another\none."],
    "paragraphs": ["No dot at the end\n\n", "A new paragraph. ", "Its end."],
    "bullets": ["Do this:\n", "- First. ", "Then second.\n", "- Other e.g. thing\n", "- No dot\n", "After the list."],
    "numbers": ["1. Read it.\n", "2. Think\n   twice.\n", "3) Answer. ", "Stop."],
    "letters": ["a) one\n", "b) two"],
    "nested": ["- Outer\n", "  - Inner. ", "More.\n", "- Last"],
    "fence": ["Look:\n", FENCED, "Now go. ", "Done."],
    "open fence": ["Look:\n", "~~~\na. B\n"],
    "longer fence": ["````\n```\nx. Y\n```\n````\n", "Go."],
    "heading and table": ["# Rules. All of them\n", "Be kind.\n", "| a. B | c |\n", "|---|---|\n", "After. ", "End."],
    "german": ["Das ist z. B. gut. ", "Dr. Müller kommt gleich. ", "Danke!"],
    "spanish": ["¿Qué tal? ", "¡Bien! ", "Responde."],
    "french": ["Il a dit « Oui. » ", "Puis il est parti."],
    "chinese": ["请先思考。", "然后回答。", "不要猜。"],
    "japanese": ["よく考えてください。", "答えは数字です。"],
    "hindi": ["यह पहला है। ", "यह दूसरा है।"],
    "arabic": ["هذا أول. ", "هل هذا ثان؟ ", "نعم."],
    "languages together": ["请先思考。", "Think. ", "यह पहला है। ", "¡Bien!"],
    "DSPy's own": ["Given the fields `question`, produce the fields `answer`."],
    "white space around": ["\n\n  Hi. ", "There.  \n"],
    "nothing but white space": [" \n"],
    "nothing": [],
}


@pytest.mark.parametrize("expected", CASES.values(), ids=CASES)
def test_a_text_is_taken_apart_where_its_sentences_end(expected: list[str]) -> None:
    assert split_sentences("".join(expected)) == expected


def test_the_language_says_whose_ordinals_count() -> None:
    text = "Dr. Müller kommt am 3. Mai. Danke!"
    assert split_sentences(text, "de") == ["Dr. Müller kommt am 3. Mai. ", "Danke!"]
    assert split_sentences(text) == ["Dr. Müller kommt am 3. ", "Mai. ", "Danke!"]


@given(
    st.lists(st.sampled_from(["A. ", "b", "\n", "- ", "1. ", "```\n", "# ", "| ", "。", "é! ", "  ", "e.g. ", "\r\n"]))
)
def test_sentences_joined_are_the_text_and_each_says_something(pieces: list[str]) -> None:
    text = "".join(pieces)
    found = split_sentences(text)
    assert "".join(found) == text
    assert all(each.strip() for each in found) or found == [text]
