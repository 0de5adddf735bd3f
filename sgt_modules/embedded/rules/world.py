"""The world of house rules: the right reading of each kind of question, and questions from which to learn it.

The rules, the first prompt and the questions are simulated: they are drawn from a seed. The calls are real: DSPy calls
a frozen transformer that reads the instructions, and its answers are compared with the expected ones.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property, partial

import dspy

from sgt_modules.embedded.rules.conventions import ASKED, BASE, IDLE, parse_sentence, random_question

OWN = 4
"""How many kinds of question have another reading than the default in a house."""


@dataclass(frozen=True, slots=True)
class RuleSizes:
    """The number of questions in each split: multiples of eight, the same number of each kind."""

    train: int = 64
    validation: int = 64
    test: int = 200


RULES_FULL = RuleSizes()
RULES_QUICK = RuleSizes(train=40, validation=32, test=64)


class HouseRulesWorld:
    """A house, drawn from `seed`: its rules, its first instructions, and its splits.

    `rules` has the right reading of each kind. `instructions` is the program's first prompt: a base sentence, a harmful
    one, and an idle one. The rules can only be learned from outcomes.

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
        self._kinds: dict[tuple[str, str], str] = {}

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle only the seed and the sizes: another process draws the same world, so its metric is equal."""
        return partial(type(self), self.seed, sizes=self.sizes), ()

    @property
    def instructions(self) -> str:
        """The program's first prompt."""
        return " ".join(self.first)

    def truth(self, sentence: str) -> int:
        """Return the effect of a single sentence on the score: 1 it helps, -1 it harms, 0 it has no effect.

        For a kind with a house rule, the sentence helps if it names the right reading; another wrong reading has no
        effect. For any other kind, a reading other than the default harms.
        """
        rule = parse_sentence(sentence)
        if rule is None or rule[0] not in ASKED or rule[1] == ASKED[rule[0]].default:
            return 0
        kind, reading = rule
        if self.rules[kind] == ASKED[kind].default:
            return -1
        return int(reading == self.rules[kind])

    @staticmethod
    def sentences(prompt: str) -> list[str]:
        """Split a prompt of this world at its full stops, which occur only at the end of a sentence.

        >>> HouseRulesWorld.sentences("Be polite. Never guess.")
        ['Be polite.', 'Never guess.']
        """
        return [f"{each.strip()}." for each in prompt.split(".") if each.strip()]

    def panel(self, rng: random.Random) -> list[str]:
        """Draw sentences to test impact scores: one about each kind, half of them right, and three idle ones.

        >>> world = HouseRulesWorld(seed=0)
        >>> len(world.panel(random.Random(0)))
        11
        """
        sentences: list[str] = []
        for name, kind in ASKED.items():
            reading = self.rules[name] if rng.random() < 0.5 else rng.choice(list(kind.readings))
            sentences.append(rng.choice(kind.sentences_for(reading)))
        sentences += rng.sample(IDLE, 3)
        return rng.sample(sentences, len(sentences))

    @cached_property
    def splits(self) -> dict[str, list[dspy.Example]]:
        """`train`, `val` and `test`; no question is in two of them."""
        sizes = {"train": self.sizes.train, "val": self.sizes.validation, "test": self.sizes.test}
        return {name: self._split(size) for name, size in sizes.items()}

    @property
    def train(self) -> list[dspy.Example]:
        """The training split, whose mistakes the corrector reads."""
        return self.splits["train"]

    @property
    def val(self) -> list[dspy.Example]:
        """The validation split, used only to select a prompt."""
        return self.splits["val"]

    @property
    def test(self) -> list[dspy.Example]:
        """The test split."""
        return self.splits["test"]

    def metric(self, example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> float:
        """Score 1.0 if the answer is exactly the expected one, else 0.0."""
        return float(str(prediction.answer).strip() == example.answer)

    def find_kind(self, example: dspy.Example) -> str:
        """Returns the kind of a question of this world, on which whole questions are won or lost together.

        >>> world = HouseRulesWorld(seed=0)
        >>> len({world.find_kind(example) for example in world.test})
        8
        """
        self.splits  # noqa: B018 - drawn on first use
        return self._kinds[example.fruit, example.question]

    def _split(self, size: int) -> list[dspy.Example]:
        kinds = list(ASKED)
        examples: list[dspy.Example] = []
        while len(examples) < size:
            kind = kinds[len(examples) % len(kinds)]
            question = random_question(kind, self._rng)
            fruit, text = question.fruit, question.text(self._rng.randrange(2))
            if (fruit, text) not in self._kinds:
                self._kinds[fruit, text] = kind
                answer = question.answer(self.rules[kind])
                example = dspy.Example(fruit=fruit, question=text, answer=answer)
                examples.append(example.with_inputs("fruit", "question"))
        self._rng.shuffle(examples)
        return examples
