"""An LM by the name that a person writes: LiteLLM's, a model on this machine, or the embedded actor."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import dspy
from dspy.lm15 import LMRouter, MissingCredentialError, UnknownModelError

from sgt_modules.embedded import embedded_actor
from sgt_modules.errors import SetupError
from sgt_modules.local.chat_template import check_chat_tokenizer, check_text_model
from sgt_modules.local.engine import LocalEngine

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
        GeneratorNotFoundError: the folder holds no model that can answer, or the hub id cannot be had.
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
        _check_folder(engine)
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


def check_lm(lm: object, environment: Mapping[str, str] | None = None) -> None:
    """Raise `SetupError` if the first call of an LM cannot but fail: its key is missing, or there is no such provider.

    Nothing is sent. An LM with an address of its own, an engine of its own, or credentials other than a key is let
    pass, and so is what only LiteLLM knows. `environment` is this process's by default.

    >>> check_lm(dspy.LM("openai/gpt-4.1-mini", api_key="a key"))
    >>> try:
    ...     check_lm(dspy.LM("openai/gpt-4.1-mini"), environment={})
    ... except SetupError as error:
    ...     print(error)
    Expected a key for 'openai/gpt-4.1-mini' in the environment, got none. Set OPENAI_API_KEY.
    """
    known = os.environ if environment is None else environment
    if not isinstance(lm, dspy.LM) or type(lm) is not dspy.LM or not isinstance(lm.engine, str):
        return
    if getattr(lm, "_providers", ()) or _addressed(lm, known):
        return
    try:
        found = LMRouter().resolve_openai_chat(lm.model)
    except UnknownModelError:
        _check_provider(lm.model)
        return
    if lm.kwargs.get("api_key") or found.credential_policy != "key" or found.placeholder_key is not None:
        return
    names = _key_names(f"{found.provider}:{found.model}", found.env_key)
    if names and not any(known.get(name) for name in names):
        raise SetupError(f"Expected a key for {lm.model!r} in the environment, got none. Set {' or '.join(names)}.")


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


def _check_folder(engine: LocalEngine) -> None:
    """Raise `GeneratorNotFoundError` for a folder whose model would fail at its first call."""
    folder = engine.weights.folders[0]
    check_text_model(folder)
    engine.check()
    check_chat_tokenizer(folder, engine.tokenizer)


def _addressed(lm: dspy.LM, environment: Mapping[str, str]) -> bool:
    """Whether an LM's calls go to an address that somebody set: such a server may want no key."""
    prefix = lm.model.partition("/")[0].upper()
    own = any(lm.kwargs.get(name) for name in ("api_base", "base_url", "custom_llm_provider"))
    return own or any(environment.get(f"{prefix}_{end}") for end in ("API_BASE", "BASE_URL"))


def _key_names(model: str, first: str | None) -> tuple[str, ...]:
    """The environment variables that a provider's key is read from; the router names all where none is set."""
    try:
        LMRouter().lm(model)
    except MissingCredentialError as missing:
        return missing.env_keys
    except Exception:  # noqa: BLE001 - another fault than a missing key, which the call itself tells
        return ()
    return (first,) if first else ()


def _check_provider(model: str) -> None:
    """Raise `SetupError` for a name that begins with no provider of LiteLLM's, such as a folder that is not there."""
    import litellm

    litellm.suppress_debug_info = True  # as DSPy does: it prints a list of providers where JSON is expected
    try:
        if not litellm.custom_provider_map:
            litellm.get_llm_provider(model)
    except litellm.exceptions.BadRequestError:
        raise SetupError(
            f"Expected a model as provider/name (openai/gpt-4.1-mini), a model's folder, {LOCAL}HUB_ID or {EMBEDDED}, "
            f"got {model!r}: there is no such folder here, and no provider of that name. For a model of the hub, write "
            f"{LOCAL}{model}; for a folder, check its path."
        ) from None
