"""A generator's raw reply -> a supplement: without its thoughts, without a half sentence, of a known kind. Pure."""

from __future__ import annotations

import re

from sgt_modules.kinds import FREE, NONE, SILENCE, Supplement

_THINK = re.compile(r"<(/?)think(?:ing)?>", re.I)

_MARK = r"[*_`]{0,3}"
_NAME = rf"\[\s*{_MARK}([A-Za-z][A-Za-z0-9_ -]{{0,30}}){_MARK}\s*"
_TAG = re.compile(rf"\s*(?:#+\s*)?({_MARK}){_NAME}(?:\](?!\((?:https?:|www\.|#|/))|:(?!//))")

_DOUBLED = re.compile(rf"\A\s*\[\s*({_MARK}{_NAME}\])\]?(?!\()")
"""`[[units]` and `[[units]]`: the model repeats the bracket that its reply was opened with."""

_UNOPENED = re.compile(r"\A\s*(?=[A-Za-z][A-Za-z0-9_ -]{0,30}\](?!\())")
"""`units]`: the model leaves out the bracket that its reply should begin with."""

_REPEATS = 4
"""Tags of one kind in a row that are read as one."""

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
"""Letters of a sentence or line that a note says once; a shorter one, as in code, may come again, but not three times
in a row."""


def read_reply(text: str, *, kind: str = "", ended: bool = True) -> Supplement:
    """Read what a generator wrote, the forced opening included; never fails.

    Thoughts are removed. Where the reply names its kind a second time, another note begins, and the first one is whole:
    models that repeat themselves do so until the token limit. For the same reason a reply that the token limit ended
    (`ended` is False) is whole up to the sentence or line that it says a second time; one that says nothing twice is
    trimmed to its last whole sentence or line, and marked as cut. The kind is the one that the reply names in brackets,
    else the one that was asked for (`kind`), else `free`. An empty reply, and one that names `none`, is `SILENCE`.

    >>> read_reply("<think>Units?</think>**[Common Mistakes]:** Mind the units.")
    Supplement(kind='common_mistakes', text='Mind the units.')
    >>> read_reply("Mind the units. Then add the", kind="mistakes", ended=False)
    Supplement(kind='mistakes', text='Mind the units.')
    """
    said = without_thoughts(text)
    named, body = _tagged(_UNOPENED.sub("[", _DOUBLED.sub(r"\1", said)))
    if not named and said.lstrip().startswith("[") and "]" not in said:
        body = said.lstrip()[1:]  # an opening that the model made nothing of
    if end := _again(body, named) or (0 if ended else repetition(body)):
        body, ended = body[:end], True
    body = (body if ended else whole_part(body)).strip()
    if not body or named == NONE:
        return SILENCE
    return Supplement(named or kind or FREE, body, cut=not ended)


def _again(body: str, kind: str) -> int:
    """The place where the text names its kind again; 0 for none."""
    if not kind:
        return 0
    name = kind.replace("_", "[ _-]+")
    found = re.search(rf"\s[*#_ ]*\[ *{name} *\]", body, re.I)
    return found.start() if found and body[: found.start()].strip() else 0


def repetition(text: str) -> int:
    """Where a text begins to say what it has said: a sentence or line of some length a second time, or a short one a
    third time in a row; 0 where it does not.

    >>> loop = "Count the singers. Use the id column. Use the id column. Use the"
    >>> loop[:repetition(loop)]
    'Count the singers. Use the id column.'
    """
    said, last, times, first = set[str](), "", 0, 0
    for part in _PART.finditer(text):
        line = " ".join(part.group().split()).casefold()
        if not line:
            continue
        if line in said and len(line) >= _LONG:
            return len(text[: part.start()].rstrip())
        times, first = (times + 1, first) if line == last else (1, part.end())
        if times == _IN_A_ROW:
            return first
        said.add(line)
        last = line
    return 0


def without_thoughts(text: str) -> str:
    """The text without its `<think>...</think>` (also `<thinking>`), in time that grows with its length alone.

    What stands before a `</think>` that nothing opened is a thought too, and so is all behind one that nothing closes.

    >>> without_thoughts("<think>Is it 5?</think>It is 4."), without_thoughts("Is it 5?</think>4")
    ('It is 4.', '4')
    """
    kept: list[str] = []
    place, inside = 0, False
    for tag in _THINK.finditer(text):
        if tag.group(1):
            if not inside:
                kept.clear()
            place, inside = tag.end(), False
        elif not inside:
            kept.append(text[place : tag.start()])
            inside = True
    return "".join(kept if inside else [*kept, text[place:]])


def whole_part(text: str) -> str:
    """The text up to the end of its last whole sentence or line; empty where it holds none.

    A sentence ends at `.`, `!`, `?` or their like in other scripts, with the quotes and brackets behind. The point of
    an abbreviation, a list number, a decimal or an identifier ends none. Last lines that only announce what is lost
    (`Examples:`, `2.`) go too.

    >>> whole_part("Join on t.id, e.g. by name. Use 3.5 as t")
    'Join on t.id, e.g. by name.'
    """
    ends = [found.end() for found in _SENTENCE.finditer(text) if _ends_a_sentence(text, found)]
    whole = text[: max(ends[-1] if ends else 0, text.rfind("\n"), 0)].rstrip()
    while whole and _only_announces(line := whole[whole.rfind("\n") + 1 :], whole):
        whole = whole[: len(whole) - len(line)].rstrip()
    return whole


def _only_announces(line: str, whole: str) -> bool:
    """Whether the last line of `whole` opens something that is lost: a list, an item, a block of code."""
    opens = line.lstrip().startswith(_FENCE) and whole.count(_FENCE) % 2 == 1
    return opens or _ANNOUNCES.match(line) is not None


def _ends_a_sentence(text: str, found: re.Match[str]) -> bool:
    """Whether a mark that could end a sentence does."""
    if found["mark"] != ".":
        return True
    start, rest = found.start(), text[found.end() : found.end() + 2].lstrip()
    before = text[max(0, start - 60) : start]
    match = _LAST_WORD.search(before)
    word = match.group() if match else ""
    if not word or _LIST_NUMBER.search(before) or _INITIAL.search(before) or _INNER_POINTS.match(word):
        return False
    if word.casefold() in _ABBREVIATIONS or (word.casefold() in _BEFORE_A_NUMBER and rest[:1].isdigit()):
        return False
    if before[before.rfind("\n") + 1 :].count("`") % 2 and "`" not in found.group():
        return False  # inside code
    if word.casefold() == "etc":
        return not rest[:1].islower()
    return found.end() < len(text) or not _may_go_on(text[:start], word)


def _may_go_on(text: str, word: str) -> bool:
    """Whether a point behind the word, the last of a cut text, may belong to a number or an identifier."""
    return word[-1].isdigit() or len(word) == 1 or "_" in word or re.search(rf"{re.escape(word)}\.\w", text) is not None


def _tagged(text: str) -> tuple[str, str]:
    """The kind that the text names, folded as `kinds.parse` does, and the rest; an empty kind where it names none."""
    named = ""
    for _ in range(_REPEATS):
        tag = _TAG.match(text)
        if tag is None:
            break
        name = re.sub(r"[ -]+", "_", tag.group(2).strip(" -_")).lower()
        if named and name not in (named, NONE):
            break
        named = name
        text = text[: tag.end()] + re.sub(rf"\A\s*{re.escape(tag.group(2).strip())}\s*\]", "", text[tag.end() :])
        text = _inside(text[tag.end() :]) if tag.group().endswith(":") else _behind(text[tag.end() :], tag.group(1))
    return named, text


def _inside(text: str) -> str:
    """What stands in `[Hint: text] more` from `text` on, without the bracket that closes the tag's."""
    depth = 1
    for bracket in re.finditer(r"[\[\]]", text):
        depth += 1 if bracket.group() == "[" else -1
        if depth == 0:
            return f"{text[: bracket.start()]}{text[bracket.end() :]}"
    return text


def _behind(text: str, mark: str) -> str:
    """What stands behind `[Hint]`: without a colon or a dash, and without the `mark` (`**`) that stood before it."""
    if mark:
        closed = re.match(rf"\s*:?{re.escape(mark)}", text)
        text = text[closed.end() :] if closed else text.rstrip().removesuffix(mark)
    text = re.sub(r"\A[ \t]*:", "", text)
    dash = re.match(r"[ \t]*([-–—])\s", text)  # noqa: RUF001
    in_a_list = dash and re.search(rf"\n\s*{re.escape(dash.group(1))}\s", text[dash.end() :])
    return text[dash.end() :] if dash and not in_a_list else text
