"""`sgt adopt`, and `sgt export --to verifiers`: the way to a stack for reinforcement learning, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optimizers.commands.methods import named_generator
from optimizers.commands.output import ActorOption, JsonOption, PrecisionOption, check_writable, print_output
from optimizers.commands.training import ApiBaseOption, use_named_actor

if TYPE_CHECKING:
    from optimizers.commands.recorded import RunInputs

_RECORDED = "by default as the run's command says"
RunProgramOption = Annotated[str, typer.Option("--program", help=f"The program as module:attribute; {_RECORDED}.")]
RunMetricOption = Annotated[str, typer.Option("--metric", help=f"The metric as module:attribute; {_RECORDED}.")]
RunTrainOption = Annotated[Path | None, typer.Option("--train", help=f"The run's training file; {_RECORDED}.")]
RunValOption = Annotated[Path | None, typer.Option("--val", help=f"The run's validation file; {_RECORDED}.")]
RunInputsOption = Annotated[str, typer.Option("--inputs", help=f"Names of the input fields; {_RECORDED}.")]
RunGeneratorOption = Annotated[str, typer.Option("--generator", help=f"The run's base model; {_RECORDED}.")]


def adopt(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    adapter: Annotated[Path, typer.Argument(help="A PEFT folder that was trained elsewhere.")],
    name: Annotated[str, typer.Option(help="The new stage's name.")],
    program: RunProgramOption = "",
    metric: RunMetricOption = "",
    train: RunTrainOption = None,
    val: RunValOption = None,
    inputs: RunInputsOption = "",
    lm: ActorOption = "",
    lm_dtype: PrecisionOption = "auto",
    api_base: ApiBaseOption = "",
    generator: RunGeneratorOption = "",
    threads: Annotated[int | None, typer.Option(help="Concurrent program runs.")] = None,
    max_actor_calls: Annotated[int | None, typer.Option(help="Maximum calls of the frozen model for this.")] = None,
    store: Annotated[str, typer.Option(help="The run's rollouts, if outside its folder: a file or a URL.")] = "",
    out: Annotated[Path | None, typer.Option(help="File for the program that reads its supplements.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Add an adapter that was trained elsewhere to a run: check it, score it on validation, compare it with the stages.

    What the run recorded stays. The weights are copied to its checkpoints, so that sgt export and sgt report know them.

    Example: sgt adopt runs/a trained/adapter --name grpo-cluster --out program.json
    """
    from optimizers.commands.recorded import inputs_of
    from optimizers.core.user_files import load_attribute, load_program
    from optimizers.integrations import adopting

    check_writable(out, what="--out")
    known = inputs_of(
        run,
        program=program,
        metric=metric,
        train=train,
        val=val,
        inputs=inputs,
        lm=lm,
        lm_dtype="" if lm_dtype == "auto" else lm_dtype,
        api_base=api_base,
        generator=generator,
    )
    student = load_program(known.program)
    _, valset = known.load_splits(student)
    with use_named_actor(known.lm, known.lm_dtype, known.api_base):
        adopted = adopting.adopt(
            run,
            adapter,
            name=name,
            program=student,
            metric=load_attribute(known.metric, what="a metric"),
            valset=valset,
            generator=named_generator(known.generator),
            store=store or None,
            num_threads=threads,
            max_actor_calls=max_actor_calls,
        )
    if out is not None:
        adopted.program.save(out)
    content = {
        "stage": name,
        "score": adopted.stage.score,
        "best": adopted.result.selected,
        "scores": {each.name: each.score for each in adopted.result.stages},
        "said": adopted.said,
        "notes": list(adopted.result.notes),
        "program": None if out is None else str(out),
    }
    lines = [adopted.said, f"Best on validation: {adopted.result.selected}.", *adopted.result.notes]
    print_output(content, *lines, *([] if out is None else [f"Program: {out}"]), as_json=as_json)


def export_environment(run: Path, output: Path, known: RunInputs, *, as_json: bool) -> None:
    """Write the environment of a run as a package."""
    from optimizers.core.user_files import load_program
    from optimizers.integrations.environment_package import EnvironmentSettings, package_name, write_package

    settings = EnvironmentSettings.of_run(
        run,
        program=known.program,
        metric=known.metric,
        generator="sgt:generator" if known.generator == "embedded" else known.generator,
        lm=known.lm,
        lm_dtype=known.lm_dtype,
        api_base=known.api_base,
    )
    rows, _ = known.load_splits(load_program(known.program))
    write_package(settings, rows, output)
    content = {"package": package_name(output), "output": str(output), "rows": len(rows)}
    said = f"{output}: the package {content['package']} with {len(rows):,} rows. Install it with pip install {output}."
    print_output(content, said, as_json=as_json)
