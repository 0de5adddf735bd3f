"""The environment of a package that `sgt export RUN --to verifiers` wrote: its options, and what it opens from them."""

from __future__ import annotations

import threading
from pathlib import Path

import verifiers.v1 as vf

from optimizers.core.user_files import load_attribute, load_program, read_examples
from optimizers.integrations.environment_package import ROWS_FILE, EnvironmentSettings
from optimizers.integrations.supplement_rewards import SupplementRewards, kinds_named
from optimizers.integrations.verifiers import EnvironmentParts, environment_parts
from sgt_modules.generator import SupplementGenerator
from sgt_modules.generator_prompt import GeneratorPrompt
from sgt_modules.lms import acting_as, check_lm, lm_named
from sgt_modules.predictor import check_scope
from sgt_modules.prompts import Template


class SupplementTaskConfig(vf.TaskConfig):
    """Options of a packaged environment, under `--env.taskset.task.*`."""

    lm: str = ""
    """The frozen model, if not the exported one: a DSPy name such as `openai/gpt-4.1-mini`, or a model's folder."""
    api_base: str = ""
    """The address of its server, up to `/v1`, if not the exported one."""
    store: str | None = None
    """Where rollouts are saved: a file, or a database's URL that several machines share."""
    num_threads: int | None = None
    """Program runs at once in this process."""
    max_actor_calls: int | None = None
    """The most calls of the program's LMs; each process counts its own from what the store held when it began."""
    max_cost_usd: float | None = None
    """The most dollars for them."""
    max_errors: int = 10
    """Runs in a row without a reward after which every further one is refused."""
    max_run_seconds: float | None = None
    """How long one run of the program may take."""


class SupplementsConfig(vf.TasksetConfig):
    """The configuration of a packaged environment's tasks."""

    task: SupplementTaskConfig = SupplementTaskConfig()  # pyright: ignore[reportIncompatibleVariableOverride]  (as verifiers asks for)


def packaged_parts(folder: Path) -> EnvironmentParts:
    """Make the classes of the environment in a package's folder; program, metric and rows are loaded at first use."""
    settings, opened, lock = EnvironmentSettings.read(folder), dict[str, SupplementRewards](), threading.Lock()

    def open_rewards(config: SupplementTaskConfig) -> SupplementRewards:
        key = config.model_dump_json()
        with lock:
            if key not in opened:
                opened[key] = _open(settings, folder, config)
            return opened[key]

    return environment_parts(
        open_rewards,
        kinds=kinds_named(settings.kinds),
        max_new_tokens=settings.max_new_tokens,
        config=SupplementsConfig,
    )


def _open(settings: EnvironmentSettings, folder: Path, config: SupplementTaskConfig) -> SupplementRewards:
    """The rewards of a package, with these options."""
    name, dtype, address = settings.lm, settings.lm_dtype, config.api_base or settings.api_base
    if config.lm not in ("", name):  # the exported precision and address are those of the exported LM
        name, dtype, address = config.lm, "auto", config.api_base
    program = load_program(settings.program)
    lm = lm_named(name, dtype=dtype, api_base=address) if name else None
    check_lm(lm)
    with acting_as(lm):
        return SupplementRewards(
            program,
            load_attribute(settings.metric, what="a metric"),
            read_examples(folder / ROWS_FILE, settings.inputs),
            generator=SupplementGenerator(
                settings.generator,
                prompt=GeneratorPrompt.load_state(dict(settings.prompt)),
                max_new_tokens=settings.max_new_tokens,
                max_prompt_tokens=settings.max_prompt_tokens,
            ),
            store=config.store,
            only=settings.only,
            scope=None if settings.scope is None else check_scope(settings.scope),
            template=None if settings.template is None else Template(**settings.template),
            num_threads=config.num_threads,
            max_errors=config.max_errors,
            max_actor_calls=config.max_actor_calls,
            max_cost_usd=config.max_cost_usd,
            max_run_seconds=config.max_run_seconds,
            version=settings.version,
        )
