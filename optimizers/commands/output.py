"""What commands have in common: options, and how they print what was found."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer
from rich.console import Console, RenderableType

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]

Size = Literal["light", "medium", "heavy"]
"""A recipe's sizes, spelled here as the recipe's own room brings DSPy along."""

AUTO: Size = "light"
"""The same as `optimizers.recipe.AUTO`, spelled here for the same reason."""

Dtype = Literal["auto", "float32", "bfloat16", "float16", "int8"]
"""How a model on this machine is run."""

_MODEL = "openai/gpt-4.1-mini, a model's folder, local:HUB_ID, or embedded"
Actor = Annotated[str, typer.Option("--lm", help=f"The frozen model: {_MODEL}.")]
BenchActor = Annotated[str, typer.Option("--actor", help=f"The frozen model: {_MODEL}.")]
Precision = Annotated[Dtype, typer.Option("--lm-dtype", help="Of a frozen model on this machine: int8 on a CPU.")]
ActorPrecision = Annotated[
    Dtype, typer.Option("--actor-dtype", help="Of a frozen model on this machine: int8 on a CPU.")
]

STOPPED = 3
"""Exit code of a run that a budget ended before its end."""


def tell(content: object, *shown: RenderableType, as_json: bool) -> None:
    """Print the content as JSON, or else what is to be shown."""
    if as_json:
        print(json.dumps(content, indent=2, ensure_ascii=False, default=str))
    else:
        console = Console(markup=False, emoji=False, highlight=False)
        for each in shown:
            console.print(each, soft_wrap=isinstance(each, str))
