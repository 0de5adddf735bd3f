"""Short answers of HotpotQA and HLE: each written way scores as a person would score it by the benchmark's rules."""

from __future__ import annotations

import itertools

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_rows import real_rows

from optimizers.tasks import task
from optimizers.tasks.answers import exact_match, f1, normalize, word_f1
from optimizers.tasks.hle import exact_answer, parse_choices

HOTPOTQA = [
    # expected, answer, exact match, F1
    ("Chief of Protocol", "Chief of Protocol", 1, 1),
    ("Chief of Protocol", "chief of protocol", 1, 1),
    ("Chief of Protocol", "The Chief of Protocol.", 1, 1),
    ("Chief of Protocol", "  Chief   of\nProtocol ", 1, 1),
    ("Chief of Protocol", "Chief-of-Protocol", 0, 0),
    ("Chief of Protocol", "Protocol", 0, 1 / 2),
    ("Chief of Protocol", "Chief of Staff", 0, 2 / 3),
    ("Chief of Protocol", "United States Chief of Protocol", 0, 3 / 4),
    ("Chief of Protocol", "ambassador", 0, 0),
    ("Chief of Protocol", "", 0, 0),
    ("Chief of Protocol", "the", 0, 0),
    ("Chief of Protocol", "Protocol of Chief", 0, 1),
    ("Chief of Protocol", "chief chief of protocol", 0, 6 / 7),
    ("yes", "yes", 1, 1),
    ("yes", "Yes.", 1, 1),
    ("yes", "YES!", 1, 1),
    ("yes", "no", 0, 0),
    ("yes", "yes, they were", 0, 0),
    ("yes", "They were", 0, 0),
    ("no", "No", 1, 1),
    ("no", "no way", 0, 0),
    ("No Way Out", "no", 0, 0),
    ("3,677 seated", "3677 seated", 1, 1),
    ("3,677 seated", "3,677", 0, 2 / 3),
    ("3,677 seated", "3 677 seated", 0, 2 / 5),
    ("1969 until 1974", "1969 to 1974", 0, 2 / 3),
    ("1969 until 1974", "1969-1974", 0, 0),
    ("Greenwich Village, New York City", "New York City", 0, 3 / 4),
    ("Greenwich Village, New York City", "Greenwich Village New York City", 1, 1),
    ("Charles Eugène", "Charles Eugene", 0, 1 / 2),
    ("Charles Eugène", "charles eugène", 1, 1),
    ("World's Best Goalkeeper", "Worlds best goalkeeper", 1, 1),
    ("World's Best Goalkeeper", "World\u2019s Best Goalkeeper", 0, 2 / 3),
    ("Mondelez International, Inc.", "Mondelez International", 0, 4 / 5),
    ("The Conversation", "Conversation", 1, 1),
    ("A", "an", 1, 0),
    ("Teen Titans Go!", "Teen Titans, Go", 1, 1),
    ("April 1, 1949", "1 April 1949", 0, 1),
    ("April 1, 1949", "The answer is April 1, 1949", 0, 3 / 4),
]


@pytest.mark.parametrize(("expected", "answer", "exact", "score"), HOTPOTQA)
def test_an_answer_scores_as_hotpotqa_scores_it(expected: str, answer: str, exact: float, score: float) -> None:
    example, prediction = dspy.Example(answer=expected), dspy.Prediction(answer=answer)
    assert exact_match(example, prediction).score == exact
    assert f1(example, prediction).score == pytest.approx(score)


def by_hand(expected: str, came: str) -> tuple[bool, float]:
    """HotpotQA's two figures by another way: letter by letter, and each word struck off where it is met."""

    def words(text: str) -> list[str]:
        kept = "".join(each for each in text.lower() if each not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
        found: list[str] = []
        for word in kept.split():
            parts = word if word not in {"a", "an", "the"} else ""
            found += [parts] if parts else []
        return found

    wanted, got = words(expected), words(came)
    left, common = list(wanted), 0
    for word in got:
        if word in left:
            left.remove(word)
            common += 1
    closed = {"yes", "no", "noanswer"}
    barred = wanted != got and (" ".join(wanted) in closed or " ".join(got) in closed)
    return wanted == got, 0.0 if barred or not common else 2 * common / (len(wanted) + len(got))


WORDS = st.lists(
    st.sampled_from(["the", "A", "red", "Red,", "blue", "no", "yes", "it's", "1,000", "-"]), max_size=6
).map(" ".join)


@given(WORDS, WORDS)
def test_two_statements_of_the_figures_agree(expected: str, came: str) -> None:
    exact, score = by_hand(expected, came)
    assert (normalize(expected) == normalize(came)) == exact
    assert word_f1(expected, came) == pytest.approx(score)


def test_two_statements_of_the_figures_agree_on_all_pairs_of_real_answers() -> None:
    answers = [row["answer"] for row in real_rows("hotpotqa", "dev_question_answer.jsonl")]
    for expected, came in itertools.product(answers, repeat=2):
        exact, score = by_hand(expected, came)
        assert (normalize(expected) == normalize(came), word_f1(expected, came)) == (exact, pytest.approx(score))


def test_the_feedback_of_f1_tells_which_words_are_missing_and_which_are_too_much() -> None:
    example = dspy.Example(answer="Greenwich Village, New York City")
    said = f1(example, dspy.Prediction(answer="the city of New York")).feedback
    assert said == (
        "Expected 'Greenwich Village, New York City', got 'the city of New York': "
        "F1 0.67; missing: greenwich village; too much: of."
    )


CHOICES = "Which is it?\n\nAnswer Choices:\nA. the first\nB. the second\nC. the third\nD. all\nE. none"
HLE = [
    # expected, type, answer, score
    ("42", "exactMatch", "42", 1),
    ("42", "exactMatch", "42.", 1),
    ("42", "exactMatch", "$42$", 1),
    ("42", "exactMatch", "\\boxed{42}", 1),
    ("42", "exactMatch", "The answer is 42", 1),
    ("42", "exactMatch", "Answer: 42.0", 1),
    ("42", "exactMatch", "**42**", 1),
    ("42", "exactMatch", "43", 0),
    ("42", "exactMatch", "", 0),
    ("42", "exactMatch", "42 or 43", 0),
    ("42", "exactMatch", "forty-two", 0),
    ("42%", "exactMatch", "42 %", 1),
    ("42%", "exactMatch", "0.42", 0),
    ("1/2", "exactMatch", "0.5", 1),
    ("1,000", "exactMatch", "1000", 1),
    ("-3", "exactMatch", "\u22123", 1),
    ("-3", "exactMatch", "3", 0),
    ("x^2 + 1", "exactMatch", "$x^2 + 1$", 1),
    ("x^2 + 1", "exactMatch", "1 + x^2", 0),
    ("Euler", "exactMatch", "euler", 1),
    ("Euler", "exactMatch", "  Euler. ", 1),
    ("Euler", "exactMatch", '"Euler"', 1),
    ("Euler", "exactMatch", "Leonhard Euler", 0),
    ("Euler", "exactMatch", "I do not know", 0),
    ("O(n log n)", "exactMatch", "\\(O(n log n)\\)", 1),
    ("B", "multipleChoice", "B", 1),
    ("B", "multipleChoice", "b)", 1),
    ("B", "multipleChoice", "(B) the second", 1),
    ("B", "multipleChoice", "the second", 1),
    ("B", "multipleChoice", "The answer is B, since A is wrong.", 1),
    ("B", "multipleChoice", "A", 0),
    ("B", "multipleChoice", "A and B", 0),
    ("B", "multipleChoice", "the third", 0),
    ("B", "multipleChoice", "F", 0),
    ("E", "multipleChoice", "none", 1),
    ("E", "multipleChoice", "none of these fits", 1),
    ("E", "multipleChoice", "D. all", 0),
]


@pytest.mark.parametrize(("expected", "kind", "answer", "score"), HLE)
def test_an_answer_scores_as_an_exact_match_of_hle(expected: str, kind: str, answer: str, score: int) -> None:
    example = dspy.Example(question=CHOICES, answer=expected, answer_type=kind)
    assert task("hle").metric is exact_answer
    assert exact_answer(example, dspy.Prediction(answer=answer)).score == score


def test_the_tables_have_at_least_thirty_answers_each() -> None:
    assert len(HOTPOTQA) >= 30
    assert len(HLE) >= 30


@given(st.text(alphabet="abXY 12", min_size=1, max_size=8), st.text(alphabet="abXY 12", min_size=1, max_size=8))
def test_without_markup_two_answers_match_exactly_when_their_words_or_their_numbers_do(one: str, other: str) -> None:
    """By hand: the same words in lower case, or both one number with the same value."""
    words = [each.lower().split() for each in (one, other)]
    numbers = [each.strip().isdigit() for each in (one, other)]
    same = bool(words[0]) and words[0] == words[1]
    alike = all(numbers) and int(one.strip()) == int(other.strip())
    example = dspy.Example(question="?", answer=one, answer_type="exactMatch")
    assert exact_answer(example, dspy.Prediction(answer=other)).score == float(same or alike)


def test_choices_are_read_from_the_end_of_a_question_and_its_own_lines_are_none() -> None:
    asked = "A. Turing and\nB. Russell met.\n\nAnswer Choices:\nA. yes\nB. no"
    assert parse_choices(asked) == {"A": "yes", "B": "no"}
