"""What preference pairs have in common, so that a model need read it only once. Pure: no torch here.

pairs of token ids -> distinct completions -> steps of pairs -> parts that fit -> blocks of one prompt
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from optimizers.training.tokenisation import Row

Couple = tuple[int, int]
"""A pair: the numbers of its chosen and of its rejected completion."""


@dataclass(frozen=True, slots=True)
class Completion:
    """Token ids of a completion, and the number of the prompt that it follows."""

    prompt: int
    ids: list[int]


@dataclass(frozen=True, slots=True)
class Distinct:
    """Pairs, with each prompt and each completion of a prompt held once; pairs refer to completions by number."""

    prompts: list[list[int]]
    completions: list[Completion]
    pairs: list[Couple]


@dataclass(frozen=True, slots=True)
class Block:
    """What a model reads as one sequence: a prompt, and completions of it that do not see each other.

    >>> Block([1, 2], ([3], [4, 5])).length
    5
    """

    prompt: list[int]
    completions: tuple[list[int], ...]

    @property
    def length(self) -> int:
        """Tokens in all."""
        return len(self.prompt) + sum(map(len, self.completions))


def distinct(rows: Sequence[Row]) -> Distinct:
    """The rows' chosen and rejected completions, each once a prompt.

    >>> distinct([Row([1], ([2], [3])), Row([1], ([2], [4]))]).pairs
    [(0, 1), (0, 2)]
    """
    prompts: dict[tuple[int, ...], int] = {}
    completions: dict[tuple[int, tuple[int, ...]], int] = {}

    def number(prompt: list[int], ids: list[int]) -> int:
        of_prompt = prompts.setdefault(tuple(prompt), len(prompts))
        return completions.setdefault((of_prompt, tuple(ids)), len(completions))

    pairs = [(number(row.prompt, row.completions[0]), number(row.prompt, row.completions[1])) for row in rows]
    return Distinct([list(ids) for ids in prompts], [Completion(of, list(ids)) for of, ids in completions], pairs)


PROMPTS = 2
"""Prompts that a step meets at least: pairs of one prompt alone would pull the weights to and fro."""

COMPANY = 4
"""Pairs of a prompt that come together at most: more would save little, and a step would know fewer prompts."""


class PromptGrouped:
    """A sampler of pairs: at each iteration all indices, in an order in which pairs with completions in common meet.

    A prompt's pairs are cut into groups of `COMPANY`, or of half a small `step`, and the groups of all prompts
    are shuffled.

    >>> pairs = distinct([Row([prompt], ([2], [3 + loser])) for loser in range(2) for prompt in range(2)])
    >>> list(PromptGrouped(pairs, step=8, rng=random.Random(0)))
    [2, 0, 1, 3]
    """

    def __init__(self, pairs: Distinct, step: int, rng: random.Random) -> None:
        self._pairs, self._size, self._rng = pairs, max(1, min(COMPANY, step // PROMPTS)), rng

    def __len__(self) -> int:
        return len(self._pairs.pairs)

    def __iter__(self) -> Iterator[int]:
        of_prompt: dict[int, list[int]] = {}
        for index, (chosen, _) in enumerate(self._pairs.pairs):
            of_prompt.setdefault(self._pairs.completions[chosen].prompt, []).append(index)
        groups = [group for own in of_prompt.values() for group in self._groups(own)]
        self._rng.shuffle(groups)
        return (index for group in groups for index in group)

    def _groups(self, indices: Sequence[int]) -> Iterator[list[int]]:
        """One prompt's pairs in groups: next comes the pair with the fewest completions that the group lacks."""
        left = self._rng.sample(indices, len(indices))
        while left:
            group: list[int] = []
            met: set[int] = set()
            while left and len(group) < self._size:
                best = min(range(len(left)), key=lambda at: len(set(self._pairs.pairs[left[at]]) - met))
                index = left.pop(best)
                group.append(index)
                met.update(self._pairs.pairs[index])
            yield group


def parts(couples: Sequence[Couple], most: int) -> list[list[Couple]]:
    """The couples in their order, cut where a part would hold more than `most` completions (at least 2).

    >>> parts([(0, 1), (0, 2), (3, 4)], most=3)
    [[(0, 1), (0, 2)], [(3, 4)]]
    """
    found: list[list[Couple]] = []
    met: set[int] = set()
    for couple in couples:
        if not found or len(met.union(couple)) > most:
            found.append([])
            met = set()
        found[-1].append(couple)
        met.update(couple)
    return found


def blocks(pairs: Distinct, wanted: Collection[int], longest: int) -> tuple[list[Block], list[int]]:
    """Blocks with the `wanted` completions, and the completions' numbers in the order in which they stand there.

    A block has at most `longest` tokens, or one completion: with `longest` 0 no prompt is shared.

    >>> pairs = Distinct([[7, 8]], [Completion(0, [1]), Completion(0, [2, 3])], [(0, 1)])
    >>> blocks(pairs, {0, 1}, longest=9)
    ([Block(prompt=[7, 8], completions=([1], [2, 3]))], [0, 1])
    >>> len(blocks(pairs, {0, 1}, longest=4)[0])
    2
    """
    found: list[Block] = []
    order = sorted(wanted, key=lambda number: (pairs.completions[number].prompt, number))
    before = -1
    for number in order:
        completion = pairs.completions[number]
        if completion.prompt == before and found[-1].length + len(completion.ids) <= longest:
            found[-1] = Block(found[-1].prompt, (*found[-1].completions, completion.ids))
        else:
            found.append(Block(pairs.prompts[completion.prompt], (completion.ids,)))
        before = completion.prompt
    return found, order
