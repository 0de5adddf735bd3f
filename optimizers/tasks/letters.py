"""Which letter an answer chooses, however a model writes it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping

from optimizers.tasks.replies import boxed, spoken

_COMMAND = re.compile(r"\\(?:text|textbf|mathbf|mathrm|boxed)\s*\{([^{}]*)\}")
_MARKUP = re.compile(r"[*_`$]+|\\[()\[\]]|</?[a-z]+>")
_OPENING, _CLOSING = r"[(\[<{\"']*", r"[)\]>}\"']*"
_VERBS = r"(?:\s+(?:is|are|was|would\s+be|should\s+be|must\s+be|will\s+be)\b|\s*[:=\u2013\u2014-])+"
_ADVERBS = r"(?:\s*(?:therefore|thus|clearly|probably|likely|most\s+likely|definitely|hence|then|,|:))*"
_CUE = re.compile(rf"\b(?:answer|choice|option|solution)(?:\s+(?:here|choice|option))?{_VERBS}{_ADVERBS}\s*", re.I)
_NAMED = re.compile(r"\A(?:option|choice|letter|answer)\s+", re.I)
_IS_RIGHT = re.compile(
    rf"\b([A-Za-z])\b{_CLOSING}\s+is\s+(?:therefore\s+)?(?:the\s+)?(?:correct|right|answer|best\s+answer|best\s+(?:choice|option)"
    r"|most\s+(?:appropriate|likely|accurate))"
)
_LETTER = re.compile(rf"\A{_OPENING}([A-Za-z])(?![\w\u2019']){_CLOSING}")
_NEXT = re.compile(rf"\A\s*(?:,|/|&|\band\b|\bor\b)+\s*(?:and\s+|or\s+)?{_OPENING}([A-Z])(?![\w\u2019']){_CLOSING}")
_LINE = re.compile(r"^\s*[(\[]?([A-Za-z])(?:[)\]]|[.:](?=\s|$))", re.M)
_LONE = re.compile(r"(?<![\w\u2019'-])([A-Z])(?![\w\u2019'-])")
_BRACKETED = re.compile(r"[(\[]([A-Za-z])[)\]]")
_REFUTED = re.compile(
    rf"\b([A-Z])\b{_CLOSING}\s+(?:is|are|seems|looks)\s+(?:not|wrong|incorrect|false|unlikely|implausible|ruled)"
    rf"|\b(?i:not|rul(?:e|es|ing)\s+out|eliminat(?:e|es|ing)|exclud(?:e|es|ing)|than|instead\s+of|isn't)\s+"
    rf"(?i:option\s+|choice\s+|answer\s+)?{_OPENING}([A-Z])\b"
)
_STATEMENTS, _STATEMENT = 20, 2_000
"""How many statements are looked at, and how much of each."""
_ARTICLES = "AI"
"""Letters that are words of their own."""
_AFTER_ARTICLES = re.compile(
    r"\A\s+(?:because|since|as|and|or|but|for|due|which|while|given|according|by|based|not|in|so|is|are|[^\sa-z])"
)


def chosen(answer: str, options: Mapping[str, str]) -> tuple[str, ...]:
    """The letters of the options that an answer chooses: one, several, or none that can be told.

    `options` are texts by upper-case letter. In this order: a letter alone; an option's whole text; what is in a
    `\\boxed{}` or stands behind "the answer is", the last if there are several; a letter alone on the last line or the
    first; a letter that one line or the answer begins with; an option's text that it begins with; the letters that
    stand in it by themselves and are not refuted. Where options have the same text, all of their letters are chosen.
    What stands in `<think>` tags is passed over.

    >>> options = {"A": "a beta blocker", "B": "Paris", "C": "vitamin C"}
    >>> [chosen(each, options) for each in ("b)", "The answer is C, as A is wrong.", "**Paris**", "A or B", "neither")]
    [('B',), ('C',), ('B',), ('A', 'B'), ()]
    """
    said = spoken(answer)
    inner = boxed(said)
    return (_chosen(_plain(inner), options) if inner else ()) or _chosen(_plain(said), options)


def _chosen(text: str, options: Mapping[str, str]) -> tuple[str, ...]:
    return (
        _bare(text, options)
        or _by_text(text, options)
        or _stated(text, options)
        or _alone(text, options)
        or _listed(text, options)
        or _head(text, options)
        or _by_beginning(text, options)
        or _standing(text, options)
    )


def _bare(text: str, options: Mapping[str, str]) -> tuple[str, ...]:
    """The letter that is the whole text."""
    found = re.fullmatch(rf"(?:(?:option|choice|letter)\s+)?{_OPENING}([A-Za-z]){_CLOSING}[.,:;!]*", text, re.I)
    return (found[1].upper(),) if found and found[1].upper() in options else ()


def _alone(text: str, options: Mapping[str, str]) -> tuple[str, ...]:
    """The letter that is the whole last line, or the whole first."""
    lines = text.splitlines() or [""]
    return _bare(lines[-1], options) or _bare(lines[0], options)


def _plain(text: str) -> str:
    """Without markup, in plain letters and single spaces; lines stay."""
    text = unicodedata.normalize("NFKC", text)
    for _ in range(3):
        text = _COMMAND.sub(r"\1", text)
    lines = (" ".join(line.split()) for line in _MARKUP.sub("", text).splitlines())
    return "\n".join(line for line in lines if line)


def _folded(text: str) -> str:
    """A text as it is compared."""
    return " ".join(_plain(text).casefold().split()).strip(" .,;:!\"'")


def _by_text(text: str, options: Mapping[str, str]) -> tuple[str, ...]:
    folded = _folded(text)
    return tuple(letter for letter, option in options.items() if folded and _folded(option) == folded)


def _by_beginning(text: str, options: Mapping[str, str]) -> tuple[str, ...]:
    """The options with the longest text that the answer begins with, as whole words."""
    folded = _folded(text)
    found = {
        letter: option
        for letter, each in options.items()
        if len(option := _folded(each)) > 1 and re.match(rf"{re.escape(option)}(?!\w)", folded)
    }
    longest = max(map(len, found.values()), default=0)
    return tuple(letter for letter, option in found.items() if len(option) == longest)


def _stated(text: str, options: Mapping[str, str]) -> tuple[str, ...]:
    """What the last statement of an answer states: "the answer is C", "C is correct"."""
    places = [(each.end(), text[each.end() : each.end() + _STATEMENT]) for each in _CUE.finditer(text)]
    places += [(each.start(), each[1]) for each in _IS_RIGHT.finditer(text) if each[1].upper() in options]
    for _, said in sorted(places, reverse=True)[:_STATEMENTS]:
        line = _NAMED.sub("", said.partition("\n")[0])
        found = _by_text(line, options) or _head(line, options, refuted=False) or _by_beginning(line, options)
        if found:
            return found
    return ()


def _head(text: str, options: Mapping[str, str], *, refuted: bool = True) -> tuple[str, ...]:
    """The letter that a text begins with, and those joined to it by commas, "and" or "or"."""
    found = _LETTER.match(text)
    if found is None or not _is_letter(found[1], text[found.end() :], options):
        return ()
    if refuted and found[1] in set(_refuted(text)):
        return ()
    letters, rest = [found[1].upper()], text[found.end() :]
    while (another := _NEXT.match(rest)) and another[1] in options:
        if _is_letter(another[1], rest[another.end() :], options):
            letters.append(another[1])
        rest = rest[another.end() :]
    return tuple(dict.fromkeys(letters))


def _is_letter(letter: str, rest: str, options: Mapping[str, str]) -> bool:
    """Whether a letter before `rest` names an option, and is no word."""
    if letter.upper() not in options:
        return False
    if not rest or rest[0] in ".,:;)!\n/":
        return True
    if letter.islower():
        return False
    return letter not in _ARTICLES or bool(_AFTER_ARTICLES.match(rest))


def _listed(text: str, options: Mapping[str, str]) -> tuple[str, ...]:
    """The one letter that lines begin with, as in a list; several say nothing yet."""
    found = {each.upper() for each in _LINE.findall(text)} & set(options)
    return tuple(found) if len(found) == 1 else ()


def _standing(text: str, options: Mapping[str, str]) -> tuple[str, ...]:
    """Letters that stand alone anywhere, but for articles and those that are refuted."""
    every = [
        each[1]
        for each in _LONE.finditer(text)
        if each[1] not in _ARTICLES or not re.match(r"\s+[a-z]", text[each.end() :])
    ]
    every += [each.upper() for each in _BRACKETED.findall(text)]
    left_out = set(_refuted(text))
    return tuple(dict.fromkeys(each for each in every if each in options and each not in left_out))


def _refuted(text: str) -> Iterator[str]:
    for each in _REFUTED.finditer(text):
        yield each[1] or each[2]
