"""`sgt up`: a server for the generator, and one for the actor, on this machine."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

import typer

from optimizers.commands.output import JsonOption, check_writable
from optimizers.commands.ports import HOST, PORTS_FILE, PortRequest, choose_ports, keep_ports

if TYPE_CHECKING:
    from sgt_modules.remote.engines import EngineName, ServerRequest
    from sgt_modules.remote.server_use import ServedModel
    from sgt_modules.remote.supervision import StopRequest, SupervisedServer

EXIT_INTERRUPTED = 130
"""Exit code of Ctrl-C before the servers answered."""


def up(
    generator: Annotated[
        str, typer.Option(help="The model to train: a hub id, a folder, or embedded. Its server loads adapters.")
    ] = "",
    lm: Annotated[str, typer.Option("--lm", help="The frozen model: a hub id, a folder, or embedded.")] = "",
    engine: Annotated[
        Literal["auto", "vllm", "sglang", "transformers"],
        typer.Option(help="What serves; by default the first of these that is installed."),
    ] = "auto",
    replicas: Annotated[
        int, typer.Option(min=1, help="Copies of each model behind its address, each on its own GPU.")
    ] = 1,
    rank: Annotated[int, typer.Option(min=1, help="The highest rank of the adapters that training will make.")] = 16,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The generator's port; 0 takes its last one.")] = 0,
    lm_port: Annotated[int, typer.Option(min=0, max=65535, help="The frozen model's port; 0 takes its last one.")] = 0,
    download: Annotated[bool, typer.Option("--download", help="Fetch a model that is not on this machine.")] = False,
    folder: Annotated[Path, typer.Option(help="Folder for the logs and ports of the servers.")] = Path("runs/up"),
    start_seconds: Annotated[float, typer.Option(min=1, help="Maximum seconds until a server answers.")] = 900.0,
    generator_args: Annotated[str, typer.Option(help="More options of the engine for the generator.")] = "",
    lm_args: Annotated[str, typer.Option(help="More options of the engine for the frozen model.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Run a server for the generator, and if wished one for the frozen model, until Ctrl-C.

    It waits until they answer, prints what to pass in Python and to sgt compile, and starts a server that dies again on
    the same port. With the same --folder a model gets the port that it had last, at first any free one. The servers
    listen on this machine only. Nothing is downloaded without --download. Exit codes: 0 ended by Ctrl-C or SIGTERM; 1 a
    server does not run; 2 wrong arguments; 130 Ctrl-C before the servers answered.

    Example: sgt up --generator Qwen/Qwen3-1.7B --lm Qwen/Qwen3-8B
    """
    from sgt_modules.errors import SetupError
    from sgt_modules.remote.engines import ServerRequest, choose_engine, installed_engines
    from sgt_modules.remote.server_use import ServedModel
    from sgt_modules.remote.supervision import StopRequest

    every = {"generator": (generator, port, generator_args), "lm": (lm, lm_port, lm_args)}
    wanted = {role: settings for role, settings in every.items() if settings[0]}
    if not wanted:
        raise SetupError(
            "Expected a model to serve, got none. Write sgt up --generator Qwen/Qwen3-1.7B, or a model's folder; --lm "
            "serves a frozen model."
        )
    check_writable(folder / "generator.log", what="--folder")
    installed = installed_engines()
    chosen = choose_engine(engine, installed)
    stop = StopRequest()
    served: dict[str, ServedModel] = {}
    servers: dict[str, SupervisedServer] = {}
    asked = {role: PortRequest(model, wished) for role, (model, wished, _) in wanted.items()}
    ports = choose_ports(asked, folder, _say)
    for role, (model, _, more) in wanted.items():
        request = ServerRequest(
            _model_on_server(model, role, chosen, folder, download=download),
            ports[role],
            adapters=role == "generator",
            rank=rank,
            replicas=replicas,
            shares_gpu=len(wanted) == 2,
            downloads=download,
            more=_split(more),
        )
        served[role] = ServedModel(chosen, request.model, f"http://{HOST}:{request.port}/v1")
        servers[role] = _prepare(
            role, served[role], request, installed[chosen], folder=folder, stop=stop, start_seconds=start_seconds
        )
    keep_ports(asked, ports, folder)
    with _stopped_by_signals(stop):
        _run(servers, stop, lambda: _print_use(served, servers, folder, as_json=as_json))


def _prepare(
    role: str,
    served: ServedModel,
    request: ServerRequest,
    program: Sequence[str],
    *,
    folder: Path,
    stop: StopRequest,
    start_seconds: float,
) -> SupervisedServer:
    """The server of a role, not started yet; `program` is the beginning of its command."""
    from sgt_modules.remote.engines import server_command
    from sgt_modules.remote.probing import ask_for_a_token, is_port_free, is_up
    from sgt_modules.remote.supervision import Patience, SupervisedServer

    command = server_command(served.engine, request, program)
    return SupervisedServer(
        role,
        command.words,
        {**os.environ, **command.environment},
        folder / f"{role}.log",
        is_up=lambda: is_up(served.address),
        warm_up=lambda: ask_for_a_token(served.address, served.model, seconds=start_seconds),
        is_free=lambda: is_port_free(HOST, request.port),
        patience=Patience(start=start_seconds),
        report=_say,
        stop=stop,
    )


def _run(servers: dict[str, SupervisedServer], stop: StopRequest, print_use: Callable[[], None]) -> None:
    """Start the servers one after the other, watch them until a person stops, and end them all."""
    from sgt_modules.remote.supervision import StoppedStartError

    faults: list[Exception] = []
    watchers: list[threading.Thread] = []

    def watch(server: SupervisedServer) -> None:
        try:
            server.watch()
        except Exception as error:  # noqa: BLE001 - raised by the main thread below
            faults.append(error)
        finally:
            server.end()

    try:
        for server in servers.values():
            _say(f"{server.name}: {shlex.join(server.words)}")
            _say(f"{server.name}: starting; its log is {server.log}")
            server.start()
            _say(f"{server.name}: answers after {server.seconds_to_start:.1f} s")
            watchers.append(threading.Thread(target=watch, args=(server,)))
            watchers[-1].start()
        print_use()
        while not stop.wanted and not faults:
            time.sleep(0.1)
    except StoppedStartError:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    finally:
        asked = stop.wanted
        if not asked:
            stop()  # the watchers end too
        _say("Ending the servers." if not asked or stop.times == 1 else "Ending the servers at once.")
        for thread in watchers:
            thread.join()
        for server in servers.values():
            server.end()
    if faults:
        raise faults[0]


def _model_on_server(model: str, role: str, engine: EngineName, folder: Path, *, download: bool) -> str:
    """The name that the server gets for a model, whose files are on this machine.

    `transformers serve` gets a folder of links to a generator's files, from which it samples as a request says.
    """
    from sgt_modules.embedded.models import embedded_folder
    from sgt_modules.local.chat_template import check_text_model
    from sgt_modules.remote.local_models import find_model
    from sgt_modules.remote.publishing import sampling_folder

    if model == "embedded":
        model = str(embedded_folder("generator" if role == "generator" else "actor"))
    found = find_model(model, download=download)
    check_text_model(found)
    if engine == "transformers" and role == "generator":
        return str(sampling_folder(found, folder / "models", model.rstrip("/").rpartition("/")[2]))
    return str(found.resolve()) if Path(model).expanduser().is_dir() else model


def _split(words: str) -> list[str]:
    from sgt_modules.errors import SetupError

    try:
        return shlex.split(words)
    except ValueError as error:
        raise SetupError(f"Expected options as in a shell, got {words!r}: {error}. Close the quotes.") from None


@contextmanager
def _stopped_by_signals(stop: StopRequest) -> Iterator[None]:
    """Inside, Ctrl-C, SIGTERM and a closed terminal ask to stop, and nothing else happens.

    Under `nohup` the terminal may close: what ignores SIGHUP goes on ignoring it.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_use(
    served: dict[str, ServedModel], servers: dict[str, SupervisedServer], folder: Path, *, as_json: bool
) -> None:
    """Print on standard output what to pass to use the servers."""
    from sgt_modules.remote.local_models import find_model
    from sgt_modules.remote.server_use import can_think, options_for, python_for

    generator, lm = served.get("generator"), served.get("lm")
    thinks = generator is not None and can_think(find_model(generator.model, download=False))
    python = python_for(generator, lm, thinks=thinks)
    options = shlex.join(options_for(generator, lm))
    if as_json:
        running = {
            role: {
                **asdict(each),
                "pid": servers[role].pid,
                "log": str(servers[role].log),
                "seconds_to_start": round(servers[role].seconds_to_start, 1),
            }
            for role, each in served.items()
        }
        print(json.dumps({**running, "python": python, "options": options}), flush=True)
        return
    command = f"sgt compile PROGRAM --train FILE --metric METRIC {options}"
    print(f"In Python:\n\n{python}\n\nIn a shell:\n\n{command}\n", flush=True)
    if generator is not None:
        port = urlsplit(generator.address).port
        _say(
            "A run is resumed with its generator at the same address. sgt up takes port "
            f"{port} for this model again: {folder / PORTS_FILE} has it."
        )
    _say("Ctrl-C ends the servers.")


def _say(line: str) -> None:
    with suppress(OSError):  # a closed terminal takes no lines, and the servers must still be ended
        print(line, file=sys.stderr, flush=True)
