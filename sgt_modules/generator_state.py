"""The saved state of a generator: a reference to its model, and its settings; never weights or keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict, cast

from sgt_modules.errors import SavedStateError
from sgt_modules.generator_prompt import GeneratorPrompt
from sgt_modules.local.engine_state import LocalReference
from sgt_modules.menu import Menu
from sgt_modules.remote.endpoint import Endpoint, EndpointReference
from sgt_modules.saving.state_checks import check_mapping, read_number, read_text, read_text_or_none, read_whole_number
from sgt_modules.saving.weights import locate
from sgt_modules.winner_lookup import LookupReference


class MenuState(TypedDict, total=False):
    """`Menu.dump_state` of a generator that has a menu."""

    menu: list[list[str]]


class SavedSettings(MenuState):
    """`GeneratorSettings` as JSON: what the state of any generator has."""

    temperature: float
    max_new_tokens: int
    prompt: dict[str, object]
    max_prompt_tokens: int | None


class GeneratorState(LocalReference, SavedSettings):
    """A local generator: the place of its weights and their sha256."""


class EndpointGeneratorState(EndpointReference, SavedSettings):
    """A generator behind an endpoint: the LM's settings without keys."""


class LookupGeneratorState(LookupReference, SavedSettings):
    """A generator that looks supplements up: its table."""


SavedGenerator = GeneratorState | EndpointGeneratorState | LookupGeneratorState
"""The state of any generator."""


class GeneratorSettings(TypedDict):
    """The settings in a generator's state."""

    temperature: float
    max_new_tokens: int
    prompt: GeneratorPrompt
    max_prompt_tokens: int | None
    menu: Menu


def check_state(state: object) -> SavedGenerator:
    """Return the state; raise `SavedStateError` if it has another form."""
    state = check_mapping(state, "a generator's state")
    form = EndpointGeneratorState if "lm" in state else LookupGeneratorState if "winners" in state else GeneratorState
    if missing := sorted(form.__required_keys__ - state.keys()):
        raise SavedStateError(
            f"Expected a generator's saved state, got one without {missing}. If an earlier version wrote it, save the "
            "program again."
        )
    return cast("SavedGenerator", state)


def settings_of(state: Mapping[str, Any]) -> GeneratorSettings:
    """Read the settings of a saved state; raise `SavedStateError` for invalid values."""
    most = None if state.get("max_prompt_tokens") is None else read_whole_number(state, "max_prompt_tokens", 1, 2**31)
    return GeneratorSettings(
        temperature=read_number(state, "temperature", 0.0, 1000.0),
        max_new_tokens=read_whole_number(state, "max_new_tokens", 1, 2**31),
        prompt=GeneratorPrompt.load_state(state.get("prompt")),
        max_prompt_tokens=most,
        menu=Menu.load_state(state.get("menu")),
    )


def dump_settings(settings: GeneratorSettings) -> dict[str, object]:
    """Return the settings as JSON; without a menu, its key is left out."""
    dumped: dict[str, object] = {**settings, "prompt": settings["prompt"].dump_state()}
    menu = dumped.pop("menu")
    return {**dumped, "menu": settings["menu"].dump_state()} if menu else dumped


def endpoint_of(state: EndpointGeneratorState, *, like: object, trusted: bool) -> Endpoint:
    """The endpoint of a saved state; `like` and `trusted` as in `Endpoint.from_reference`."""
    reference = EndpointReference(lm=state["lm"], adapter_sha256=read_text_or_none(state, "adapter_sha256"))
    return Endpoint.from_reference(reference, like=like, trusted=trusted)


def local_reference(state: GeneratorState) -> LocalReference:
    """Return the weights' reference of a saved state, with paths resolved from the file that is being read."""
    model, adapter = locate(read_text(state, "model"), read_text_or_none(state, "adapter"))
    return LocalReference(
        model=model,
        adapter=adapter,
        revision=read_text_or_none(state, "revision"),
        sha256=read_text_or_none(state, "sha256"),
        adapter_sha256=read_text_or_none(state, "adapter_sha256"),
        dtype=read_text(state, "dtype"),
    )
