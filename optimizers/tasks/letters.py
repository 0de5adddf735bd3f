"""Reads which letter an answer chooses, however a model writes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from optimizers.tasks.fields import find_answer_field
from optimizers.tasks.mentions import (
    Mention,
    find_mentions,
    is_name_at,
    mask_texts_with_letters,
    replace_texts_by_letters,
)
from optimizers.tasks.replies import find_boxed, visible_reply
from optimizers.tasks.roles import MentionRole, classify_mention, is_marked_right, is_second_thought
from optimizers.tasks.wording import fold, simplify_wording

_OPENING, _CLOSING = r"[(\[<{\"']*", r"[)\]>}\"']*"
_BARE = re.compile(
    rf"(?:(?:option|choice|letter|answer)\s*[:=]?\s*)?{_OPENING}([A-Za-z]){_CLOSING}[.,:;!?]*(?:\(https?:\S{{0,300}}\))?",
    re.I,
)
_BULLET = re.compile(r"\A(?:\d{1,2}[.)]|[-\u2022>#\u2713\u2714\u2705=]+)\s*")
_ITEM = re.compile(
    r"(?:^\W{0,4}|(?<=[.!?;])\s+|(?<=,)\s?(?=\"))(?:(?:option|choice)\s+)?[(\"]?([A-Za-z])\"?(?:\)|[.:](?=\s|$)|\s+[-\u2013\u2014](?=\s))",
    re.M | re.I,
)
_OTHERS = re.compile(r"\b(?:other|others|why|explanation|reason|reasoning|because)\b", re.I)
_TURN = re.compile(r"\b(?:but|however|though|actually|yet|no|wait)\b", re.I)

Options = Mapping[str, str]
Letters = tuple[str, ...]


@dataclass(frozen=True)
class _Reply:
    """A plain text and its options, with the parts that the steps read, computed once."""

    text: str
    options: Options

    @cached_property
    def mentions(self) -> Sequence[tuple[Mention, MentionRole]]:
        """Every mention with its role."""
        return [(each, classify_mention(each)) for each in find_mentions(self.text, self.options)]

    def with_role(self, *roles: MentionRole) -> list[Mention]:
        return [mention for mention, role in self.mentions if role in roles]

    @cached_property
    def items(self) -> Sequence[tuple[str, str]]:
        """The items of a list of options, as letter and text; a list has at least two."""
        starts = [match for match in _ITEM.finditer(self.text) if self._is_item(match)]
        ends = [*(match.start() for match in starts[1:]), len(self.text)][: len(starts)]
        return [(match[1].upper(), self.text[match.end() : end]) for match, end in zip(starts, ends, strict=True)]

    def _is_item(self, match: re.Match[str]) -> bool:
        return match[1].upper() in self.options and not is_name_at(self.text, match.start(1))


def read_letters(answer: str, options: Mapping[str, str]) -> tuple[str, ...]:
    """Return the letters of the options that an answer chooses: one, several, or none if it is unclear.

    `options` are texts by upper-case letter. Thoughts in `<think>` tags are skipped; an answer field (JSON, a tag,
    DSPy's marker) and the last `\\boxed{}` are read alone if they choose something. Then the steps of `_STEPS` run in
    order, and the first that finds letters ends the reading. If options have the same text, all of their letters are
    chosen.

    >>> options = {"A": "a beta blocker", "B": "Paris", "C": "vitamin C"}
    >>> answers = ("b)", "The answer is C, as A is wrong.", "**Paris**", "A or B", "neither")
    >>> [read_letters(each, options) for each in answers]
    [('B',), ('C',), ('B',), ('A', 'B'), ()]
    """
    reply = visible_reply(answer)
    field = find_answer_field(reply)
    if field is not None:
        return _read_text(field, options)
    inner = find_boxed(reply)
    return (_read_text(inner, options) if inner else ()) or _read_text(reply, options)


def _read_text(text: str, options: Options) -> Letters:
    plain = simplify_wording(text)
    if letters := _only_letter(plain, options) or _whole_text(plain, options):
        return letters
    by_letters = _Reply(mask_texts_with_letters(plain, options), options)
    by_texts = _Reply(replace_texts_by_letters(plain, options), options)
    for step, reads_texts in _STEPS:
        if letters := step(by_texts if reads_texts else by_letters):
            return letters
    return ()


def _only_letter(text: str, options: Options) -> Letters:
    """Return the letter that is the whole text."""
    match = _BARE.fullmatch(text)
    return (match[1].upper(),) if match and match[1].upper() in options else ()


def _whole_text(text: str, options: Options) -> Letters:
    """Return the options whose text is the whole text."""
    key = fold(text)
    return tuple(letter for letter, option in options.items() if key and fold(option) == key)


def _last_statement(reply: _Reply) -> Letters:
    """Return what the last clear statement says ("the answer is C"), or the second thought after it."""
    statements = reply.with_role(MentionRole.STATED)
    if not statements:
        return ()
    last = statements[-1]
    later = [each for each in reply.with_role(MentionRole.CONCLUDED) if each.start > last.start]
    if later and is_second_thought(reply.text[last.end : later[-1].start]):
        return later[-1].letters
    return last.letters


def _letter_lines(reply: _Reply) -> Letters:
    """Return the letters that are a whole line, if the first or the last line is one."""
    lines = [_only_letter(_BULLET.sub("", each), reply.options) for each in reply.text.splitlines()]
    if not lines or not (lines[-1] or lines[0]):
        return ()
    return tuple(dict.fromkeys(letter for line in lines for letter in line))


def _last_conclusion(reply: _Reply) -> Letters:
    """Return what the last conclusion says: "so C", "it is C"."""
    conclusions = reply.with_role(MentionRole.CONCLUDED)
    return conclusions[-1].letters if conclusions else ()


def _right_item(reply: _Reply) -> Letters:
    """Return the one item of a list of options that is called right."""
    if len(reply.items) < 2:
        return ()
    letters = [letter for letter, text in reply.items if is_marked_right(text)]
    return tuple(letters) if len(letters) == 1 else ()


def _favoured_options(reply: _Reply) -> Letters:
    """Return the options that are called right or better, after the last "but" if it has some."""
    return _unite_after_turn(reply, reply.with_role(MentionRole.FAVOURED))


def _first_mention(reply: _Reply) -> Letters:
    """Return the letter at the beginning of the text, unless it begins a list."""
    if len({letter for letter, _ in reply.items}) > 1 and not _stands_out(reply):
        return ()
    if not reply.mentions:
        return ()
    mention, role = reply.mentions[0]
    return mention.letters if role is MentionRole.OPENING else ()


def _stands_out(reply: _Reply) -> bool:
    """Return whether the first item is an answer, and the items after it are a separate list."""
    letters = [letter for letter, _ in reply.items]
    return letters != sorted(set(letters)) or _OTHERS.search(reply.items[0][1].partition("\n")[2]) is not None


def _single_item(reply: _Reply) -> Letters:
    """Return the one letter that begins lines, as in a list."""
    letters = dict.fromkeys(letter for letter, _ in reply.items)
    return tuple(letters) if len(letters) == 1 else ()


def _remaining_options(reply: _Reply) -> Letters:
    """Return the letters that are mentioned and not refuted, after the last "but" if it has some."""
    return _unite_after_turn(reply, reply.with_role(MentionRole.PLAIN, MentionRole.OPENING)) or _unite_after_turn(
        reply, reply.with_role(MentionRole.WEIGHED)
    )


def _unite_after_turn(reply: _Reply, mentions: Sequence[Mention]) -> Letters:
    """Return the letters of the mentions after the last turn ("but", "however"), or of all without a turn."""
    if not mentions:
        return ()
    turns = [each.end() for each in _TURN.finditer(reply.text, 0, mentions[-1].start)]
    last = [each for each in mentions if not turns or each.start >= turns[-1]]
    return tuple(dict.fromkeys(letter for each in last for letter in each.letters))


_STEPS: Sequence[tuple[Callable[[_Reply], Letters], bool]] = (
    (_last_statement, True),
    (_letter_lines, False),
    (_last_conclusion, False),
    (_right_item, False),
    (_favoured_options, False),
    (_first_mention, False),
    (_single_item, False),
    (_remaining_options, False),
    (_last_conclusion, True),
    (_favoured_options, True),
    (_first_mention, True),
    (_remaining_options, True),
)
"""The steps of reading, the most reliable first, and whether each reads an option's text as its letter."""
