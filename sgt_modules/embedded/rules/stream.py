"""What the rule-following actor reads in pretraining: endless seeded conversations under random instructions.

Each has sentences of random kinds and readings in random order, idle ones between them, and questions of several kinds,
each kind once. So the actor can only learn to do as the sentences say, and as usual where none speaks of a kind.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterator
from typing import Any, cast

import dspy

from sgt_modules.embedded.rules.conventions import IDLE, KINDS, random_question
from sgt_modules.embedded.rules.program import AnswerAboutList
from sgt_modules.embedded.streams import Turn

TURNS = 1
"""Questions of a conversation, each of another kind, so that no answer can be taken from one before."""

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
        said.append(rng.choice(KINDS[name].said(readings[name])))
    for _ in range(rng.randint(0, 3)):
        said.insert(rng.randint(0, len(said)), rng.choice(IDLE) if rng.random() < 0.9 else _strange(rng))
    between = "\n" if rng.random() < 0.1 else "\n- " if rng.random() < 0.1 else " "
    return (f"- {between.join(said)}" if between == "\n- " else between.join(said)) or " ", readings


def _strange(rng: random.Random) -> str:
    """A sentence that no one wrote."""
    letters = string.ascii_lowercase + "    "
    return f"{''.join(rng.choice(letters) for _ in range(rng.randint(5, 30))).strip() or 'so'}.".capitalize()


def conversation(rng: random.Random) -> list[Turn]:
    """Instructions and questions, each as DSPy's adapter writes it, with the right answers to learn."""
    instructions, readings = random_instructions(rng)
    signature, adapter = AnswerAboutList.with_instructions(instructions), dspy.ChatAdapter()
    turns: list[Turn] = []
    for kind in rng.sample(list(KINDS), TURNS):
        question = random_question(kind, rng)
        inputs = {"fruit": question.fruit, "question": question.text(rng.randrange(2))}
        messages = adapter.format(signature, [], inputs)
        answer = {"answer": question.answer(readings[kind])}
        said = adapter.format_assistant_message_content(signature, cast("Any", answer))
        turns += [Turn(each["role"], each["content"]) for each in (messages[1:] if turns else messages)]
        turns.append(Turn("assistant", said.rstrip("\n"), learned=True))
    return turns


def stream(seed: int) -> Iterator[list[Turn]]:
    """Conversations without end; the same seed, the same stream."""
    rng = random.Random(f"house-rules-{seed}")
    while True:
        yield conversation(rng)
