"""Chooses each row's next token from its logits: the likeliest, a draw by inverse CDF, or a token that is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from sgt_modules.local.batching import TokenRequest

_ANY_TOKEN, _END = -1, -2
"""In place of a given token: the step draws its token; the reply ends here."""

_NUCLEUS = 64
"""How many of the likeliest tokens are tried first as a row's nucleus, then eight times as many: to sort a whole
vocabulary takes longer than a step of a model of 0.5 B parameters."""


def draw_tokens(
    scores: torch.Tensor, temperatures: torch.Tensor, points: torch.Tensor, top_p: torch.Tensor | None = None
) -> torch.Tensor:
    """One token a row, as a column: the first whose cumulated probability exceeds the row's point in [0, 1).

    `scores` (rows x tokens) are logits, `temperatures` and `points` columns of one precision; temperatures above 0.
    With `top_p` in (0, 1], a row draws from its nucleus: the fewest likeliest tokens that have that share together.

    >>> halves = torch.log(torch.tensor([[0.5, 0.25, 0.25]] * 3))
    >>> draw_tokens(halves, torch.ones(3, 1), torch.tensor([[0.4], [0.6], [0.8]])).tolist()
    [[0], [1], [2]]
    >>> thirds = torch.log(torch.tensor([[0.2, 0.5, 0.3]] * 3))
    >>> draw_tokens(thirds, torch.ones(3, 1), torch.tensor([[0.1], [0.6], [0.9]]), torch.full((3, 1), 0.7)).tolist()
    [[1], [1], [2]]
    """
    narrow = torch.zeros_like(points, dtype=torch.bool) if top_p is None else top_p < 1
    if top_p is not None and narrow.any():
        if narrow.all():
            return _draw_from_nucleus(scores, temperatures, points, top_p)
        # Each row draws as it would alone: rows without a nucleus in the vocabulary's order, not by probability.
        tokens = draw_tokens(scores, temperatures, points)
        rows = narrow.squeeze(1)
        tokens[rows] = _draw_from_nucleus(scores[rows], temperatures[rows], points[rows], top_p[rows])
        return tokens
    cumulated = (scores.to(temperatures.dtype) / temperatures).softmax(-1).cumsum(-1)
    # The sum may miss 1 by rounding: scale the point instead, so that a token with some probability is drawn.
    tokens = torch.searchsorted(cumulated, points * cumulated[:, -1:], right=True)
    return tokens.clamp_(max=scores.shape[1] - 1)


def choose_tokens(
    scores: torch.Tensor, temperatures: torch.Tensor, points: torch.Tensor, top_p: torch.Tensor
) -> torch.Tensor:
    """As `draw_tokens`, and the likeliest token where the temperature is 0."""
    sampled = temperatures > 0
    if not sampled.any():
        return scores.argmax(-1, keepdim=True)
    tokens = draw_tokens(scores, torch.where(sampled, temperatures, 1.0), points, top_p)
    return torch.where(sampled, tokens, scores.argmax(-1, keepdim=True))


def stack_given_tokens(requests: Sequence[TokenRequest], steps: int) -> torch.Tensor | None:
    """The tokens of the replies that requests give, rows x steps; None if no request gives one."""
    if not any(request.reply for request in requests):
        return None
    open_row = [_ANY_TOKEN] * steps
    rows = [[*each.reply, _END, *open_row][:steps] if each.reply else open_row for each in requests]
    return torch.tensor(rows)


def put_given_tokens(
    tokens: torch.Tensor, scores: torch.Tensor, given: torch.Tensor, ends: Sequence[int]
) -> torch.Tensor:
    """The tokens (a column), replaced where tokens are given; a given reply ends with its likeliest end token.

    >>> scores = torch.tensor([[0.0, 3.0, 1.0]] * 3)
    >>> tokens = scores.argmax(-1, keepdim=True)
    >>> put_given_tokens(tokens, scores, torch.tensor([[-1], [0], [-2]]), ends=[0, 2]).tolist()
    [[1], [0], [2]]
    """
    tokens = torch.where(given >= 0, given, tokens)
    if not ends:
        return tokens
    last = torch.tensor(list(ends), device=scores.device)
    return torch.where(given == _END, last[scores[:, last].argmax(-1, keepdim=True)], tokens)


def _draw_from_nucleus(
    scores: torch.Tensor, temperatures: torch.Tensor, points: torch.Tensor, top_p: torch.Tensor
) -> torch.Tensor:
    """As `draw_tokens`, where every row draws from a nucleus: tokens in order of probability, ties as in `topk`."""
    # In the scores' own precision: a pass over a vocabulary in double precision costs as much as a layer.
    total = (scores / temperatures.to(scores.dtype)).logsumexp(-1, keepdim=True)
    drawn = torch.empty_like(points, dtype=torch.long)
    left, most = torch.arange(len(scores), device=scores.device), min(_NUCLEUS, scores.shape[1])
    while len(left):
        best, tokens = scores[left].topk(most, dim=-1)
        cumulated = (best.to(points.dtype) / temperatures[left] - total[left]).exp().cumsum(-1)
        complete = (cumulated[:, -1:] >= top_p[left]).squeeze(1) | (most == scores.shape[1])
        # The nucleus ends with the token that reaches the share.
        last = (cumulated < top_p[left]).sum(-1, keepdim=True).clamp_(max=most - 1)
        place = torch.searchsorted(cumulated, points[left] * cumulated.gather(1, last), right=True)
        drawn[left[complete]] = tokens.gather(1, torch.minimum(place, last))[complete]
        left, most = left[~complete], min(8 * most, scores.shape[1])
    return drawn
