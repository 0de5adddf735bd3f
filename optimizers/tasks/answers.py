"""Compares short answers as text: HotpotQA's exact match and F1, and exact match for open answers."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter

import dspy

from optimizers.tasks.numerals import read_final_number
from optimizers.tasks.replies import visible_reply

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_YES_NO = ("yes", "no", "noanswer")
"""Answers that have no partial match."""
_NUMERAL = re.compile(r"[-+]?[$\u20ac\u00a3]?\s?[\d.,/]+\s?%?")
_WRAPPING = re.compile(
    r"\A(?:\\boxed\s*\{(.*)\}|\$+(.*?)\$+|\\\((.*)\\\)|\\\[(.*)\\\]|\"(.*)\"|\*\*(.*)\*\*)\.?\Z", re.S
)
_ESSAY_LENGTH = 1_000
"""A text of at least this many characters is an essay; its wrapping stays."""
_LEAD_IN = re.compile(r"\A(?:the\s+)?(?:final\s+|exact\s+)?answer(?:\s+is|\s*:)\s*:?\s*", re.I)


def normalize(text: str) -> str:
    """Return an answer as HotpotQA compares it: lower case, no punctuation, no articles, single spaces.

    Source: the evaluation script of HotpotQA (Yang et al. 2018, arXiv 1809.09600), which is that of SQuAD.

    >>> normalize("The  Chief of Protocol!")
    'chief of protocol'
    >>> normalize("Thé"), normalize("the tea")
    ('thé', 'tea')
    """
    # DSPy's normalize_text takes accents apart first, so that "thé" loses its letters to the article.
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def word_f1(expected: str, actual: str) -> float:
    """Return the F1 of the words that two answers share, in [0, 1]; "yes" and "no" match only as a whole.

    Both answers are compared after `normalize`.

    >>> round(word_f1("Greenwich Village, New York City", "New York City"), 3)
    0.75
    """
    wanted, got = normalize(expected), normalize(actual)
    if wanted != got and (wanted in _YES_NO or got in _YES_NO):
        return 0.0
    same = sum((Counter(wanted.split()) & Counter(got.split())).values())
    if not same:
        return 0.0
    precision, recall = same / len(got.split()), same / len(wanted.split())
    return 2 * precision * recall / (precision + recall)


def exact_match(example: dspy.Example, prediction: dspy.Prediction, *_: object, **__: object) -> dspy.Prediction:
    """HotpotQA's exact match: 1.0 if both answers are equal after `normalize`, else 0.0."""
    expected, actual = str(example.answer), str(prediction.get("answer", ""))
    return dspy.Prediction(score=float(normalize(expected) == normalize(actual)), feedback=_feedback(expected, actual))


def f1(example: dspy.Example, prediction: dspy.Prediction, *_: object, **__: object) -> dspy.Prediction:
    """HotpotQA's F1 of the words that both answers share.

    >>> f1(dspy.Example(answer="New York City"), dspy.Prediction(answer="York")).feedback
    "Expected 'New York City', got 'York': F1 0.50; missing: city new."
    """
    expected, actual = str(example.answer), str(prediction.get("answer", ""))
    return dspy.Prediction(score=word_f1(expected, actual), feedback=_feedback(expected, actual))


def _feedback(expected: str, actual: str) -> str:
    wanted, got = Counter(normalize(expected).split()), Counter(normalize(actual).split())
    if normalize(expected) == normalize(actual):
        return f"{actual[:200]!r} is right."
    parts = {"missing": wanted - got, "too much": got - wanted}
    differences = "".join(f"; {name}: {' '.join(sorted(words)[:20])}" for name, words in parts.items() if words)
    return f"Expected {expected!r}, got {actual[:200]!r}: F1 {word_f1(expected, actual):.2f}{differences}."


def is_same(expected: str, actual: str) -> bool:
    """Return whether an open answer equals the expected one: the same number, or the same text.

    Case, spaces, wrapping such as `\\boxed{}` and a final period do not count. Answers that can be worded in many ways
    need a judge LM instead.

    >>> is_same("1/2", "The answer is $0.5$."), is_same("Euler", "euler."), is_same("x+1", "1+x")
    (True, True, False)
    """
    wanted, got = _strip_wrapping(expected), _strip_wrapping(actual)
    if wanted == got:
        return bool(wanted)
    if _NUMERAL.fullmatch(wanted) and _NUMERAL.fullmatch(got):
        percent = wanted.endswith("%") == got.endswith("%")
        return percent and (number := read_final_number(wanted)) is not None and number == read_final_number(got)
    return False


def _strip_wrapping(text: str) -> str:
    text = _LEAD_IN.sub("", unicodedata.normalize("NFKC", visible_reply(text)).strip())
    while len(text) < _ESSAY_LENGTH and (wrapped := _WRAPPING.match(text.strip())):
        text = next(each for each in wrapped.groups() if each is not None)
    return " ".join(text.casefold().replace("\u2212", "-").split()).rstrip(".").rstrip()
