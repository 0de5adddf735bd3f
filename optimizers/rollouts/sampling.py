"""What the generator writes for a stage: in the store as it comes, and not asked again when a run goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from optimizers.store.rollout_store import KeptSample, RolloutStore
from sgt_modules.generator import Sampled, SupplementGenerator
from sgt_modules.generator_prompt import GeneratorPrompt
from sgt_modules.kinds import Kind

SAMPLED_AT_ONCE = 1024
"""Prompts that a local generator decodes together: enough to fill its batches with prompts of a like length."""


class Ask(NamedTuple):
    """One sample that is wanted: the prompt that names no kind, the seed of its draws, and the kind."""

    prompt: str
    seed: int
    kind: Kind | str | None = None


def sampled(
    store: RolloutStore,
    stage: str,
    generator: SupplementGenerator,
    asks: Sequence[Ask],
    *,
    temperature: float,
    top_p: float,
    at_once: int,
    on_new: Callable[[Sampled], None] = lambda _: None,
) -> Iterator[Sampled]:
    """A sample for each ask, in order, each as soon as it and those before it are there.

    What the store has of this stage, for the same asks, weights and settings, is not sampled again; each new sample
    is stored before it is given, and `on_new` hears of it. A local model decodes `at_once` prompts together.
    """
    settings = (generator.fingerprint, temperature, top_p, generator.max_new_tokens, *generator.menu.replies)
    keys = [_key(settings, generator.prompt, ask) for ask in asks]
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
        [ask.prompt for ask in left],
        seeds=[ask.seed for ask in left],
        kinds=[ask.kind for ask in left],
        temperature=temperature,
        top_p=top_p,
        at_once=at_once,
    )
    for number, reply in enumerate(replies, start=done):
        store.add_samples(stage, number, [KeptSample(keys[number], reply)])
        on_new(reply)
        yield reply


def _key(settings: tuple[object, ...], prompt: GeneratorPrompt, ask: Ask) -> str:
    """By the text that the model reads: a kind with other words, or another prompt, is another sample."""
    read = (prompt.asking(ask.prompt, ask.kind), prompt.opening(ask.kind), ask.seed)
    return hashlib.sha256(repr((*settings, *read)).encode()).hexdigest()[:32]
