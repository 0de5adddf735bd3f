"""The pretraining data of the rule-following actor: endless seeded conversations with random instructions.

Each has sentences of random kinds and readings in random order, idle sentences between them, and one question. So the
actor only learns to follow the sentences, and to use the default reading of a kind without a sentence.
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
"""Kinds that are learned last; extra questions about them speed this up."""

REPEATED = 0.1
"""The share of kinds with two sentences; the later sentence holds."""


def random_instructions(rng: random.Random) -> tuple[str, dict[str, str]]:
    """Draw instructions, and return them with the reading of each kind."""
    readings = {name: kind.default for name, kind in KINDS.items()}
    about = rng.sample(list(KINDS), rng.randint(0, len(KINDS)))
    about += [name for name in about if rng.random() < REPEATED]
    sentences: list[str] = []
    for name in rng.sample(about, len(about)):
        readings[name] = rng.choice(list(KINDS[name].readings))
        sentences.append(rng.choice(KINDS[name].sentences_for(readings[name])))
    for _ in range(rng.randint(0, 3)):
        sentences.insert(
            rng.randint(0, len(sentences)), rng.choice(IDLE) if rng.random() < 0.9 else _random_sentence(rng)
        )
    between = "\n" if rng.random() < 0.1 else "\n- " if rng.random() < 0.1 else " "
    return (f"- {between.join(sentences)}" if between == "\n- " else between.join(sentences)) or " ", readings


def _random_sentence(rng: random.Random) -> str:
    letters = string.ascii_lowercase + "    "
    return f"{''.join(rng.choice(letters) for _ in range(rng.randint(5, 30))).strip() or 'so'}.".capitalize()


@cache
def _conversation_texts() -> tuple[str, str, str]:
    """Return the system, user and assistant texts as DSPy's adapter writes them, with a hole for each varying part."""
    adapter, holes = dspy.ChatAdapter(), {name: f"<{name}>" for name in REASONED.fields}
    system, user = adapter.format(REASONED.with_instructions("<instructions>"), [], holes)
    answer = adapter.format_assistant_message_content(REASONED, cast("Any", holes))
    return system["content"], user["content"], answer.rstrip("\n")


def conversation(rng: random.Random, *, more: Sequence[str] = ()) -> list[Turn]:
    """Draw instructions and a question, with the reading and the right answer as the training target.

    All kinds are equally likely, except that each mention of a kind in `more` adds one chance for it.
    """
    instructions, readings = random_instructions(rng)
    system, user, assistant = _conversation_texts()
    question = random_question(rng.choice([*KINDS, *more]), rng)
    reading = readings[question.kind]
    user_text = user.replace("<fruit>", question.fruit).replace("<question>", question.text(rng.randrange(2)))
    assistant_text = assistant.replace("<reasoning>", reading).replace("<answer>", question.answer(reading))
    system_text = system.replace("<instructions>", instructions.replace("\n", "\n        "))
    return [Turn("system", system_text), Turn("user", user_text), Turn("assistant", assistant_text, learned=True)]


def stream(seed: int, *, more: Sequence[str] = ()) -> Iterator[list[Turn]]:
    """Yield conversations without end; the same seed gives the same stream."""
    rng = random.Random(f"house-rules-{seed}")
    while True:
        yield conversation(rng, more=more)
