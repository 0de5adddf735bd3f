"""Short answers compared as text: HotpotQA's exact match and F1, and exact match for open answers."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter

import dspy

from optimizers.tasks.numerals import final_number
from optimizers.tasks.replies import spoken

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CLOSED = ("yes", "no", "noanswer")
"""Answers of which a part is no part of the truth."""
_NUMERAL = re.compile(r"[-+]?[$\u20ac\u00a3]?\s?[\d.,/]+\s?%?")
_WRAPPED = re.compile(
    r"\A(?:\\boxed\s*\{(.*)\}|\$+(.*?)\$+|\\\((.*)\\\)|\\\[(.*)\\\]|\"(.*)\"|\*\*(.*)\*\*)\.?\Z", re.S
)
_LONG = 1_000
"""Letters from which on a text is an essay, whose wrapping is its own."""
_SAID = re.compile(r"\A(?:the\s+)?(?:final\s+|exact\s+)?answer(?:\s+is|\s*:)\s*:?\s*", re.I)


def normalized(text: str) -> str:
    """An answer as HotpotQA compares it: lower case, no punctuation, no articles, single spaces.

    Source: the evaluation script of HotpotQA (Yang et al. 2018, arXiv 1809.09600), which is that of SQuAD.

    >>> normalized("The  Chief of Protocol!")
    'chief of protocol'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def f1_of(expected: str, came: str) -> float:
    """F1 of the words both have, in [0, 1], after `normalized`; yes and no must agree wholly.

    >>> round(f1_of("Greenwich Village, New York City", "New York City"), 3)
    0.75
    """
    wanted, got = normalized(expected), normalized(came)
    if wanted != got and (wanted in _CLOSED or got in _CLOSED):
        return 0.0
    same = sum((Counter(wanted.split()) & Counter(got.split())).values())
    if not same:
        return 0.0
    precision, recall = same / len(got.split()), same / len(wanted.split())
    return 2 * precision * recall / (precision + recall)


def exact_match(
    example: dspy.Example,
    prediction: dspy.Prediction,
    trace: object = None,
    pred_name: object = None,
    pred_trace: object = None,
) -> dspy.Prediction:
    """HotpotQA's exact match: 1.0 where both answers are the same after `normalized`, else 0.0."""
    expected, came = str(example.answer), str(prediction.get("answer", ""))
    return dspy.Prediction(score=float(normalized(expected) == normalized(came)), feedback=_said(expected, came))


def f1(
    example: dspy.Example,
    prediction: dspy.Prediction,
    trace: object = None,
    pred_name: object = None,
    pred_trace: object = None,
) -> dspy.Prediction:
    """HotpotQA's F1 of the words both answers have.

    >>> f1(dspy.Example(answer="New York City"), dspy.Prediction(answer="York")).feedback
    "Expected 'New York City', got 'York': F1 0.50; missing: city new."
    """
    expected, came = str(example.answer), str(prediction.get("answer", ""))
    return dspy.Prediction(score=f1_of(expected, came), feedback=_said(expected, came))


def _said(expected: str, came: str) -> str:
    wanted, got = Counter(normalized(expected).split()), Counter(normalized(came).split())
    if normalized(expected) == normalized(came):
        return f"{came[:200]!r} is right."
    parts = {"missing": wanted - got, "too much": got - wanted}
    told = "".join(f"; {name}: {' '.join(sorted(words)[:20])}" for name, words in parts.items() if words)
    return f"Expected {expected!r}, got {came[:200]!r}: F1 {f1_of(expected, came):.2f}{told}."


def is_same(expected: str, came: str) -> bool:
    """Whether an open answer is the expected one: the same number, or text whatever its case, spaces, wrapping and end.

    It means too little for answers that can be said in many ways; a judge reads those.

    >>> is_same("1/2", "The answer is $0.5$."), is_same("Euler", "euler."), is_same("x+1", "1+x")
    (True, True, False)
    """
    wanted, got = _bare(expected), _bare(came)
    if wanted == got:
        return bool(wanted)
    if _NUMERAL.fullmatch(wanted) and _NUMERAL.fullmatch(got):
        percent = wanted.endswith("%") == got.endswith("%")
        return percent and (number := final_number(wanted)) is not None and number == final_number(got)
    return False


def _bare(text: str) -> str:
    text = _SAID.sub("", unicodedata.normalize("NFKC", spoken(text)).strip())
    while len(text) < _LONG and (wrapped := _WRAPPED.match(text.strip())):
        text = next(each for each in wrapped.groups() if each is not None)
    return " ".join(text.casefold().replace("\u2212", "-").split()).rstrip(".").rstrip()
