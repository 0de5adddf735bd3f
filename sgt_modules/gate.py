"""Gate: when not to speak. An input unlike the training inputs, or an unsure generator, gets no supplement. Pure."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypedDict

from sgt_modules.saving.state_checks import check_mapping, read_number, read_whole_number

_HAN = r"\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_THAI = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_WORD = re.compile(rf"(?P<han>[{_HAN}]+)|(?P<thai>[{_THAI}]+)|[^\W{_HAN}{_THAI}]+")
"""A run of Chinese or Japanese; one of Thai, Lao, Burmese or Khmer; or a word between spaces."""
_GRAMS = {"han": 2, "thai": 3}
"""How many characters in a row are looked at where words have no spaces between them."""
_ANY = -1e9
"""What a saved gate has for minus infinity, which JSON does not know."""


class GateState(TypedDict):
    """A gate as a saved program keeps it."""

    seen: dict[str, int]
    inputs: int
    most_novel: float
    least_sure: float


@dataclass(frozen=True, slots=True)
class Gate:
    """Lets a supplement through when its input is like the training inputs and the generator is sure of it.

    `seen` counts in how many of the `inputs` training inputs (the generator's prompts) each word stands. Where a script
    has no spaces, pairs of characters (Chinese, Japanese) or triples (Thai, Lao, Burmese, Khmer) are its words. Inputs
    of a `novelty` above `most_novel` get no supplement, neither do supplements whose mean log-probability a token lies
    under `least_sure`. The default thresholds let everything through; `optimizers.sgt.gating` sets them on validation.

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
        """A gate that knows these training inputs."""
        prompts = list(prompts)
        seen = Counter(word for prompt in prompts for word in _words(prompt))
        return cls(dict(sorted(seen.items())), len(prompts), most_novel, least_sure)

    def novelty(self, prompt: str) -> float:
        """How much of an input the training inputs do not hold: in [0, 1], 0.0 when every word was seen.

        The share of unseen words, each weighed by its inverse document frequency, so that words which stand in every
        input weigh little and unseen ones most.
        """
        weights = {word: math.log((1 + self.inputs) / (1 + self.seen.get(word, 0))) for word in sorted(_words(prompt))}
        total = sum(weights.values())
        return sum(weight for word, weight in weights.items() if word not in self.seen) / total if total else 0.0

    def familiar(self, prompt: str) -> bool:
        """Whether an input is enough like the training inputs to ask the generator at all."""
        return self.novelty(prompt) <= self.most_novel

    def sure(self, logprob: float) -> bool:
        """Whether a supplement of this mean log-probability is let through."""
        return logprob >= self.least_sure

    def dump_state(self) -> GateState:
        """The gate as JSON."""
        return GateState(
            seen=dict(self.seen),
            inputs=self.inputs,
            most_novel=self.most_novel,
            least_sure=max(self.least_sure, _ANY),
        )

    @classmethod
    def load_state(cls, state: GateState) -> Gate:
        """The gate of a saved program. Raises `SavedStateError` for what no gate dumps."""
        found = check_mapping(state, "a gate's state")
        seen = check_mapping(found.get("seen"), "a gate's words")
        inputs = read_whole_number(found, "inputs", 0)
        words = {word: read_whole_number(seen, word, 1, inputs) for word in seen}
        least_sure = read_number(found, "least_sure", _ANY)
        most_novel = read_number(found, "most_novel", 0.0)
        return cls(words, inputs, most_novel, least_sure if least_sure > _ANY else -math.inf)

    def __deepcopy__(self, memo: dict[int, object]) -> Gate:
        return self


def _words(text: str) -> set[str]:
    return {
        word
        for found in _WORD.finditer(text.casefold())
        for word in _parts(found[0], _GRAMS.get(found.lastgroup or ""))
    }


def _parts(run: str, size: int | None) -> list[str]:
    """A word itself, or the groups of `size` characters that a run without spaces holds."""
    if size is None or len(run) <= size:
        return [run]
    return [run[start : start + size] for start in range(len(run) - size + 1)]
