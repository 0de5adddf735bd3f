"""How long a generator's prompt may be: what the model's context leaves besides the reply."""

from __future__ import annotations

from sgt_modules.backend import Backend
from sgt_modules.errors import GeneratorNotFoundError

RESERVE = 160
"""Tokens of a model's context that stay free for what exploration adds to a prompt, and for the reply's kind."""

_SHORT = 2_000
"""Characters of a prompt that fits any model, so that the model's context need not be known."""


def most_prompt_tokens(prompt: str, model: Backend, max_new_tokens: int) -> int | None:
    """The most tokens that the context allows; None where only a server knows it, or the prompt is far below any."""
    if len(prompt) < _SHORT:
        return None
    try:
        context = model.context
    except GeneratorNotFoundError:  # raised when the model is asked; a caller's own supplement needs no model
        return None
    return None if context is None else max(1, context - max_new_tokens - RESERVE)


def fits(prompt: str, with_kind: str, model: Backend, most: int) -> bool:
    """Whether a prompt has fewer than `most` tokens, and leaves tokens for a reply also where it asks for a kind.

    True where the context is not known: for a server's model, or for one that does not exist.
    """
    try:
        context = model.context
    except GeneratorNotFoundError:
        return True
    if context is None or len(prompt.encode()) + 4 * RESERVE < min(context, most):  # a token has a byte or more
        return True
    return model.count(with_kind) < context and model.count(prompt) < most
