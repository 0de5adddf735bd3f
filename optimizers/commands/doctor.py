"""`sgt doctor`: checks whether this machine can run the package."""

from __future__ import annotations

from typing import Annotated

import typer

from optimizers.commands.output import JsonOption, print_output

_MARKS = {"fine": "[green]ok[/]", "missing": "[yellow]--[/]", "broken": "[red]!![/]"}


def doctor(
    model: Annotated[list[str] | None, typer.Option(help="Also try this generator: a hub id or a folder.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Skip the tiny run.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show installed packages, device, models that load and keys that are set, and try a tiny run.

    Keys appear by name only. The exit code is 1 if something that every run needs is broken.

    Example: sgt doctor --model Qwen/Qwen3-1.7B
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.markup import escape

    from optimizers.commands.machine_check import examine_machine

    findings = []
    console = Console()
    for each in examine_machine(model or (), run=not quick):
        findings.append(each)
        if not as_json:
            console.print(f"{_MARKS[each.state]} {each.name}: {escape(each.said)}", soft_wrap=True, highlight=False)
    broken = [each.name for each in findings if each.state == "broken"]
    content = {"fine": not broken, "findings": [asdict(each) for each in findings]}
    print_output(
        content, "Broken: " + ", ".join(broken) if broken else "Everything that a run needs works.", as_json=as_json
    )
    if broken:
        raise typer.Exit(1)
