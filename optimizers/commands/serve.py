"""`sgt serve`: a compiled program behind HTTP."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optimizers.commands.output import Actor, Precision

if TYPE_CHECKING:
    import dspy

    from sgt_modules.service.page import Field

_HERE = ("127.0.0.1", "localhost", "::1")


def serve(
    program: Annotated[str, typer.Argument(help="The program as module:attribute, or a function there that makes it.")],
    state: Annotated[Path | None, typer.Option(help="What it was saved to: program.json in a run's folder.")] = None,
    lm: Actor = "",
    lm_dtype: Precision = "auto",
    upstream: Annotated[
        str, typer.Option(help="A chat endpoint's address up to /v1, to put the generator before.")
    ] = "",
    upstream_model: Annotated[str, typer.Option(help="The model to ask for there; the caller's by default.")] = "",
    upstream_key: Annotated[str, typer.Option(help="The environment variable with its key.")] = "OPENAI_API_KEY",
    predictor: Annotated[str, typer.Option(help="Whose generator the chat endpoint uses; the first by default.")] = "",
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 takes a free one.")] = 8000,
    keys: Annotated[
        str, typer.Option(help="The environment variable with the keys that callers need, commas between.")
    ] = "SGT_KEYS",
    max_kilobytes: Annotated[int, typer.Option(min=1, help="The most that a request may hold.")] = 1024,
    max_requests: Annotated[int, typer.Option(min=1, help="The most requests at once.")] = 32,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that the upstream may take.")] = 120.0,
    trust: Annotated[bool, typer.Option("--trust", help="Follow the addresses of LMs in the state's file.")] = False,
    access_log: Annotated[bool, typer.Option(help="Print a line a request.")] = True,
) -> None:
    """Serve a program at POST /predict and as a chat model, or with --upstream another chat endpoint with supplements.

    GET / is a page to try it, GET /docs describes the API; GET /health and GET /metrics (Prometheus) tell how it is.
    Keys are read from the environment only; without any, only this machine may ask. A port that is in use, an LM
    without its key and a state that cannot be read end it at once, with exit code 2.

    Example: sgt serve app:program --state runs/a/program.json --upstream https://api.openai.com/v1 --port 8000
    """
    from sgt_modules.errors import SetupError

    known = [each.strip() for each in os.environ.get(keys, "").split(",") if each.strip()]
    if not known and host not in _HERE:
        raise SetupError(f"Expected keys in the environment variable {keys} to listen on {host}, got none. Set some.")
    if upstream and not upstream.startswith(("http://", "https://")):
        raise SetupError(f"Expected --upstream as http://... or https://... up to /v1, got {upstream!r}.")
    if state is not None and not state.is_file():
        raise SetupError(f"Expected the file of a saved program as --state, got {str(state)!r}, which is no file here.")
    try:
        import uvicorn

        from sgt_modules.service.answering import check_service
        from sgt_modules.service.app import Upstream, application
        from sgt_modules.service.guard import Limits
    except ImportError as missing:
        raise SetupError(f"{missing.name} is not installed: pip install 'dspy-sgt[serve]'.") from missing
    from optimizers.core.user_files import program_at
    from sgt_modules.lms import lm_named
    from sgt_modules.service.opening import opened_program
    from sgt_modules.service.page import fields_of
    from sgt_modules.service.typed import inputs_of

    with _listening(host, port) as listening:
        student = program_at(program)
        opened = student if state is None else opened_program(student, state, trust=trust)
        actor = lm_named(lm, dtype=lm_dtype) if lm else None
        acts = check_service(opened, actor, needed=not upstream)
        service = application(
            opened,
            lm=actor,
            upstream=Upstream(upstream.rstrip("/"), os.environ.get(upstream_key, ""), upstream_model, timeout)
            if upstream
            else None,
            predictor=predictor,
            keys=known,
            limits=Limits(max_kilobytes * 1024, max_requests),
        )
        _log(access=access_log)
        address = _address(host, listening.getsockname()[1])
        print(
            _banner(opened, fields_of(inputs_of(opened)), address, keys if known else "", upstream, acts),
            file=sys.stderr,
        )
        config = uvicorn.Config(service, access_log=False, server_header=False, log_level="warning")
        with suppress(KeyboardInterrupt):  # the server has ended in good order, and tells how
            uvicorn.Server(config).run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    """A socket that is bound to the address; raises `SetupError` where that cannot be."""
    from sgt_modules.errors import SetupError

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen(128)
    except OSError as problem:
        found.close()
        if problem.errno == errno.EADDRINUSE:
            said = f"Expected a free port to listen on, got {port}, which another program uses on {host}."
            raise SetupError(f"{said} Choose another with --port, or --port 0 for any that is free.") from None
        raise SetupError(
            f"Expected an address of this machine to listen on, got {host} port {port}: {problem.strerror}. Choose "
            "others with --host and --port."
        ) from None
    return found


def _address(host: str, port: int) -> str:
    """Where this machine's own browser finds the service."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}"


def _banner(program: dspy.Module, fields: list[Field], address: str, keys: str, upstream: str, acts: bool) -> str:
    """What there is and how to ask it, in a few lines."""
    from sgt_modules.service.page import curl
    from sgt_modules.wrapping import supplemented

    name, helped = type(program).__name__, "with supplements" if supplemented(program) else "without supplements"
    lines = [
        f"sgt serves {name} ({helped}) at {address}. Ctrl-C ends it.",
        f"  page   {address}/",
        f"  API    {address}/docs",
        f"  chat   {address}/v1" + (f", before {upstream}" if upstream else f", model {name}"),
        f"  try    {curl(address, fields, key=f'${{{keys}%%,*}}' if keys else '')}",
    ]
    lines += [f"  keys   in {keys}; a browser asks for one as the password"] if keys else []
    lines += [] if acts else ["  note   No --lm, so POST /predict cannot answer; chats and the page ask the upstream."]
    return "\n".join(lines)


def _log(*, access: bool) -> None:
    """Send the service's log to standard error, each line with its time."""
    shown = logging.StreamHandler()
    shown.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    root = logging.getLogger("sgt_modules.service")
    root.addHandler(shown)
    root.setLevel(logging.INFO)
    logging.getLogger("sgt_modules.service.access").disabled = not access
