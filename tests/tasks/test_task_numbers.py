"""GSM8K's final number: each written way scores as a person would score it."""

from __future__ import annotations

import random
import re
import time
from decimal import Decimal
from fractions import Fraction

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from number_answers import ANSWERS
from number_chains import CHAINS
from real_rows import real_rows

from optimizers.tasks import task
from optimizers.tasks.gsm8k import final_answer
from optimizers.tasks.numerals import read_final_number

TABLE = [
    # expected, answer, score
    ("18", "18", 1),
    ("18", "18.", 1),
    ("18", "18.0", 1),
    ("18", "$18", 1),
    ("18", "$18.00", 1),
    ("18", "\\$18", 1),
    ("18", "£ 18", 1),
    ("18", "18 dollars", 1),
    ("18", "#### 18", 1),
    ("18", "16 - 3 - 4 = 9 eggs, 9 * 2 = 18\n#### 18", 1),
    ("18", "#### 18 dollars (2 each)", 1),
    ("18", "\\boxed{18}", 1),
    ("18", "\\boxed{\\$18}", 1),
    ("18", "The answer is 18.", 1),
    ("18", "The answer is $18, as 9 * 2 = 18 and 3 + 4 = 7.", 1),
    ("18", "**18**", 1),
    ("18", "$18$", 1),
    ("18", "18 is the answer", 1),
    ("18", "eighteen", 1),
    ("18", "Eighteen dollars", 1),
    ("18", "36/2", 1),
    ("18", "x = 18", 1),
    ("18", "9 * 2 = 18", 1),
    ("18", "18m^2", 1),
    ("18", "18 km/h", 1),
    ("18", "The answer is not 15 but 18", 1),
    ("18", "The answer is 9 * 2 = 18", 1),
    ("18", "Answer: 9 + 9 = 18 eggs, one each", 1),
    ("18", "The answer is 18, since 3 + 4 = 7", 1),
    ("18", "She has 18 of them, not just one.", 1),
    ("18", "<think>The answer is 17.</think> 18", 1),
    ("9", "The answer is 9 * 2 = 18", 0),
    ("1", "18 in all, one each", 0),
    ("20", "20%", 1),
    ("20", "20 percent", 1),
    ("20", "0.2", 0),
    ("2,125", "2125", 1),
    ("2125", "2,125", 1),
    ("2125", "$2,125.00 in all", 1),
    ("2125", "2.125 thousand", 1),
    ("2125", "two thousand one hundred and twenty-five", 1),
    ("2125", "2\u202f125", 1),
    ("125", "2\u202f125", 0),
    ("2125", "2.125", 0),
    ("2000000", "2 million", 1),
    ("5000", "5k", 1),
    ("1500", "1.5e3", 1),
    ("-5", "-5", 1),
    ("-5", "\u22125 degrees", 1),
    ("-5", "minus five", 1),
    ("-5", "5", 0),
    ("5", "-5", 0),
    ("0.5", "1/2", 1),
    ("0.5", "\\frac{1}{2}", 1),
    ("0.5", "½", 1),
    ("1.5", "1 1/2 cups", 1),
    ("1.5", "1½", 1),
    ("0.5", ".5", 1),
    ("0.75", "\\dfrac{3}{4}", 1),
    ("18", "17", 0),
    ("18", "180", 0),
    ("18", "1 8", 0),
    ("18", "18.5", 0),
    ("18", "", 0),
    ("18", "I cannot tell.", 0),
    ("18", "The answer is 17, though 18 is close.", 0),
    ("18", "18 or 19", 0),
    ("19", "18 or 19", 0),
    ("18", "#### 19 (not 18)", 0),
    ("18", "\\boxed{19} and not 18", 0),
    ("18", "1/0", 0),
    ("18", "at 9:18", 0),
    ("18", "2^18", 0),
    ("18", "H18", 0),
]


@pytest.mark.parametrize(("expected", "answer", "score"), TABLE)
def test_an_answer_scores_as_a_person_reads_it(expected: str, answer: str, score: int) -> None:
    found = task("gsm8k").metric(dspy.Example(answer=expected), dspy.Prediction(answer=answer))
    assert found.score == score, found.feedback


def is_right(gold: str, answer: str) -> bool:
    return final_answer(dspy.Example(answer=gold), dspy.Prediction(answer=answer)).score == 1


@pytest.mark.parametrize("kind", ANSWERS)
def test_answers_of_each_kind_are_right_and_wrong_as_a_person_judged_them(kind: str) -> None:
    """A kind may have one answer in twenty that is read otherwise; all kinds together, three in a hundred."""
    apart = [row for row in ANSWERS[kind] if is_right(*row[:2]) != bool(row[2])]
    assert len(apart) <= len(ANSWERS[kind]) / 20, apart


def test_at_least_97_of_100_answers_are_judged_as_a_person_judges_them() -> None:
    rows = [row for kind in ANSWERS.values() for row in kind]
    agreed = sum(is_right(*row[:2]) == bool(row[2]) for row in rows) / len(rows)
    assert agreed >= 0.97
    assert len(rows) >= 394
    assert sum(not right for *_, right in rows) >= len(rows) / 4


@pytest.mark.parametrize(("gold", "others", "reply"), CHAINS)
def test_of_a_worked_solution_the_conclusion_is_read_and_no_sub_answer(
    gold: str, others: tuple[str, ...], reply: str
) -> None:
    assert read_final_number(reply) == Fraction(gold)
    assert not any(is_right(other, reply) for other in others)


def test_there_are_forty_worked_solutions() -> None:
    assert len({reply for *_, reply in CHAINS}) >= 40


HARD = [
    *(
        "1",
        "1,",
        "1,234 ",
        "2 1/2 ",
        "½",
        "²",
        "$",
        "(",
        "[",
        "\\frac",
        "\\text{",
        "<answer>",
        "####",
        "= ",
        " or ",
        "1-",
    ),
    *(
        "- ",
        "10^",
        "* 10^3",
        "\n",
        " ",
        "\n ",
        ". ",
        "? ",
        "one ",
        "a hundred ",
        "and a half ",
        "minus ",
        "not ",
        "1. ",
    ),
    *(
        "Step 1 ",
        "answer to ",
        "the final answer is 1. ",
        "So 1",
        "in total ",
        "to get ",
        "1 dollar and ",
        "since ",
        "wait ",
    ),
]


@pytest.mark.parametrize("piece", HARD)
def test_an_input_of_20_000_letters_is_read_in_a_second(piece: str) -> None:
    for text in ((piece * 20_000)[:20_000], f"answer is 1{piece * 2_000} 2"[:20_000]):
        began = time.process_time()
        read_final_number(text)
        assert time.process_time() - began < 1


def by_hand(text: str) -> Decimal | None:
    """The last number by another way: runs of digits, commas and points, without signs of money."""
    runs = [each.strip(",.") for each in re.split(r"[^\d.,-]+", text)]
    values = [each.replace(",", "") for each in runs if re.fullmatch(r"-?[\d,]*\.?\d+", each)]
    return Decimal(values[-1]) if values else None


WRITTEN = [
    "{}",
    "${}",
    "#### {}",
    "So she has {} left.",
    "**{}**",
    "\\boxed{{{}}}",
    "The answer is {} apples.",
    "= {}%",
]


@given(st.integers(-(10**7), 10**7), st.sampled_from(WRITTEN), st.booleans())
def test_two_ways_of_reading_agree_on_every_usual_form(number: int, form: str, commas: bool) -> None:
    written = form.format(f"{number:,}" if commas else number)
    if number < 0 and "$" in form:
        written = written.replace("$-", "-$")
        assert read_final_number(written) == number
        return
    assert read_final_number(written) == number == by_hand(written)


@given(st.decimals(0, 10**6, places=2))
def test_decimals_are_exact(number: Decimal) -> None:
    assert read_final_number(f"It costs ${number:,}.") == Fraction(number)


@given(st.integers(0, 999_999))
def test_words_come_back_as_the_number_they_name(number: int) -> None:
    assert read_final_number(f"There are {in_words(number)} of them.") == number


SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def in_words(number: int) -> str:
    if number < 20:
        return SMALL[number]
    if number < 100:
        return TENS[number // 10 - 2] + (f"-{SMALL[number % 10]}" if number % 10 else "")
    if number < 1000:
        rest = f" and {in_words(number % 100)}" if number % 100 else ""
        return f"{SMALL[number // 100]} hundred{rest}"
    rest = f" {in_words(number % 1000)}" if number % 1000 else ""
    return f"{in_words(number // 1000)} thousand{rest}"


def test_two_ways_of_reading_agree_on_the_worked_answers_of_all_real_rows() -> None:
    rows = [*real_rows("gsm8k", "train.jsonl"), *real_rows("gsm8k", "test.jsonl")]
    golds = [by_hand(row["answer"].rpartition("####")[2]) for row in rows]
    rng = random.Random(0)
    for index, row in enumerate(rows):
        for other in (index, *rng.sample(range(len(rows)), 20)):
            example = dspy.Example(answer=rows[other]["answer"].rpartition("####")[2].strip())
            score = final_answer(example, dspy.Prediction(answer=row["answer"])).score
            assert score == float(golds[index] == golds[other])


def test_the_last_sentence_of_real_solutions_is_read_without_their_mark() -> None:
    rows = [*real_rows("gsm8k", "train.jsonl"), *real_rows("gsm8k", "test.jsonl")]
    split = [row["answer"].rpartition("####") for row in rows]
    apart = [
        working[-200:] for working, _, gold in split if read_final_number(working.strip()) != read_final_number(gold)
    ]
    assert len(apart) <= len(rows) / 100, apart


def test_the_feedback_tells_how_far_off_it_was() -> None:
    said = [
        final_answer(dspy.Example(answer="18"), dspy.Prediction(answer=each)).feedback
        for each in ("20", "17.5", "many", "18")
    ]
    assert said == [
        "Expected 18, got 20, which is 2 too much.",
        "Expected 18, got 35/2, which is 1/2 too little.",
        "Expected 18, but 'many' has no number.",
        "18 is right.",
    ]
