"""The `sgt` command."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console

from optimizers.commands import doctor, runs, serve, training
from optimizers.commands.output import AsJson, tell
from optimizers.processes import gathered
from sgt_modules.errors import SetupError, SGTError
from sgt_modules.redaction import redacted

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


def _numbers(text: str) -> list[int]:
    try:
        return [int(each) for each in text.split(",")]
    except ValueError:
        raise SetupError(f"Expected numbers with commas between, got {text!r}.") from None


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    to: Annotated[str, typer.Option(help="parquet, jsonl, or hub-format (a folder that datasets.load_dataset reads).")],
    output: Annotated[Path, typer.Option(help="A new folder for the tables.")],
    as_json: AsJson = False,
) -> None:
    """Write a run's rollouts, and the rows it was trained on as TRL reads them, as tables.

    Example: sgt export runs/demo --to parquet --output demo-tables
    """
    from optimizers.export import Format, export

    written = export(run, cast("Format", to), output)
    content = [{"table": each.table, "file": str(each.file), "rows": each.rows} for each in written]
    tell(content, *(f"{each.file}: {each.rows:,} rows" for each in written), as_json=as_json)


app.command("compile")(training.compile_)
app.command()(training.estimate)
app.command()(runs.report)
app.command()(runs.inspect)
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
