"""No file uses a word that readers stumble over; each has a plain one in its place.

A test, as it needs no tool: `make test` runs it with the others, `make check` by itself, and
`python tests/package/test_words.py` prints how many lines each package has left.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PLACES = ("optimizers", "sgt_modules", "benchmarks", "examples", "docs")
FILES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "pyproject.toml", "mkdocs.yml", ".ci/run")
SUFFIXES = {".py", ".md", ".ipynb", ".jinja", ".css", ".js", ".svg"}

PLAIN = {
    "told": "said, shown, passed, reported, instructed",
    "hears": "receives",
    "whoever": "the caller, anyone who",
    "anew": "again, from the start",
    "nought": "0",
    "beside": "next to, with, compared with, apart from",
    "what of it": "which part of it",
    "taken up again": "resumed",
    "rooms": "modules, packages; space",
    "room": "module, package",
}
"""Each word with what to write in its place. `room` is a module only behind a word of `_OWNERS`: space is none."""

_OWNERS = r"(?<=\bits )|(?<=\bown )|(?<=\ba )|(?<=\beach )|(?<=\bwhich )|(?<=\bother )|(?<=\bpure )|(?<=\bone )"
_WORD = re.compile(
    rf"(?<![a-z])(told|hears|whoever|anew|nought|beside|rooms|what\s+of\s+it|taken\s+up\s+again|(?:{_OWNERS})room)(?![a-z])",
    re.IGNORECASE,
)


class Kept(NamedTuple):
    """Text of a file that stays as it is, and why."""

    file: str
    text: str
    reason: str


KEPT = (
    Kept("sgt_modules/generator_prompt.py", "it reads beside the input", "the prompt that models were trained with"),
    Kept("optimizers/spt/meta_prompts.py", "Then write the instructions anew", "the prompt of a corrector"),
    Kept("optimizers/spt/meta_prompts.py", "and write the brief anew", "the prompt of a corrector"),
    Kept("sgt_modules/embedded/rules/conventions.py", "Presence is told by", "a sentence the embedded actor learned"),
)
"""Exceptions."""


class Found(NamedTuple):
    """A word at a line of a file."""

    file: str
    line: int
    word: str
    text: str

    def __str__(self) -> str:
        word = " ".join(self.word.split())
        return f"{self.file}:{self.line}: {word!r}: write {PLAIN[word.lower()]!r}: {self.text.strip()[:100]}"


def words_in(file: str, text: str) -> list[Found]:
    """The words to replace in a file's text, in its order."""
    for each in KEPT:
        if each.file == file:
            text = text.replace(each.text, "")
    lines = text.split("\n")
    places = [(hit[1], text.count("\n", 0, hit.start())) for hit in _WORD.finditer(text)]
    return [Found(file, at + 1, word, lines[at]) for word, at in places]


def files() -> Iterator[Path]:
    for place in PLACES:
        yield from sorted(each for each in (ROOT / place).rglob("*") if each.suffix in SUFFIXES and each.is_file())
    yield from (ROOT / each for each in FILES)


def words() -> list[Found]:
    """The words to replace in all files."""
    texts = ((each.relative_to(ROOT).as_posix(), each.read_text(encoding="utf-8")) for each in files())
    return [found for file, text in texts for found in words_in(file, text)]


def test_a_word_is_found_with_its_line_in_names_in_capitals_and_over_a_line_s_end() -> None:
    text = "a Told_b\nis taken\n    up again\nits room; room for two\nretold, _ROOMS\n"
    assert [(each.line, each.word.split()) for each in words_in("a.py", text)] == [
        (1, ["Told"]),
        (2, ["taken", "up", "again"]),
        (4, ["room"]),
        (5, ["ROOMS"]),
    ]


def test_an_exception_is_of_its_file_alone() -> None:
    [one, *_] = KEPT
    assert words_in(one.file, one.text) == []
    assert words_in("another.py", one.text) != []


def test_an_exception_is_still_needed() -> None:
    assert [each for each in KEPT if each.text not in (ROOT / each.file).read_text(encoding="utf-8")] == []


def test_no_file_has_a_word_to_replace() -> None:
    left = [str(each) for each in words()]
    if left:
        pytest.fail("\n".join(left), pytrace=False)


if __name__ == "__main__":
    lines = {(each.file, each.line) for each in words()}
    counts = Counter("/".join(file.split("/")[: 2 if file.count("/") > 1 else 1]) for file, _ in lines)
    print(*(f"{count:4} {place}" for place, count in sorted(counts.items())), f"{len(lines):4} in all", sep="\n")
