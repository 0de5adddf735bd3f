"""`sgt compile` and `sgt estimate`: a program given as `module:attribute`, data as files."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from optimizers.commands.methods import AlgorithmName, Method, MethodName
from optimizers.commands.output import (
    AUTO,
    EXIT_STOPPED,
    ActorOption,
    JsonOption,
    PrecisionOption,
    Size,
    check_writable,
    print_output,
)
from sgt_modules.errors import SetupError

if TYPE_CHECKING:
    import dspy

    from optimizers.observe.tracking import TrackerName

_DATA = "Examples, one per row: .jsonl, .csv or .parquet"
ProgramArgument = Annotated[str, typer.Argument(help="The program as module:attribute, or a function that returns it.")]
TrainOption = Annotated[Path, typer.Option(help=f"{_DATA}.")]
ValOption = Annotated[
    Path | None, typer.Option(help=f"{_DATA}; by default 30 % of the training examples are held out.")
]
MetricOption = Annotated[str, typer.Option(help="The metric as module:attribute.")]
InputsOption = Annotated[
    str, typer.Option(help="Names of the input fields, separated by commas; by default the program's.")
]
MethodOption = Annotated[
    MethodName,
    typer.Option(help="sgt trains the generator; nearest_winner trains nothing and looks up what won in exploration."),
]
AlgorithmOption = Annotated[
    AlgorithmName, typer.Option(help="How the rounds of sgt train: dpo on pairs, or grpo on groups of samples.")
]
GeneratorOption = Annotated[
    str,
    typer.Option(
        help="The model to train: a hub id, a folder, or embedded. For nearest_winner also an LM, such as "
        "openai/gpt-4.1-mini, or none with --log."
    ),
]
GeneratorAtOption = Annotated[
    str, typer.Option(help="Server of the generator, as sgt up prints it: vllm@http://127.0.0.1:8000/v1.")
]
ApiBaseOption = Annotated[str, typer.Option(help="The address of the frozen model's server, up to /v1.")]
AutoOption = Annotated[Size, typer.Option(help="How much is sampled: light, medium, or heavy as in the paper.")]
RoundsOption = Annotated[
    int | None,
    typer.Option(
        help="Rounds after SFT; by default the recipe's. For nearest_winner, 0 explores with the warm start alone."
    ),
]
SeedOption = Annotated[int, typer.Option(help="Seed of every random choice.")]
ThreadsOption = Annotated[int | None, typer.Option(help="Concurrent program runs.")]
ReportToOption = Annotated[str, typer.Option(help="Trackers, separated by commas: mlflow, wandb, tensorboard.")]
LogDirOption = Annotated[
    Path | None, typer.Option(help="The run's folder; an unfinished run is resumed. By default a new folder.")
]


def compile_program(
    program: ProgramArgument,
    train: TrainOption,
    metric: MetricOption,
    val: ValOption = None,
    inputs: InputsOption = "",
    lm: ActorOption = "",
    lm_dtype: PrecisionOption = "auto",
    api_base: ApiBaseOption = "",
    method: MethodOption = "sgt",
    algorithm: AlgorithmOption = "dpo",
    generator: GeneratorOption = "Qwen/Qwen3-1.7B",
    generator_at: GeneratorAtOption = "",
    auto: AutoOption = AUTO,
    rounds: RoundsOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    log_dir: LogDirOption = None,
    log: Annotated[
        Path | None, typer.Option(help="Logged outcomes, JSON lines or MLflow traces, which cost no call.")
    ] = None,
    max_actor_calls: Annotated[int | None, typer.Option(help="Maximum calls of the frozen model.")] = None,
    max_cost_usd: Annotated[float | None, typer.Option(help="Maximum dollars for these calls.")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Maximum seconds of work.")] = None,
    report_to: ReportToOption = "",
    out: Annotated[
        Path | None, typer.Option(help="File for the compiled program; by default program.json in the folder.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a generator for a program, and save the program that reads its supplements.

    With --method nearest_winner nothing is trained: the program reads what won for the most similar training questions.

    Exit codes: 0 done; 2 wrong arguments; 3 stopped at a budget; 130 Ctrl-C. After 3 and 130, the same command with its
    --log-dir resumes the run, after 3 with a larger budget.

    Example: sgt compile app:program --train train.jsonl --metric app:metric --lm openai/gpt-4.1-mini --log-dir runs/a
    """
    from optimizers.core.result import result_of
    from optimizers.core.user_files import load_attribute
    from optimizers.observe.report import REPORT_FILE
    from optimizers.sgt.log_reading import examples_of

    chosen = Method(method, algorithm, auto, rounds, generator, generator_at)
    check_writable(out, what="--out")
    student, trainset, valset = _load_inputs(program, train, val, inputs)
    logged = [] if log is None else examples_of(log).outcomes
    with use_named_actor(lm, lm_dtype, api_base):
        teleprompter = chosen.teleprompter(
            load_attribute(metric, what="a metric"),
            seed=seed,
            num_threads=threads,
            log_dir=log_dir,
            max_actor_calls=max_actor_calls,
            max_cost_usd=max_cost_usd,
            max_seconds=max_seconds,
            report_to=cast("list[TrackerName]", [each.strip() for each in report_to.split(",") if each.strip()]),
            display_progress=False if as_json else None,
        )
        better = teleprompter.compile(student, trainset=trainset, valset=valset, logged=logged)
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
        "report": str(result.log_dir / REPORT_FILE),
        "actor_calls": result.spent.actor_calls,
        "cost_usd": result.spent.cost,
        "seconds": round(result.spent.seconds.total, 1),
        "notes": list(result.notes),
        "stopped": result.stopped,
    }
    scores_text = ", ".join(f"{name} {score:.3f}" for name, score in scores.items())
    lines = [
        f"Validation: {scores_text}.",
        f"Selected: {result.selected}.",
        f"Program: {saved}",
        f"Report: {content['report']}",
    ]
    print_output(content, *lines, as_json=as_json)
    if result.stopped:
        raise typer.Exit(EXIT_STOPPED)


def estimate(
    program: ProgramArgument,
    train: TrainOption,
    metric: MetricOption,
    val: ValOption = None,
    inputs: InputsOption = "",
    lm: ActorOption = "",
    lm_dtype: PrecisionOption = "auto",
    api_base: ApiBaseOption = "",
    method: MethodOption = "sgt",
    algorithm: AlgorithmOption = "dpo",
    generator: GeneratorOption = "Qwen/Qwen3-1.7B",
    generator_at: GeneratorAtOption = "",
    auto: AutoOption = AUTO,
    rounds: RoundsOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    log_dir: LogDirOption = None,
    probe: Annotated[int, typer.Option(help="Examples to run first, at their cost; 0 costs nothing.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Estimate what compile takes, stage by stage: calls, and with a probe tokens, dollars and seconds.

    Example: sgt estimate app:program --train train.jsonl --metric app:metric --lm openai/gpt-4.1-mini --probe 30
    """
    from dataclasses import asdict

    from optimizers.core.user_files import load_attribute
    from optimizers.sgt.nearest.teleprompter import NearestWinner

    chosen = Method(method, algorithm, auto, rounds, generator, generator_at)
    if probe and method == "nearest_winner":
        raise SetupError(
            f"Expected --probe {probe} with --method sgt, got --method nearest_winner, whose estimate has calls and "
            "samples alone. Leave --probe out."
        )
    student, trainset, valset = _load_inputs(program, train, val, inputs)
    with use_named_actor(lm, lm_dtype, api_base):
        teleprompter = chosen.teleprompter(
            load_attribute(metric, what="a metric"),
            seed=seed,
            num_threads=threads,
            log_dir=log_dir,
            display_progress=False if as_json else None,
        )
        if isinstance(teleprompter, NearestWinner):
            estimated = teleprompter.estimate(student, trainset, valset)
        else:
            estimated = teleprompter.estimate(student, trainset, valset, probe=probe)
    print_output({**asdict(estimated), "total": asdict(estimated.total)}, estimated, as_json=as_json)


def _load_inputs(
    program: str, train: Path, val: Path | None, inputs: str
) -> tuple[dspy.Module, list[dspy.Example], list[dspy.Example] | None]:
    from optimizers.core.user_files import input_names, load_program, read_examples

    student = load_program(program)
    names = [each.strip() for each in inputs.split(",") if each.strip()] or input_names(student)
    return student, read_examples(train, names), None if val is None else read_examples(val, names)


def use_named_actor(lm: str, dtype: str, api_base: str) -> AbstractContextManager[None]:
    """Make the LM DSPy's inside the block; without a name, keep the LM that the program's module configures."""
    from sgt_modules.lms import acting_as, check_lm, lm_named

    if api_base and not lm:
        raise SetupError(f"Expected --lm with --api-base {api_base}, got none. Name the model of that server.")
    actor = lm_named(lm, dtype=dtype, api_base=api_base) if lm else None
    if actor is not None and api_base:
        from sgt_modules.remote.server_use import RETRIES

        actor = actor.copy(num_retries=RETRIES)
    check_lm(actor)
    return acting_as(actor)
