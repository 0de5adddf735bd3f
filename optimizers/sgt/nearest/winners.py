"""Which supplements won for which training queries, and how many neighbours a lookup asks: chosen on validation.

Every trained generator must beat it: what a generator gains over it is what training itself is worth.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from optimizers.core.records import Rollout
from optimizers.core.stages import Stage
from optimizers.rollouts.evaluation import Evaluator, Scored, mean_score
from optimizers.sgt.nearest.settings import NEIGHBOURS
from sgt_modules.generator import SupplementGenerator
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.winner_lookup import WinnerLookup, WinnerTable


def is_exploration(rollout: Rollout) -> bool:
    """Whether a rollout is of a training query: of a pool of exploration, or of the program without supplements.

    >>> from optimizers.core.records import Query, Reward
    >>> of = lambda stage: Rollout(Query("a", 0, "self", "2+2?"), stage, "free", SILENCE, Reward(1.0))
    >>> [is_exploration(of(stage)) for stage in ("warm", "round 2", "none/train", "none/val", "sft/test")]
    [True, True, True, False, False]
    """
    return bool(rollout.query.predictor) and Stage.read(rollout.stage).split in ("", "train")


def collect_winners(rollouts: Iterable[Rollout], *, threshold: float = 1.0, seed: int = 0) -> WinnerTable:
    """Collect the supplements that won for each training prompt; `seed` decides ties.

    No supplement counts as a supplement too: it wins where the program is right by itself. The same supplement on the
    same query counts once, however many stages tried it. A prompt for which nothing won stays, as a neighbour without
    winners.

    >>> from optimizers.core.records import Query, Reward
    >>> zoka, bima = (Query(word, 0, "self", f"count the {word} customers") for word in ("zoka", "bima"))
    >>> tried = [(zoka, "Over 45.", 1.0), (zoka, "In Oslo.", 0.0), (bima, "In Rome.", 1.0)]
    >>> table = collect_winners(
    ...     Rollout(query, "warm", "free", Supplement("cot", text), Reward(score)) for query, text, score in tried
    ... )
    >>> WinnerLookup(table, 1).choose("list the zoka customers").text
    'Over 45.'
    """
    won: dict[str, dict[tuple[str, str], Supplement]] = defaultdict(dict)
    for each in rollouts:
        if each.reward is not None:
            own = won[each.query.prompt]
            if each.won(threshold):
                own[each.query.id, each.supplement.render()] = each.supplement
    rng = random.Random(f"{seed}-lookup")
    prompts = rng.sample(sorted(won), len(won))
    supplements = {text: each for prompt in prompts for (_, text), each in won[prompt].items()}
    texts = rng.sample(sorted(supplements), len(supplements))
    positions = {text: position for position, text in enumerate(texts)}
    return WinnerTable(
        tuple(supplements[text] or SILENCE for text in texts),
        tuple(prompts),
        tuple(tuple(positions[text] for _, text in won[prompt]) for prompt in prompts),
    )


def lookup_generator(table: WinnerTable, neighbours: int, *, like: SupplementGenerator) -> SupplementGenerator:
    """Return a generator that looks supplements up; it writes the prompts that `like` writes.

    >>> lookup_generator(WinnerTable(), 4, like=SupplementGenerator(WinnerLookup())).name
    'nearest-winner'
    """
    return SupplementGenerator(
        WinnerLookup(table, neighbours), prompt=like.prompt, max_prompt_tokens=like.max_prompt_tokens
    )


@dataclass(frozen=True, slots=True)
class Lookup:
    """A lookup whose number of neighbours was chosen: the score of each number on validation, in [0, 1].

    `scored` is what validation found for the chosen number.
    """

    generator: SupplementGenerator
    neighbours: int
    validation: Mapping[int, float]
    scored: Scored

    @property
    def rollouts(self) -> Sequence[Rollout]:
        """The rollouts of the chosen number on validation, in the examples' order."""
        return self.scored.rollouts

    @property
    def words(self) -> str:
        """Say in words how many neighbours were chosen.

        >>> Lookup(SupplementGenerator(WinnerLookup()), 4, {1: 0.3, 4: 0.5}, Scored([], [])).words
        '4 nearest training queries, chosen on validation'
        """
        return (
            f"{self.neighbours} nearest training {'query' if self.neighbours == 1 else 'queries'}, chosen on validation"
        )


def choose_lookup(
    explored: Iterable[Rollout],
    inner: SupplementGenerator,
    validation: Evaluator,
    *,
    threshold: float = 1.0,
    seed: int = 0,
    neighbours: Sequence[int] = NEIGHBOURS,
    stage: str = "lookup",
) -> Lookup:
    """Choose how many neighbours to look at by the score on the validation set; the smaller number wins a tie.

    `explored` are the rollouts of training queries; `inner` writes the prompts. Runs the validation examples once for
    each number; equal supplements are paid once. In the store, their stages are parts of `stage`.
    """
    table = collect_winners(explored, threshold=threshold, seed=seed)
    numbers = [number for number in neighbours if number <= len(table)] or [min(neighbours)]
    found: dict[int, Scored] = {}
    scores: dict[int, float] = {}
    for number in numbers:
        found[number] = validation.score(f"{stage}/{number}", lookup_generator(table, number, like=inner))
        scores[number] = mean_score(found[number].rollouts)
    best = max(numbers, key=lambda number: (scores[number], -number))
    return Lookup(lookup_generator(table, best, like=inner), best, scores, found[best])
