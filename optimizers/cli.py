"""The `sgt` command."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from optimizers.commands import doctor, runs, serve, training
from optimizers.commands.output import AsJson, tell
from optimizers.processes import gathered
from sgt_modules.errors import SetupError, SGTError
from sgt_modules.redaction import redacted

Size = Literal["light", "medium", "heavy"]
"""A recipe's sizes, spelled here as the recipe's own room brings DSPy along."""

app = typer.Typer(
    name="sgt",
    help="Supplement Generation Training: a small model learns what to tell a frozen one.",
    no_args_is_help=True,
    add_completion=True,
)


@app.callback()
def _root(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the traceback of an error.")] = False,
) -> None:
    """A small model learns what to tell a frozen one. `sgt COMMAND --help` says more of each command.

    Exit codes: 0 done; 1 something failed, or the doctor found a fault; 2 a mistake in what was given; 3 a budget
    ended a run; 130 Ctrl-C.
    """
    context.ensure_object(dict)["verbose"] = verbose


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Draws the world and every choice of the run.")] = 0,
    log_dir: Annotated[Path | None, typer.Option(help="The run's folder; a fresh one under runs/ by default.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A smaller world, in at most two minutes.")] = False,
    silent: Annotated[bool, typer.Option("--silent", help="No progress; the tables only.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a generator on the embedded world of house terms and score every stage.

    Example: sgt demo --seed 0 --log-dir runs/demo
    """
    from optimizers.demo import FULL_SCALE, QUICK_SCALE, demonstrate
    from optimizers.tables import show_demonstration

    scale = QUICK_SCALE if quick else FULL_SCALE
    demonstration = demonstrate(seed, log_dir=log_dir, scale=scale, display=False if silent or as_json else None)
    if gathered().main and as_json:
        tell({**demonstration.summary, "log_dir": str(demonstration.result.log_dir)}, as_json=True)
    elif gathered().main:
        show_demonstration(demonstration, Console())


@app.command()
def compare(
    task: Annotated[str, typer.Option(help="What is compared on: embedded, the world of house terms.")] = "embedded",
    seeds: Annotated[str, typer.Option(help="Seeds, with commas between.")] = "0,1,2",
    contenders: Annotated[str, typer.Option(help="Names, with commas between; all that ship by default.")] = "",
    budget: Annotated[int | None, typer.Option(help="Actor calls a contender may make to be compiled.")] = None,
    gold: Annotated[bool, typer.Option("--gold", help="Training examples show their gold output.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A smaller world, in at most ten minutes.")] = False,
    with_controls: Annotated[bool, typer.Option("--controls", help="SGT's controls, too.")] = False,
    log_dir: Annotated[Path | None, typer.Option(help="The comparison's folder; goes on with one begun.")] = None,
    page: Annotated[Path | None, typer.Option(help="Write the tables as a page too, .html or .md.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Compile one program with every optimizer on the same data and budget, and score them on the same test set.

    Example: sgt compare --task embedded --seeds 0,1,2 --log-dir runs/compare
    """
    from optimizers.comparison import Comparison, Controls, pooled
    from optimizers.comparison.embedded import compare_embedded, controls_embedded

    if task != "embedded":
        raise SetupError(f"Expected the task 'embedded', got {task!r}.")
    found = compare_embedded(
        [name for name in contenders.split(",") if name] or None,
        seeds=_numbers(seeds),
        quick=quick,
        gold=gold,
        budget=budget,
        log_dir=log_dir,
        display_progress=False if as_json else None,
    )
    parts: list[Comparison | Controls] = [found]
    if with_controls:
        each = controls_embedded(found.log_dir, seeds=found.seeds, quick=quick, budget=budget)
        parts += [pooled(each), *each]
    if page is not None and page.suffix == ".html":
        found.to_html(page)
    elif page is not None:
        page.write_text("\n".join(part.to_markdown() for part in parts), encoding="utf-8")
    if as_json:
        more = {"controls": [part.content() for part in parts[1:]]} if with_controls else {}
        print(json.dumps({**found.content(), **more}, indent=2))
    else:
        Console().print(*parts)


@app.command()
def bench(
    task: Annotated[str, typer.Argument(help="A task's name, path/to/file.py:TASK or module:TASK.")],
    actor: Annotated[str, typer.Option(help="The frozen model, such as openai/gpt-4.1-mini.")] = "",
    data_dir: Annotated[Path | None, typer.Option(help="A folder of the task's rows; the hub by default.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only check the rows: gold answers must score 1.0.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Examples in each split, at most.")] = None,
    contenders: Annotated[str, typer.Option(help="Names, with commas between.")] = "none,sgt",
    seeds: Annotated[str, typer.Option(help="Seeds, with commas between.")] = "0",
    budget: Annotated[int | None, typer.Option(help="Actor calls a contender may make to be compiled.")] = None,
    generator: Annotated[
        str, typer.Option(help="The model to train: hub id, folder, or the embedded one.")
    ] = "embedded",
    auto: Annotated[
        Size, typer.Option(help="How much SGT samples: light, medium, or heavy as in the paper.")
    ] = "light",
    api_base: Annotated[str, typer.Option(help="The address of the actor's server.")] = "",
    reflection: Annotated[
        str, typer.Option(help="The LM that writes instructions, for contenders that need one.")
    ] = "",
    judge: Annotated[str, typer.Option(help="The LM that judges open answers, where the task takes one.")] = "",
    metric: Annotated[str, typer.Option(help="Another of the task's metrics, by name.")] = "",
    threads: Annotated[int, typer.Option(help="Program runs at once.")] = 8,
    log_dir: Annotated[Path | None, typer.Option(help="The comparison's folder; goes on with one begun.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Compile a task's program with SGT and others for any actor, and compare them on its test questions.

    Example: sgt bench gsm8k --actor openai/gpt-4.1-mini --generator Qwen/Qwen3-1.7B --limit 100
    """
    from optimizers.tasks import checked
    from optimizers.tasks.calling import actor_of, wished

    console, wanted = Console(stderr=True), wished(task, metric=metric, judge=judge)
    if check:
        report = checked(wanted, data_dir)
        console.print(*report.notes, sep="\n", end="\n" if report.notes else "")
        print(json.dumps(report.content()))
        raise typer.Exit(int(bool(report.bad_rows)))
    from optimizers.recipe import Recipe
    from optimizers.tasks.benching import run

    found = run(
        wanted,
        actor_of(actor, wanted, api_base=api_base),
        data_dir=data_dir,
        limit=limit,
        contenders=[name for name in contenders.split(",") if name],
        seeds=_numbers(seeds),
        budget=budget,
        generator=generator,
        recipe=Recipe.auto(auto),
        reflection_lm=actor_of(reflection) if reflection else None,
        num_threads=threads,
        log_dir=log_dir,
        display_progress=False if as_json else None,
    )
    if as_json:
        print(json.dumps(found.content(), indent=2))
    else:
        Console().print(found)


def _numbers(text: str) -> list[int]:
    try:
        return [int(each) for each in text.split(",")]
    except ValueError:
        raise SetupError(f"Expected numbers with commas between, got {text!r}.") from None


app.command("compile")(training.compile_)
app.command()(training.estimate)
app.command()(runs.report)
app.command()(runs.inspect)
app.command()(runs.export)
app.command()(serve.serve)
app.command()(doctor.doctor)


def main() -> None:
    """Run the command; what goes wrong ends with one line and an exit code, and with a traceback only if asked for.

    A mistake of the user's has exit code 2, anything else 1. Of several processes, the main one says it.
    """
    said: dict[str, bool] = {}
    try:
        app(obj=said)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as error:  # noqa: BLE001 - the last place where anybody can tell a person
        if said.get("verbose"):
            traceback.print_exc()
        if gathered().main:
            print(_told(error), file=sys.stderr)
        raise SystemExit(2 if isinstance(error, SetupError) else 1) from None


def _told(error: Exception) -> str:
    if isinstance(error, SGTError):
        return f"sgt: {error}"
    first = str(error).partition("\n")[0]
    return f"sgt: {type(error).__name__}: {redacted(first)} (sgt --verbose COMMAND shows where)"
