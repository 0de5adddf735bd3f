"""Draws the samples of a stage: each is stored at once, and not drawn again when a run is resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

from optimizers.store.rollout_store import RolloutStore
from sgt_modules.generator import SupplementGenerator
from sgt_modules.samples import Sample, SampleRequest

SAMPLED_AT_ONCE = 1024
"""How many requests a local generator decodes together: enough to fill batches with prompts of similar length."""

_BORDER = "/"
"""Separates a sample's key from its query's id, which is no part of what makes two samples the same."""


def sample_stage(
    store: RolloutStore,
    stage: str,
    generator: SupplementGenerator,
    requests: Sequence[SampleRequest],
    *,
    queries: Sequence[str] = (),
    at_once: int = SAMPLED_AT_ONCE,
    on_new: Callable[[Sample], None] = lambda _: None,
) -> Iterator[Sample]:
    """One sample for each request, in order, each as soon as it and those before it are there.

    Samples that the store has of this stage, for the same requests and weights, are not sampled again. Each new sample
    is stored and passed to `on_new` before it is yielded. A local model decodes `at_once` requests together. `queries`
    are the ids of the requests' queries, for `read_query`.
    """
    keys = _keys(generator, requests)
    done = 0
    for key, (stored_key, sample) in zip(keys, store.samples(stage), strict=False):
        if stored_key.partition(_BORDER)[0] != key:
            break
        done += 1
        yield sample
    if queries:
        asked = zip(keys, queries, requests, strict=True)
        keys = [f"{key}{_BORDER}{'' if request.kind else query}" for key, query, request in asked]
    left = requests[done:]
    if not left:
        return
    for number, sample in enumerate(generator.samples(left, at_once=at_once), start=done):
        store.add_samples(stage, number, [(keys[number], sample)])
        on_new(sample)
        yield sample


def read_query(key: str) -> str | None:
    """The id of the query for which a stored sample was drawn as at inference; empty for one that was asked for a kind.

    None where the key names no query, as in stores of an earlier version.

    >>> read_query("c0ffee/1f3a"), read_query("c0ffee/"), read_query("c0ffee")
    ('1f3a', '', None)
    """
    _, border, query = key.partition(_BORDER)
    return query if border else None


def _keys(generator: SupplementGenerator, requests: Sequence[SampleRequest]) -> list[str]:
    """A key for each request from the text that the model reads, so another wording of a kind is another sample."""
    fingerprint, prompt = generator.fingerprint, generator.prompt
    limit, replies = generator.max_new_tokens, generator.menu.replies
    return [
        _key(
            *(fingerprint, request.temperature, request.top_p, limit, *replies),
            *(prompt.asking(request.prompt, request.kind), prompt.opening(request.kind), request.seed),
        )
        for request in requests
    ]


def _key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
