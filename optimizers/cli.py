"""The `sgt` command: its groups in `commands/`, and how it ends."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer

from optimizers.commands import comparisons, demos, doctor, runs, serve, training
from optimizers.commands.output import lenient
from optimizers.training.processes import join_team
from sgt_modules.errors import SetupError, SGTError
from sgt_modules.saving.redaction import redacted

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


app.command()(demos.demo)
app.command()(comparisons.compare)
app.command()(comparisons.bench)
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
    # PyTorch then takes memory in pages of 2 MB: models on a CPU are a third faster on a virtual machine.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    lenient(sys.stdout, sys.stderr)
    try:
        app(obj=said)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as error:  # noqa: BLE001 - the last place where anybody can tell a person
        if said.get("verbose"):
            traceback.print_exc()
        if join_team().is_main:
            print(_told(error), file=sys.stderr)
        raise SystemExit(2 if isinstance(error, SetupError) else 1) from None


def _told(error: Exception) -> str:
    if isinstance(error, SGTError):
        return "\n".join([f"sgt: {error}", *error.__notes__])
    first = str(error).partition("\n")[0]
    return f"sgt: {type(error).__name__}: {redacted(first)} (sgt --verbose COMMAND shows where)"
