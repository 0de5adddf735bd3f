"""`sgt serve`: a compiled program as an HTTP service."""

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

from optimizers.commands.output import ActorOption, PrecisionOption

if TYPE_CHECKING:
    import dspy

    from sgt_modules.service.page import Field

_LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


def serve(
    program: Annotated[str, typer.Argument(help="The program as module:attribute, or a function there that makes it.")],
    state: Annotated[Path | None, typer.Option(help="The saved state: program.json in a run's folder.")] = None,
    lm: ActorOption = "",
    lm_dtype: PrecisionOption = "auto",
    upstream: Annotated[
        str, typer.Option(help="Address of a chat endpoint, up to /v1, that gets supplements from the generator.")
    ] = "",
    upstream_model: Annotated[
        str, typer.Option(help="The upstream's model; by default the one that the caller names.")
    ] = "",
    upstream_key: Annotated[
        str, typer.Option(help="The environment variable with the upstream's key.")
    ] = "OPENAI_API_KEY",
    predictor: Annotated[
        str, typer.Option(help="Predictor whose generator the chat endpoint uses; by default the first.")
    ] = "",
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 chooses a free one.")] = 8000,
    keys: Annotated[
        str, typer.Option(help="The environment variable with the callers' keys, separated by commas.")
    ] = "SGT_KEYS",
    max_kilobytes: Annotated[int, typer.Option(min=1, help="Maximum size of a request.")] = 1024,
    max_requests: Annotated[int, typer.Option(min=1, help="Maximum concurrent requests.")] = 32,
    timeout: Annotated[float, typer.Option(min=0.1, help="Maximum seconds for the upstream.")] = 120.0,
    trust: Annotated[bool, typer.Option("--trust", help="Use the LM addresses in the state's file.")] = False,
    access_log: Annotated[bool, typer.Option(help="Print one line per request.")] = True,
) -> None:
    """Serve a program at POST /predict and as a chat model, or with --upstream another chat endpoint with supplements.

    GET / is a page to try the service, GET /docs describes the API, GET /health and GET /metrics (Prometheus) show its
    health.
    Keys are read only from the environment; without keys, only this machine can call. A port in use, an LM without
    its key and an unreadable state end the command at once, with exit code 2.

    Example: sgt serve app:program --state runs/a/program.json --upstream https://api.openai.com/v1 --port 8000
    """
    from sgt_modules.errors import SetupError

    caller_keys = [each.strip() for each in os.environ.get(keys, "").split(",") if each.strip()]
    if not caller_keys and host not in _LOCAL_HOSTS:
        raise SetupError(f"Expected keys in the environment variable {keys} to listen on {host}, got none. Set it.")
    if upstream and not upstream.startswith(("http://", "https://")):
        raise SetupError(f"Expected --upstream as http://... or https://... up to /v1, got {upstream!r}.")
    if state is not None and not state.is_file():
        raise SetupError(f"Expected the file of a saved program as --state, got {str(state)!r}, which is no file here.")
    try:
        import uvicorn

        from sgt_modules.service.app import Upstream, application
        from sgt_modules.service.guard import RequestLimits
        from sgt_modules.service.served_program import check_service
    except ImportError as missing:
        raise SetupError(f"{missing.name} is not installed: pip install 'dspy-sgt[serve]'.") from missing
    from optimizers.core.user_files import load_program
    from sgt_modules.lms import lm_named
    from sgt_modules.service.page import fields_of
    from sgt_modules.service.program_file import open_program
    from sgt_modules.service.schemas import build_input_model

    with listen(host, port) as listening:
        student = load_program(program)
        service_program = student if state is None else open_program(student, state, trust=trust)
        actor = lm_named(lm, dtype=lm_dtype) if lm else None
        acts = check_service(service_program, actor, needed=not upstream)
        endpoint = Upstream(upstream.rstrip("/"), os.environ.get(upstream_key, ""), upstream_model, timeout)
        service = application(
            service_program,
            lm=actor,
            upstream=endpoint if upstream else None,
            predictor=predictor,
            keys=caller_keys,
            limits=RequestLimits(max_kilobytes * 1024, max_requests),
        )
        _log_to_stderr(access=access_log)
        address = _browser_address(host, listening.getsockname()[1])
        fields = fields_of(build_input_model(service_program))
        banner = _banner(service_program, fields, address, keys if caller_keys else "", upstream, acts)
        print(banner, file=sys.stderr)
        config = uvicorn.Config(service, access_log=False, server_header=False, log_level="warning")
        with suppress(KeyboardInterrupt):  # the server shuts down and reports it
            uvicorn.Server(config).run(sockets=[listening])


def listen(host: str, port: int, option: str = "--port") -> socket.socket:
    """Return a socket that is bound to the address; raise `SetupError` that names the `option` if that fails."""
    from sgt_modules.errors import SetupError

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except OSError as problem:
        listening.close()
        if problem.errno == errno.EADDRINUSE:
            raise SetupError(
                f"Expected a free port to listen on, got {port}, which another program uses on {host}. Choose another "
                f"with {option}, or {option} 0 for any that is free."
            ) from None
        raise SetupError(
            f"Expected an address of this machine to listen on, got {host} port {port}: {problem.strerror}. Choose "
            "others with --host and --port."
        ) from None
    return listening


def _browser_address(host: str, port: int) -> str:
    """Return the address at which this machine's browser reaches the service."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}"


def _banner(program: dspy.Module, fields: list[Field], address: str, keys: str, upstream: str, acts: bool) -> str:
    """Describe the service and how to call it, in a few lines."""
    from sgt_modules.service.page import curl
    from sgt_modules.wrapping import supplemented_predictors

    name, mode = type(program).__name__, "with" if supplemented_predictors(program) else "without"
    lines = [
        f"sgt serves {name} ({mode} supplements) at {address}. Ctrl-C ends it.",
        f"  page   {address}/",
        f"  API    {address}/docs",
        f"  chat   {address}/v1" + (f", before {upstream}" if upstream else f", model {name}"),
        f"  try    {curl(address, fields, key=f'${{{keys}%%,*}}' if keys else '')}",
    ]
    lines += [f"  keys   in {keys}; a browser asks for one as the password"] if keys else []
    lines += [] if acts else ["  note   No --lm, so POST /predict cannot answer; chats and the page ask the upstream."]
    return "\n".join(lines)


def _log_to_stderr(*, access: bool) -> None:
    """Send the service's log to standard error, each line with its time."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    root = logging.getLogger("sgt_modules.service")
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.getLogger("sgt_modules.service.access").disabled = not access
