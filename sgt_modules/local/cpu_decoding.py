"""A batch continued a token at a time, which rows leave as they end; and how a token is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch

from sgt_modules.local.loading import cache_argument

if TYPE_CHECKING:
    import numpy as np
    from transformers import DynamicCache, PreTrainedModel

    from sgt_modules.local.batching import TokenRequest


@dataclass(slots=True)
class Row:
    """A request's reply so far: its tokens with the end token, the sum of their log-probabilities (natural,
    untempered), and whether the model ended it by itself."""

    request: TokenRequest
    tokens: list[int] = field(default_factory=list[int])
    total: float = 0.0
    ended: bool = False


def write(
    model: PreTrainedModel,
    cache: DynamicCache,
    mask: torch.Tensor,
    requests: Sequence[TokenRequest],
    uniforms: np.ndarray,
    ends: Sequence[int],
) -> list[Row]:
    """Continue every request to its end, by a model on a CPU: here a step reads which rows have ended.

    `cache` holds all tokens of the prompts but the last, `mask` (rows x width) is 1 for every prompt's token and 0 for
    padding, `uniforms` (rows x steps) are the numbers in [0, 1) that tokens are drawn by.
    """
    written = [Row(request) for request in requests]
    rows, width = written, mask.shape[1]
    mask = torch.nn.functional.pad(mask, (0, uniforms.shape[1]), value=1)
    places = mask[:, :width].sum(-1, keepdim=True) - 1
    tokens = torch.tensor([[row.request.ids[-1]] for row in rows])
    points = torch.from_numpy(uniforms)
    fixed = given(requests, uniforms.shape[1])
    heat = torch.tensor([[row.request.temperature] for row in rows], dtype=torch.float64)
    shares = torch.tensor([[row.request.top_p] for row in rows], dtype=torch.float64)
    held = {cache_argument(cast("Any", model).forward): cache}
    for step in range(uniforms.shape[1]):
        read = mask[:, : width + step]
        scores = _scores(model, tokens, attention_mask=read, position_ids=places, **held)
        tokens = _chosen(scores, heat, points[:, step : step + 1], shares)
        if fixed is not None:
            tokens = instead(tokens, scores, fixed[:, step : step + 1], ends)
        _note(rows, tokens, scores, ends)
        going = [place for place, row in enumerate(rows) if not row.ended and len(row.tokens) < row.request.limit]
        if not going:
            break
        if len(going) < len(rows):
            rows, kept = [rows[place] for place in going], torch.tensor(going)
            cache.batch_select_indices(kept)
            mask, places, tokens, points = (each[kept] for each in (mask, places, tokens, points))
            heat, shares = heat[kept], shares[kept]
            fixed = None if fixed is None else fixed[kept]
        places = places + 1
    return written


_DRAWN, _END = -1, -2
"""In the place of a given token: none is given here; the reply ends here."""


def given(requests: Sequence[TokenRequest], steps: int) -> torch.Tensor | None:
    """The tokens of replies that are given, rows x steps; None where none is."""
    if not any(request.reply for request in requests):
        return None
    drawn_row = [_DRAWN] * steps
    rows = [[*each.reply, _END, *drawn_row][:steps] if each.reply else drawn_row for each in requests]
    return torch.tensor(rows)


def instead(tokens: torch.Tensor, scores: torch.Tensor, fixed: torch.Tensor, ends: Sequence[int]) -> torch.Tensor:
    """The tokens (a column), and in their place those that are given; a given reply ends with its likeliest end token.

    >>> scores = torch.tensor([[0.0, 3.0, 1.0]] * 3)
    >>> instead(scores.argmax(-1, keepdim=True), scores, torch.tensor([[-1], [0], [-2]]), ends=[0, 2]).tolist()
    [[1], [0], [2]]
    """
    tokens = torch.where(fixed >= 0, fixed, tokens)
    if not ends:
        return tokens
    last = torch.tensor(list(ends), device=scores.device)
    return torch.where(fixed == _END, last[scores[:, last].argmax(-1, keepdim=True)], tokens)


_NUCLEUS = 64
"""The likeliest tokens among which a nucleus is looked for first, and then eight times as many: to sort a whole
vocabulary takes longer than a step of a model of 0.5 B parameters."""


def drawn(
    scores: torch.Tensor, temperatures: torch.Tensor, points: torch.Tensor, shares: torch.Tensor | None = None
) -> torch.Tensor:
    """One token a row, as a column: the first whose cumulated probability exceeds the row's point in [0, 1).

    `scores` (rows x tokens) are logits, `temperatures` and `points` columns of one precision; temperatures above 0.
    With `shares` in (0, 1], a row draws from its nucleus: the fewest likeliest tokens that have that share together.

    >>> halves = torch.log(torch.tensor([[0.5, 0.25, 0.25]] * 3))
    >>> drawn(halves, torch.ones(3, 1), torch.tensor([[0.4], [0.6], [0.8]])).tolist()
    [[0], [1], [2]]
    >>> thirds = torch.log(torch.tensor([[0.2, 0.5, 0.3]] * 3))
    >>> drawn(thirds, torch.ones(3, 1), torch.tensor([[0.1], [0.6], [0.9]]), torch.full((3, 1), 0.7)).tolist()
    [[1], [1], [2]]
    """
    if shares is not None and (shares < 1).any():
        return _from_nucleus(scores, temperatures, points, shares)
    cumulated = (scores.to(temperatures.dtype) / temperatures).softmax(-1).cumsum(-1)
    # The sum may miss 1 by rounding: scale the point instead, so that a token with some probability is found.
    found = torch.searchsorted(cumulated, points * cumulated[:, -1:], right=True)
    return found.clamp_(max=scores.shape[1] - 1)


def _from_nucleus(
    scores: torch.Tensor, temperatures: torch.Tensor, points: torch.Tensor, shares: torch.Tensor
) -> torch.Tensor:
    """As `drawn`, where some rows draw from a nucleus: tokens in order of probability, ties as `topk` has them."""
    # In the scores' own precision: a pass over a vocabulary in double precision costs as much as a layer.
    total = (scores / temperatures.to(scores.dtype)).logsumexp(-1, keepdim=True)
    found = torch.empty_like(points, dtype=torch.long)
    left, most = torch.arange(len(scores), device=scores.device), min(_NUCLEUS, scores.shape[1])
    while len(left):
        best, tokens = scores[left].topk(most, dim=-1)
        cumulated = (best.to(points.dtype) / temperatures[left] - total[left]).exp().cumsum(-1)
        reached = (cumulated[:, -1:] >= shares[left]).squeeze(1) | (most == scores.shape[1])
        # The nucleus ends with the token that reaches the share.
        last = (cumulated < shares[left]).sum(-1, keepdim=True).clamp_(max=most - 1)
        place = torch.searchsorted(cumulated, points[left] * cumulated.gather(1, last), right=True)
        found[left[reached]] = tokens.gather(1, torch.minimum(place, last))[reached]
        left, most = left[~reached], min(8 * most, scores.shape[1])
    return found


def _scores(model: PreTrainedModel, tokens: torch.Tensor, **read: object) -> torch.Tensor:
    """Logits of the next tokens, in the precision in which `generate` compares them."""
    return cast("Any", model)(tokens, use_cache=True, **read).logits[:, -1].to(torch.float32)


def _chosen(scores: torch.Tensor, heat: torch.Tensor, points: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """The drawn tokens, or the likeliest where the temperature is 0."""
    sampled = heat > 0
    if not sampled.any():
        return scores.argmax(-1, keepdim=True)
    tokens = drawn(scores, torch.where(sampled, heat, 1.0), points, shares)
    return torch.where(sampled, tokens, scores.argmax(-1, keepdim=True))


def _note(rows: Sequence[Row], tokens: torch.Tensor, scores: torch.Tensor, ends: Sequence[int]) -> None:
    logprobs = (scores.gather(1, tokens).squeeze(1) - scores.logsumexp(-1)).tolist()
    for row, token, logprob in zip(rows, tokens.squeeze(1).tolist(), logprobs, strict=True):
        row.tokens.append(token)
        row.total += logprob
        row.ended = token in ends
