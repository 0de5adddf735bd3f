"""Asks a server on this machine whether it is up, and for a first token."""

from __future__ import annotations

import socket

from sgt_modules.errors import EndpointError

_PROBE_SECONDS = 10.0


def is_up(address: str, *, seconds: float = _PROBE_SECONDS) -> bool:
    """Whether a server says at `/health`, next to `/v1`, that it accepts requests.

    vLLM, SGLang and `transformers serve` have that route.

    >>> is_up("http://127.0.0.1:9/v1")
    False
    """
    import httpx  # here, as it brings a command line of its own

    try:
        return httpx.get(f"{address.removesuffix('/v1')}/health", timeout=seconds, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def ask_for_a_token(address: str, model: str, *, seconds: float) -> None:
    """Ask a model for a single token, which makes the server load it.

    Raises `EndpointError` with the server's words if it refuses.
    """
    import httpx

    body = {"model": model, "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 1}
    try:
        response = httpx.post(f"{address}/chat/completions", json=body, timeout=seconds, trust_env=False)
    except httpx.HTTPError as error:
        raise EndpointError(f"{type(error).__name__} to a request of one token") from error
    if response.is_error:
        raise EndpointError(f"{response.status_code} to a request of one token: {response.text[:300]}")


def is_port_free(host: str, port: int) -> bool:
    """Whether a program could listen on a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
