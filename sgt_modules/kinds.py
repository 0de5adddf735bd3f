"""The supplement kinds as a table of data, and the one text form of a supplement: `[kind] text`.

Source of the kinds: SGT (arXiv 2604.20727); the instructions are ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

FREE = "free"
"""The kind of a reply that names none, and of the exploration prompt that leaves the choice open."""

NONE = "none"
"""The kind of no supplement at all: the generator writes `[none]` to stay silent."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to help: its name, what the generator is asked to write, and a short made-up example of its form.

    The example is of another task: it shows the form alone. A kind without one is asked for by its instruction. A kind
    with a `text` is that text, word for word: it is tried as it is, and the generator is not asked to write it.

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
        """The kind's own text as a supplement; silence for a kind without one."""
        return Supplement(self.name, self.text) if self.text else SILENCE


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
"""The eight predefined kinds by name, in the paper's order. Read-only; a user may pass a table of their own."""

_TAG = re.compile(r"\A\s*\[([A-Za-z][A-Za-z0-9_ -]{0,30})\]\s*")


@dataclass(frozen=True, slots=True)
class Supplement:
    """A supplement: its kind and its text, without the bracketed tag.

    `cut`: the model did not end this text itself, so training teaches no end behind it. Not part of comparison.

    >>> Supplement("pairs", "right: 4; wrong: 5").render()
    '[pairs] right: 4; wrong: 5'
    >>> bool(Supplement("none", ""))
    False
    """

    kind: str
    text: str
    cut: bool = field(default=False, compare=False, repr=False)

    def __bool__(self) -> bool:
        """False for a supplement that says nothing."""
        return bool(self.text.strip())

    def render(self) -> str:
        """The one text form: `[kind] text`; text alone for kind `free`, and nothing at all for an empty one."""
        if not self:
            return ""
        return self.text if self.kind == FREE else f"[{self.kind}] {self.text}"

    def reply(self) -> str:
        """What the generator writes for it, which `parse` reads back: as rendered, and `[none]` for an empty one.

        >>> SILENCE.reply()
        '[none]'
        """
        return self.render() or f"[{NONE}]"


SILENCE = Supplement(NONE, "")
"""No supplement: the actor then reads exactly what the unwrapped program would have sent."""


def parse(reply: str) -> Supplement:
    """Read a supplement's saved or rendered text; never fails. A model's own reply is read by `replies.read_reply`.

    A text begins with its kind in brackets; one without is kind `free`. An empty one, and one of kind `none` whatever
    follows, is `SILENCE`. Names are folded to lower case with underscores.

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
