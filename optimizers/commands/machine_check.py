"""Checks whether this machine can run the package: packages, device, models that load, and a tiny run."""

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
from sgt_modules.saving.redaction import SECRET_VARIABLE

FindingState = Literal["fine", "missing", "broken"]
"""`missing` is something that only some commands need; `broken` makes the check fail."""

NEEDED_PACKAGES = ("dspy", "torch", "transformers", "trl", "peft", "datasets", "litellm")
OPTIONAL_PACKAGES = {
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
"""Optional packages, and the extra that installs them."""

_SETTINGS = (
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_HOME",
    "CUDA_VISIBLE_DEVICES",
    "LITELLM_LOCAL_MODEL_COST_MAP",
)
_NEEDED_DISK_BYTES = 5 * 2**30


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of the check: its name, its state, and a text for the user."""

    name: str
    state: FindingState
    said: str


def examine_machine(models: Sequence[str] = (), *, run: bool = True) -> Iterator[Finding]:
    """Yield each finding once it is ready. `models` are further generators to try; `run` tries a tiny compile."""
    yield Finding("python", "fine", f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield from (_find_package(package, "broken", "dspy-sgt") for package in NEEDED_PACKAGES)
    yield from (
        _find_package(package, "missing", f"'dspy-sgt[{extra}]'") for package, extra in OPTIONAL_PACKAGES.items()
    )
    yield _try_out("device", _describe_device)
    yield _check_disk()
    yield _list_keys()
    yield from (Finding(name, "fine", os.environ[name]) for name in _SETTINGS if name in os.environ)
    yield _try_out("embedded models", _load_embedded)
    yield from (_try_out(f"model {name}", lambda name=name: _try_model(name)) for name in models)
    if run:
        yield _try_out("a tiny run", _run_tiny)


def _find_package(package: str, otherwise: FindingState, requirement: str) -> Finding:
    try:
        return Finding(package, "fine", version(package))
    except PackageNotFoundError:
        return Finding(package, otherwise, f"not installed: pip install {requirement}")


def _try_out(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, "fine", check())
    except SGTError as problem:
        return Finding(name, "broken", str(problem))
    except Exception as problem:  # noqa: BLE001 - the check reports every failure
        return Finding(name, "broken", f"{type(problem).__name__}: {str(problem).partition(chr(10))[0]}")


def _describe_device() -> str:
    from sgt_modules.local.devices import choose_device_and_dtype

    device, dtype = choose_device_and_dtype("auto", "auto")
    return f"{device}, {str(dtype).removeprefix('torch.')}, {os.cpu_count()} cores"


def _check_disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    text = f"{free / 2**30:.1f} GiB free here"
    if free > _NEEDED_DISK_BYTES:
        return Finding("disk", "fine", text)
    return Finding("disk", "broken", f"{text}; a run needs 5")


def _list_keys() -> Finding:
    """List which keys are set, by name only."""
    names = sorted(name for name, value in os.environ.items() if value and SECRET_VARIABLE.search(name))
    return Finding("keys", "fine" if names else "missing", ", ".join(names) or "none is set in the environment")


def _load_embedded() -> str:
    from sgt_modules.embedded import embedded_actor, embedded_generator

    embedded_generator().check()
    return f"generator and {embedded_actor().model} load"


def _try_model(name: str) -> str:
    from sgt_modules.generator import SupplementGenerator

    generator = SupplementGenerator(name)
    generator.check()
    began = time.perf_counter()
    drawn = generator.draw("Write a supplement that helps another model with this task.\nTask: Add.\nquestion: 2+2?")
    return f"loads and writes {drawn.tokens} tokens in {time.perf_counter() - began:.1f} s"


def _run_tiny() -> str:
    """Run the whole method on the smallest world, in a temporary folder."""
    from optimizers.demos.house_terms import TINY_SCALE, demonstrate

    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="sgt-doctor-") as folder:
        summary = demonstrate(0, log_dir=Path(folder) / "run", scale=TINY_SCALE, display=False).summary
    calls, selected = summary["actor_calls"], summary["selected"]
    return f"{calls} actor calls, {selected} selected, in {time.perf_counter() - began:.1f} s"
