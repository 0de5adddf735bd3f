"""Remove secrets from text before it is stored or shown: keys, passwords, and the addresses of endpoints."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast
from urllib.parse import urlsplit

SECRET = re.compile(r"(^|_)(key|token|password|credentials?|headers?|authorization)(_id|_provider)?$|secret", re.I)
"""Names of settings whose values are secret."""

ADDRESSES = ("api_base", "base_url", "model_list")
"""Names of an LM's settings that hold the address to which requests, and so the key, are sent."""

SECRET_VARIABLE = re.compile(r"_(API_KEY|KEY|TOKEN|SECRET|PASSWORD)$")
"""Names of environment variables that hold a secret."""

_ADDRESS_VARIABLE = re.compile(r"_(API_BASE|BASE_URL)$")
_SHORTEST_SECRET = 6
"""The least characters of a secret that is searched for; a shorter one would match ordinary words."""

_PATTERNS = (
    (re.compile(r"(?<=://)[^/\s@]+@"), ""),  # a user's name and password in an address
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=*-]{6,}", re.I), r"\1 <key>"),
    (re.compile(r"\b(?:sk|pk|rk|gsk|xai|hf|nvapi|pplx|ghp|r8)[-_](?=[\w*-]{0,99}[\d*])[\w*.-]{6,}"), "<key>"),
    (re.compile(r"\b(?:AIza[\w-]{20,}|AKIA[0-9A-Z]{12,}|eyJ[\w-]{8,2000}\.[\w-]{8,}(?:\.[\w-]+)?)"), "<key>"),
    (
        re.compile(r"""\b((?:x-)?api[-_]?key|password|secret)(["']?\s*[:=]\s*["']?)[^\s"',;&}<>]{6,}""", re.I),
        r"\1\2<key>",
    ),
)


def redact(text: str, lms: Iterable[object] = ()) -> str:
    """Remove the keys and addresses of these LMs and of the environment, and any text that looks like a key.

    >>> import dspy
    >>> lm = dspy.LM("openai/m", api_key="my own key", api_base="https://me:word@host.example:8000/v1")
    >>> redact("401 of https://me:word@host.example:8000/v1/chat: 'my own key' is wrong", [lm])
    "401 of <endpoint>/chat: '<key>' is wrong"
    >>> redact("Authorization: Bearer abc.def.ghi, and sk-proj-0123456789 too")
    'Authorization: Bearer <key>, and <key> too'
    """
    keys, addresses = set(_environment_values(SECRET_VARIABLE)), set(_environment_values(_ADDRESS_VARIABLE))
    for lm in lms:
        settings = cast("Mapping[str, object]", getattr(lm, "kwargs", {}))
        keys.update(_secret_values(settings, secret=False))
        addresses.update(
            str(value) for name, value in _walk_settings(settings) if name in ADDRESSES and isinstance(value, str)
        )
    parts = {part for address in addresses for part in _address_parts(address)}
    for secret, word in (
        *((each, "<key>") for each in _sort_longest_first(keys)),
        *((each, "<endpoint>") for each in _sort_longest_first(parts)),
    ):
        text = text.replace(secret, word)
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text


def remove_user(address: str) -> str:
    """Remove the user's name and password from an address.

    >>> remove_user("https://me:word@host.example/v1")
    'https://host.example/v1'
    """
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _environment_values(names: re.Pattern[str]) -> Iterator[str]:
    return (value for name, value in os.environ.items() if names.search(name))


def _sort_longest_first(secrets: Iterable[str]) -> list[str]:
    """Drop secrets that are too short; sort the longest first, because one may be a part of another."""
    return sorted((each for each in secrets if len(each) >= _SHORTEST_SECRET), key=lambda each: (-len(each), each))


def _secret_values(settings: object, *, secret: bool) -> Iterator[str]:
    """Yield each text under a secret name, at any depth, and each of its words."""
    if isinstance(settings, Mapping):
        for name, value in cast("Mapping[object, object]", settings).items():
            yield from _secret_values(value, secret=secret or SECRET.search(str(name)) is not None)
    elif isinstance(settings, str):
        if secret:
            yield from (settings, *settings.split())
    elif isinstance(settings, Sequence):
        for each in cast("Sequence[object]", settings):
            yield from _secret_values(each, secret=secret)


def _walk_settings(settings: object) -> Iterator[tuple[str, object]]:
    """Yield each setting with its name, at any depth."""
    if isinstance(settings, Mapping):
        for name, value in cast("Mapping[object, object]", settings).items():
            yield str(name), value
            yield from _walk_settings(value)
    elif isinstance(settings, Sequence) and not isinstance(settings, str):
        for each in cast("Sequence[object]", settings):
            yield from _walk_settings(each)


def _address_parts(address: str) -> Iterator[str]:
    """Yield an address with and without its user, its host with and without the port, the user and the password."""
    yield address.rstrip("/")
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
    except ValueError:
        return
    bare = parts.netloc.rpartition("@")[2]
    yield parts._replace(netloc=bare).geturl().rstrip("/")
    yield from (parts.netloc, bare, host)
    yield from (each for each in (parts.username, parts.password) if each)
