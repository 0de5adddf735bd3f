"""Whether this machine can run the package: what is installed, on what, which models load, and a tiny run."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from sgt_modules.errors import SGTError
from sgt_modules.saving.redaction import IN_ENVIRONMENT

State = Literal["fine", "missing", "broken"]
"""`missing` is what only some commands need; `broken` makes the doctor's verdict bad."""

NEEDED = ("dspy", "torch", "transformers", "trl", "peft", "datasets", "litellm")
EXTRAS = {
    "ray": "ray",
    "psycopg": "postgresql",
    "textgrad": "textgrad",
    "mlflow-skinny": "trackers",
    "wandb": "trackers",
    "tensorboard": "trackers",
    "fastapi": "serve",
    "uvicorn": "serve",
    "prometheus-client": "serve",
}
"""Packages that a command or an option needs, and the extra that brings them."""

_SETTINGS = (
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_HOME",
    "CUDA_VISIBLE_DEVICES",
    "LITELLM_LOCAL_MODEL_COST_MAP",
)
_ROOM = 5 * 2**30


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: its name, its state, and what is said of it."""

    name: str
    state: State
    said: str


def examined(models: Sequence[str] = (), *, run: bool = True) -> Iterator[Finding]:
    """Each finding as soon as it is there. `models` are further generators to look for; `run` tries a tiny compile."""
    yield Finding("python", "fine", f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield from map(_needed, NEEDED)
    yield from (_extra(package, extra) for package, extra in EXTRAS.items())
    yield _tried("device", _device)
    yield _disk()
    yield _keys()
    yield from (_set(name) for name in _SETTINGS if name in os.environ)
    yield _tried("embedded models", _embedded)
    yield from (_tried(f"model {name}", lambda name=name: _model(name)) for name in models)
    if run:
        yield _tried("a tiny run", _tiny_run)


def _needed(package: str) -> Finding:
    found = _version(package)
    return Finding(package, "fine" if found else "broken", found or "not installed: pip install dspy-sgt")


def _extra(package: str, extra: str) -> Finding:
    found = _version(package)
    return Finding(package, "fine" if found else "missing", found or f"not installed: pip install 'dspy-sgt[{extra}]'")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _tried(name: str, look: Callable[[], str]) -> Finding:
    """What a look says; whatever it raises is the finding."""
    try:
        return Finding(name, "fine", look())
    except SGTError as problem:
        return Finding(name, "broken", str(problem))
    except Exception as problem:  # noqa: BLE001 - a doctor reports what others die of
        return Finding(name, "broken", f"{type(problem).__name__}: {str(problem).partition(chr(10))[0]}")


def _device() -> str:
    from sgt_modules.local.loading import place

    device, dtype = place("auto", "auto")
    return f"{device}, {str(dtype).removeprefix('torch.')}, {os.cpu_count()} cores"


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    said = f"{free / 2**30:.1f} GiB free here"
    return Finding("disk", "fine" if free > _ROOM else "broken", said if free > _ROOM else f"{said}; a run wants 5")


def _keys() -> Finding:
    """Which keys are set, by their names alone."""
    names = sorted(name for name, value in os.environ.items() if value and IN_ENVIRONMENT.search(name))
    return Finding("keys", "fine" if names else "missing", ", ".join(names) or "none is set in the environment")


def _set(name: str) -> Finding:
    return Finding(name, "fine", os.environ[name])


def _embedded() -> str:
    from sgt_modules.embedded import embedded_actor, embedded_generator

    embedded_generator().check()
    return f"generator and {embedded_actor().model} load"


def _model(name: str) -> str:
    from sgt_modules.generator import SupplementGenerator

    generator = SupplementGenerator(name)
    generator.check()
    began = time.perf_counter()
    drawn = generator.draw("Write a supplement that helps another model with this task.\nTask: Add.\nquestion: 2+2?")
    return f"loads and writes {drawn.tokens} tokens in {time.perf_counter() - began:.1f} s"


def _tiny_run() -> str:
    """The whole method on the smallest world, in a folder that is thrown away."""
    from optimizers.demos.house_terms import TINY_SCALE, demonstrate

    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="sgt-doctor-") as folder:
        summary = demonstrate(0, log_dir=Path(folder) / "run", scale=TINY_SCALE, display=False).summary
    calls, selected = summary["actor_calls"], summary["selected"]
    return f"{calls} actor calls, {selected} selected, in {time.perf_counter() - began:.1f} s"
