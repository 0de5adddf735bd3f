"""`sgt doctor`: whether this machine can run the package."""

from __future__ import annotations

from typing import Annotated

import typer

from optimizers.commands.output import AsJson, tell

_MARKS = {"fine": "[green]ok[/]", "missing": "[yellow]--[/]", "broken": "[red]!![/]"}


def doctor(
    model: Annotated[list[str] | None, typer.Option(help="A generator to try, too: a hub id or a folder.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Without the tiny run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what is installed, which device there is, which models load, which keys are set, and whether a run works.

    Keys are told by their names alone. Exit code 1 where something that every run needs is broken.

    Example: sgt doctor --model Qwen/Qwen3-1.7B
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.markup import escape

    from optimizers.commands.machine_check import examined

    found = []
    console = Console()
    for each in examined(model or (), run=not quick):
        found.append(each)
        if not as_json:
            console.print(f"{_MARKS[each.state]} {each.name}: {escape(each.said)}", soft_wrap=True, highlight=False)
    broken = [each.name for each in found if each.state == "broken"]
    content = {"fine": not broken, "findings": [asdict(each) for each in found]}
    tell(content, "Broken: " + ", ".join(broken) if broken else "Everything that a run needs works.", as_json=as_json)
    if broken:
        raise typer.Exit(1)
