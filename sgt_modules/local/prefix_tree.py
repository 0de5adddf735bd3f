"""The tree of the prefixes that prompts share, so that each shared run of tokens is read once.

    all of a batch:   instructions ─┬─ one question's tables ─┬─ supplement 1
                                    │                         └─ supplement 2
                                    └─ another's tables ────── supplement 3

Pure: it works on token ids alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

TokenIds = tuple[int, ...]

MIN_SAVING = 32
"""A shared run gets a node of its own if that saves reading at least this many tokens."""


@dataclass(frozen=True, slots=True)
class PrefixNode:
    """A run of tokens that one or several prompts have at the same place.

    Args:
        parent: The index of the node whose run comes before; None for a run that begins the prompts.
        prompt: One of the prompts that have the run.
        start: The run's first position in the prompt.
        end: The position after its last token.
        level: The number of nodes above it.
    """

    parent: int | None
    prompt: TokenIds
    start: int
    end: int
    level: int

    @property
    def ids(self) -> TokenIds:
        """The run's own tokens."""
        return self.prompt[self.start : self.end]


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """Nodes, parents first, and the index of each prompt's last node; None for a prompt of one token."""

    nodes: list[PrefixNode]
    ends: dict[TokenIds, int | None]

    @property
    def tokens(self) -> int:
        """The number of tokens in all nodes."""
        return sum(node.end - node.start for node in self.nodes)

    @property
    def longest_shared(self) -> list[int]:
        """The indices of the last nodes that several prompts share; of a single prompt, of its own last node."""
        if len(self.ends) == 1:
            return [index for index in self.ends.values() if index is not None]
        parents = {node.parent for node in self.nodes if node.parent is not None}
        grandparents = {self.nodes[index].parent for index in parents}
        return sorted(parents - grandparents)


def count_shared(one: TokenIds, other: TokenIds, start: int = 0) -> int:
    """How many first tokens two prompts share; they are known to share the first `start`.

    >>> count_shared((1, 2, 3), (1, 2, 4, 5)), count_shared((1, 2), (1, 2, 3))
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


def build_prefix_tree(prompts: Sequence[TokenIds], *, min_saving: int = MIN_SAVING) -> PrefixTree:
    """The tree of the distinct prompts, each without its last token, which is read when the reply begins.

    >>> tree = build_prefix_tree([(1, 2, 3, 7), (1, 2, 3, 8), (4, 5)], min_saving=3)
    >>> [(node.parent, node.ids) for node in tree.nodes], tree.ends[1, 2, 3, 8]
    ([(None, (4,)), (None, (1, 2, 3))], 1)
    """
    nodes, ends = list[PrefixNode](), dict[TokenIds, int | None]()
    groups: list[tuple[list[TokenIds], int, int, int | None]] = [(sorted(set(prompts)), 0, 0, None)] if prompts else []
    while groups:
        group, start, compared, parent = groups.pop()
        level = 0 if parent is None else nodes[parent].level + 1
        single = len(group) == 1
        # What the first and the last of sorted prompts share, all share. The last token is left for the reply's start.
        if single:
            end = len(group[0]) - 1
        else:
            end = min(count_shared(group[0], group[-1], compared), min(map(len, group)) - 1)
        if end > start and (single or (end - start) * (len(group) - 1) >= min_saving):
            nodes.append(PrefixNode(parent, group[0], start, end, level))
            parent, start = len(nodes) - 1, end
        if single:
            ends[group[0]] = parent
            continue
        groups.extend((part, start, end, parent) for part in _split_by_token(group, end))
    return PrefixTree(nodes, ends)


def _split_by_token(group: Sequence[TokenIds], position: int) -> Iterator[list[TokenIds]]:
    """Parts of a sorted group with the same token at `position`; a prompt that ends there is a part of its own."""
    part: list[TokenIds] = []
    for prompt in group:
        if part and (len(part[0]) - 1 <= position or prompt[position] != part[0][position]):
            yield part
            part = []
        part.append(prompt)
    yield part


def group_by_prefix(prompts: Sequence[TokenIds], *, min_saving: int = MIN_SAVING) -> list[list[TokenIds]]:
    """The distinct prompts in groups to read together; neighbours are sorted, so similar groups are near each other.

    Prompts of a group share at least `min_saving` tokens more than all prompts do. Those that share less than that
    with any other are one group, so that they can be sorted by length.

    >>> group_by_prefix([(1, 2, 7), (5, 6), (1, 2, 8), (5, 3)], min_saving=2)
    [[(5, 3), (5, 6)], [(1, 2, 7), (1, 2, 8)]]
    """
    distinct = sorted(set(prompts))
    if len(distinct) < 2:
        return [distinct] if distinct else []
    common = count_shared(distinct[0], distinct[-1])
    groups: list[list[TokenIds]] = [[distinct[0]]]
    for before, prompt in pairwise(distinct):
        if count_shared(before, prompt, common) - common >= min_saving:
            groups[-1].append(prompt)
        else:
            groups.append([prompt])
    single = [prompt for group in groups if len(group) == 1 for prompt in group]
    return [group for group in (single, *(group for group in groups if len(group) > 1)) if group]
