"""Writes an environment of `verifiers` as a package that others install: `sgt export RUN --to verifiers`.

The package names the program and the metric by their import paths, holds the run's training rows and its generator's
prompt, and has no code of its own; `packaged_environment` reads it.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import dspy

from optimizers.core.fingerprints import fingerprint
from optimizers.core.run_folder import RunFolder
from optimizers.core.safe_reading import read_object
from optimizers.core.user_files import read_examples
from sgt_modules.errors import RunFolderError, SetupError

SETTINGS_FILE = "environment.json"
ROWS_FILE = "train.jsonl"

_MODULE = '''"""{title}

`vf-eval {name}` evaluates it; a trainer names `{name}` as its taskset.
"""

from pathlib import Path

from optimizers.integrations.packaged_environment import packaged_parts
from optimizers.integrations.verifiers import load_installed

Supplements, OneReply, SupplementEnv = packaged_parts(Path(__file__).parent)

__all__ = ["OneReply", "SupplementEnv", "Supplements"]


def load_environment():
    """Load the environment with its default options."""
    return load_installed(__name__)
'''

_PROJECT = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "0.1.0"
description = "{title}"
requires-python = ">=3.11"
dependencies = ["dspy-sgt[verifiers]"]

[tool.hatch.build.targets.wheel]
packages = ["{name}"]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentSettings:
    """What an environment's package knows, as its `environment.json` holds it.

    `program` and `metric` are `module:attribute`, as for `sgt compile`; `lm` names the frozen model, and is empty where
    the program's module sets it; `api_base` is the address of its server, empty for the provider's own. `generator` is
    the model to train, and the other options are the run's.
    """

    program: str
    metric: str
    inputs: Sequence[str]
    generator: str
    prompt: Mapping[str, Any]
    max_new_tokens: int
    max_prompt_tokens: int | None = None
    lm: str = ""
    lm_dtype: str = "auto"
    api_base: str = ""
    only: Sequence[str] | None = None
    scope: str | None = None
    template: Mapping[str, str] | None = None
    version: str = ""
    kinds: Sequence[str] = ()
    run: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def of_run(
        cls,
        run: Path,
        *,
        program: str,
        metric: str,
        generator: str,
        lm: str = "",
        lm_dtype: str = "auto",
        api_base: str = "",
    ) -> EnvironmentSettings:
        """Take the rest from a run's folder; the inputs are set when the rows are known.

        Raises:
            RunFolderError: the folder holds no run of SGT, or one whose generator does not write freely.
        """
        known = RunFolder(run).read("run.json")
        settings: Mapping[str, Any] = (known or {}).get("settings") or {}
        recipe: Mapping[str, Any] = settings.get("recipe") or {}
        if known is None or "prompt" not in settings or not recipe:
            raise RunFolderError(
                f"Expected a run of SGTTeleprompter in {run}, got none. Pass the log_dir of a compile."
            )
        if recipe.get("closed") or recipe.get("draft"):
            option = "closed=True, which chooses among given texts" if recipe.get("closed") else "draft=True"
            raise RunFolderError(
                f"Expected a run whose generator writes a supplement for the inputs alone, got one with {option}. "
                "A stack for reinforcement learning samples text; train such a generator here."
            )
        if settings.get("actors"):
            raise RunFolderError(
                f"Expected a run of one actor, got one of {', '.join(settings['actors'])}, whose reward is a mean. "
                "Compile for one of them."
            )
        return cls(
            program=program,
            metric=metric,
            inputs=(),
            generator=generator,
            prompt=settings["prompt"],
            max_new_tokens=settings["max_new_tokens"],
            max_prompt_tokens=settings["max_prompt_tokens"],
            lm=lm,
            lm_dtype=lm_dtype,
            api_base=api_base,
            only=settings.get("only"),
            scope=settings.get("scope"),
            template=settings.get("template"),
            version=str(((known.get("free") or {}).get("code") or {}).get("version") or ""),
            run={"id": str(known.get("id", "")), "train": str(settings.get("train", ""))},
        )

    @classmethod
    def read(cls, folder: Path) -> EnvironmentSettings:
        """Read a package's settings; raises `SetupError` for a file that is none."""
        content = read_object(folder / SETTINGS_FILE, home=folder)
        try:
            return cls(**(content or {}))
        except TypeError as problem:
            raise SetupError(
                f"Expected the settings of an environment in {folder / SETTINGS_FILE}, got others: {problem}. Export "
                "the environment again."
            ) from problem


def write_package(settings: EnvironmentSettings, rows: Sequence[dspy.Example], output: Path) -> Path:
    """Write the package into a new folder, named after it, and return the folder.

    Raises:
        RunFolderError: `output` holds something; or the rows are not those that the run learned from.
        SetupError: there is no row, or one has a value that JSON does not hold.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise RunFolderError(f"{output} holds something already. Choose a new folder to export to.")
    if not rows:
        raise SetupError("Expected at least one training row for the environment, got none. Pass a file with --train.")
    if settings.run.get("train") not in ("", None, fingerprint(rows, "trainset")):
        raise RunFolderError(
            f"Expected the rows that the run learned from, got {len(rows)} others. Pass the same file with --train, "
            "the same --val and the same --inputs, so that no question of the validation set is trained on."
        )
    name = package_name(output)
    scratch = output.with_name(f".{output.name}-{uuid4().hex[:8]}")
    inner = scratch / name
    inner.mkdir(parents=True)
    try:
        title = f"An environment that rewards supplements for {settings.program}."
        (inner / "__init__.py").write_text(_MODULE.format(title=title, name=name), encoding="utf-8")
        (scratch / "pyproject.toml").write_text(_PROJECT.format(title=title, name=name), encoding="utf-8")
        inputs = sorted(rows[0].inputs().keys())
        content = asdict(settings) | {"inputs": inputs}
        (inner / SETTINGS_FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        _write_rows(rows, inner / ROWS_FILE, inputs)
        if output.exists():
            output.rmdir()
        scratch.rename(output)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return output


def package_name(output: Path) -> str:
    """The name of the package in a folder.

    >>> package_name(Path("out/House-terms env"))
    'house_terms_env'
    """
    name = re.sub(r"\W+", "_", output.resolve().name.lower()).strip("_")
    return name if name[:1].isalpha() else f"environment_{name}".rstrip("_")


def _write_rows(rows: Sequence[dspy.Example], file: Path, inputs: Sequence[str]) -> None:
    """Write the rows as JSON lines, and compare what is read back."""
    try:
        file.write_text("".join(f"{json.dumps(dict(row), ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
        same = fingerprint(read_examples(file, inputs)) == fingerprint(rows)
    except TypeError as problem:
        raise SetupError(f"Expected rows that JSON holds, got {problem}. Put texts and numbers into them.") from problem
    if not same:
        raise SetupError(
            "Expected rows that JSON holds as they are, got some that read back differently, such as a tuple or a key "
            "that is no text. Put texts, numbers, lists and objects into them."
        )
