"""Which first tokens prompts share, as a tree of runs that are each read once; and which prompts to keep together.

    all of a batch:   instructions ─┬─ one question's tables ─┬─ supplement 1
                                    │                         └─ supplement 2
                                    └─ another's tables ────── supplement 3

Pure: token ids in, plans out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

Ids = tuple[int, ...]

WORTH = 32
"""A shared run has a node of its own where that spares reading at least this many tokens."""


@dataclass(frozen=True, slots=True)
class Node:
    """A run of tokens after those of its `parent` (the parent's place among the nodes), from place `start` of a prompt
    to just before `end`; `level` counts the nodes above it."""

    parent: int | None
    prompt: Ids
    start: int
    end: int
    level: int

    @property
    def ids(self) -> Ids:
        """The run's own tokens."""
        return self.prompt[self.start : self.end]


@dataclass(frozen=True, slots=True)
class Tree:
    """Nodes, parents first, and for each prompt the node that it ends with; None for a prompt of one token."""

    nodes: list[Node]
    ends: dict[Ids, int | None]

    @property
    def tokens(self) -> int:
        """How many distinct tokens the prompts have, each counted once for the tokens before it."""
        return sum(node.end - node.start for node in self.nodes)

    @property
    def stems(self) -> list[int]:
        """Places of the longest runs that several prompts begin with; of a single prompt, its own."""
        if len(self.ends) == 1:
            return [place for place in self.ends.values() if place is not None]
        parents = {node.parent for node in self.nodes if node.parent is not None}
        above = {self.nodes[place].parent for place in parents}
        return sorted(parents - above)


def shared(one: Ids, other: Ids, start: int = 0) -> int:
    """The first place from `start` on at which two prompts differ, or the shorter one's length.

    >>> shared((1, 2, 3), (1, 2, 4, 5)), shared((1, 2), (1, 2, 3))
    (2, 2)
    """
    most = min(len(one), len(other))
    while start < most:
        middle = (start + most + 1) // 2
        if one[start:middle] == other[start:middle]:
            start = middle
        else:
            most = middle - 1
    return start


def tree_of(prompts: Sequence[Ids], *, worth: int = WORTH) -> Tree:
    """The tree of distinct prompts, each without its last token, which is read when the reply begins.

    >>> many = tree_of([(1, 2, 3, 7), (1, 2, 3, 8), (4, 5)], worth=3)
    >>> [(node.parent, node.ids) for node in many.nodes], many.ends[1, 2, 3, 8]
    ([(None, (4,)), (None, (1, 2, 3))], 1)
    """
    nodes, ends = list[Node](), dict[Ids, int | None]()
    groups: list[tuple[list[Ids], int, int, int | None]] = [(sorted(set(prompts)), 0, 0, None)] if prompts else []
    while groups:
        group, start, known, parent = groups.pop()
        level = 0 if parent is None else nodes[parent].level + 1
        one = len(group) == 1
        # In order, the first and the last share what all share; each prompt keeps a token for the reply to begin with.
        same = len(group[0]) - 1 if one else min(shared(group[0], group[-1], known), min(map(len, group)) - 1)
        if same > start and (one or (same - start) * (len(group) - 1) >= worth):
            nodes.append(Node(parent, group[0], start, same, level))
            parent, start = len(nodes) - 1, same
        if one:
            ends[group[0]] = parent
            continue
        groups.extend((part, start, same, parent) for part in _parts(group, same))
    return Tree(nodes, ends)


def _parts(group: Sequence[Ids], place: int) -> Iterator[list[Ids]]:
    """Runs of a sorted group that have one token at `place`; a prompt that ends there goes by itself."""
    part: list[Ids] = []
    for prompt in group:
        if part and (len(part[0]) - 1 <= place or prompt[place] != part[0][place]):
            yield part
            part = []
        part.append(prompt)
    yield part


def families(prompts: Sequence[Ids], *, worth: int = WORTH) -> list[list[Ids]]:
    """Distinct prompts in groups that are best read together, in an order that keeps near groups near.

    A group shares more than the whole does, by enough to spare `worth` tokens a prompt; those that share no more than
    all do are one group, so that they can be put together by length.

    >>> families([(1, 2, 7), (5, 6), (1, 2, 8), (5, 3)], worth=2)
    [[(5, 3), (5, 6)], [(1, 2, 7), (1, 2, 8)]]
    """
    wanted = sorted(set(prompts))
    if len(wanted) < 2:
        return [wanted] if wanted else []
    common = shared(wanted[0], wanted[-1])
    groups: list[list[Ids]] = [[wanted[0]]]
    for before, prompt in pairwise(wanted):
        if shared(before, prompt, common) - common >= worth:
            groups[-1].append(prompt)
        else:
            groups.append([prompt])
    single = [prompt for group in groups if len(group) == 1 for prompt in group]
    return [group for group in (single, *(group for group in groups if len(group) > 1)) if group]
