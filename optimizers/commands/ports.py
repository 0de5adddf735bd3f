"""Chooses the ports of `sgt up`, and keeps them in its folder, so that a server that is started again is found."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from optimizers.commands.serve import listen
from sgt_modules.errors import SetupError

if TYPE_CHECKING:
    import socket

HOST = "127.0.0.1"
"""The address that the servers listen on."""

PORTS_FILE = "ports.json"
"""The file of a folder with the last port of each role's models: `{"generator": {"Qwen/Qwen3-1.7B": 41234}}`."""

_OPTIONS = {"generator": "--port", "lm": "--lm-port"}


class PortRequest(NamedTuple):
    """A model to serve, and the port that a person wants for it; 0 for the last one of this model, or any free one."""

    model: str
    port: int = 0


def choose_ports(wanted: Mapping[str, PortRequest], folder: Path, say: Callable[[str], None]) -> dict[str, int]:
    """Choose a port for each role, `generator` or `lm`; say so where the model's last port is in use.

    Raises `SetupError` for a wanted port that is in use, and for a file of ports that is damaged.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     wanted = {"generator": PortRequest("Qwen/Qwen3-1.7B")}
    ...     first = choose_ports(wanted, Path(folder), print)
    ...     keep_ports(wanted, first, Path(folder))
    ...     choose_ports(wanted, Path(folder), print) == first
    True
    """
    kept = _read_ports(folder / PORTS_FILE)
    ports: dict[str, int] = {}
    with ExitStack() as sockets:  # all open at once, so that no port is chosen twice
        for role, (model, port) in wanted.items():
            last = 0 if port else kept.get(role, {}).get(_key(model), 0)
            listening = sockets.enter_context(_listen_again(last) or listen(HOST, port, _OPTIONS[role]))
            ports[role] = listening.getsockname()[1]
            if last and ports[role] != last:
                say(
                    f"{role}: its last port, {last}, is in use, so it takes {ports[role]}. What has the address of "
                    f"before does not find it: end what uses port {last}, and start again with {_OPTIONS[role]} {last}."
                )
    return ports


def keep_ports(wanted: Mapping[str, PortRequest], ports: Mapping[str, int], folder: Path) -> None:
    """Write the chosen ports to the folder, next to those of other models."""
    file = folder / PORTS_FILE
    kept = _read_ports(file)
    for role, (model, _) in wanted.items():
        kept.setdefault(role, {})[_key(model)] = ports[role]
    folder.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(f".{os.getpid()}.tmp")
    draft.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    draft.replace(file)


def _listen_again(port: int) -> socket.socket | None:
    """A socket that listens on a port of before; None for 0, and where it cannot."""
    try:
        return listen(HOST, port) if port else None
    except SetupError:
        return None


def _key(model: str) -> str:
    """A model's name; of a folder its whole path, so that it is the same from another working directory."""
    folder = Path(model).expanduser()
    return str(folder.resolve()) if folder.is_dir() else model


def _read_ports(file: Path) -> dict[str, dict[str, int]]:
    """The ports by role and model; empty without a file."""
    from pydantic import Field, TypeAdapter, ValidationError

    if not file.exists():
        return {}
    try:
        ports = TypeAdapter(dict[str, dict[str, Annotated[int, Field(ge=1, le=65535)]]])
        return ports.validate_json(file.read_bytes())
    except ValidationError as error:
        raise SetupError(
            f'Expected ports by role and model in {file}, such as {{"generator": {{"Qwen/Qwen3-1.7B": 8000}}}}, got '
            "something else. Delete the file, or choose another --folder."
        ) from error
