"""`sgt compile` and `sgt estimate`: a program given as `module:attribute`, data as files."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from optimizers.commands.output import AUTO, STOPPED, Actor, AsJson, Precision, Size, tell, writable

if TYPE_CHECKING:
    import dspy

    from optimizers.core.budget import Limits
    from optimizers.observe.tracking import TrackerName
    from optimizers.sgt.teleprompter import SGTTeleprompter
    from optimizers.training.trl_trainer import TRLTrainer
    from sgt_modules.generator import SupplementGenerator

_DATA = "Examples, a row each: .jsonl, .csv or .parquet"
Program = Annotated[str, typer.Argument(help="The program as module:attribute, or a function there that makes it.")]
Train = Annotated[Path, typer.Option(help=f"{_DATA}.")]
Val = Annotated[Path | None, typer.Option(help=f"{_DATA}; by default 30 % of the training examples are held out.")]
Metric = Annotated[str, typer.Option(help="The metric as module:attribute.")]
Inputs = Annotated[str, typer.Option(help="Names of the input fields, commas between; the program's own by default.")]
Generator = Annotated[str, typer.Option(help="The model to train: a hub id, a folder, or embedded.")]
Auto = Annotated[Size, typer.Option(help="How much is sampled: light, medium, or heavy, of the paper's sizes.")]
Rounds = Annotated[int | None, typer.Option(help="Rounds of DPO, where not the recipe's.")]
Seed = Annotated[int, typer.Option(help="Draws every choice of the run.")]
Threads = Annotated[int | None, typer.Option(help="Program runs at once.")]
ReportTo = Annotated[str, typer.Option(help="Who is told of the run: mlflow, wandb, tensorboard; commas between.")]
LogDir = Annotated[Path | None, typer.Option(help="The run's folder; goes on with one begun. Fresh by default.")]


def compile_(
    program: Program,
    train: Train,
    metric: Metric,
    val: Val = None,
    inputs: Inputs = "",
    lm: Actor = "",
    lm_dtype: Precision = "auto",
    generator: Generator = "Qwen/Qwen3-1.7B",
    auto: Auto = AUTO,
    rounds: Rounds = None,
    seed: Seed = 0,
    threads: Threads = None,
    log_dir: LogDir = None,
    max_actor_calls: Annotated[int | None, typer.Option(help="The most calls of the frozen model.")] = None,
    max_cost_usd: Annotated[float | None, typer.Option(help="The most dollars for them.")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="The most seconds at work.")] = None,
    report_to: ReportTo = "",
    out: Annotated[
        Path | None, typer.Option(help="The compiled program; program.json in the folder by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a generator for a program, and save the program that reads its supplements.

    Exit codes: 0 done; 2 a mistake in what was given; 3 a budget ended it, and the same command with a larger one and
    its --log-dir goes on; 130 Ctrl-C, likewise.

    Example: sgt compile app:program --train train.jsonl --metric app:metric --lm openai/gpt-4.1-mini --log-dir runs/a
    """
    from optimizers.core.budget import Limits
    from optimizers.core.result import result_of
    from optimizers.observe.report import FILE

    writable(out, what="--out")
    student, examples, more = _given(program, train, val, inputs)
    limits = Limits(max_actor_calls, max_cost_usd, max_seconds)
    with _acting(lm, lm_dtype):
        sgt = _teleprompter(
            metric, generator, auto, rounds, seed, threads, log_dir, limits, silent=as_json, report_to=report_to
        )
        better = sgt.compile(student, trainset=examples, valset=more)
    result = result_of(better)
    saved = out or result.log_dir / "program.json"
    better.save(saved)
    scores = {stage.name: round(stage.score, 4) for stage in result.stages}
    content = {
        "verdict": result.verdict,
        "selected": result.selected,
        "scores": scores,
        "program": str(saved),
        "log_dir": str(result.log_dir),
        "report": str(result.log_dir / FILE),
        "actor_calls": result.spent.actor_calls,
        "cost_usd": result.spent.cost,
        "seconds": round(result.spent.seconds.total, 1),
        "notes": list(result.notes),
        "stopped": result.stopped,
    }
    told = ", ".join(f"{name} {score:.3f}" for name, score in scores.items())
    lines = [
        f"Validation: {told}.",
        f"Selected: {result.selected}.",
        f"Program: {saved}",
        f"Report: {content['report']}",
    ]
    tell(content, *lines, as_json=as_json)
    if result.stopped:
        raise typer.Exit(STOPPED)


def estimate(
    program: Program,
    train: Train,
    metric: Metric,
    val: Val = None,
    inputs: Inputs = "",
    lm: Actor = "",
    lm_dtype: Precision = "auto",
    generator: Generator = "Qwen/Qwen3-1.7B",
    auto: Auto = AUTO,
    rounds: Rounds = None,
    seed: Seed = 0,
    threads: Threads = None,
    log_dir: LogDir = None,
    probe: Annotated[int, typer.Option(help="Examples to run first, which is paid for; 0 pays nothing.")] = 0,
    as_json: AsJson = False,
) -> None:
    """What compile would take, stage by stage: calls, and with a probe tokens, dollars and seconds.

    Example: sgt estimate app:program --train train.jsonl --metric app:metric --lm openai/gpt-4.1-mini --probe 30
    """
    from dataclasses import asdict

    from optimizers.core.budget import Limits

    student, examples, more = _given(program, train, val, inputs)
    with _acting(lm, lm_dtype):
        sgt = _teleprompter(metric, generator, auto, rounds, seed, threads, log_dir, Limits(), silent=as_json)
        found = sgt.estimate(student, examples, more, probe=probe)
    tell({**asdict(found), "total": asdict(found.total)}, found, as_json=as_json)


def _given(
    program: str, train: Path, val: Path | None, inputs: str
) -> tuple[dspy.Module, list[dspy.Example], list[dspy.Example] | None]:
    """The program, and its examples."""
    from optimizers.core.user_files import examples_in, inputs_of, program_at

    student = program_at(program)
    names = [each.strip() for each in inputs.split(",") if each.strip()] or inputs_of(student)
    return student, examples_in(train, names), None if val is None else examples_in(val, names)


def _acting(lm: str, dtype: str) -> AbstractContextManager[None]:
    """Inside, the LM is DSPy's; without a name, the one that the program's own module has configured."""
    from sgt_modules.lms import acting_as, check_lm, lm_named

    actor = lm_named(lm, dtype=dtype) if lm else None
    check_lm(actor)
    return acting_as(actor)


def _teleprompter(
    metric: str,
    generator: str,
    auto: Auto,
    rounds: int | None,
    seed: int,
    threads: int | None,
    log_dir: Path | None,
    limits: Limits,
    *,
    silent: bool,
    report_to: str = "",
) -> SGTTeleprompter:
    from optimizers.core.user_files import attribute
    from optimizers.sgt.recipe import Recipe
    from optimizers.sgt.teleprompter import SGTTeleprompter

    scored = attribute(metric, what="a metric")
    model, trainer = _embedded() if generator == "embedded" else (generator, None)
    return SGTTeleprompter(
        scored,
        model,
        trainer=trainer,
        recipe=Recipe.auto(auto).with_rounds(rounds),
        seed=seed,
        num_threads=threads,
        log_dir=log_dir,
        max_actor_calls=limits.actor_calls,
        max_cost_usd=limits.cost_usd,
        max_seconds=limits.seconds,
        report_to=cast("list[TrackerName]", [each.strip() for each in report_to.split(",") if each.strip()]),
        display_progress=False if silent else None,
    )


def _embedded() -> tuple[SupplementGenerator, TRLTrainer]:
    """The embedded generator and its trainer, imported only for who asks: the latter brings TRL, some ten seconds."""
    from optimizers.training.embedded import embedded_trainer
    from sgt_modules.embedded import embedded_generator

    return embedded_generator(), embedded_trainer()
