"""What becomes of a model's raw reply, whatever it wrote."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgt_modules.kinds import KINDS, SILENCE, Supplement, parse
from sgt_modules.replies import read_reply, remove_thoughts, trim_to_sentence

TEXT = "Mind the units."
WORDS = " ".join(f"Word{n} {'is' if n % 9 else 'ends.'}" for n in range(1_000))


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (f"[Hint]: {TEXT}", "hint"),
        (f"[Hint] - {TEXT}", "hint"),
        (f"**[Hint]** {TEXT}", "hint"),
        (f"**[Hint]:** {TEXT}", "hint"),
        (f"**[Hint]**: {TEXT}", "hint"),
        (f"**[Hint] {TEXT}**", "hint"),
        (f"## [Hint]\n\n{TEXT}", "hint"),
        (f"[**Common Mistakes**] {TEXT}", "common_mistakes"),
        (f"[Hint: {TEXT}]", "hint"),
        (f"[One-Shot] {TEXT}", "one_shot"),
        (f"[mistakes] [mistakes] {TEXT}", "mistakes"),
        (f"[mistakes] **[Mistakes]:** {TEXT}", "mistakes"),
        (f"[mistakes]{TEXT}", "mistakes"),
        (f"[[units] {TEXT}", "units"),
        (f"[[units]] {TEXT}", "units"),
        (f"[ [**Units**]: {TEXT}", "units"),
        (f"units] {TEXT}", "units"),
        (f"[mistakes] mistakes] {TEXT}", "mistakes"),
    ],
)
def test_a_named_kind_is_read_however_its_brackets_are_dressed(reply: str, kind: str) -> None:
    assert read_reply(reply, kind="background") == Supplement(kind, TEXT)


def test_a_note_ends_where_its_kind_is_named_again() -> None:
    said = "[mistakes] Mind the units.\n\n[mistakes] Mind the units.\n\n[mistakes] Mind the"
    assert read_reply(said, ended=False) == Supplement("mistakes", "Mind the units.")
    assert not read_reply(said, ended=False).cut
    assert read_reply("[unit check] Seconds. [Unit-Check] Minutes.").text == "Seconds."
    assert read_reply("[cot] Add.\n[answer] 4").text == "Add.\n[answer] 4"
    assert read_reply("[cot] [cot] Add.").text == "Add."


def test_an_untagged_reply_is_of_the_kind_that_was_asked_for_and_free_if_none_was() -> None:
    assert read_reply(TEXT, kind="mistakes") == Supplement("mistakes", TEXT)
    assert read_reply(TEXT) == Supplement("free", TEXT)


@pytest.mark.parametrize(
    "reply",
    [
        "[docs](https://example.org) say so.",
        "[https://example.org] says so.",
        "[3] is the index.",
        "[[1, 2], [3]] is a list of lists.",
        "docs](https://example.org) say so.",
        "Take rows[0] first.",
    ],
)
def test_brackets_that_name_no_kind_stay_in_the_text(reply: str) -> None:
    assert read_reply(reply, kind="cot") == Supplement("cot", reply)


def test_a_list_keeps_its_first_dash_and_an_answer_its_sign() -> None:
    assert read_reply("[summary] - one\n- two").text == "- one\n- two"
    assert read_reply("[answer] -5").text == "-5"


def test_another_kind_behind_the_first_is_part_of_the_text() -> None:
    assert read_reply("[cot] [answer] 4") == Supplement("cot", "[answer] 4")


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("reply", ["", "  \n", "[", "[mistakes]", "[none]", "[None] of it helps.", "[mistakes] [none]"])
def test_what_says_nothing_is_silence(reply: str, ended: bool) -> None:
    assert read_reply(reply, kind="mistakes", ended=ended) is SILENCE


@pytest.mark.parametrize(
    ("reply", "rest"),
    [
        ("<think>\nIs it 5?\n</think>\n\n[cot] Add.", "\n\n[cot] Add."),
        ("Is it 5? </think>[cot] Add.", "[cot] Add."),
        ("[cot] Add.<Thinking>Is it", "[cot] Add."),
        ("<think>a<think>b</think>c</think>[cot] Add.", "[cot] Add."),
        ("<think>", ""),
    ],
)
def test_thoughts_are_removed(reply: str, rest: str) -> None:
    assert remove_thoughts(reply) == rest


def test_a_thought_behind_the_forced_opening_is_removed_and_the_kind_stays() -> None:
    assert read_reply(f"[mistakes] <think>Which?</think>\n{TEXT}") == Supplement("mistakes", TEXT)
    assert read_reply(f"[mistakes] Which?</think>\n{TEXT}", kind="mistakes") == Supplement("mistakes", TEXT)
    assert read_reply("[mistakes] <think>Which are there", kind="mistakes", ended=False) is SILENCE


@pytest.mark.parametrize(
    ("reply", "whole"),
    [
        ("Add. Then mul", "Add."),
        ("Add them!", "Add them!"),
        ('He says "add." Then', 'He says "add."'),
        ("Use it (always.) And", "Use it (always.)"),
        ("Add. Use e.g. the", "Add."),
        ("Add. Use e.g.", "Add."),
        ("Add. It costs 3.5 or", "Add."),
        ("Add. It costs 3.", "Add."),
        ("It costs 35. Then", "It costs 35."),
        ("Add. Join on t.id and", "Add."),
        ("Add. Join singer.id to singer.", "Add."),
        ("Ask Dr. Who", ""),
        ("Ask George W. Bush", ""),
        ("The answer is B. As", "The answer is B."),
        ("See no. 5 of it", ""),
        ("It says no. Then", "It says no."),
        ("Add. 2. Multiply", "Add."),
        ("1. Add.\n2. Mul", "1. Add."),
        ("1. Add them\n2.", "1. Add them"),
        ("Add.\n\nExamples:\n1", "Add."),
        ("SELECT a\nFROM t\nWHERE x", "SELECT a\nFROM t"),
        ("```sql\nSELECT 1\n```\nThen", "```sql\nSELECT 1\n```"),
        ("Like this.\n```sql\nSEL", "Like this."),
        ("Use `x. y and", ""),
        ("请注意单位。然后", "请注意单位。"),
        ("इकाई देखें। फिर", "इकाई देखें।"),
        ("Achten Sie z.B. auf Einheiten. Dann", "Achten Sie z.B. auf Einheiten."),
        ("¿Qué unidad? Entonces", "¿Qué unidad?"),
        ("nothing whole", ""),
        ("", ""),
    ],
)
def test_a_cut_reply_ends_with_its_last_whole_sentence_or_line(reply: str, whole: str) -> None:
    assert trim_to_sentence(reply) == whole
    assert read_reply(f"[cot] {reply}", ended=False) == (Supplement("cot", whole) if whole else SILENCE)


def test_only_a_reply_that_the_limit_ended_is_cut() -> None:
    assert read_reply("[cot] Add. Then", ended=False).cut
    assert read_reply("[cot] Add.", ended=False).cut
    assert not read_reply("[cot] Add. Then").cut
    assert read_reply("[cot] Add. Then").text == "Add. Then"


def test_a_rambling_of_two_thousand_words_is_read() -> None:
    found = read_reply(f"[cot] {WORDS}", ended=False)
    assert (found.kind, found.text[-5:]) == ("cot", "ends.")
    assert len(found.text.split()) > 1_900


@pytest.mark.parametrize("piece", ["<think>", "</think>", "[a] ", "a. ", "e.g. ", "**[", "[a: ", "``` ", ".", "1. "])
def test_an_endless_reply_is_read_soon(piece: str) -> None:
    began = time.process_time()
    read_reply(piece * 5_000, ended=False)
    assert time.process_time() - began < 2


PIECES = [
    "[",
    "]",
    "[cot]",
    "**",
    ":",
    "-",
    "<think>",
    "</think>",
    "Add.",
    "e.g.",
    "3.",
    "\n",
    " ",
    "```",
    "。",
    "[none]",
]


@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join)), st.booleans())
def test_any_reply_is_read_and_a_cut_one_is_part_of_the_whole(reply: str, ended: bool) -> None:
    found = read_reply(reply, kind="cot", ended=ended)
    assert found == SILENCE or (found.text and found.text == found.text.strip())
    assert trim_to_sentence(reply) in reply


@given(st.sampled_from(sorted(KINDS)), st.from_regex(r"[A-Za-z0-9][A-Za-z0-9 .,\n]{0,60}", fullmatch=True))
def test_a_rendered_supplement_reads_as_it_always_did(kind: str, text: str) -> None:
    rendered = Supplement(kind, text).render()
    assert read_reply(rendered) == parse(rendered)


LOOPS = {
    "Mind them. Join on the singer's id. Join on the singer's id. Join on": "Mind them. Join on the singer's id.",
    "The note.\n[detail]\nIt is a query on two tables.\n[detail_2]\nIt is a query on two tables.\n[det": (
        "The note.\n[detail]\nIt is a query on two tables.\n[detail_2]"
    ),
    "A table:\n```\n```\n```\n```\n```": "A table:\n```",
    "先数歌手的编号再连接两个表最后再排序。" * 2 + "先数": "先数歌手的编号再连接两个表最后再排序。",
}


@pytest.mark.parametrize("text", LOOPS)
def test_a_reply_that_repeats_itself_until_the_limit_is_whole_up_to_there(text: str) -> None:
    assert read_reply(f"[hint] {text}", ended=False) == Supplement("hint", LOOPS[text])


def test_a_reply_that_the_model_ended_may_say_a_thing_twice() -> None:
    twice = "Join on the singer's id. Count. Join on the singer's id."
    assert read_reply(f"[hint] {twice}") == Supplement("hint", twice)


def test_short_lines_of_code_may_come_again_in_a_reply_that_is_cut() -> None:
    code = "CREATE TABLE a (\n    id INT\n);\nCREATE TABLE b (\n    id INT\n);\nSELECT"
    assert read_reply(f"[hint] {code}", ended=False) == Supplement("hint", code.removesuffix("\nSELECT"), cut=True)
