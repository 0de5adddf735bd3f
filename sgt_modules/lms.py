"""Build an LM from its name: a LiteLLM model, a model on this machine, or the embedded actor."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import dspy
from dspy.lm15 import LMRouter, MissingCredentialError, UnknownModelError

from sgt_modules.errors import SetupError
from sgt_modules.local.chat_template import check_chat_tokenizer, check_text_model
from sgt_modules.local.engine import LocalEngine
from sgt_modules.saving.weights import LOCAL

EMBEDDED = "embedded"
"""The name of the models in this package, of about 1 M parameters."""

ANSWER_TOKENS = 256
"""The most tokens of an answer on this machine: enough for a query or a number, fast enough on a CPU."""

PROPOSAL_TOKENS = 1024
"""The most tokens of a proposal on this machine, such as better instructions for a program."""

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
    """Build the LM of a name: `openai/gpt-4.1-mini`, a folder, `local:HUB_ID` (or `local:FOLDER`), or `embedded`.

    A folder of `save_pretrained()` and a hub id after `local:` run in this process, greedily by default, in the
    precision `dtype` (see `LocalEngine`), with at most `max_new_tokens` per reply and without a cache. Any other name
    is passed to LiteLLM. With `api_base`, its server gets the key in `OPENAI_API_KEY`, or the word `none`. An LM is
    returned as it is.

    Raises:
        GeneratorNotFoundError: the folder has no usable model, or the hub id cannot be fetched.
        SetupError: `dtype` or `api_base` is set for a model that does not support it.

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
        from sgt_modules.embedded import embedded_actor

        return embedded_actor()
    if local:
        engine = LocalEngine(name, dtype=dtype, max_new_tokens=max_new_tokens)
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
    """Whether a name is a model on this machine: `local:...`, an existing folder, or the beginning of a path.

    >>> is_local("local:Qwen/Qwen3-1.7B"), is_local("./no-such-folder"), is_local("openai/gpt-4.1-mini")
    (True, True, False)
    """
    return name.startswith((LOCAL, "./", "../", "/", "~")) or (bool(name) and Path(name).is_dir())


def check_lm(lm: object, environment: Mapping[str, str] | None = None) -> None:
    """Raise `SetupError` if the first call of an LM must fail: its key is missing, or its provider is unknown.

    Nothing is sent. An LM with its own address or engine, with credentials other than a key, or with a provider that
    only LiteLLM knows is not checked. `environment` is this process's by default.

    >>> check_lm(dspy.LM("openai/gpt-4.1-mini", api_key="a key"))
    >>> try:
    ...     check_lm(dspy.LM("openai/gpt-4.1-mini"), environment={})
    ... except SetupError as error:
    ...     print(error)
    Expected a key for 'openai/gpt-4.1-mini' in the environment, got none. Set OPENAI_API_KEY.
    """
    variables = os.environ if environment is None else environment
    if not isinstance(lm, dspy.LM) or type(lm) is not dspy.LM or not isinstance(lm.engine, str):
        return
    if getattr(lm, "_providers", ()) or _has_own_address(lm, variables):
        return
    try:
        route = LMRouter().resolve_openai_chat(lm.model)
    except UnknownModelError:
        _check_provider(lm.model)
        return
    if lm.kwargs.get("api_key") or route.credential_policy != "key" or route.placeholder_key is not None:
        return
    names = _key_names(f"{route.provider}:{route.model}", route.env_key)
    if names and not any(variables.get(name) for name in names):
        raise SetupError(f"Expected a key for {lm.model!r} in the environment, got none. Set {' or '.join(names)}.")


@contextmanager
def acting_as(lm: dspy.LM | None) -> Iterator[None]:
    """Set DSPy's LM inside the block; None changes nothing.

    A model in this process has no JSON mode. Unless an adapter is configured, an answer that cannot be parsed raises
    `AdapterParseError` at once, without a second request in JSON mode.

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
    """Raise `GeneratorNotFoundError` if the folder's model would fail at its first call."""
    folder = engine.weights.folders[0]
    check_text_model(folder)
    engine.check()
    check_chat_tokenizer(folder, engine.tokenizer)


def _has_own_address(lm: dspy.LM, environment: Mapping[str, str]) -> bool:
    """Whether an LM has its own address, whose server may need no key."""
    prefix = lm.model.partition("/")[0].upper()
    own = any(lm.kwargs.get(name) for name in ("api_base", "base_url", "custom_llm_provider"))
    return own or any(environment.get(f"{prefix}_{end}") for end in ("API_BASE", "BASE_URL"))


def _key_names(model: str, first: str | None) -> tuple[str, ...]:
    """Return the environment variables of a provider's key; the router names all of them if none is set."""
    try:
        LMRouter().lm(model)
    except MissingCredentialError as missing:
        return missing.env_keys
    except Exception:  # noqa: BLE001 - another fault than a missing key, which the call itself will report
        return ()
    return (first,) if first else ()


def _check_provider(model: str) -> None:
    """Raise `SetupError` if a name does not begin with a provider of LiteLLM, such as a missing folder."""
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
