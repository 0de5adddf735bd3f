"""Reads the final number of an answer, however a model writes it; exact, as a fraction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache, partial
from itertools import pairwise

from optimizers.tasks.concluding import BEHIND, CUE, HEADING, MAX_SENTENCE, find_conclusion, remove_labels
from optimizers.tasks.notation import simplify_notation
from optimizers.tasks.quantities import DIGITS, Quantity, find_quantities, prefer_digits
from optimizers.tasks.replies import FIRST_CHARACTERS, LAST_CHARACTERS, find_boxed, visible_reply

_BARE = re.compile(rf"-?\d{{1,{DIGITS}}}")
_ANSWER_TAG = re.compile(r"<answer>(.{0,2000}?)</answer>", re.S | re.I)
_MARK = re.compile(r"####(?!\s*(?:step|part|problem|question|solution|explanation)\b)\s{0,9}([^\n]*)", re.I)
_BECAUSE = re.compile(r"\b(?:as|because|since|for|where|if|when|given\s+that)\b", re.I)
_AFTERWARDS = re.compile(r"\s(?:after|before|when|while|until|once)\s[^,=]*\Z", re.I)
_LEAD = re.compile(r"\A\W{0,4}(?:since|because|if|when|as|after|with|given)\b[^,]*(?:,(?!\s)[^,]*)*,\s", re.I)
_SO = re.compile(
    r"\b(?:so|therefore|thus|hence|which\s+(?:means|gives|leaves|makes)|leaving|giving|making|bringing|resulting)\b",
    re.I,
)
_CLAUSE = re.compile(r"[,;](?!\d)|\s(?=\()|\b(?:as|because|since|for|where|so)\b", re.I)
_BRACKETS = re.compile(r"\([^()]*\)")
_AT_ONCE = re.compile(r"\W{0,6}(?:(?:therefore|about|approximately|exactly|thus|just|then)\W{1,3})?\Z", re.I)
_OPERATION = re.compile(r"\s?(?:[^\W\d]+\s?){0,2}(?:[*x+\u00f7/-]|times|plus|minus|divided\s+by)\s?[$(]{0,2}\s?", re.I)
_TOTAL = re.compile(r"\b(?:total\s+(?:of|is)|sum\s+of|leav(?:es|ing)|which\s+is)\s*[$]?\s?\Z", re.I)
_GIVEN = re.compile(
    r"\b(?:(?<!in )all|in|at|after|over|within|during|per|every|out\s+of|from|with|than|the|these|those|her|his|their"
    r"|sell(?:s|ing)|buying)"
    r"\s+(?:the\s+)?(?:[^\W\d]+\s+)?[$]?\Z"
    r"|\bfor\s+(?:[^\W\d]+\s+)?\Z",
    re.I,
)
_PURPOSE = re.compile(r"\bto\s+(?:[^\W\d]+\s+){1,4}[$]?\Z", re.I)
_COMPARISON = re.compile(
    r"\W{0,2}(?:\s[^\W\d]+){0,2}\s(?:more|fewer|less|higher|lower|greater|bigger|smaller)\sthan\b", re.I
)
_OR = re.compile(
    r"(?P<unit>(?:\s[^\W\d]+){0,2}),?\s(?:or|maybe|perhaps|possibly)(?:\s(?:it\s)?(?:could|may|might|maybe|perhaps|possibly|even|be))*\s[$]?",
    re.I,
)
_RANGE = re.compile(r"(?:-|\s(?:to|and)\s|\s?(?:±|\+/-|plus\sor\sminus)\s?)[$]?", re.I)
_EQUALS = re.compile(r"\s?=")
_UNIT = re.compile(r"\s?[^\W\d]+")
_NEAR = 40
"""How many characters before a number are read for its meaning."""


@lru_cache(maxsize=64)
def read_final_number(answer: str) -> Fraction | None:
    """Return the final number of an answer; None if it has none or leaves two open ("17 or 18").

    The number comes from the text after the last `####`, the last `\\boxed{}` or the last `<answer>`. Without these, it
    comes from the concluding sentence (see `find_conclusion`): the result of its last equation, or the number that is
    new ("42 eggs in 6 boxes"). Units, currencies, percent signs and `<think>` blocks are skipped. `find_quantities`
    lists the forms of numbers, and `simplify_notation` the markup.

    >>> answers = ("#### 2,125", "She has $18.50 left.", "1 1/2 cups", "twenty-five", "many")
    >>> [read_final_number(each) for each in answers]
    [Fraction(2125, 1), Fraction(37, 2), Fraction(3, 2), Fraction(25, 1), None]
    >>> read_final_number("Answer: 7.\\nSo, there are 6 x 7 = 42 eggs."), read_final_number("40-44")
    (Fraction(42, 1), None)
    """
    if _BARE.fullmatch(answer):
        return Fraction(answer)
    reply = visible_reply(answer)
    tagged, text = _ANSWER_TAG.findall(reply), simplify_notation(reply)[-FIRST_CHARACTERS - LAST_CHARACTERS :]
    places = (_text_after_mark(text), find_boxed(text), simplify_notation(tagged[-1]) if tagged else None)
    for place in places:
        if place and find_quantities(place[:MAX_SENTENCE]):
            return _stated_number(place[:MAX_SENTENCE], first=True)
    if statement := find_conclusion(text):
        return _number_of_sentence(statement.text)
    return _stated_number(text[-MAX_SENTENCE:], first=False)  # the text has only numbers that look like labels


def _text_after_mark(text: str) -> str | None:
    every = [each[:MAX_SENTENCE] for each in _MARK.findall(text) if find_quantities(each[:MAX_SENTENCE])]
    return remove_labels(every[-1]) if every else None


def _number_of_sentence(sentence: str) -> Fraction | None:
    """Return the number that a sentence states, on the proper side of its cue if it has one."""
    if behind := BEHIND.search(sentence):
        before = sentence[: behind.start()]
        if find_quantities(before):
            return _stated_number(before, first=False)
    cues = [each.end() for cue in (HEADING, CUE) for each in cue.finditer(sentence)]
    tail = sentence[cues[-1] :] if cues else ""
    if tail and find_quantities(tail):
        return _stated_number(tail, first=True)
    return _stated_number(sentence, first=False)


def _stated_number(text: str, *, first: bool) -> Fraction | None:
    """Return the number of a sentence's main clause; of several, the `first` or the last that is new."""
    clause = _main_clause(text, first=first)
    every = find_quantities(clause)
    if not every:
        return None
    numbers = prefer_digits(every)
    number = _equation_result(clause, numbers)
    if number is None:
        new = prefer_digits(_drop_given(clause, every))
        numbers = new if new[0].spelled and abs(new[0].value) > 1 else numbers
        number = _drop_given(clause, numbers)[0 if first else -1]
    number = _first_of_alternatives(number, numbers, clause)
    return None if _is_left_open(number, numbers, clause) else number.value


def _main_clause(text: str, *, first: bool) -> str:
    """Remove brackets, reasons and conditions, as long as a number remains."""
    for shorten in (
        partial(_BRACKETS.sub, " "),
        partial(_LEAD.sub, "", count=1),
        partial(_drop_premises, first=first),
        partial(_drop_reasons, first=first),
        partial(_AFTERWARDS.sub, ""),
    ):
        shorter = shorten(text)
        if find_quantities(shorter):
            text = shorter
    return text


def _drop_premises(text: str, *, first: bool) -> str:
    """Keep the text after the last "so", unless the answer comes right at the start: `42, so each gets 14`."""
    numbers = find_quantities(text)
    if first and numbers and _AT_ONCE.match(text[: numbers[0].start].rstrip("$-")):
        return text
    return _SO.split(text)[-1]


def _drop_reasons(text: str, *, first: bool) -> str:
    return (_CLAUSE if first else _BECAUSE).split(text)[0] if "=" not in text or first else text


def _equation_result(text: str, numbers: Sequence[Quantity]) -> Quantity | None:
    """Return the result of the last equation: its side without a calculation, or a total stated after it."""
    signs = [place for place, letter in enumerate(text) if letter == "="]
    for sign, end in zip(reversed(signs), [len(text), *reversed(signs)], strict=False):
        right = [each for each in numbers if sign < each.start < end]
        is_calculation = len(right) > 1 and _OPERATION.fullmatch(text[right[0].end : right[1].start])
        if right and not is_calculation:
            totals = [each for each in _drop_given(text, right) if _TOTAL.search(text[sign + 1 : each.start])]
            return totals[-1] if totals else right[0]
    left = [each for each in numbers if signs and each.start < signs[-1]]
    if left:
        return left[-1]
    return next((each for each in numbers if signs and each.start > signs[-1]), None)


def _drop_given(text: str, numbers: Sequence[Quantity]) -> Sequence[Quantity]:
    """Drop given numbers (`in 6 boxes`, `the 3 friends`), aims (`to walk 10 miles`) and differences."""
    for pattern in (_GIVEN, _PURPOSE):
        kept = [each for each in numbers if not pattern.search(text[max(0, each.start - _NEAR) : each.start])]
        numbers = kept or numbers
    return [each for each in numbers if not _COMPARISON.match(text, each.end)] or numbers


def _first_of_alternatives(number: Quantity, numbers: Sequence[Quantity], text: str) -> Quantity:
    """Return the first of two equal amounts, such as `90 minutes or 1.5 hours`."""
    place = list(numbers).index(number)
    before = numbers[place - 1] if place else number
    return before if _OR.fullmatch(text[before.end : number.start]) else number


def _is_left_open(number: Quantity, numbers: Sequence[Quantity], text: str) -> bool:
    place = list(numbers).index(number)
    pairs = pairwise(numbers[max(0, place - 1) : place + 2])
    return any(one.value != other.value and _are_alternatives(one, other, text) for one, other in pairs)


def _are_alternatives(one: Quantity, other: Quantity, text: str) -> bool:
    """Return whether two numbers are alternatives: `17 or 18`, `40-44`; not `90 minutes or 1.5 hours`."""
    between = text[one.end : other.start]
    if _RANGE.fullmatch(between):
        return not re.search(r"(?<!where )\bfrom\s[$]?\Z", text[max(0, one.start - _NEAR) : one.start])
    joined = None if _EQUALS.match(text, other.end) else _OR.fullmatch(between)
    unit = _UNIT.match(text, other.end)
    return bool(joined) and not (joined["unit"] and unit and joined["unit"].split()[-1] != unit[0].strip())
