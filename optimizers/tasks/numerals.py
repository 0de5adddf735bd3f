"""The number that an answer comes to, however a model writes it; exact, as a fraction."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from optimizers.tasks.replies import boxed, spoken

_DIGITS, _POWER = 60, 60
"""Numbers of more digits, or to a higher power of ten, are no answers."""
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "k": 10**3}
_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_UNITS = {word: value for value, word in enumerate(re.findall(r"\w+", _SMALL))}
_TENS = {
    word: 10 * value
    for value, word in enumerate(re.findall(r"\w+", "twenty thirty forty fifty sixty seventy eighty ninety"), start=2)
}
_WORD = (
    rf"(?:{'|'.join(sorted([*_UNITS, *_TENS, 'hundred', 'thousand', 'million', 'billion'], key=len, reverse=True))})"
)
_WORDS = rf"(?:(?:minus|negative)\s+)?\b{_WORD}(?:(?:\s+and\s+|\s*-\s*|\s+){_WORD})*\b"
_PLAIN = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    rf"""(?<![\w.^])(?<!\d:)(?P<sign>-)?(?:[$\u20ac\u00a3\u00a5]\s*)?
    (?:\\d?frac\s*\{{(?P<over>-?\d[\d,]*)\}}\s*\{{(?P<under>\d[\d,]*)\}}
      |(?P<whole>\d{1, 3}(?:,\d{3})+|\d+)\s+(?P<top>\d+)\s*/\s*(?P<bottom>\d+)(?![\d/])
      |(?P<upper>{_PLAIN})\s*/\s*(?P<lower>\d[\d,]*)(?![\d/])
      |(?P<plain>{_PLAIN})(?:e(?P<power>[+-]?\d+)\b)?(?:\s*(?P<scale>thousand|million|billion|k)\b)?)
    (?![\d^:]|\.\d)|(?P<words>{_WORDS})""",
    re.X | re.I,
)
_MARK = re.compile(r"####")
_CUE = re.compile(r"\banswer\b(?:\s+(?:is|was|would\s+be|comes\s+to|equals)\b|\s*[:=])", re.I)
_NEGATED = re.compile(r"\b(?:not|isn't|rather\s+than|instead\s+of)\s+[$\u20ac\u00a3]?-?\d[\d,.]*", re.I)
_CLAUSE = re.compile(r"[,;](?!\d)|\n|\.\s|\.?$|\b(?:as|because|since|for|where|so)\b|\(", re.I)
_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212"), "-")
_MARKUP = re.compile(
    r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}|\*\*|\\[,;!()\[\]]|\\(?=[$%])|[`\u00a0\u2009\u202f]"
)


def final_number(answer: str) -> Fraction | None:
    """The number that an answer ends in; None where it has none.

    That is the first one behind the last `####`; else the last one in the last `\\boxed{}`; else the first one behind
    the last "answer is" or "answer:", or of an equation there what it comes to; else the last one of all. Commas
    between thousands, currencies, units and percent signs are passed over, and so is what stands in `<think>` tags.
    Fractions, mixed numbers, decimals, powers of ten (`1.5e3`), "2 million" and, where there are no digits, numbers in
    English words are read. A clock's time and a power (`2^3`) are no numbers.

    >>> [final_number(each) for each in ("#### 2,125", "She has $18.50 left.", "1 1/2 cups", "twenty-five", "many")]
    [Fraction(2125, 1), Fraction(37, 2), Fraction(3, 2), Fraction(25, 1), None]
    """
    text = _plain(spoken(answer))
    marked = _after(_MARK, text)
    if marked and (found := _numbers(marked)):
        return found[0]
    if (inner := boxed(text)) and (found := _numbers(inner)):
        return found[-1]
    said = _NEGATED.sub(" ", _after(_CUE, text))
    for part in (_CLAUSE.split(said)[0].rpartition("=")[2], said):
        if found := _numbers(part):
            return found[0]
    found = _numbers(text)
    return found[-1] if found else None


def _plain(text: str) -> str:
    """Without markup; every dash is a minus. Fractions that are one letter (a half, a quarter) are written out."""
    text = "".join(
        f" {unicodedata.normalize('NFKC', each)}" if unicodedata.category(each) == "No" else each for each in text
    )
    text = unicodedata.normalize("NFKC", text).replace("\u2044", "/").translate(_DASHES)
    return _MARKUP.sub(lambda found: found[1] or ("" if found[0] != "`" else " "), text)


def _after(cue: re.Pattern[str], text: str) -> str:
    ends = [each.end() for each in cue.finditer(text)]
    return text[ends[-1] :] if ends else ""


def _numbers(text: str) -> list[Fraction]:
    """The numbers in digits; where there are none, those in words."""
    every = [
        (bool(each["words"]), value) for each in _NUMBER.finditer(text) if (value := _value(each, text)) is not None
    ]
    return [value for words, value in every if not words] or [value for _, value in every]


def _value(found: re.Match[str], text: str) -> Fraction | None:
    if found["words"]:
        return _of_words(found["words"])
    if len(found[0]) > _DIGITS or abs(int(found["power"] or 0)) > _POWER:
        return None
    sign = -1 if found["sign"] and not re.search(r"[\d)]\s*$", text[: found.start()]) else 1
    if found["plain"]:
        value = Fraction(found["plain"].replace(",", "")) * Fraction(10) ** int(found["power"] or 0)
        return sign * value * _SCALES.get((found["scale"] or "").casefold(), 1)
    top, bottom = found["over"] or found["top"] or found["upper"], found["under"] or found["bottom"] or found["lower"]
    if not int(bottom.replace(",", "")):
        return None
    whole = int((found["whole"] or "0").replace(",", ""))
    return sign * (whole + Fraction(top.replace(",", "")) / int(bottom.replace(",", "")))


def _of_words(text: str) -> Fraction:
    """A number in English words: `two hundred and five`, `minus seven`.

    >>> _of_words("three thousand two hundred and forty-one")
    Fraction(3241, 1)
    """
    total = part = 0
    for word in re.findall(r"[a-z]+", text.casefold()):
        if word == "hundred":
            part = max(part, 1) * 100
        elif word in _SCALES:
            total, part = total + max(part, 1) * _SCALES[word], 0
        else:
            part += _UNITS.get(word, _TENS.get(word, 0))
    negative = text.casefold().startswith(("minus", "negative"))
    return Fraction(-total - part if negative else total + part)
