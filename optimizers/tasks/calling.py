"""Turns command-line arguments into the task, and into the LMs that act, judge, and write instructions."""

from __future__ import annotations

import dspy

from optimizers.tasks.definition import Task
from optimizers.tasks.house_terms import HOUSE_TERMS
from optimizers.tasks.registry import task
from sgt_modules.errors import NoActorError
from sgt_modules.lms import EMBEDDED, PROPOSAL_TOKENS, check_lm, is_local, lm_named


def choose_task(which: str, *, metric: str = "", judge: str = "") -> Task:
    """Return the task of a name, with another of its metrics or a judge LM if one is named.

    >>> choose_task("hotpotqa", metric="exact_match").metric.__name__
    'exact_match'
    """
    chosen = task(which)
    chosen = chosen.with_metric(metric) if metric else chosen
    return chosen.with_judge(load_actor(judge)) if judge else chosen


def load_actor(model: str, task: Task | None = None, *, api_base: str = "", dtype: str = "auto") -> dspy.LM:
    """Return an LM by its name, as `lm_named` reads it: a provider's, behind your own server, or on this machine.

    The task of house terms needs no name: its actor comes with the package and is called `embedded`.

    Raises:
        NoActorError: no model is named.
        SetupError: the provider's key is not in the environment, or the provider is unknown.

    >>> load_actor("openai/qwen3", api_base="http://localhost:8000/v1").model
    'openai/qwen3'
    """
    if not model and task is not HOUSE_TERMS:
        raise NoActorError(
            "Expected an actor, but none is named. Pass one, such as --actor openai/gpt-4.1-mini, a model's folder, or "
            "local:HUB_ID."
        )
    lm = lm_named(model or EMBEDDED, api_base=api_base, temperature=0.0, dtype=dtype)
    check_lm(lm)
    return lm


def load_proposer(model: str, *, dtype: str = "auto") -> dspy.LM:
    """Return the LM of a name that writes instructions; `dtype` is its number format if it runs on this machine.

    Raises:
        SetupError: the provider's key is not in the environment, or the provider is unknown.

    >>> load_proposer("ollama_chat/qwen3").model
    'ollama_chat/qwen3'
    """
    lm = lm_named(model, dtype=dtype if is_local(model) else "auto", max_new_tokens=PROPOSAL_TOKENS)
    check_lm(lm)
    return lm
