"""Which letter an answer chooses, however a model writes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from optimizers.tasks.fields import answer_field
from optimizers.tasks.mentions import Mention, mentions, name_at, with_letters, without_texts
from optimizers.tasks.replies import boxed, spoken
from optimizers.tasks.roles import Role, is_right_item, is_second_thought, role
from optimizers.tasks.wording import folded, plain

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
    """A plain text and its options; what the steps look at is worked out once."""

    text: str
    options: Options

    @cached_property
    def mentioned(self) -> Sequence[tuple[Mention, Role]]:
        """Every mention with its role."""
        return [(each, role(each)) for each in mentions(self.text, self.options)]

    def of(self, *roles: Role) -> list[Mention]:
        return [each for each, found in self.mentioned if found in roles]

    @cached_property
    def items(self) -> Sequence[tuple[str, str]]:
        """The items of a list of options, as letter and text; a list is two or more."""
        found = [each for each in _ITEM.finditer(self.text) if self._is_an_item(each)]
        ends = [*(each.start() for each in found[1:]), len(self.text)][: len(found)]
        return [(each[1].upper(), self.text[each.end() : end]) for each, end in zip(found, ends, strict=True)]

    def _is_an_item(self, found: re.Match[str]) -> bool:
        return found[1].upper() in self.options and not name_at(self.text, found.start(1))


def chosen(answer: str, options: Mapping[str, str]) -> tuple[str, ...]:
    """The letters of the options that an answer chooses: one, several, or none that can be told.

    `options` are texts by upper-case letter. Thoughts in `<think>` tags are passed over; an answer field (JSON, a tag,
    DSPy's marker) and the last `\\boxed{}` are read alone where they choose something. Then the steps of `_STEPS` are
    tried in order, and the first that finds letters ends the reading. Where options have the same text, all of their
    letters are chosen.

    >>> options = {"A": "a beta blocker", "B": "Paris", "C": "vitamin C"}
    >>> [chosen(each, options) for each in ("b)", "The answer is C, as A is wrong.", "**Paris**", "A or B", "neither")]
    [('B',), ('C',), ('B',), ('A', 'B'), ()]
    """
    said = spoken(answer)
    field = answer_field(said)
    if field is not None:
        return _read(field, options)
    inner = boxed(said)
    return (_read(inner, options) if inner else ()) or _read(said, options)


def _read(text: str, options: Options) -> Letters:
    written = plain(text)
    if found := _only_letter(written, options) or _whole_text(written, options):
        return found
    lettered = _Reply(without_texts(written, options), options)
    worded = _Reply(with_letters(written, options), options)
    for step, reads_texts in _STEPS:
        if found := step(worded if reads_texts else lettered):
            return found
    return ()


def _only_letter(text: str, options: Options) -> Letters:
    """The letter that is the whole text."""
    found = _BARE.fullmatch(text)
    return (found[1].upper(),) if found and found[1].upper() in options else ()


def _whole_text(text: str, options: Options) -> Letters:
    """The options whose text is the whole text."""
    key = folded(text)
    return tuple(letter for letter, option in options.items() if key and folded(option) == key)


def _stated(reply: _Reply) -> Letters:
    """What the last clear statement says ("the answer is C"), or the second thought behind it."""
    stated = reply.of(Role.STATED)
    if not stated:
        return ()
    last = stated[-1]
    later = [each for each in reply.of(Role.CONCLUDED) if each.start > last.start]
    if later and is_second_thought(reply.text[last.end : later[-1].start]):
        return later[-1].letters
    return last.letters


def _lone_lines(reply: _Reply) -> Letters:
    """The letters that are a whole line, where the last line or the first is one."""
    lines = [_only_letter(_BULLET.sub("", each), reply.options) for each in reply.text.splitlines()]
    if not lines or not (lines[-1] or lines[0]):
        return ()
    return tuple(dict.fromkeys(letter for line in lines for letter in line))


def _concluded(reply: _Reply) -> Letters:
    """What the last conclusion says: "so C", "it is C"."""
    found = reply.of(Role.CONCLUDED)
    return found[-1].letters if found else ()


def _right_item(reply: _Reply) -> Letters:
    """The one item of a list of options that is called right."""
    if len(reply.items) < 2:
        return ()
    found = [letter for letter, text in reply.items if is_right_item(text)]
    return tuple(found) if len(found) == 1 else ()


def _favoured(reply: _Reply) -> Letters:
    """The options that are called right or better, behind the last "but" if some are."""
    return _united(reply, reply.of(Role.FAVOURED))


def _opening(reply: _Reply) -> Letters:
    """What the text begins with, unless it begins a list."""
    if len({letter for letter, _ in reply.items}) > 1 and not _stands_out(reply):
        return ()
    found = reply.mentioned[:1]
    return found[0][0].letters if found and found[0][1] is Role.OPENING else ()


def _stands_out(reply: _Reply) -> bool:
    """Whether the first item is an answer, and those behind it are a list of their own."""
    letters = [letter for letter, _ in reply.items]
    return letters != sorted(set(letters)) or _OTHERS.search(reply.items[0][1].partition("\n")[2]) is not None


def _one_item(reply: _Reply) -> Letters:
    """The one letter that lines begin with, as in a list."""
    found = dict.fromkeys(letter for letter, _ in reply.items)
    return tuple(found) if len(found) == 1 else ()


def _standing(reply: _Reply) -> Letters:
    """The letters that stand somewhere and are not refuted, behind the last "but" if some do."""
    return _united(reply, reply.of(Role.PLAIN, Role.OPENING)) or _united(reply, reply.of(Role.WEIGHED))


def _united(reply: _Reply, found: Sequence[Mention]) -> Letters:
    if not found:
        return ()
    turns = [each.end() for each in _TURN.finditer(reply.text, 0, found[-1].start)]
    last = [each for each in found if not turns or each.start >= turns[-1]]
    return tuple(dict.fromkeys(letter for each in last for letter in each.letters))


_STEPS: Sequence[tuple[Callable[[_Reply], Letters], bool]] = (
    (_stated, True),
    (_lone_lines, False),
    (_concluded, False),
    (_right_item, False),
    (_favoured, False),
    (_opening, False),
    (_one_item, False),
    (_standing, False),
    (_concluded, True),
    (_favoured, True),
    (_opening, True),
    (_standing, True),
)
"""The steps of a reading, the surest first, and whether each reads an option's own text as its letter."""
