"""Finds the numbers in a plain text, exact, as fractions: digits, mixed numbers, powers of ten, English words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

DIGITS, POWER = 60, 60
"""Numbers with more digits, or a higher power of ten, do not count."""

_NEAR = 24
"""How many characters before or after a number are read for its meaning."""

_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_LETTERS = {"k": 10**3, "m": 10**6, "mn": 10**6, "b": 10**9, "bn": 10**9}
_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_UNITS = {word: value for value, word in enumerate(_SMALL.split())}
_TIMES_TEN = "twenty thirty forty fifty sixty seventy eighty ninety"
_TENS = {word: 10 * value for value, word in enumerate(_TIMES_TEN.split(), start=2)}
_PARTS = {
    "half": 2,
    "halves": 2,
    "third": 3,
    "quarter": 4,
    "fourth": 4,
    "fifth": 5,
    "sixth": 6,
    "eighth": 8,
    "tenth": 10,
}


def _any_of(words: Sequence[str]) -> str:
    return f"(?:{'|'.join(sorted(words, key=len, reverse=True))})"


_LOW = rf"(?:{_any_of([*_TENS])}(?:[\s-]{{1,3}}{_any_of([*_UNITS][1:10])})?|{_any_of([*_UNITS])})\b"
_MIDDLE = rf"(?:(?:{_LOW}|an?)\s+hundred\b(?:\s+(?:and\s+)?{_LOW})?|{_LOW})"
_HIGH = _any_of([*_SCALES][1:])
_AND = r",?\s+(?:and\s+)?"
_WHOLE = rf"(?:(?:{_MIDDLE}|an?)\s+{_HIGH}\b(?:{_AND}{_MIDDLE}\s+{_HIGH}\b)*(?:{_AND}{_MIDDLE})?|{_MIDDLE})"
_PART = rf"{_any_of([*_PARTS])}s?\b"
_SHARE = rf"(?:(?P<shares>{_LOW})[\s-]+|an?\s+)(?P<part>{_PART})|(?P<half>half)\b"


def _and_part(shares: str, part: str) -> str:
    return rf"\s+and\s+(?:(?P<{shares}>{_LOW})[\s-]+|an?\s+)(?P<{part}>{_PART})"


_GROUPED_DIGITS = r"\d{1,3}(?:(?:,\d{3})+|(?:'\d{3})+|(?:_\d{3})+|(?:[ ]\d{3})+)(?![\d_])"
_PLAIN = rf"(?:{_GROUPED_DIGITS}|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    rf"""(?<![\w.^])(?<!\d[:/])(?:
      (?P<date>\d+/\d+/\d+)
      |(?P<whole>{_GROUPED_DIGITS}|\d+)(?:\s+(?:and\s+)?|-)(?P<top>\d+)\s?/\s?(?P<bottom>\d+)(?![\d/])
      |(?P<upper>{_PLAIN})\s*/\s*(?P<lower>\d[\d,]*)(?![\d/])
      |(?P<factor>{_PLAIN})\s?[*x]\s?10\^(?P<ten>[+-]?\d+)
      |10\^(?P<alone>[+-]?\d+)
      |(?P<plain>{_PLAIN})(?:e(?P<power>[+-]?\d+)\b|{_and_part("more", "rest")}
          |\s*(?P<scale>{_any_of([*_SCALES])})\b|(?P<letter>k|mn?|bn?)\b(?![$^]))?
    )(?![\d^]|:\d|\.\d)
    |\b(?:{_SHARE}|(?P<words>{_WHOLE})(?:{_and_part("more_", "rest_")})?)""",
    re.X | re.I,
)
_CURRENCY = re.compile(r"[$\u20ac\u00a3\u00a5\u20b9]\s?\Z")
_MINUS = re.compile(
    r"(?:(?:\A|[\n=:(\[{$]|\b(?:is|was|be|of|at|to|equals?|exactly|about)\s)\s*-\s*|(?<![\w)\]%-])-|\bnegative\s+|(?:\A|[^\s\w)]|\b[a-z]+\s)\s*minus\s+)\Z",
    re.I,
)
_BINARY = re.compile(r"[\d)%]\s*-\Z")
_DENIAL = re.compile(
    r"(?:\bnot|n't|\bcannot|\brather\s+than|\binstead\s+of)(?:\s+(?:be|just|only|even))?\s*[-$\u20ac\u00a3(]{0,2}\s?\Z",
    re.I,
)
_PRONOUN = re.compile(r"\b(?:no|any|every|some|each|this|that|which|the|another|only|last|first)[\s-]\Z", re.I)
_OF_THEM = re.compile(r"\s+(?:another|by|can|could|must|should|needs|day|has)\b", re.I)


@dataclass(frozen=True)
class Quantity:
    """A number at its position in a text; `priced` after a currency sign, `spelled` in words."""

    value: Fraction
    start: int
    end: int
    spelled: bool = False
    priced: bool = False


_UNITS_OF_AMOUNTS = (
    ("dollars?|bucks?|euros?|pounds?|", "cents?|pence|\u00a2", 1, Fraction(1, 100)),
    ("hours?|hrs?|h", "minutes?|mins?|m", 60, 1),
    ("minutes?|mins?", "seconds?|secs?|s", 60, 1),
    ("feet|foot|ft", "inch(?:es)?|in", 12, 1),
    ("years?", "months?", 12, 1),
    ("weeks?", "days?", 7, 1),
    ("days?", "hours?", 24, 1),
)
"""Big and small units of one amount, and what each adds to it: 2 hours and 5 minutes are 2 * 60 + 5 * 1."""
_PAIRS = [
    (rf"\s?-?(?:{big})\s?(?:,?\s?and\s|,\s?|\s)\s?\Z", rf"\s?-?(?:{small})(?![a-z])", big_count, small_count)
    for big, small, big_count, small_count in _UNITS_OF_AMOUNTS
]


@lru_cache(maxsize=256)
def find_quantities(text: str) -> Sequence[Quantity]:
    """Return the numbers of a text in order, without those that it denies ("not 41").

    A clock time, a date, a power (`2^3`) and the pronoun "one" are no numbers.

    >>> text = "$1.2M, not 41; minus 5 or one and a half; 2 dollars and 50 cents"
    >>> [str(each.value) for each in find_quantities(text)]
    ['1200000', '-5', '3/2', '5/2']
    """
    return tuple(_join_amounts(list(_iter_quantities(text)), text))


def prefer_digits(numbers: Sequence[Quantity]) -> list[Quantity]:
    """Return the numbers in digits, or those in words if there are no digits."""
    return [each for each in numbers if not each.spelled] or list(numbers)


def _iter_quantities(text: str) -> Iterator[Quantity]:
    for match in _NUMBER.finditer(text):
        start = match.start()
        before = text[max(0, start - _NEAR) : start]
        value = _parse_value(match, priced := _CURRENCY.search(before) is not None)
        if value is None or _DENIAL.search(before) or _is_pronoun(match, before, text):
            continue
        spelled = bool(match["words"] or match["part"] or match["half"])
        yield Quantity(-value if _is_negative(before) else value, start, match.end(), spelled, priced)


def _is_negative(before: str) -> bool:
    bare = _CURRENCY.sub("", before)
    at_start = before if len(before) < _NEAR else f"_{before}"
    return not _BINARY.search(bare) and bool(_MINUS.search(_CURRENCY.sub("", at_start)))


def _is_pronoun(match: re.Match[str], before: str, text: str) -> bool:
    one = match[0].casefold() == "one"
    return one and bool(_PRONOUN.search(before) or _OF_THEM.match(text, match.end()))


def _parse_value(match: re.Match[str], priced: bool) -> Fraction | None:
    if match["date"] or len(match[0]) > DIGITS + _NEAR * bool(match["words"]):
        return None
    if match["words"]:
        return _parse_words(match["words"]) + _parse_share(match["more_"], match["rest_"])
    if match["part"] or match["half"]:
        return _parse_share(match["shares"], match["part"] or match["half"])
    if match["plain"]:
        return _parse_scaled(match, priced)
    if match["factor"] or match["alone"]:
        return _apply_power(match["factor"] or "1", match["ten"] or match["alone"])
    top, bottom = match["top"] or match["upper"], _parse_number(match["bottom"] or match["lower"])
    return _parse_number(match["whole"] or "0") + _parse_number(top) / bottom if bottom else None


def _parse_scaled(match: re.Match[str], priced: bool) -> Fraction | None:
    letter, scale = match["letter"] or "", (match["scale"] or "").casefold()
    times = _SCALES.get(scale, 1)
    if letter and (priced or letter.isupper() or letter in ("k", "bn", "mn")):
        times = _LETTERS[letter.casefold()]
    value = _apply_power(match["plain"], match["power"] or "0")
    return value and value * times + _parse_share(match["more"], match["rest"]) if value is not None else None


def _apply_power(digits: str, power: str) -> Fraction | None:
    return _parse_number(digits) * Fraction(10) ** int(power) if abs(int(power)) <= POWER else None


def _parse_number(digits: str) -> Fraction:
    return Fraction(re.sub(r"[,'_ ]", "", digits))


def _parse_share(how_many: str | None, part: str | None) -> Fraction:
    """Return the value of `three quarters`; 0 without a part."""
    if not part:
        return Fraction(0)
    name = part.casefold()
    return (_parse_words(how_many) if how_many else Fraction(1)) / (_PARTS.get(name) or _PARTS[name.removesuffix("s")])


def _parse_words(text: str) -> Fraction:
    """Return a number in English words: `two hundred and five`, `a thousand`.

    >>> _parse_words("three thousand two hundred and forty-one")
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
    return Fraction(total + part)


def _join_amounts(numbers: list[Quantity], text: str) -> list[Quantity]:
    """Join two numbers that are one amount: `42 dollars and 50 cents`."""
    joined: list[Quantity] = []
    for each in numbers:
        amount = _combine(joined[-1], each, text) if joined else None
        if amount is None:
            joined.append(each)
        else:
            joined[-1] = replace(joined[-1], value=amount, end=each.end)
    return joined


def _combine(big: Quantity, small: Quantity, text: str) -> Fraction | None:
    between, behind = text[big.end : small.start], text[small.end : small.end + _NEAR]
    if len(between) > _NEAR:
        return None
    for joined, unit, big_count, small_count in _PAIRS:
        if re.match(unit, behind, re.I) and re.match(joined, between, re.I):
            return big.value * big_count + small.value * small_count
    return None
