"""A house with rules of its own: which reading of each kind of question is right there, and questions to learn it from.

Simulated: the rules, the first prompt and the questions are drawn from a seed. What is real is the way to them: DSPy
calls to a frozen transformer that reads the instructions, and answers compared with the expected ones.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property, partial

import dspy

from sgt_modules.embedded.rules.conventions import ASKED, BASE, IDLE, parse_sentence, random_question

OWN = 4
"""How many kinds of question a house reads in a way of its own; the others as usual."""


@dataclass(frozen=True, slots=True)
class RuleSizes:
    """How many questions each split holds: multiples of eight, as many of each kind."""

    train: int = 64
    validation: int = 64
    test: int = 200


RULES_FULL = RuleSizes()
RULES_QUICK = RuleSizes(train=40, validation=32, test=64)


class HouseRulesWorld:
    """One house, drawn from `seed`: its rules, the instructions that somebody left there, and its splits.

    `rules` has the right reading of each kind. `instructions` are the program's first: a base sentence, one that does
    harm, and an idle one. Nothing but the outcomes tells of the rules.

    >>> world = HouseRulesWorld(seed=0)
    >>> sum(reading != ASKED[kind].default for kind, reading in world.rules.items())
    4
    >>> [world.truth(sentence) for sentence in world.first]
    [0, -1, 0]
    >>> {name: len(split) for name, split in world.splits.items()}
    {'train': 64, 'val': 64, 'test': 200}
    """

    def __init__(self, seed: int = 0, *, sizes: RuleSizes = RULES_FULL) -> None:
        self.seed, self.sizes = seed, sizes
        self._rng = rng = random.Random(f"house-rules-{seed}")
        own = rng.sample(list(ASKED), OWN)
        self.rules = {name: rng.choice(kind.others) if name in own else kind.default for name, kind in ASKED.items()}
        usual = rng.choice([name for name in ASKED if name not in own])
        harmful = rng.choice(ASKED[usual].sentences_for(rng.choice(ASKED[usual].others)))
        self.first = (BASE, harmful, rng.choice(IDLE[1:]))

    def __reduce__(self) -> tuple[object, ...]:
        """A world is its seed and sizes: another process draws the same, and one seed's metric is one metric."""
        return partial(type(self), self.seed, sizes=self.sizes), ()

    @property
    def instructions(self) -> str:
        """The program's first prompt."""
        return " ".join(self.first)

    def truth(self, sentence: str) -> int:
        """What a sentence by itself does to the score: 1 it helps, -1 it harms, 0 it does nothing.

        One about a kind that the house reads in its own way helps where it names that way; another way is as wrong as
        the usual one. One about any other kind harms, unless it names the usual way.
        """
        found = parse_sentence(sentence)
        if found is None or found[0] not in ASKED or found[1] == ASKED[found[0]].default:
            return 0
        kind, reading = found
        if self.rules[kind] == ASKED[kind].default:
            return -1
        return int(reading == self.rules[kind])

    @staticmethod
    def sentences(prompt: str) -> list[str]:
        """The sentences of a prompt of this world, in which a full stop stands only at their ends.

        >>> HouseRulesWorld.sentences("Be polite. Never guess.")
        ['Be polite.', 'Never guess.']
        """
        return [f"{each.strip()}." for each in prompt.split(".") if each.strip()]

    def panel(self, rng: random.Random) -> list[str]:
        """Sentences to try impact scores on: one about each kind, half of which say what is right, and three idle ones.

        >>> world = HouseRulesWorld(seed=0)
        >>> len(world.panel(random.Random(0)))
        11
        """
        said: list[str] = []
        for name, kind in ASKED.items():
            reading = self.rules[name] if rng.random() < 0.5 else rng.choice(list(kind.readings))
            said.append(rng.choice(kind.sentences_for(reading)))
        said += rng.sample(IDLE, 3)
        return rng.sample(said, len(said))

    @cached_property
    def splits(self) -> dict[str, list[dspy.Example]]:
        """`train`, `val` and `test`; no question stands in two of them."""
        asked: set[tuple[str, str]] = set()
        sizes = {"train": self.sizes.train, "val": self.sizes.validation, "test": self.sizes.test}
        return {name: self._split(size, asked) for name, size in sizes.items()}

    @property
    def train(self) -> list[dspy.Example]:
        """The training split, whose mistakes the corrector reads."""
        return self.splits["train"]

    @property
    def val(self) -> list[dspy.Example]:
        """The validation split, used only for choosing a prompt."""
        return self.splits["val"]

    @property
    def test(self) -> list[dspy.Example]:
        """The test split."""
        return self.splits["test"]

    def metric(self, example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> float:
        """1.0 where the answer is the expected one, to the letter, else 0.0."""
        return float(str(prediction.answer).strip() == example.answer)

    def _split(self, size: int, asked: set[tuple[str, str]]) -> list[dspy.Example]:
        kinds = list(ASKED)
        examples: list[dspy.Example] = []
        while len(examples) < size:
            kind = kinds[len(examples) % len(kinds)]
            question = random_question(kind, self._rng)
            fruit, text = question.fruit, question.text(self._rng.randrange(2))
            if (fruit, text) not in asked:
                asked.add((fruit, text))
                answer = question.answer(self.rules[kind])
                example = dspy.Example(fruit=fruit, question=text, answer=answer)
                examples.append(example.with_inputs("fruit", "question"))
        self._rng.shuffle(examples)
        return examples
