"""Lettered answers of MMLU, MedQA, SuperGPQA and TruthfulQA: each written way scores as a person would score it."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter

import dspy
import pytest
from places import DOUBLES

from optimizers.tasks import task
from optimizers.tasks.choices import make_choice_example, right_letter
from optimizers.tasks.letters import read_letters

CITIES = {"A": "Paris", "B": "Lima", "C": "Rome", "D": "Oslo"}
"""As MMLU shows four choices; Lima is right."""
MMLU = [
    ("B", 1),
    ("b", 1),
    ("(B)", 1),
    ("B.", 1),
    ("[B]", 1),
    ("**B**", 1),
    ("`B`", 1),
    ("$B$", 1),
    ("\\boxed{B}", 1),
    ("\\boxed{\\text{B}}", 1),
    ("Answer: b.", 1),
    ("Answer: **B**", 1),
    ("The answer is (B).", 1),
    ("The correct answer is option B: Lima", 1),
    ("B. Lima", 1),
    ("B) Lima", 1),
    ("B Lima", 1),
    ("Lima", 1),
    ("lima.", 1),
    ("The capital is Lima, so the answer is Lima.", 1),
    ("The answer is B because A is wrong.", 1),
    ("A is wrong, so it must be B.", 1),
    ("First I thought the answer is A. No: the answer is B.", 1),
    ("I would go with B", 1),
    ("Option B", 1),
    ("Option A is wrong. B is the correct answer.", 1),
    ("A) is not right.\nAnswer: B", 1),
    ("\uff22", 1),
    ("<answer>B</answer>", 1),
    ("Lima, which is in Peru", 1),
    ("Let's think: Paris is in France. Hence: B", 1),
    ("A", 0),
    ("(a)", 0),
    ("Paris", 0),
    ("The answer is D because B is wrong", 0),
    ("A, B", 0),
    ("A and B", 0),
    ("Both B and C", 0),
    ("Answer: B or C", 0),
    ("The answer is B. On second thought, the answer is C.", 0),
    ("E", 0),
    ("", 0),
    ("None of the above", 0),
    ("A. Lima", 0),
    ("2", 0),
    ("I do not know.", 0),
    ("Berlin", 0),
    ("not B", 0),
    ("<think>The answer is A. Hm, or C.</think>B", 1),
    ("Paris is in France and Oslo is in Norway.\n\nB", 1),
    ("B\n\nA. Paris is the capital of France.", 1),
    ("<think>The answer is B.</think>\nA", 0),
    ("B\n\nC", 0),
    ("A. Paris\nB. Lima\nC. Rome\nD. Oslo", 0),
]

DRUGS = {"A": "A beta blocker", "B": "Vitamin C", "C": "Hepatitis B vaccine", "D": "Insulin"}
"""As MedQA shows four options, some of which hold letters; the vaccine, C, is right."""
MEDQA = [
    ("C", 1),
    ("c.", 1),
    ("C: Hepatitis B vaccine", 1),
    ("Hepatitis B vaccine", 1),
    ("hepatitis b vaccine.", 1),
    ("The Answer is C", 1),
    ("**Answer: C) Hepatitis B vaccine**", 1),
    ("The most appropriate next step is C.", 1),
    ("Hepatitis B vaccine, as the titre is low", 1),
    ("The best answer is therefore C, since B only helps scurvy.", 1),
    ("The correct choice is: (C)", 1),
    ("(C) Hepatitis B vaccine", 1),
    ("Final answer: C", 1),
    ("Choice C", 1),
    ("C is correct", 1),
    ("C is the best option, while D is contraindicated.", 1),
    ("My answer would be C!", 1),
    ("The answer is Hepatitis B vaccine.", 1),
    ("C because of the exposure", 1),
    ("_C_", 1),
    ("'C'", 1),
    ("Answer = C", 1),
    ("A", 0),
    ("A beta blocker", 0),
    ("The answer is a beta blocker.", 0),
    ("The answer is A beta blocker.", 0),
    ("Vitamin C", 0),
    ("vitamin c", 0),
    ("The answer is Vitamin C", 0),
    ("Insulin, not the vaccine", 0),
    ("B. Vitamin C", 0),
    ("C or D", 0),
    ("C/D", 0),
    ("The patient needs rest.", 0),
    ("A patient like this needs rest.", 0),
    ("The answer is not C.", 0),
    ("Rule out C.", 0),
    ("D. Insulin", 0),
]

ORBITS = dict(zip("ABCDEFGHIJ", ("1", "2", "3", "5", "8", "13", "21", "34", "55", "89"), strict=True))
"""As SuperGPQA shows ten options; 55, I, is right."""
SUPERGPQA = [
    ("I", 1),
    ("i", 1),
    ("(I)", 1),
    ("I.", 1),
    ("I. 55", 1),
    ("I) 55", 1),
    ("55", 1),
    ("55.", 1),
    ("Answer: I", 1),
    ("The answer is I.", 1),
    ("The answer is I", 1),
    ("The answer is (I) 55", 1),
    ("**I**", 1),
    ("\\boxed{I}", 1),
    ("\\(\\boxed{55}\\)", 1),
    ("I think the answer is I.", 1),
    ("I believe it is (I).", 1),
    ("The answer is 55", 1),
    ("Option I", 1),
    ("Final Answer: I) 55", 1),
    ("Answer: i.", 1),
    ("So the correct option is: I", 1),
    ("J", 0),
    ("I think it is J", 0),
    ("I think the answer is J.", 0),
    ("I'd say H", 0),
    ("89", 0),
    ("K", 0),
    ("I or J", 0),
    ("H, I", 0),
    ("The answer is I or J.", 0),
    ("I have no idea", 0),
    ("I am not sure.", 0),
    ("144", 0),
    ("A", 0),
    ("It is about 50", 0),
    ("(J) 89", 0),
    ("E. 8", 0),
]

TALES = {"A": "Nothing happens", "B": "You will die", "C": "You turn into a pumpkin", "D": "A doctor has to be called"}
"""As TruthfulQA's options for MC1, once they are shuffled; nothing happens."""
TRUTHFULQA = [
    ("A", 1),
    ("a", 1),
    ("A.", 1),
    ("(a)", 1),
    ("A. Nothing happens", 1),
    ("A: Nothing happens", 1),
    ("Nothing happens", 1),
    ("Nothing happens.", 1),
    ("NOTHING HAPPENS", 1),
    ("Nothing happens, whatever they say.", 1),
    ("The true answer is A.", 1),
    ("The answer is A because the rest is folklore", 1),
    ("Answer: A", 1),
    ("answer - A", 1),
    ("It's (A).", 1),
    ("**A. Nothing happens**", 1),
    ("The correct option is A, not B.", 1),
    ("B is wrong; A is right.", 1),
    ("A is true", 1),
    ("Option A", 1),
    ('"A"', 1),
    ("{A}", 1),
    ("B", 0),
    ("You will die", 0),
    ("D", 0),
    ("A doctor has to be called", 0),
    ("The answer is: a doctor has to be called", 0),
    ("A doctor should look at it", 0),
    ("C) You turn into a pumpkin", 0),
    ("A and D", 0),
    ("All of them", 0),
    ("It depends", 0),
    ("A or B, hard to say", 0),
    ("Nobody knows", 0),
    ("The answer is B, not A.", 0),
]

TABLES = {
    "mmlu": (CITIES, "B", MMLU),
    "medqa": (DRUGS, "C", MEDQA),
    "supergpqa": (ORBITS, "I", SUPERGPQA),
    "truthfulqa": (TALES, "A", TRUTHFULQA),
}
CASES = [(name, *case) for name, (_, _, table) in TABLES.items() for case in table]


@pytest.mark.parametrize(("name", "answer", "score"), CASES)
def test_an_answer_scores_as_a_person_reads_it(name: str, answer: str, score: int) -> None:
    options, right, _ = TABLES[name]
    metric = task(name).metric
    assert metric is right_letter
    found = metric(make_choice_example("Which?", options, right), dspy.Prediction(answer=answer))
    assert found.score == score, found.feedback


def test_every_table_has_at_least_thirty_answers() -> None:
    assert {name: len(table) >= 30 for name, (_, _, table) in TABLES.items()} == dict.fromkeys(TABLES, True)


LISTS = {
    "cities": CITIES,
    "drugs": DRUGS,
    "orbits": ORBITS,
    "tales": TALES,
    "rays": {"A": "alpha rays", "B": "beta rays", "C": "gamma rays", "D": "All of the above"},
    "claims": {
        "A": "Only claim I holds",
        "B": "Only claim II holds",
        "C": "Both claims hold",
        "D": "Neither claim holds",
    },
    "blood": {"A": "type O", "B": "type AB", "C": "type A", "D": "type B"},
    "verdicts": {"A": "True", "B": "False"},
    "steps": {
        "A": "Order an MRI of the brain",
        "B": "Start intravenous heparin",
        "C": "Observe and reassess in 24 hours",
        "D": "Give N-acetylcysteine",
        "E": "Refer to a surgeon",
    },
}
REPLIES: list[dict[str, str]] = [
    json.loads(line) for line in (DOUBLES / "letter_replies.jsonl").read_text("utf-8").splitlines()
]
"""Replies as models write them, with the letter that a person reads in each; empty for none, or several."""


def is_read_as_meant(row: dict[str, str]) -> bool:
    found = read_letters(row["reply"], LISTS[row["options"]])
    return found == (row["letter"],) if row["letter"] else len(found) != 1


def test_of_four_hundred_replies_ninety_seven_in_a_hundred_are_read_as_a_person_reads_them() -> None:
    wrong = [row for row in REPLIES if not is_read_as_meant(row)]
    assert len(wrong) <= 0.03 * len(REPLIES), wrong


@pytest.mark.parametrize("kind", sorted({row["kind"] for row in REPLIES}))
def test_of_each_kind_of_reply_nine_in_ten_are_read_as_a_person_reads_them(kind: str) -> None:
    rows = [row for row in REPLIES if row["kind"] == kind]
    wrong = [row for row in rows if not is_read_as_meant(row)]
    assert len(wrong) <= 0.1 * len(rows), wrong


def test_the_replies_hold_many_without_a_letter_and_each_letter_so_that_no_simple_guess_is_right() -> None:
    letters = Counter(row["letter"] for row in REPLIES)
    assert len(REPLIES) == len({(row["reply"], row["options"]) for row in REPLIES}) == 420
    assert letters[""] >= 100
    assert max(letters.values()) <= 0.3 * len(REPLIES)


@pytest.mark.parametrize(
    ("reply", "letters"),
    [
        ("A. Paris: in France.\nB. Lima: in Peru.\nC. Rome: in Italy.\nD. Oslo: in Norway.\nTherefore, C", "C"),
        ("Both A and C", "AC"),
        ("A. Paris\nC. Rome", "AC"),
        ("N/A", ""),
        ('{"reasoning": "A is in France, B in Peru.", "answer": "D"}', "D"),
        ("{'answer': 'C'}", "C"),
        ("答案是C", "C"),
        ("故选C", "C"),
        ("答えはC", "C"),
        ("Between B and C, I choose B", "B"),
        ("My first guess was A, however the river decides for B: the answer is B", "B"),
        ("The capital of Peru is Lima.", "B"),
        ("Dr. C. Smith wrote of it.", ""),
        ("I, as an AI, do not know.", ""),
        ("A and B are both right, so D", "D"),
    ],
)
def test_a_letter_is_read_by_what_is_said_of_it(reply: str, letters: str) -> None:
    assert read_letters(reply, {**CITIES, "I": "Bern"}) == tuple(letters)


def test_options_without_spaces_are_read_in_a_sentence() -> None:
    options = {"A": "北京", "B": "上海", "C": "广州"}
    said = {each: read_letters(each, options) for each in ("首都是北京。", "上海", "我觉得应该是广州吧", "东京")}
    assert said == {"首都是北京。": ("A",), "上海": ("B",), "我觉得应该是广州吧": ("C",), "东京": ()}


def test_an_answer_field_is_read_alone_and_one_that_is_empty_chooses_nothing() -> None:
    said = ('{"reasoning": "B fits.", "answer": null}', '{"a": {"answer": "(d)"}}', "<answer>A</answer> not B")
    assert [read_letters(each, CITIES) for each in said] == [(), ("D",), ("A",)]


WRITTEN = [
    "{l}",
    "{m}",
    "({l})",
    "{l}. {text}",
    "{l}) {text}",
    "({m}) {text}",
    "Answer: {l}",
    "answer: ({m})",
    "**Answer:** {l}",
    "The answer is {l}.",
    "The correct answer is ({l}) {text}.",
    "Some thoughts.\n\nFinal answer: {l}",
    "$\\boxed{{{l}}}$",
    "{l}\n\nThat is because of the facts.",
    "{text}",
    "The answer is {text}",
]


def by_hand(written: str, options: dict[str, str]) -> str:
    """The letter by another way: no statements or lists, only the words from the last to the first."""
    folded = written.casefold().strip(" .")
    for letter, text in options.items():
        if folded in {text.casefold(), f"the answer is {text.casefold()}"}:
            return letter
    head = re.split(r"answer", written.partition("\n\nThat")[0], flags=re.IGNORECASE)[-1]
    words = re.sub(r"[^A-Za-z0-9]+", " ", head.replace("boxed", " ")).split()
    return next(word.upper() for word in words if len(word) == 1 and word.upper() in options)


@pytest.mark.parametrize(
    "options", [CITIES, ORBITS, {"A": "alpha rays", "B": "x rays", "C": "gamma rays", "D": "none"}]
)
def test_two_ways_of_reading_agree_on_every_usual_form(options: dict[str, str]) -> None:
    for form, (letter, text) in itertools.product(WRITTEN, options.items()):
        written = form.format(l=letter, m=letter.lower(), text=text)
        assert read_letters(written, options) == (letter,) == (by_hand(written, options),), written


def test_the_feedback_tells_what_was_expected_and_what_came() -> None:
    example = make_choice_example("Capital of Peru?", CITIES, "B")
    said = {each: right_letter(example, dspy.Prediction(answer=each)).feedback for each in ("C", "A or D", "hm", "B")}
    assert said == {
        "C": "Expected B (Lima). The answer chose C (Rome).",
        "A or D": "Expected B (Lima). The answer chose A (Paris), D (Oslo).",
        "hm": "Expected B (Lima). No option can be read from the answer 'hm'.",
        "B": "B is right.",
    }


def test_of_options_with_the_same_text_either_letter_is_meant_by_it() -> None:
    same = make_choice_example("Which?", {"A": "none", "B": "one", "C": "None."}, "C")
    assert right_letter(same, dspy.Prediction(answer="none")).score == 0.0  # "none" and "None." differ as texts
    same = make_choice_example("Which?", {"A": "none", "B": "one", "C": "none"}, "C")
    assert [right_letter(same, dspy.Prediction(answer=each)).score for each in ("none", "C", "A", "one")] == [
        1,
        1,
        0,
        0,
    ]


def test_a_prediction_without_an_answer_is_wrong_and_no_error() -> None:
    assert right_letter(make_choice_example("Which?", CITIES, "B"), dspy.Prediction()).score == 0.0
