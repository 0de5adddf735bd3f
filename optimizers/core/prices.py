"""US dollars of an LM call, by the price list that comes with DSPy; an unknown price counts as 0."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast
from weakref import WeakKeyDictionary

import dspy
from dspy.clients.backend_selection import select_backend
from dspy.clients.model_metadata import model_info, rate
from dspy.lm15 import LM15Error

_READ, _WRITTEN = "input_cost_per_token", "output_cost_per_token"
_LONG = re.compile(rf"{_READ}_above_(\d+)k_tokens$")


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars a token, by the price list's own names; empty for a model that the list lacks."""

    rates: Mapping[str, float]

    @property
    def is_known(self) -> bool:
        """Whether tokens in and tokens out both have a price."""
        return _READ in self.rates and _WRITTEN in self.rates

    def cost(self, usage: Mapping[str, Any]) -> float:
        """Dollars of one call, from the usage entry that DSPy tracks.

        Tokens read from the provider's cache, written to it, or used for reasoning have their own price where the list
        has one; so have long prompts. Fees by the request are not included.

        >>> price = Price({"input_cost_per_token": 2e-6, "output_cost_per_token": 1e-5})
        >>> price.cost({"prompt_tokens": 1000, "completion_tokens": 100})
        0.003
        """
        if not self.is_known:
            return 0.0
        read, written = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
        before, after = (usage.get(f"{name}_tokens_details") or {} for name in ("prompt", "completion"))
        cached, stored = (int(before.get(name) or 0) for name in ("cached_tokens", "cache_creation_tokens"))
        thought = int(after.get("reasoning_tokens") or 0)
        end = self._suffix(read)
        return (
            max(0, read - cached - stored) * self._rate(_READ, _READ, end)
            + cached * self._rate("cache_read_input_token_cost", _READ, end)
            + stored * self._rate("cache_creation_input_token_cost", _READ, end)
            + max(0, written - thought) * self._rate(_WRITTEN, _WRITTEN, end)
            + thought * self._rate("output_cost_per_reasoning_token", _WRITTEN, end)
        )

    def _suffix(self, read: int) -> str:
        """The end of the names of the rates for a prompt of so many tokens."""
        starts = [int(match[1]) for name in self.rates if (match := _LONG.match(name))]
        start = max((each for each in starts if read > each * 1000), default=None)
        return "" if start is None else f"_above_{start}k_tokens"

    def _rate(self, name: str, otherwise: str, end: str) -> float:
        rates = (self.rates.get(each) for each in (name + end, otherwise + end, name, otherwise))
        return next(each for each in rates if each is not None)


_NO_PRICE = Price({})
_OF_LM: WeakKeyDictionary[dspy.BaseLM, tuple[str, Price]] = WeakKeyDictionary()


def price_of(lm: object) -> Price:
    """The price of an LM's model, looked up once. An LM over a custom engine has the engine's `price`, if any.

    For a model behind a custom address, the list's price for that name counts, as in DSPy's history.
    """
    if not isinstance(lm, dspy.LM):
        return _NO_PRICE
    if not isinstance(lm.engine, str):
        return cast("Price", getattr(lm.engine, "price", _NO_PRICE))
    model, price = _OF_LM.get(lm, ("", _NO_PRICE))
    if model != lm.model:
        price = _listed_price(*_route(lm))
        _OF_LM[lm] = (lm.model, price)
    return price


def has_price(lm: object) -> bool:
    """Whether an LM's calls have a known price, so that a budget in dollars can hold.

    >>> has_price(dspy.LM("openai/gpt-4o-mini")), has_price(dspy.LM("openai/a-model-of-mine"))
    (True, False)
    """
    return price_of(lm).is_known


def cost_of(usage: Mapping[str, Sequence[Mapping[str, Any]]], lms: Iterable[object]) -> float:
    """Dollars of tracked usage, by model; a model that none of the LMs has counts as 0."""
    by_name = {cast("str", getattr(lm, "model", "")): lm for lm in lms}
    return sum(price_of(by_name.get(name)).cost(entry) for name, entries in usage.items() for entry in entries)


def _route(lm: dspy.LM) -> tuple[str, str, tuple[str, ...] | None]:
    """The provider and the model that DSPy asks, and the price list's namespaces of a declared provider."""
    try:
        route = cast("Any", select_backend(lm).resolution)
    except LM15Error:
        route = None
    if route is None:
        provider, slash, model = lm.model.partition("/")
        return (provider, model, None) if slash else ("openai", lm.model, None)
    if not route.declared:
        return route.provider, route.model, None
    return (
        route.provider,
        route.model,
        next(
            (tuple(each.metadata_namespaces) for each in getattr(lm, "_providers", ()) if each.id == route.provider), ()
        ),
    )


@lru_cache(maxsize=1024)
def _listed_price(provider: str, model: str, namespaces: tuple[str, ...] | None) -> Price:
    info = model_info(provider, model, namespaces=namespaces)
    rates = {name: rate(info, name) for name in info if "cost" in name}
    return Price({name: each for name, each in rates.items() if each is not None})
