"""Finds where a text mentions an option by its letter, not a word, name or quantity of one letter. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from optimizers.tasks.wording import fold

_BEFORE, _AFTER = 90, 60
"""How many characters before and after a mention are read."""
_MAX_MENTIONS = 300
"""How many candidate letters are read from the beginning, and as many from the end."""

_OPENING, _CLOSING = r"[(\[<{\"']{0,4}", r"[)\]>}\"']{0,4}"
_SOLO = re.compile(rf"(?<!\w)(?<!\w['-])({_OPENING})([A-Za-z])(?!\w)(?!['-]\w)({_CLOSING})")
_JOINER = re.compile(
    r"\s*(?:(?:,|;|/|&|\+|\b(?:and|or|nor|through|as well as|along with)\b)\s*)+"
    r"(?:(?:also|both|either|option|choice|maybe|perhaps)\s+)*",
    re.I,
)
_SUBJECT = re.compile(r"\A\s+(?:is|was|wins|fits|seems|looks|has|must|cannot|would|remains|holds|matches)\b")
"""After a letter that begins its own clause: "of A and B, B is better"."""
_SAME = re.compile(r"[\s.:)\-\u2013\u2014]*")
"""Between a letter and its own option's text."""

_PUNCTUATED = re.compile(r"\A\s*(?:\Z|[.,:;)\]!?/&+(\n\u2013\u2014\u2026=>\u2192-])")
_AFTER_A = re.compile(
    r"\A\s+(?:is|are|was|were|and|or|nor|but|because|since|as|for|due|which|while|given|according|by|based|not|in|so|has|over"
    r"|seems?|looks?|fits?|wins?|holds?|fails?|cannot|can't|can|must|would|could|should|isn't|with|rather|instead|than|though"
    r"|here|says?|states?|remains?|describes?|applies|does|doesn't|too|then|after|at|seemed|[^\sA-Za-z])"
)
_AFTER_I = re.compile(
    r"\A\s+(?:is|are|and|or|nor|because|since|which|while|given|isn't|seems|looks|fits|wins"
    r"|rather|instead|as it|not|[^\sA-Za-z])"
)
_ASIDE = re.compile(r"\A,\s*(?:as an?\b|like\b|being\b|for one\b|personally\b|too\b|myself\b|however\b|therefore\b)")
"""After the pronoun `I`: `I, as an AI`."""

_NAMERS = re.compile(
    r"\b(?:vitamins?|hepatitis|types?|groups?|grades?|plans?|figures?|fig\.|tables?|points?|class|theorem|lemma|phase|appendix"
    r"|section|exhibit|teams?|strain|influenza|factor|protein|complement|stage|line|column|row|matrix|set|event|variable"
    r"|constant|angle|side|node|vertex|company|country|person|player|patient|man|mr|mrs|ms|dr|prof|sir|st|malcolm|chapter"
    r"|part|child-pugh|cyclosporin|immunoglobulin|ig|level|schedule|drug|an?|omega|gene|allele|box|room|block|car|city"
    r"|town|village|chromosome|compound|substance|element|metal|gas|ion|molecule|reagent)\.?\s+\Z",
    re.I,
)
_SPECIES = re.compile(
    r"\A\.\s+(?:coli|difficile|aureus|albicans|elegans|tuberculosis|pneumoniae|falciparum|vivax|faecalis|perfringens|botulinum"
    r"|tetani|pylori|influenzae|meningitidis|gonorrhoeae|cereus|anthracis|subtilis|aeruginosa|cerevisiae|melanogaster|sapiens"
    r"|jejuni|trachomatis|diphtheriae|neoformans|fumigatus|burgdorferi|pallidum|fragilis|epidermidis|pyogenes|typhi|cholerae)\b"
)
_INITIALS = re.compile(r"\A\.\s?[A-Z]\.\s?[A-Z][a-z]")
_SURNAME = re.compile(r"\A\.\s[A-Z][a-z]+")
_NAME_BEFORE = re.compile(r"(?:\b[A-Z]\.\s?|\b(?:by|from|author|dear)\s+)\Z")
_DOTTED_BEFORE, _DOTTED_AFTER = re.compile(r"(?<![A-Za-z])[A-Za-z]\.\Z"), re.compile(r"\A\.[A-Za-z](?![A-Za-z])")
_UNAVAILABLE = re.compile(r"(?:\A|[^A-Za-z])[Nn]\s?/\s?\Z")
_VARIABLE = re.compile(r"\A\s*(?:=(?!>)|\^|\\|\*\s*\w|<|>\s*\d)")


@dataclass(frozen=True, slots=True)
class Mention:
    """Letters that are mentioned together ("A and B"), with the text `before` and `after` them, at `start`."""

    letters: tuple[str, ...]
    before: str
    after: str
    start: int
    end: int


def find_mentions(text: str, options: Mapping[str, str]) -> list[Mention]:
    """Return the mentions of options in a plain text, in order.

    >>> [each.letters for each in find_mentions("Dr. C. Smith ruled out A and B, so (d).", dict.fromkeys("ABCD", ""))]
    [('A', 'B'), ('D',)]
    """
    mentions: list[Mention] = []
    for each in _iter_letters(text, options):
        last = mentions[-1] if mentions else None
        if last and _belong_together(last, each, text[last.end : each.start]):
            letters = tuple(dict.fromkeys(last.letters + each.letters))
            mentions[-1] = replace(last, letters=letters, after=each.after, end=each.end)
        else:
            mentions.append(each)
    return mentions


def _belong_together(last: Mention, each: Mention, gap: str) -> bool:
    """Return whether two mentions with a gap are one: a letter and its own text, or "A and B"."""
    if last.letters == each.letters and _SAME.fullmatch(gap):
        return True
    if each.letters[0] in last.letters or len(gap) > _AFTER or not _JOINER.fullmatch(gap):
        return False
    return gap.strip() != "," or not _SUBJECT.match(each.after)


def _iter_letters(text: str, options: Mapping[str, str]) -> Iterator[Mention]:
    every = [each for each in _SOLO.finditer(text) if each[2].upper() in options]
    for each in every if len(every) <= 2 * _MAX_MENTIONS else every[:_MAX_MENTIONS] + every[-_MAX_MENTIONS:]:
        before = text[max(0, each.start() - _BEFORE) : each.start()]
        after = text[each.end() : each.end() + _AFTER]
        bracketed = bool(set(each[1]) & set("([{<")) and bool(set(each[3]) & set(")]}>"))
        if _means_an_option(each[2], before, after, bracketed=bracketed) or _has_its_text(each[2], after, options):
            yield Mention((each[2].upper(),), before, after, each.start(), each.end())


def _means_an_option(letter: str, before: str, after: str, *, bracketed: bool) -> bool:
    if bracketed:
        return not re.search(r"\w\Z", before)  # f(A)
    if _is_a_name(letter, before, after):
        return False
    if letter.islower():
        return _PUNCTUATED.match(after) is not None and _LOWER_BEFORE.search(before) is not None
    if letter == "I" and _ASIDE.match(after):
        return False
    if _PUNCTUATED.match(after):
        return True
    pattern = {"A": _AFTER_A, "I": _AFTER_I}.get(letter)
    return pattern is None or pattern.match(after) is not None


def _has_its_text(letter: str, after: str, options: Mapping[str, str]) -> bool:
    """Return whether the option's own text follows its letter: then `A Roman road` is an option."""
    word = after.split(maxsplit=1)[:1]
    if not letter.isupper() or not word or not word[0][0].isupper():
        return False
    return after.lstrip().casefold().startswith(fold(options[letter])[: _AFTER // 2])


_LOWER_BEFORE = re.compile(r"(?:\A|\n|:|=|\b(?:answer|choice|option|letter|is|with|choose|pick|select))\s*\Z", re.I)
"""Text that must precede a lower-case letter."""


def is_name_at(text: str, place: int) -> bool:
    """Return whether the letter at a position is part of a name, and no option's.

    >>> is_name_at("C. Smith or Dr. C. Smith", 0), is_name_at("C. Smith or Dr. C. Smith", 16)
    (False, True)
    """
    return _is_a_name(text[place], text[max(0, place - _BEFORE) : place], text[place + 1 : place + 1 + _AFTER])


def _is_a_name(letter: str, before: str, after: str) -> bool:
    """Return whether a letter without brackets belongs to a name or a formula: `vitamin C`, `E. coli`, `N/A`, `E =`."""
    return bool(
        _NAMERS.search(before)
        or _SPECIES.match(after)
        or _INITIALS.match(after)
        or (_SURNAME.match(after) and _NAME_BEFORE.search(before))
        or _DOTTED_BEFORE.search(before)
        or _DOTTED_AFTER.match(after)
        or (letter in "Aa" and _UNAVAILABLE.search(before))
        or (letter in "Nn" and re.match(r"\s?/\s?[Aa]\b", after))
        or (_VARIABLE.match(after) and not re.search(r"(?:answer|choice|option)\W*\Z", before, re.I))
    )


def replace_texts_by_letters(text: str, options: Mapping[str, str]) -> str:
    """Return the text with each option's text replaced by its letter in brackets.

    >>> replace_texts_by_letters("Give vitamin C, not insulin.", {"A": "Insulin", "B": "Vitamin C"})
    'Give (B), not (A).'
    """
    return _replace_texts(text, options, lambda letters: " and ".join(f"({each})" for each in letters))


def mask_texts_with_letters(text: str, options: Mapping[str, str]) -> str:
    """Return the text without those option texts that contain a single letter: `vitamin C` is no C."""
    lettered = {letter: each for letter, each in options.items() if re.search(r"\b[A-Za-z]\b", each)}
    return _replace_texts(text, lettered, lambda _: "\u2026")


def _replace_texts(text: str, options: Mapping[str, str], put: Callable[[Sequence[str]], str]) -> str:
    letters: dict[str, list[str]] = {}
    for letter, option in options.items():
        if len(key := fold(option)) > 1 or key.isdigit():
            letters.setdefault(key, []).append(letter)
    if not letters:
        return text
    longest_first = sorted(letters, key=len, reverse=True)
    pattern = "|".join(_whole_word_pattern(each) for each in longest_first)
    return re.sub(pattern, lambda match: put(letters.get(fold(match[0]), [])) or match[0], text, flags=re.I)


def _whole_word_pattern(option: str) -> str:
    """Return a pattern for an option's text as whole words; scripts without spaces have no word edges."""
    left = r"(?<![^\W\u3040-\ud7af])(?<!\d[.,])" if _has_word_edges(option[0]) else ""
    right = r"(?![^\W\u3040-\ud7af])(?![.,]\d)" if _has_word_edges(option[-1]) else ""
    return f"{left}{re.escape(option)}{right}"


def _has_word_edges(character: str) -> bool:
    return character.isalnum() and not "\u3040" <= character <= "\ud7af"
