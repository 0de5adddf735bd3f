"""The table of supplement kinds, and the text form of a supplement: `[kind] text`.

Source of the kinds: SGT (arXiv 2604.20727); the instructions are ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from sgt_modules.safety import clean_text

FREE = "free"
"""The kind of a reply that names no kind, and of the exploration prompt that lets the generator choose one."""

NONE = "none"
"""The kind of an empty supplement: the generator writes `[none]` to stay silent."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of supplement: its name, the instruction for the generator, and a short example of its form.

    The example is about another task, so it shows only the form. It may be empty. A kind with a `text` stands for that
    fixed text: exploration tries the text as it is, and the generator does not write it.

    >>> KINDS["pairs"].name
    'pairs'
    >>> Kind("refunds", text="Refunds take five days.").given
    Supplement(kind='refunds', text='Refunds take five days.')
    """

    name: str
    instruction: str = ""
    example: str = ""
    text: str = ""

    @property
    def given(self) -> Supplement:
        """The kind's fixed text as a supplement; `SILENCE` if it has none."""
        return Supplement(self.name, self.text) if self.text else SILENCE


@dataclass(frozen=True, slots=True)
class BetterThan(Kind):
    """A request for a note that does better than one that failed: that note, the actor's answer and the metric's words.

    It names no kind, so the generator chooses one. All three texts are data and may hold anything.

    >>> BetterThan(note="[cot] Add.", answer="5", feedback="It is a product.").name
    ''
    """

    name: str = ""
    note: str = ""
    answer: str = ""
    feedback: str = ""


def _build_table(*rows: tuple[str, str, str]) -> Mapping[str, Kind]:
    return MappingProxyType({name: Kind(name, instruction, example) for name, instruction, example in rows})


KINDS: Mapping[str, Kind] = _build_table(
    ("answer", "Propose an answer.", "180 seconds."),
    (
        "background",
        "State the background knowledge that the task needs.",
        "A minute has 60 seconds. An hour has 60 minutes.",
    ),
    (
        "cot",
        "Think step by step towards the answer.",
        "First find how many seconds one minute has. Then multiply by the number of minutes.",
    ),
    (
        "rephrase",
        "Say the task again in clearer words.",
        "A length of time is given in minutes. Say the same length in seconds.",
    ),
    ("summary", "Sum up what matters in the input.", "Given: 3 minutes. Wanted: seconds, as one number."),
    (
        "mistakes",
        "Name the likely mistakes and how to avoid them.",
        "Do not divide by 60: seconds are smaller than minutes. Do not answer in minutes.",
    ),
    ("one_shot", "Give one worked example of a similar task.", "Question: 2 minutes? Answer: 2 x 60 = 120 seconds."),
    (
        "pairs",
        "Give a right and a wrong answer and say why.",
        "For 5 minutes, right: 300 seconds, as each has 60. Wrong: 500 seconds, as none has 100.",
    ),
)
"""The eight predefined kinds by name, in the paper's order. Read-only; users can pass another table."""

_TAG = re.compile(r"\A\s*\[([A-Za-z][A-Za-z0-9_ -]{0,30})\]\s*")


@dataclass(frozen=True, slots=True)
class Supplement:
    """A supplement: its kind, and its text without the `[kind]` tag.

    `cut` says that the token limit ended the text, so training adds no end token after it. Comparisons ignore it. What
    no store can hold is replaced at once (`clean_text`), so that what is tried, stored and trained on is one text.

    >>> Supplement("pairs", "right: 4; wrong: 5").render()
    '[pairs] right: 4; wrong: 5'
    >>> bool(Supplement("none", ""))
    False
    """

    kind: str
    text: str
    cut: bool = field(default=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", clean_text(self.text))

    def __bool__(self) -> bool:
        """False if the text is empty."""
        return bool(self.text.strip())

    def render(self) -> str:
        """Return `[kind] text`; only the text for kind `free`; an empty string if the text is empty."""
        if not self:
            return ""
        return self.text if self.kind == FREE else f"[{self.kind}] {self.text}"

    def reply(self) -> str:
        """Return the generator's reply for this supplement, which `parse` reads back; `[none]` if it is empty.

        >>> SILENCE.reply()
        '[none]'
        """
        return self.render() or f"[{NONE}]"


SILENCE = Supplement(NONE, "")
"""The empty supplement: the actor reads exactly what the unwrapped program sends."""


def parse(reply: str) -> Supplement:
    """Read a rendered supplement; never raises. Use `replies.read_reply` for a model's raw reply.

    The text begins with its kind in brackets; otherwise its kind is `free`. An empty text and the kind `none` give
    `SILENCE`. Kind names become lower case with underscores.

    >>> parse("[One-Shot] Q: 2+2? A: 4")
    Supplement(kind='one_shot', text='Q: 2+2? A: 4')
    >>> parse("Mind the units.")
    Supplement(kind='free', text='Mind the units.')
    >>> parse("  ")
    Supplement(kind='none', text='')
    """
    tag = _TAG.match(reply)
    text = reply[tag.end() :].strip() if tag else reply.strip()
    kind = re.sub(r"[ -]+", "_", tag.group(1).strip()).lower() if tag else FREE
    return Supplement(kind, text) if text and kind != NONE else SILENCE
