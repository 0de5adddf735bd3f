"""The baseline `lookup`: no training, only the supplement that won for the most similar training queries.

Every trained generator must beat it: what a generator gains over it is what training itself is worth.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optimizers.comparison.tf_idf import TfIdf
from optimizers.core.records import Rollout
from optimizers.core.stages import Stage
from optimizers.rollouts.evaluation import Evaluator, mean_score
from sgt_modules.errors import SetupError
from sgt_modules.generator import SupplementGenerator
from sgt_modules.generator_state import EndpointGeneratorState, GeneratorState
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.samples import SILENT, Sample, SampleRequest

NEIGHBOURS = (1, 2, 4, 8, 16)
"""The numbers of neighbours among which validation chooses."""


def is_exploration(rollout: Rollout) -> bool:
    """Whether a rollout is of a training query: of a pool of exploration, or of the program without supplements.

    >>> from optimizers.core.records import Query, Reward
    >>> of = lambda stage: Rollout(Query("a", 0, "self", "2+2?"), stage, "free", SILENCE, Reward(1.0))
    >>> [is_exploration(of(stage)) for stage in ("warm", "round 2", "none/train", "none/val", "sft/test")]
    [True, True, True, False, False]
    """
    return bool(rollout.query.predictor) and Stage.read(rollout.stage).split in ("", "train")


class NearestWinners:
    """The supplements that won for each training query, found by the similarity of the queries' prompts.

    No supplement counts as a supplement too: it wins where the program is right by itself. The same supplement on the
    same query counts once, however many stages tried it. `seed` breaks ties.

    >>> from optimizers.core.records import Query, Reward
    >>> zoka, bima = (Query(word, 0, "self", f"count the {word} customers") for word in ("zoka", "bima"))
    >>> tried = [(zoka, "Over 45.", 1.0), (zoka, "In Oslo.", 0.0), (bima, "In Rome.", 1.0)]
    >>> winners = NearestWinners(
    ...     Rollout(query, "warm", "free", Supplement("cot", text), Reward(score)) for query, text, score in tried
    ... )
    >>> winners.choose("list the zoka customers", 1).text
    'Over 45.'
    """

    def __init__(self, rollouts: Iterable[Rollout], *, threshold: float = 1.0, seed: int = 0) -> None:
        won: dict[str, dict[tuple[str, str], Supplement]] = defaultdict(dict)
        for each in rollouts:
            if each.reward is not None:
                own = won[each.query.prompt]
                if each.won(threshold):
                    own[each.query.id, each.supplement.render()] = each.supplement
        rng = random.Random(f"{seed}-lookup")
        self._prompts = rng.sample(sorted(won), len(won))
        self._won = [won[prompt] for prompt in self._prompts]
        texts = sorted({text for each in self._won for _, text in each})
        self._order = {text: number for number, text in enumerate(rng.sample(texts, len(texts)))}
        self._index = TfIdf(self._prompts)

    def __len__(self) -> int:
        """The number of training queries with different prompts."""
        return len(self._prompts)

    @property
    def fingerprint(self) -> str:
        """A hash of all that a choice depends on."""
        content = repr((self._prompts, [sorted(each) for each in self._won], list(self._order)))
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def choose(self, prompt: str, neighbours: int) -> Supplement:
        """Return the supplement that won most often for the `neighbours` most similar training queries.

        Of those that won equally often, the one that won for the most similar query, then a seeded choice. No
        supplement if none of these queries was ever won.
        """
        if not self._prompts:
            return SILENCE
        wins, first, supplements = Counter[str](), dict[str, int](), dict[str, Supplement]()
        for rank, row in enumerate(self._find_nearest(prompt, neighbours)):
            for (_, text), supplement in self._won[row].items():
                wins[text] += 1
                first.setdefault(text, rank)
                supplements.setdefault(text, supplement)
        if not wins:
            return SILENCE
        return supplements[min(wins, key=lambda text: (-wins[text], first[text], self._order[text]))]

    def _find_nearest(self, prompt: str, neighbours: int) -> Sequence[int]:
        """Return the rows of the most similar prompts; equal ones stand in their seeded order."""
        similarities = np.round(self._index.similarities(prompt), 5)
        return [int(row) for row in np.argsort(-similarities, kind="stable")[:neighbours]]


class NearestWinnerGenerator(SupplementGenerator):
    """Looks supplements up among `winners` in place of a model's writing; `inner` only writes the prompts.

    It draws no tokens. A saved program cannot hold it.
    """

    def __init__(self, inner: SupplementGenerator, winners: NearestWinners, neighbours: int) -> None:
        self.winners, self.neighbours = winners, neighbours
        self.engine, self.temperature, self.max_new_tokens = inner.engine, inner.temperature, inner.max_new_tokens
        self.prompt, self.max_prompt_tokens, self.menu = inner.prompt, inner.max_prompt_tokens, inner.menu
        self._fingerprint = f"lookup of {winners.fingerprint} among {neighbours}"

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the winners, with the number of neighbours."""
        return self._fingerprint

    def draw(self, prompt: str | SampleRequest) -> Sample:
        """Look the supplement of a prompt up; the request's seed, kind and temperature make no difference."""
        supplement = self.winners.choose(self.as_request(prompt).prompt, self.neighbours)
        return Sample(supplement.text, kind=supplement.kind, cut=supplement.cut) if supplement else SILENT

    async def adraw(self, prompt: str | SampleRequest) -> Sample:
        """Do the same as `draw`, for coroutines."""
        return self.draw(prompt)

    def samples(self, requests: Sequence[SampleRequest], *, at_once: int = 1024) -> Iterator[Sample]:
        """Look the supplement of each request up."""
        return map(self.draw, requests)

    def dump_state(self, json_mode: bool = True) -> GeneratorState | EndpointGeneratorState:
        """Raise `SetupError`: there is no model to refer to."""
        raise SetupError(
            "Expected a program with a model as its generator, got one that looks supplements up among training "
            "queries, which no saved program holds. Save the program that SGTTeleprompter compiled."
        )


@dataclass(frozen=True, slots=True)
class Lookup:
    """A lookup whose number of neighbours was chosen: the score of each number on validation, in [0, 1].

    `rollouts` are those of the chosen number on validation, in the examples' order.
    """

    generator: NearestWinnerGenerator
    validation: Mapping[int, float]
    rollouts: Sequence[Rollout]

    @property
    def words(self) -> str:
        """Say in words how many neighbours were chosen.

        >>> from sgt_modules.embedded import embedded_generator
        >>> Lookup(NearestWinnerGenerator(embedded_generator(), NearestWinners([]), 4), {1: 0.3, 4: 0.5}, ()).words
        '4 nearest training queries, chosen on validation'
        """
        count = self.generator.neighbours
        return f"{count} nearest training {'query' if count == 1 else 'queries'}, chosen on validation"


def choose_lookup(
    explored: Iterable[Rollout],
    inner: SupplementGenerator,
    validation: Evaluator,
    *,
    threshold: float = 1.0,
    seed: int = 0,
    neighbours: Sequence[int] = NEIGHBOURS,
) -> Lookup:
    """Choose how many neighbours to look at by the score on the validation set; the smaller number wins a tie.

    `explored` are the rollouts of training queries. Runs the validation examples once for each number; equal
    supplements are paid once.
    """
    winners = NearestWinners(explored, threshold=threshold, seed=seed)
    numbers = [number for number in neighbours if number <= len(winners)] or [min(neighbours)]
    found: dict[int, Lookup] = {}
    scores: dict[int, float] = {}
    for number in numbers:
        generator = NearestWinnerGenerator(inner, winners, number)
        rollouts = validation.score(f"lookup {number}", generator).rollouts
        scores[number] = mean_score(rollouts)
        found[number] = Lookup(generator, scores, rollouts)
    return found[max(numbers, key=lambda number: (scores[number], -number))]
