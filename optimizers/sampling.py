"""What the generator writes for a stage: in the store as it comes, and not asked again when a run goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from optimizers.store import KeptSample, RolloutStore
from sgt_modules.generator import Sampled, SupplementGenerator

SAMPLED_AT_ONCE = 1024
"""Prompts that a local generator decodes together: enough to fill its batches with prompts of a like length."""


class Ask(NamedTuple):
    """One sample that is wanted."""

    prompt: str
    seed: int


def sampled(
    store: RolloutStore,
    stage: str,
    generator: SupplementGenerator,
    asks: Sequence[Ask],
    *,
    temperature: float,
    at_once: int,
    on_new: Callable[[Sampled], None] = lambda _: None,
) -> Iterator[Sampled]:
    """A sample for each ask, in order, each as soon as it and those before it are there.

    What the store has of this stage, for the same asks, weights and temperature, is not sampled again; each new sample
    is stored before it is given, and `on_new` hears of it. A local model decodes `at_once` prompts together.
    """
    weights = generator.fingerprint
    keys = [_key(weights, ask, temperature) for ask in asks]
    done = 0
    for key, kept in zip(keys, store.samples(stage), strict=False):
        if kept.key != key:
            break
        done += 1
        yield kept.sample
    left = asks[done:]
    if not left:
        return
    replies = generator.samples(
        [ask.prompt for ask in left], seeds=[ask.seed for ask in left], temperature=temperature, at_once=at_once
    )
    for number, reply in enumerate(replies, start=done):
        store.add_samples(stage, number, [KeptSample(keys[number], reply)])
        on_new(reply)
        yield reply


def _key(weights: str, ask: Ask, temperature: float) -> str:
    return hashlib.sha256(repr((weights, ask.prompt, ask.seed, temperature)).encode()).hexdigest()[:32]
