"""What the rule-following actor reads in pretraining: endless seeded conversations under random instructions.

Each has sentences of random kinds and readings in random order, idle ones between them, and one question. So the actor
can only learn to do as the sentences say, and as usual where none speaks of a kind.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, cast

import dspy

from sgt_modules.embedded.rules.conventions import IDLE, KINDS, random_question
from sgt_modules.embedded.rules.program import REASONED
from sgt_modules.embedded.streams import Turn

HARD = (*["place"] * 4, *["presence"] * 4, "mid", "far", "size")
"""Kinds that are learned last: a share of the questions of their own makes it quicker."""

REPEATED = 0.1
"""How often a kind that is spoken of is spoken of twice; the later sentence holds."""


def random_instructions(rng: random.Random) -> tuple[str, dict[str, str]]:
    """Instructions, and the reading of each kind under them."""
    readings = {name: kind.default for name, kind in KINDS.items()}
    about = rng.sample(list(KINDS), rng.randint(0, len(KINDS)))
    about += [name for name in about if rng.random() < REPEATED]
    said: list[str] = []
    for name in rng.sample(about, len(about)):
        readings[name] = rng.choice(list(KINDS[name].readings))
        said.append(rng.choice(KINDS[name].sentences_for(readings[name])))
    for _ in range(rng.randint(0, 3)):
        said.insert(rng.randint(0, len(said)), rng.choice(IDLE) if rng.random() < 0.9 else _random_sentence(rng))
    between = "\n" if rng.random() < 0.1 else "\n- " if rng.random() < 0.1 else " "
    return (f"- {between.join(said)}" if between == "\n- " else between.join(said)) or " ", readings


def _random_sentence(rng: random.Random) -> str:
    """A sentence that no one wrote."""
    letters = string.ascii_lowercase + "    "
    return f"{''.join(rng.choice(letters) for _ in range(rng.randint(5, 30))).strip() or 'so'}.".capitalize()


@cache
def _conversation_texts() -> tuple[str, str, str]:
    """The texts of system, user and assistant as DSPy's adapter writes them, with a hole for each thing that varies."""
    adapter, holes = dspy.ChatAdapter(), {name: f"<{name}>" for name in REASONED.fields}
    system, user = adapter.format(REASONED.with_instructions("<instructions>"), [], holes)
    answer = adapter.format_assistant_message_content(REASONED, cast("Any", holes))
    return system["content"], user["content"], answer.rstrip("\n")


def conversation(rng: random.Random, *, more: Sequence[str] = ()) -> list[Turn]:
    """Instructions and a question, as DSPy's adapter writes them, with the reading and the right answer to learn.

    Kinds are equally likely, but for those in `more`, each of which counts once more for every time it is named.
    """
    instructions, readings = random_instructions(rng)
    system, user, assistant = _conversation_texts()
    question = random_question(rng.choice([*KINDS, *more]), rng)
    reading = readings[question.kind]
    user_text = user.replace("<fruit>", question.fruit).replace("<question>", question.text(rng.randrange(2)))
    said = assistant.replace("<reasoning>", reading).replace("<answer>", question.answer(reading))
    system_text = system.replace("<instructions>", instructions.replace("\n", "\n        "))
    return [Turn("system", system_text), Turn("user", user_text), Turn("assistant", said, learned=True)]


def stream(seed: int, *, more: Sequence[str] = ()) -> Iterator[list[Turn]]:
    """Conversations without end; the same seed, the same stream."""
    rng = random.Random(f"house-rules-{seed}")
    while True:
        yield conversation(rng, more=more)
