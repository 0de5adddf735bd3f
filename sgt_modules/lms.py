"""An LM by the name that a person writes: LiteLLM's, a model on this machine, or the embedded actor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import dspy

from sgt_modules.embedded import embedded_actor
from sgt_modules.engine import LocalEngine
from sgt_modules.errors import SetupError

EMBEDDED = "embedded"
"""The name of the models that come with the package, of about 1 M parameters."""

LOCAL = "local:"
"""Begins the name of a model that runs in this process: `local:Qwen/Qwen2.5-Coder-0.5B-Instruct`."""

ANSWER_TOKENS = 256
"""The most tokens of an answer of a model on this machine: enough for a query or a number, bearable on a CPU."""

PROPOSAL_TOKENS = 1024
"""The same of what a model on this machine writes about a program, such as better instructions."""

LMLike = str | dspy.LM
"""An LM, or its name."""


def lm_named(
    name: LMLike,
    *,
    dtype: str = "auto",
    api_base: str = "",
    temperature: float | None = None,
    max_new_tokens: int = ANSWER_TOKENS,
) -> dspy.LM:
    """The LM of a name: `openai/gpt-4.1-mini`, a folder, `local:HUB_ID` (or `local:FOLDER`), or `embedded`.

    A folder of `save_pretrained()` and a hub id behind `local:` run in this process, greedily by default, in the
    precision `dtype` (see `LocalEngine`), with at most `max_new_tokens` a reply; what they answer is not cached. Any
    other name is LiteLLM's, perhaps behind a server at `api_base`, which gets the key in `OPENAI_API_KEY`, or a word
    that stands for no key. An LM is given back as it is.

    Raises:
        GeneratorNotFoundError: the folder holds no model, or the hub id cannot be had.
        SetupError: `dtype` or `api_base` is set for a model that has none.

    >>> lm_named("openai/qwen3", api_base="http://localhost:8000/v1").model
    'openai/qwen3'
    >>> from sgt_modules.embedded.models import embedded_folder
    >>> lm_named(str(embedded_folder("rule-follower"))).model[:18]
    'sgt/rule-follower-'
    """
    if isinstance(name, dspy.LM):
        return name
    local = is_local(name)
    if dtype != "auto" and not local:
        raise SetupError(f"Expected a model on this machine to set {dtype=} of, got {name!r}. Write {LOCAL}HUB_ID.")
    if api_base and (local or name == EMBEDDED):
        raise SetupError(f"Expected a model behind a server to go with {api_base=}, got {name!r}. Leave one out.")
    if name == EMBEDDED:
        return embedded_actor()
    if local:
        engine = LocalEngine(name.removeprefix(LOCAL), dtype=dtype, max_new_tokens=max_new_tokens)
        engine.check()
        asynchronous = engine.asynchronous()
        return dspy.LM(
            engine.model_name, engine=engine, async_engine=asynchronous, temperature=temperature, cache=False
        )
    own: dict[str, Any] = {} if temperature is None else {"temperature": temperature}
    if api_base:
        own |= {"api_base": api_base, "api_key": os.environ.get("OPENAI_API_KEY") or "none"}
    return dspy.LM(name, **own)


def is_local(name: str) -> bool:
    """Whether a name is that of a model on this machine: `local:...`, a folder that is there, or a path's beginning.

    >>> is_local("local:Qwen/Qwen3-1.7B"), is_local("./no-such-folder"), is_local("openai/gpt-4.1-mini")
    (True, True, False)
    """
    return name.startswith((LOCAL, "./", "../", "/", "~")) or (bool(name) and Path(name).is_dir())


@contextmanager
def acting_as(lm: dspy.LM | None) -> Iterator[None]:
    """Inside, the LM is DSPy's; None changes nothing.

    A model in this process has no JSON mode: unless an adapter is configured, an answer of its that cannot be read is
    an `AdapterParseError` at once, and is not asked for again as JSON.

    >>> with acting_as(lm_named("embedded")):
    ...     dspy.settings.adapter.use_json_adapter_fallback
    False
    """
    plain = runs_here(lm) and dspy.settings.adapter is None
    adapter = {"adapter": dspy.ChatAdapter(use_json_adapter_fallback=False)} if plain else {}
    with nullcontext() if lm is None else dspy.context(lm=lm, **adapter):
        yield


def runs_here(lm: dspy.LM | None) -> bool:
    """Whether an LM's model runs in this process.

    >>> runs_here(lm_named("embedded")), runs_here(lm_named("openai/gpt-4.1-mini"))
    (True, False)
    """
    return isinstance(getattr(lm, "engine", None), LocalEngine)
