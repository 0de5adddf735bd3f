"""Limits of a generator's prompt: the model's context minus the reply."""

from __future__ import annotations

from sgt_modules.backend import Backend
from sgt_modules.errors import GeneratorNotFoundError

RESERVE = 160
"""Tokens of the context that are kept free for exploration's last paragraph and for the reply's kind."""

_SHORT = 2_000
"""Characters of a prompt that fits any model, so that the context need not be looked up."""


def most_prompt_tokens(prompt: str, model: Backend, max_new_tokens: int) -> int | None:
    """Return the most tokens of a prompt; None if only a server knows the context, or if the prompt is short."""
    return None if len(prompt) < _SHORT else most_tokens(model, max_new_tokens)


def most_tokens(model: Backend, max_new_tokens: int) -> int | None:
    """Return the most tokens of any prompt; None if only a server knows the context, or if the model is missing."""
    try:
        context = model.context
    except GeneratorNotFoundError:  # sampling will raise it; a supplement that the caller passes needs no model
        return None
    return None if context is None else max(1, context - max_new_tokens - RESERVE)


def fits(prompt: str, with_kind: str, model: Backend, most: int) -> bool:
    """Whether a prompt has fewer than `most` tokens and, with a request for a kind, leaves tokens for the reply.

    True if the context is unknown, as for a server's model or a missing model.
    """
    try:
        context = model.context
    except GeneratorNotFoundError:
        return True
    if context is None or len(prompt.encode()) + 4 * RESERVE < min(context, most):  # a token has a byte or more
        return True
    return model.count(with_kind) < context and model.count(prompt) < most
