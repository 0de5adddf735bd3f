"""Parse a generator's raw reply: remove thoughts and half sentences, and find the kind. Pure."""

from __future__ import annotations

import re

from sgt_modules.kinds import FREE, NONE, SILENCE, Supplement

_THINK = re.compile(r"<(/?)think(?:ing)?>", re.I)

_MARK = r"[*_`]{0,3}"
_NAME = rf"\[\s*{_MARK}([A-Za-z][A-Za-z0-9_ -]{{0,30}}){_MARK}\s*"
_TAG = re.compile(rf"\s*(?:#+\s*)?({_MARK}){_NAME}(?:\](?!\((?:https?:|www\.|#|/))|:(?!//))")

_DOUBLED = re.compile(rf"\A\s*\[\s*({_MARK}{_NAME}\])\]?(?!\()")
"""`[[units]` and `[[units]]`: the model repeats the bracket of the opening."""

_UNOPENED = re.compile(r"\A\s*(?=[A-Za-z][A-Za-z0-9_ -]{0,30}\](?!\())")
"""`units]`: the model leaves out the opening bracket."""

_REPEATS = 4
"""How many equal tags in a row count as one."""

_CLOSERS = r"[\"'”’»)\]}*_`」』）】]*"  # noqa: RUF001
_SENTENCE = re.compile(rf"(?P<mark>[.!?]+){_CLOSERS}(?=\s|\Z)|[。！？｡…।؟۔።]+{_CLOSERS}")  # noqa: RUF001
_LIST_NUMBER = re.compile(r"(?:\A|\n|[.!?]\s)\s*[-*>(]?\s*(?:\d{1,3}|[A-Za-z]|[ivx]{1,4})\Z")
_LAST_WORD = re.compile(r"[^\s(\[{\"'`]*\Z")
_INITIAL = re.compile(r"(?:\A|[A-Z]\w*[.]?\s)[A-Z]\Z")
_INNER_POINTS = re.compile(r"[^\W\d_]{1,2}(?:\.[^\W\d_]{1,2})+\Z")
_ABBREVIATIONS = frozenset(
    (
        "approx",
        "bzw",
        "ca",
        "cf",
        "dr",
        "eg",
        "evtl",
        "ggf",
        "ie",
        "mr",
        "mrs",
        "ms",
        "prof",
        "resp",
        "vgl",
        "viz",
        "vs",
    )
)
_BEFORE_A_NUMBER = frozenset(("art", "ch", "eq", "fig", "no", "nos", "nr", "p", "pp", "sec", "vol"))
_ANNOUNCES = re.compile(r"(?:.*[:：]|\s*(?:[-*•>#]+|\(?(?:\d{1,3}|[A-Za-z])[.)])\s*)\Z")  # noqa: RUF001
_FENCE = "```"

_PART = re.compile(r"[^\n.!?。！？]+[.!?。！？]*|[.!?。！？]+")  # noqa: RUF001
_LONG, _IN_A_ROW = 16, 3
"""A sentence or line of `_LONG` letters is repetition at its second place, a shorter one at its third in a row."""


def read_reply(text: str, *, kind: str = "", ended: bool = True) -> Supplement:
    """Parse a generator's reply, including its forced beginning; never raises.

    Thoughts are removed. If the reply names its kind a second time, the text before is complete: models that repeat
    themselves do so until the token limit. For the same reason, a reply that the token limit ended (`ended` is False)
    is complete up to its first repeated sentence or line. Without repetition it is trimmed to its last whole sentence
    or line, and marked as cut. The kind is the one that the reply names in brackets, else the requested `kind`, else
    `free`. An empty reply and the kind `none` give `SILENCE`.

    >>> read_reply("<think>Units?</think>**[Common Mistakes]:** Mind the units.")
    Supplement(kind='common_mistakes', text='Mind the units.')
    >>> read_reply("Mind the units. Then add the", kind="mistakes", ended=False)
    Supplement(kind='mistakes', text='Mind the units.')
    """
    reply = remove_thoughts(text)
    named_kind, body = _split_tag(_UNOPENED.sub("[", _DOUBLED.sub(r"\1", reply)))
    if not named_kind and reply.lstrip().startswith("[") and "]" not in reply:
        body = reply.lstrip()[1:]  # the model did not complete the forced bracket
    if end := _find_second_tag(body, named_kind) or (0 if ended else find_repetition(body)):
        body, ended = body[:end], True
    body = (body if ended else trim_to_sentence(body)).strip()
    if not body or named_kind == NONE:
        return SILENCE
    return Supplement(named_kind or kind or FREE, body, cut=not ended)


def _find_second_tag(body: str, kind: str) -> int:
    """Return the position where the text names its kind again; 0 if it does not."""
    if not kind:
        return 0
    name = kind.replace("_", "[ _-]+")
    tag = re.search(rf"\s[*#_ ]*\[ *{name} *\]", body, re.I)
    return tag.start() if tag and body[: tag.start()].strip() else 0


def find_repetition(text: str) -> int:
    """Return the position where a text begins to repeat itself, else 0.

    A long sentence or line is repeated when it comes a second time, a short one when it comes three times in a row.

    >>> loop = "Count the singers. Use the id column. Use the id column. Use the"
    >>> loop[:find_repetition(loop)]
    'Count the singers. Use the id column.'
    """
    earlier, last, times, first = set[str](), "", 0, 0
    for part in _PART.finditer(text):
        line = " ".join(part.group().split()).casefold()
        if not line:
            continue
        if line in earlier and len(line) >= _LONG:
            return len(text[: part.start()].rstrip())
        times, first = (times + 1, first) if line == last else (1, part.end())
        if times == _IN_A_ROW:
            return first
        earlier.add(line)
        last = line
    return 0


def remove_thoughts(text: str) -> str:
    """Remove `<think>...</think>` (also `<thinking>`), in time linear in the text's length.

    Text before a `</think>` without an opening tag and text after an unclosed tag are thoughts too.

    >>> remove_thoughts("<think>Is it 5?</think>It is 4."), remove_thoughts("Is it 5?</think>4")
    ('It is 4.', '4')
    """
    parts: list[str] = []
    place, inside = 0, False
    for tag in _THINK.finditer(text):
        if tag.group(1):
            if not inside:
                parts.clear()
            place, inside = tag.end(), False
        elif not inside:
            parts.append(text[place : tag.start()])
            inside = True
    return "".join(parts if inside else [*parts, text[place:]])


def trim_to_sentence(text: str) -> str:
    """Trim a text to the end of its last whole sentence or line; empty if it has none.

    A sentence ends at `.`, `!`, `?` or a similar mark of another script, with the quotes and brackets after it. The
    point of an abbreviation, a list number, a decimal or an identifier does not end a sentence. Last lines that only
    announce the cut text (`Examples:`, `2.`) are removed too.

    >>> trim_to_sentence("Join on t.id, e.g. by name. Use 3.5 as t")
    'Join on t.id, e.g. by name.'
    """
    ends = [mark.end() for mark in _SENTENCE.finditer(text) if _ends_a_sentence(text, mark)]
    whole = text[: max(ends[-1] if ends else 0, text.rfind("\n"), 0)].rstrip()
    while whole and _only_announces(line := whole[whole.rfind("\n") + 1 :], whole):
        whole = whole[: len(whole) - len(line)].rstrip()
    return whole


def _only_announces(line: str, whole: str) -> bool:
    """Whether the last line of `whole` only begins a list, an item or a block of code."""
    opens = line.lstrip().startswith(_FENCE) and whole.count(_FENCE) % 2 == 1
    return opens or _ANNOUNCES.match(line) is not None


def _ends_a_sentence(text: str, mark: re.Match[str]) -> bool:
    """Whether a punctuation mark ends a sentence."""
    if mark["mark"] != ".":
        return True
    start, rest = mark.start(), text[mark.end() : mark.end() + 2].lstrip()
    before = text[max(0, start - 60) : start]
    match = _LAST_WORD.search(before)
    word = match.group() if match else ""
    if not word or _LIST_NUMBER.search(before) or _INITIAL.search(before) or _INNER_POINTS.match(word):
        return False
    if word.casefold() in _ABBREVIATIONS or (word.casefold() in _BEFORE_A_NUMBER and rest[:1].isdigit()):
        return False
    if before[before.rfind("\n") + 1 :].count("`") % 2 and "`" not in mark.group():
        return False  # inside code
    if word.casefold() == "etc":
        return not rest[:1].islower()
    return mark.end() < len(text) or not _may_continue(text[:start], word)


def _may_continue(text: str, word: str) -> bool:
    """Whether the last point of a cut text may belong to a number or an identifier."""
    return word[-1].isdigit() or len(word) == 1 or "_" in word or re.search(rf"{re.escape(word)}\.\w", text) is not None


def _split_tag(text: str) -> tuple[str, str]:
    """Split a text into its kind, in the form of `kinds.parse`, and the rest; the kind is empty if it names none."""
    named_kind = ""
    for _ in range(_REPEATS):
        tag = _TAG.match(text)
        if tag is None:
            break
        name = re.sub(r"[ -]+", "_", tag.group(2).strip(" -_")).lower()
        if named_kind and name not in (named_kind, NONE):
            break
        named_kind = name
        text = text[: tag.end()] + re.sub(rf"\A\s*{re.escape(tag.group(2).strip())}\s*\]", "", text[tag.end() :])
        rest, colon = text[tag.end() :], tag.group().endswith(":")
        text = _text_in_tag(rest) if colon else _text_after_tag(rest, tag.group(1))
    return named_kind, text


def _text_in_tag(text: str) -> str:
    """Remove the closing bracket from the rest of `[Hint: text] more`."""
    depth = 1
    for bracket in re.finditer(r"[\[\]]", text):
        depth += 1 if bracket.group() == "[" else -1
        if depth == 0:
            return f"{text[: bracket.start()]}{text[bracket.end() :]}"
    return text


def _text_after_tag(text: str, mark: str) -> str:
    """Remove a colon, a dash and the closing `mark` (`**`) from the text after `[Hint]`."""
    if mark:
        closed = re.match(rf"\s*:?{re.escape(mark)}", text)
        text = text[closed.end() :] if closed else text.rstrip().removesuffix(mark)
    text = re.sub(r"\A[ \t]*:", "", text)
    dash = re.match(r"[ \t]*([-–—])\s", text)  # noqa: RUF001
    in_a_list = dash and re.search(rf"\n\s*{re.escape(dash.group(1))}\s", text[dash.end() :])
    return text[dash.end() :] if dash and not in_a_list else text
