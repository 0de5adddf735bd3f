"""Decodes a batch token by token on a CPU; a row leaves the batch when its reply ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch

from sgt_modules.local.loading import find_cache_argument
from sgt_modules.local.roomy_cache import choose_places, make_room
from sgt_modules.local.token_sampling import choose_tokens, put_given_tokens, stack_given_tokens

if TYPE_CHECKING:
    import numpy as np
    from transformers import DynamicCache, PreTrainedModel

    from sgt_modules.local.batching import TokenRequest


@dataclass(slots=True)
class Reply:
    """A request's reply so far.

    Args:
        request: The request.
        tokens: The reply's tokens, the end token included.
        logprob_sum: The sum of their log-probabilities (natural, untempered).
        has_ended: Whether the model wrote an end token.
    """

    request: TokenRequest
    tokens: list[int] = field(default_factory=list[int])
    logprob_sum: float = 0.0
    has_ended: bool = False


def decode_on_cpu(
    model: PreTrainedModel,
    cache: DynamicCache,
    mask: torch.Tensor,
    requests: Sequence[TokenRequest],
    uniforms: np.ndarray,
    ends: Sequence[int],
) -> list[Reply]:
    """The whole reply to each request, by a model on a CPU, where it costs little to look at the tokens of each step.

    `cache` holds all tokens of the prompts but the last, `mask` (rows x width) is 1 for a prompt's token and 0 for
    padding, `uniforms` (rows x steps) are the numbers in [0, 1) for drawing, `ends` are the end tokens.
    """
    replies = [Reply(request) for request in requests]
    rows, width = replies, mask.shape[1]
    mask = torch.nn.functional.pad(mask, (0, uniforms.shape[1]), value=1)
    positions = mask[:, :width].sum(-1, keepdim=True) - 1
    tokens = torch.tensor([[row.request.ids[-1]] for row in rows])
    points = torch.from_numpy(uniforms)
    given = stack_given_tokens(requests, uniforms.shape[1])
    temperatures = torch.tensor([[row.request.temperature] for row in rows], dtype=torch.float64)
    top_p = torch.tensor([[row.request.top_p] for row in rows], dtype=torch.float64)
    make_room(cache, uniforms.shape[1])
    cache_arguments = {find_cache_argument(cast("Any", model).forward): cache}
    for step in range(uniforms.shape[1]):
        scores = _compute_scores(
            model, tokens, attention_mask=mask[:, : width + step], position_ids=positions, **cache_arguments
        )
        tokens = choose_tokens(scores, temperatures, points[:, step : step + 1], top_p)
        if given is not None:
            tokens = put_given_tokens(tokens, scores, given[:, step : step + 1], ends)
        _append_tokens(rows, tokens, scores, ends)
        open_rows = [
            place for place, row in enumerate(rows) if not row.has_ended and len(row.tokens) < row.request.limit
        ]
        if not open_rows:
            break
        if len(open_rows) < len(rows):
            places = choose_places(open_rows)
            rows, kept = [rows[place] for place in places], torch.tensor(places)
            cache.batch_select_indices(kept)
            mask, positions, tokens, points = (each[kept] for each in (mask, positions, tokens, points))
            temperatures, top_p = temperatures[kept], top_p[kept]
            given = None if given is None else given[kept]
        positions = positions + 1
    return replies


def _compute_scores(model: PreTrainedModel, tokens: torch.Tensor, **arguments: object) -> torch.Tensor:
    """Logits of the next tokens, in the precision in which `generate` compares them."""
    return cast("Any", model)(tokens, use_cache=True, **arguments).logits[:, -1].to(torch.float32)


def _append_tokens(rows: Sequence[Reply], tokens: torch.Tensor, scores: torch.Tensor, ends: Sequence[int]) -> None:
    logprobs = (scores.gather(1, tokens).squeeze(1) - scores.logsumexp(-1)).tolist()
    for row, token, logprob in zip(rows, tokens.squeeze(1).tolist(), logprobs, strict=True):
        row.tokens.append(token)
        row.logprob_sum += logprob
        row.has_ended = token in ends
