"""What training rows have in common, so that a model reads it only once. Pure: no torch here.

A row of DPO is a pair of completions; a row of GRPO is one completion with its advantage.

rows of token ids -> each completion once -> steps of rows -> parts that fit in memory -> blocks of one prompt
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from optimizers.training.tokenisation import TokenRow

MIN_PROMPTS: Final = 2
"""Prompts in a step, at least: pairs of one prompt alone would pull the weights to and fro."""

MAX_GROUP: Final = 4
"""Pairs of a prompt that come together, at most: more would save little, and leave fewer prompts in a step."""

IndexedPair = tuple[int, ...]
"""The indices of a row's completions: of the chosen and the rejected one of a pair, of the only one of a sample."""


@dataclass(frozen=True, slots=True)
class PromptCompletion:
    """Token ids of a completion, and the index of the prompt that it follows."""

    prompt: int
    ids: list[int]


@dataclass(frozen=True, slots=True)
class PairIndex:
    """Pairs, with each prompt once, and each completion of a prompt once; pairs refer to completions by index.

    Samples are pairs of one completion each; `advantages` are theirs, in the same order.
    """

    prompts: list[list[int]]
    completions: list[PromptCompletion]
    pairs: list[IndexedPair]
    advantages: list[float] = field(default_factory=list[float])


def index_pairs(rows: Sequence[TokenRow]) -> PairIndex:
    """Index the completions of rows, each once a prompt.

    >>> index_pairs([TokenRow([1], ([2], [3])), TokenRow([1], ([2], [4]))]).pairs
    [(0, 1), (0, 2)]
    """
    prompts: dict[tuple[int, ...], int] = {}
    completions: dict[tuple[int, tuple[int, ...]], int] = {}

    def index(prompt: list[int], ids: list[int]) -> int:
        of_prompt = prompts.setdefault(tuple(prompt), len(prompts))
        return completions.setdefault((of_prompt, tuple(ids)), len(completions))

    pairs = [tuple(index(row.prompt, ids) for ids in row.completions) for row in rows]
    return PairIndex(
        [list(ids) for ids in prompts],
        [PromptCompletion(prompt, list(ids)) for prompt, ids in completions],
        pairs,
        [row.advantage for row in rows],
    )


class PromptGrouped:
    """A sampler that gives each pair's index once an iteration; pairs that share completions come together.

    Cuts the pairs of each prompt into groups of `MAX_GROUP`, or of half a small `step`, and shuffles all groups.

    >>> pairs = index_pairs([TokenRow([prompt], ([2], [3 + loser])) for loser in range(2) for prompt in range(2)])
    >>> list(PromptGrouped(pairs, step=8, rng=random.Random(0)))
    [2, 0, 1, 3]
    """

    def __init__(self, pairs: PairIndex, step: int, rng: random.Random) -> None:
        self._pairs, self._size, self._rng = pairs, max(1, min(MAX_GROUP, step // MIN_PROMPTS)), rng

    def __len__(self) -> int:
        return len(self._pairs.pairs)

    def __iter__(self) -> Iterator[int]:
        of_prompt: dict[int, list[int]] = {}
        for index, pair in enumerate(self._pairs.pairs):
            of_prompt.setdefault(self._pairs.completions[pair[0]].prompt, []).append(index)
        groups = [group for indices in of_prompt.values() for group in self._group(indices)]
        self._rng.shuffle(groups)
        return (index for group in groups for index in group)

    def _group(self, indices: Sequence[int]) -> Iterator[list[int]]:
        """Group one prompt's pairs; a group next takes the pair with the fewest completions new to the group."""
        left = self._rng.sample(indices, len(indices))
        while left:
            group: list[int] = []
            seen: set[int] = set()
            while left and len(group) < self._size:
                best = min(range(len(left)), key=lambda at: len(set(self._pairs.pairs[left[at]]) - seen))
                index = left.pop(best)
                group.append(index)
                seen.update(self._pairs.pairs[index])
            yield group


def split_pairs(pairs: Sequence[IndexedPair], most: int) -> list[list[IndexedPair]]:
    """Split pairs, in their order, into parts of at most `most` distinct completions (at least 2).

    >>> split_pairs([(0, 1), (0, 2), (3, 4)], most=3)
    [[(0, 1), (0, 2)], [(3, 4)]]
    """
    parts: list[list[IndexedPair]] = []
    seen: set[int] = set()
    for pair in pairs:
        if not parts or len(seen.union(pair)) > most:
            parts.append([])
            seen = set()
        parts[-1].append(pair)
        seen.update(pair)
    return parts


def build_blocks(pairs: PairIndex, completions: Collection[int], longest: int) -> tuple[list[TokenRow], list[int]]:
    """Blocks that hold the `completions` of these indices, and the indices in the order in which they stand there.

    A block has at most `longest` tokens, or one completion: with `longest` 0 no prompt is shared.

    >>> pairs = PairIndex([[7, 8]], [PromptCompletion(0, [1]), PromptCompletion(0, [2, 3])], [(0, 1)])
    >>> build_blocks(pairs, {0, 1}, longest=9)
    ([TokenRow(prompt=[7, 8], completions=([1], [2, 3]))], [0, 1])
    >>> len(build_blocks(pairs, {0, 1}, longest=4)[0])
    2
    """
    blocks: list[TokenRow] = []
    order = sorted(completions, key=lambda index: (pairs.completions[index].prompt, index))
    last_prompt = -1
    for index in order:
        completion = pairs.completions[index]
        if completion.prompt == last_prompt and blocks[-1].shared_length + len(completion.ids) <= longest:
            blocks[-1] = TokenRow(blocks[-1].prompt, (*blocks[-1].completions, completion.ids))
        else:
            blocks.append(TokenRow(pairs.prompts[completion.prompt], (completion.ids,)))
        last_prompt = completion.prompt
    return blocks, order
