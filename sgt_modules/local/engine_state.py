"""The saved form of a `LocalEngine`: the location of its weights and its settings, never the weights."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from sgt_modules.local.batching import Share
from sgt_modules.saving.weights import Reference


class EngineSettings(TypedDict):
    """The settings that an engine runs its weights with."""

    dtype: str
    device: str
    max_batch_tokens: int | None
    max_new_tokens: int
    share: NotRequired[Share]


class LocalReference(Reference):
    """The engine of a saved generator: the location of its weights, and their precision."""

    dtype: str


class EngineState(Reference, EngineSettings):
    """The engine of a saved program: the location of its weights, and its settings."""
