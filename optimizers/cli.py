"""The `sgt` command: its subcommands in `commands/`, and its exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer

from optimizers.commands import comparisons, demos, doctor, runs, serve, stacks, training, up
from optimizers.commands.output import escape_unencodable
from optimizers.training.processes import join_team
from sgt_modules.errors import SetupError, SGTError
from sgt_modules.saving.redaction import redact

_INTERRUPTED = 130

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
    """A small model learns what to tell a frozen one. `sgt COMMAND --help` describes a command.

    Exit codes: 0 done; 1 failure, or a fault that the doctor found; 2 wrong arguments; 3 stopped at a budget;
    130 Ctrl-C.
    """
    context.ensure_object(dict)["verbose"] = verbose


app.command()(demos.demo)
app.command()(comparisons.compare)
app.command()(comparisons.bench)
app.command("compile")(training.compile_program)
app.command()(training.estimate)
app.command()(runs.report)
app.command()(runs.inspect)
app.command()(runs.export)
app.command()(stacks.adopt)
app.command()(up.up)
app.command()(serve.serve)
app.command()(doctor.doctor)


def main() -> None:
    """Run the command; an error ends it with one line and an exit code, and with a traceback only on request.

    The exit code is 2 for a mistake of the user's, else 1. Of several processes, only the main one prints.
    """
    state: dict[str, bool] = {}
    # With memory pages of 2 MB, models on the CPU of a virtual machine are a third faster in PyTorch.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    escape_unencodable(sys.stdout, sys.stderr)
    try:
        app(obj=state)
    except BrokenPipeError:  # the reader of our output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as error:  # noqa: BLE001 - the last place that can report an error
        if state.get("verbose"):
            traceback.print_exc()
        if join_team().is_main:
            print(_describe(error), file=sys.stderr)
        raise SystemExit(2 if isinstance(error, SetupError) else 1) from None
    except SystemExit as left:
        if left.code == _INTERRUPTED:
            _silence_dspy()
        raise


def _silence_dspy() -> None:
    """Let DSPy log nothing more: after Ctrl-C its threads fail one by one, each with the whole training set."""
    if logs := sys.modules.get("dspy.utils.logging_utils"):
        logs.disable_logging()


def _describe(error: Exception) -> str:
    if isinstance(error, SGTError):
        return "\n".join([f"sgt: {error}", *error.__notes__])
    first = str(error).partition("\n")[0]
    return f"sgt: {type(error).__name__}: {redact(first)} (sgt --verbose COMMAND shows where)"
