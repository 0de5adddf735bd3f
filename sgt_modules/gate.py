"""Gate: drops supplements for inputs unlike the training inputs, or if the generator is unsure. Pure."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypedDict

from sgt_modules.saving.state_checks import check_mapping, read_number, read_whole_number
from sgt_modules.sharing import SharedByCopies

_HAN = r"\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_THAI = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_WORD = re.compile(rf"(?P<han>[{_HAN}]+)|(?P<thai>[{_THAI}]+)|[^\W{_HAN}{_THAI}]+")
"""A run of Chinese or Japanese; one of Thai, Lao, Burmese or Khmer; or a word between spaces."""
_GRAMS = {"han": 2, "thai": 3}
"""How many characters make a word in scripts without spaces."""
_ANY = -1e9
"""Stands for minus infinity in a saved gate, as JSON has no infinity."""


class GateState(TypedDict):
    """A gate as a saved program keeps it."""

    seen: dict[str, int]
    inputs: int
    most_novel: float
    least_sure: float


@dataclass(frozen=True, slots=True)
class Gate(SharedByCopies):
    """Lets a supplement through when its input is like the training inputs and the generator is sure of it.

    `seen` counts in how many of the `inputs` training inputs (the generator's prompts) each word occurs. In scripts
    without spaces, the words are pairs of characters (Chinese, Japanese) or triples (Thai, Lao, Burmese, Khmer). An
    input with a `novelty` above `most_novel` gets no supplement. A supplement with a mean log-probability per token
    below `least_sure` is dropped. The defaults let everything through; `optimizers.sgt.gating` sets them on validation.

    >>> gate = Gate.of(["how many red cars", "how many red boats"], most_novel=0.4)
    >>> gate.familiar("how many red boats"), gate.familiar("how many green goats")
    (True, False)
    """

    seen: Mapping[str, int]
    inputs: int
    most_novel: float = 1.0
    least_sure: float = -math.inf

    @classmethod
    def of(cls, prompts: Iterable[str], *, most_novel: float = 1.0, least_sure: float = -math.inf) -> Gate:
        """Build a gate from the training inputs."""
        prompts = list(prompts)
        seen = Counter(word for prompt in prompts for word in _words(prompt))
        return cls(dict(sorted(seen.items())), len(prompts), most_novel, least_sure)

    def novelty(self, prompt: str) -> float:
        """Return the share of an input's words that are not in the training inputs, in [0, 1].

        Each word is weighted by its inverse document frequency: words of every input weigh little, unseen words most.
        """
        weights = {word: math.log((1 + self.inputs) / (1 + self.seen.get(word, 0))) for word in sorted(_words(prompt))}
        total = sum(weights.values())
        return sum(weight for word, weight in weights.items() if word not in self.seen) / total if total else 0.0

    def familiar(self, prompt: str) -> bool:
        """Whether an input is similar enough to the training inputs to ask the generator."""
        return self.novelty(prompt) <= self.most_novel

    def sure(self, logprob: float) -> bool:
        """Whether a supplement with this mean log-probability is let through."""
        return logprob >= self.least_sure

    def dump_state(self) -> GateState:
        """Return the gate as JSON."""
        return GateState(
            seen=dict(self.seen),
            inputs=self.inputs,
            most_novel=self.most_novel,
            least_sure=max(self.least_sure, _ANY),
        )

    @classmethod
    def load_state(cls, state: GateState) -> Gate:
        """Load the gate of a saved program. Raises `SavedStateError` if the state is not a gate's."""
        values = check_mapping(state, "a gate's state")
        seen = check_mapping(values.get("seen"), "a gate's words")
        inputs = read_whole_number(values, "inputs", 0)
        words = {word: read_whole_number(seen, word, 1, inputs) for word in seen}
        least_sure = read_number(values, "least_sure", _ANY)
        most_novel = read_number(values, "most_novel", 0.0)
        return cls(words, inputs, most_novel, least_sure if least_sure > _ANY else -math.inf)


def _words(text: str) -> set[str]:
    return {
        word
        for match in _WORD.finditer(text.casefold())
        for word in _parts(match[0], _GRAMS.get(match.lastgroup or ""))
    }


def _parts(run: str, size: int | None) -> list[str]:
    """Return a word, or all groups of `size` characters in a run without spaces."""
    if size is None or len(run) <= size:
        return [run]
    return [run[start : start + size] for start in range(len(run) - size + 1)]
