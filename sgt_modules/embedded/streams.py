"""The pretraining data of the embedded models: endless seeded streams of conversations about random worlds.

Every conversation invents its own words and their meanings; the words that are reserved for worlds never occur. So an
actor only learns to *use* what a supplement or a demo says about a word, and a generator only learns the *form* of a
supplement.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import dspy

from sgt_modules.embedded.company import SCHEMA, TABLES, Condition, Table, conditions
from sgt_modules.embedded.phrasing import FREE_STYLE, PREDEFINED, Claim, phrase, random_kind
from sgt_modules.embedded.program import PROGRAM_SIGNATURES
from sgt_modules.embedded.questions import plain_rows, random_ask, term_rows, words
from sgt_modules.generator_prompt import COMPACT
from sgt_modules.kinds import FREE, KINDS
from sgt_modules.prompts import SUPPLEMENT

PLAIN_SHARE = 0.25
UNNAMED = ("answer", "rephrase", "hint")
"""Kinds that do not name the term: they are always about the question of their own conversation."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A message, and whether its text is a training target."""

    role: str
    content: str
    learned: bool = False


@dataclass
class RandomWorld:
    """The words of one conversation and their meanings."""

    rng: random.Random
    meanings: dict[tuple[str, str], Condition] = field(default_factory=dict)

    def invent(self) -> tuple[str, Table]:
        """Draw a new word for rows of a random table."""
        word, table = self.rng.choice(words(reserved=False)), self.rng.choice(tuple(TABLES.values()))
        self.meanings.setdefault((word, table.name), self.rng.choice(conditions(table)))
        return word, table

    def recall_or_invent(self) -> tuple[str, Table]:
        """Draw a word that the conversation already has, or a new one."""
        if self.meanings and self.rng.random() < 0.8:
            word, table = self.rng.choice(list(self.meanings))
            return word, TABLES[table]
        return self.invent()

    def claim(self, *, new: bool = False) -> Claim:
        """Draw a question of this world: a quarter are plain, the others about a word."""
        rng = self.rng
        if rng.random() < PLAIN_SHARE:
            table = rng.choice(tuple(TABLES.values()))
            condition = rng.choice(conditions(table))
            return self._claim(table, "", plain_rows(condition, table), condition)
        word, table = self.invent() if new else self.recall_or_invent()
        return self._claim(table, word, term_rows(word, table), self.meanings[word, table.name])

    def _claim(self, table: Table, word: str, rows: str, condition: Condition) -> Claim:
        other = self.rng.choice([each for each in conditions(table) if each != condition])
        return Claim(random_ask(table, self.rng), rows, word, condition, other, random_ask(table, self.rng))


def mislead(claim: Claim, rng: random.Random) -> Claim:
    """Return the claim with random conditions: uninformed, and right only by chance."""
    first, second = rng.sample(conditions(claim.ask.table), 2)
    return Claim(claim.ask, claim.rows, claim.word, first, second, claim.example)


def question_of(claim: Claim, rng: random.Random) -> str:
    """Write the claim's question in a random phrasing."""
    return claim.ask.question(claim.rows, rng.randrange(2))


def _supplement_text(claim: Claim, world: RandomWorld) -> str:
    """Write a supplement as an actor can get it: right, of two parts, cut off, untagged, or about another question."""
    rng = world.rng
    if rng.random() < 0.12:
        stranger = world.claim(new=True)
        kind = rng.choice([kind for kind in (*PREDEFINED, *FREE_STYLE) if kind not in UNNAMED])
        return phrase(kind, stranger).render() if stranger.rows != claim.rows else ""
    source = claim if claim.word or rng.random() < 0.3 else mislead(claim, rng)
    text = phrase(random_kind(rng), source).render()
    if rng.random() < 0.15:
        text = f"{text}\n{phrase(random_kind(rng), source).render()}"
    elif rng.random() < 0.05:
        text = text.partition("] ")[2]
    elif rng.random() < 0.03:
        text = text[: rng.randrange(len(text))]
    return text


def _random_instructions(rng: random.Random) -> str:
    letters = string.ascii_letters + "    .,"
    return "".join(rng.choice(letters) for _ in range(rng.randint(5, 60))).strip() or "Answer."


def _random_role(rng: random.Random) -> str:
    """Draw a predictor's name in its program; half of the time none, as for a bare predictor."""
    draw = rng.random()
    if draw < 0.5:
        return ""
    if draw < 0.7:
        return rng.choice(("predict", "answer.predict", "check", "steps[0]", "second"))
    return "".join(rng.choice(string.ascii_lowercase + "._") for _ in range(rng.randint(3, 12)))


def _outputs(claim: Claim, signature: type[dspy.Signature]) -> Mapping[str, str]:
    outputs = {"sql": claim.ask.sql(claim.condition)}
    if "reasoning" in signature.output_fields:
        outputs["reasoning"] = f"{claim.subject} means {claim.condition}."
    return outputs


def _turns(signature: type[dspy.Signature], demos: Sequence[dspy.Example], final: dspy.Example) -> list[Turn]:
    """Write the conversation as DSPy's adapter does, with the right answer at its end."""
    adapter = dspy.ChatAdapter()
    inputs = {name: final[name] for name in signature.input_fields}
    messages = adapter.format(signature, cast("Any", list(demos)), inputs)
    turns = [
        Turn(each["role"], each["content"], each["role"] == "assistant" and "Not supplied for" not in each["content"])
        for each in messages
    ]
    answer = adapter.format_assistant_message_content(
        signature, {name: final[name] for name in signature.output_fields}
    )
    return [*turns, Turn("assistant", answer.rstrip("\n"), learned=True)]


def actor_conversation(rng: random.Random) -> list[Turn]:
    """Draw a conversation for an actor: 0 to 8 demos, with or without reasoning and a supplement."""
    world = RandomWorld(rng)
    with_reasoning, with_supplement_field = rng.random() < 0.25, rng.random() < 0.7
    signature = PROGRAM_SIGNATURES[2 * with_reasoning + with_supplement_field]
    if rng.random() < 0.05:
        signature = signature.with_instructions(_random_instructions(rng))
    examples = []
    for _ in range(1 + (rng.randint(1, 8) if rng.random() < 0.25 else 0)):
        claim = world.claim()
        fields = {"tables": SCHEMA, "question": question_of(claim, rng), **_outputs(claim, signature)}
        if with_supplement_field:
            fields[SUPPLEMENT] = _supplement_text(claim, world)
        examples.append(fields)
    demos = [_as_demo(fields, rng) for fields in examples[:-1]]
    return _turns(signature, demos, dspy.Example(**examples[-1]))


def _as_demo(fields: dict[str, str], rng: random.Random) -> dspy.Example:
    """Return a demo as an optimizer leaves it: often without the fields that data sets lack."""
    dropped = {SUPPLEMENT, "reasoning"} if rng.random() < 0.5 else set()
    return dspy.Example(**{name: value for name, value in fields.items() if name not in dropped})


def generator_conversation(rng: random.Random) -> list[Turn]:
    """Draw a conversation for a generator: a prompt with or without a kind or role, and an uninformed supplement."""
    world = RandomWorld(rng)
    claim = world.claim(new=True)
    if claim.word or rng.random() < 0.3:
        claim = mislead(claim, rng)
    draw = rng.random()
    if draw < 0.5:
        requested_kind, kind = None, random_kind(rng)
    elif draw < 0.8:
        kind = rng.choice(PREDEFINED)
        requested_kind = KINDS[kind]
    else:
        kind = rng.choice(FREE_STYLE)
        requested_kind = FREE if draw < 0.9 else kind
    signature = PROGRAM_SIGNATURES[2 * (rng.random() < 0.25)]
    if rng.random() < 0.1:
        signature = signature.with_instructions(_random_instructions(rng))
    inputs = {"tables": SCHEMA, "question": question_of(claim, rng)}
    prompt = COMPACT.asking(COMPACT.write(signature, inputs, role=_random_role(rng)), requested_kind)
    return [Turn("user", prompt), Turn("assistant", phrase(kind, claim).render(), learned=True)]


def stream(which: str, seed: int) -> Iterator[list[Turn]]:
    """Yield conversations without end for `actor` or `generator`; the same seed gives the same stream."""
    make = {"actor": actor_conversation, "generator": generator_conversation}[which]
    rng = random.Random(f"{which}-{seed}")
    while True:
        yield make(rng)
