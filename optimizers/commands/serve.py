"""`sgt serve`: a compiled program behind HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from optimizers.commands.output import Actor, Precision

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
    port: Annotated[int, typer.Option(help="The port to listen on.")] = 8000,
    keys: Annotated[
        str, typer.Option(help="The environment variable with the keys that callers need, commas between.")
    ] = "SGT_KEYS",
    max_kilobytes: Annotated[int, typer.Option(min=1, help="The most that a request may hold.")] = 1024,
    max_requests: Annotated[int, typer.Option(min=1, help="The most requests at once.")] = 32,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that the upstream may take.")] = 120.0,
    trust: Annotated[bool, typer.Option("--trust", help="Follow the addresses of LMs in the state's file.")] = False,
) -> None:
    """Serve a program at POST /predict and as a chat model, or with --upstream another chat endpoint with supplements.

    GET /health and GET /metrics (Prometheus) tell how it is. Keys are read from the environment only; without any,
    only this machine may ask.

    Example: sgt serve app:program --state runs/a/program.json --upstream https://api.openai.com/v1 --port 8000
    """
    from sgt_modules.errors import SetupError

    known = [each.strip() for each in os.environ.get(keys, "").split(",") if each.strip()]
    if not known and host not in _HERE:
        raise SetupError(f"Expected keys in the environment variable {keys} to listen on {host}, got none. Set some.")
    try:
        import uvicorn

        from sgt_modules.service.app import Upstream, application
        from sgt_modules.service.guard import Limits
    except ImportError as missing:
        raise SetupError(f"{missing.name} is not installed: pip install 'dspy-sgt[serve]'.") from missing
    from optimizers.user_files import program_at
    from sgt_modules.lms import lm_named
    from sgt_modules.service.opening import opened_program

    student = program_at(program)
    service = application(
        student if state is None else opened_program(student, state, trust=trust),
        lm=lm_named(lm, dtype=lm_dtype) if lm else None,
        upstream=Upstream(upstream.rstrip("/"), os.environ.get(upstream_key, ""), upstream_model, timeout)
        if upstream
        else None,
        predictor=predictor,
        keys=known,
        limits=Limits(max_kilobytes * 1024, max_requests),
    )
    uvicorn.run(service, host=host, port=port, access_log=False, server_header=False, log_level="info")
