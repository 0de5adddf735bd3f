"""What a person writes on the command line -> the task, and the LMs that act and judge."""

from __future__ import annotations

import os
from typing import Any

import dspy

from optimizers.tasks.definition import Task
from optimizers.tasks.house_terms import TASK as HOUSE_TERMS
from optimizers.tasks.registry import task
from sgt_modules.embedded import embedded_actor
from sgt_modules.errors import NoActorError

EMBEDDED = "embedded"
"""The name of the models that come with the package, of about 1 M parameters."""


def wished(which: str, *, metric: str = "", judge: str = "") -> Task:
    """The task of a name, judged by another of its metrics or by an LM where one is named.

    >>> wished("hotpotqa", metric="exact_match").metric.__name__
    'exact_match'
    """
    found = task(which)
    found = found.with_metric(metric) if metric else found
    return found.with_judge(actor_of(judge)) if judge else found


def actor_of(model: str, task: Task | None = None, *, api_base: str = "", temperature: float = 0.0) -> dspy.LM:
    """An LM by its name, such as `openai/gpt-4.1-mini`, or behind a server of your own at `api_base`.

    A server of your own is told the key in `OPENAI_API_KEY`; where there is none, a word that stands for no key. The
    task of house terms needs no name: its actor comes with the package, and is called `embedded`.

    Raises:
        NoActorError: no model is named.

    >>> actor_of("openai/qwen3", api_base="http://localhost:8000/v1").model
    'openai/qwen3'
    """
    if model == EMBEDDED or (not model and task is HOUSE_TERMS):
        return embedded_actor()
    if not model:
        raise NoActorError("Expected an actor, but none is named. Pass one, such as --actor openai/gpt-4.1-mini.")
    own: dict[str, Any] = (
        {"api_base": api_base, "api_key": os.environ.get("OPENAI_API_KEY") or "none"} if api_base else {}
    )
    return dspy.LM(model, temperature=temperature, **own)
