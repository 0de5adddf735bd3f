"""A `LocalEngine` as it is saved: where its weights are and how it runs them, never the weights."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from sgt_modules.local.batching import Share
from sgt_modules.saving.weights import Reference


class EngineSettings(TypedDict):
    """How an engine runs its weights."""

    dtype: str
    device: str
    max_batch_tokens: int | None
    max_new_tokens: int
    share: NotRequired[Share]


class LocalReference(Reference):
    """The engine of a saved generator: where its weights are, and the precision they run in."""

    dtype: str


class EngineState(Reference, EngineSettings):
    """The engine of a saved program: where its weights are, and its settings."""
