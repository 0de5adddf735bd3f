"""Requests for samples of many prompts, as tests ask an engine for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sgt_modules.samples import SampleRequest


def requests(
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    openings: Sequence[str] | None = None,
    temperature: float = 1.0,
    **settings: Any,
) -> list[SampleRequest]:
    """A request for each prompt, with a seed and an opening of its own and the other settings of `SampleRequest`."""
    return [
        SampleRequest(prompt, seed, temperature=temperature, opening=opening, **settings)
        for prompt, seed, opening in zip(prompts, seeds, openings or [""] * len(prompts), strict=True)
    ]
