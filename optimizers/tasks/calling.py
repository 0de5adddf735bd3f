"""What a person writes on the command line -> the task, and the LMs that act and judge."""

from __future__ import annotations

import dspy

from optimizers.tasks.definition import Task
from optimizers.tasks.house_terms import TASK as HOUSE_TERMS
from optimizers.tasks.registry import task
from sgt_modules.errors import NoActorError
from sgt_modules.lms import EMBEDDED, check_lm, lm_named


def wished(which: str, *, metric: str = "", judge: str = "") -> Task:
    """The task of a name, judged by another of its metrics or by an LM where one is named.

    >>> wished("hotpotqa", metric="exact_match").metric.__name__
    'exact_match'
    """
    found = task(which)
    found = found.with_metric(metric) if metric else found
    return found.with_judge(actor_of(judge)) if judge else found


def actor_of(
    model: str, task: Task | None = None, *, api_base: str = "", temperature: float = 0.0, dtype: str = "auto"
) -> dspy.LM:
    """An LM by its name, as `lm_named` reads it: of a provider, behind a server of your own, or on this machine.

    The task of house terms needs no name: its actor comes with the package, and is called `embedded`.

    Raises:
        NoActorError: no model is named.
        SetupError: the provider's key is not in the environment, or there is no such provider.

    >>> actor_of("openai/qwen3", api_base="http://localhost:8000/v1").model
    'openai/qwen3'
    """
    if not model and task is not HOUSE_TERMS:
        raise NoActorError(
            "Expected an actor, but none is named. Pass one, such as --actor openai/gpt-4.1-mini, a model's folder, or "
            "local:HUB_ID."
        )
    lm = lm_named(model or EMBEDDED, api_base=api_base, temperature=temperature, dtype=dtype)
    check_lm(lm)
    return lm
