"""`sgt demo`: each method on its embedded world."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optimizers.commands.output import ActorPrecisionOption, JsonOption, print_output
from optimizers.training.processes import join_team
from sgt_modules.errors import SetupError

if TYPE_CHECKING:
    import dspy

    from optimizers.spt.recipe import Variant


def demo(
    method: Annotated[
        str,
        typer.Option(help="sgt, agents (sgt for an agent), spt, or spt_pc (its corrector also rewrites itself)."),
    ] = "sgt",
    actor: Annotated[
        str, typer.Option(help="A frozen model instead of the embedded one: a model's folder, local:HUB_ID, ...")
    ] = "",
    actor_dtype: ActorPrecisionOption = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the world and of every random choice.")] = 0,
    log_dir: Annotated[Path | None, typer.Option(help="The run's folder; by default a new one under runs/.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A smaller world, in about two minutes; twelve with --actor.")
    ] = False,
    silent: Annotated[bool, typer.Option("--silent", help="Print only the tables, no progress.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a method on its embedded world and score every stage: sgt on house terms, spt on house rules.

    agents lets an agent look for the meaning of house terms, with and without a price of its steps.

    Example: sgt demo --seed 0 --log-dir runs/demo
    """
    if method not in ("sgt", "agents") and actor:
        raise SetupError("Expected --actor only with the methods sgt and agents: the world of spt has its own actor.")
    if method == "agents" and quick:
        raise SetupError("Expected --quick only with the methods sgt and spt: the world of agents has one size.")
    display = False if silent or as_json else None
    if method not in ("sgt", "agents"):
        _demonstrate_prompts(method, seed, log_dir, quick=quick, display=display, as_json=as_json)
        return
    from sgt_modules.lms import check_lm, lm_named

    lm = lm_named(actor, dtype=actor_dtype) if actor else None
    check_lm(lm)
    if method == "agents":
        _demonstrate_agents(lm, seed, log_dir, display=display, as_json=as_json)
        return
    from rich.console import Console

    from optimizers.demos.house_terms import QUICK_SCALE, REAL_QUICK_SCALE, demonstrate
    from optimizers.demos.house_terms_tables import show_demonstration

    scale = (QUICK_SCALE if lm is None else REAL_QUICK_SCALE) if quick else None
    demonstration = demonstrate(seed, actor=lm, log_dir=log_dir, scale=scale, display=display)
    if join_team().is_main and as_json:
        print_output({**demonstration.summary, "log_dir": str(demonstration.result.log_dir)}, as_json=True)
    elif join_team().is_main:
        show_demonstration(demonstration, Console())


def _demonstrate_agents(
    lm: dspy.LM | None, seed: int, log_dir: Path | None, *, display: bool | None, as_json: bool
) -> None:
    from optimizers.demos.house_agents import demonstrate_agents, show_agents

    demonstration = demonstrate_agents(seed, actor=lm, log_dir=log_dir, display=display)
    if join_team().is_main:
        print_output(demonstration.summary, show_agents(demonstration), as_json=as_json)


def _demonstrate_prompts(
    method: str, seed: int, log_dir: Path | None, *, quick: bool, display: bool | None, as_json: bool
) -> None:
    from rich.console import Console

    from optimizers.demos.house_rules import SPT_FULL, SPT_QUICK, demonstrate_prompts
    from optimizers.demos.house_rules_tables import show_prompt_demonstration

    variants: dict[str, Variant] = {"spt": "p", "spt_p": "p", "spt_pc": "pc"}
    if method not in variants:
        from optimizers.core.user_files import did_you_mean

        hint = did_you_mean(method, ["sgt", "agents", *variants])
        raise SetupError(f"Expected the method sgt, {', '.join(variants)} or agents, got {method!r}. {hint}".strip())
    scale = SPT_QUICK if quick else SPT_FULL
    demonstration = demonstrate_prompts(seed, variant=variants[method], log_dir=log_dir, scale=scale, display=display)
    if as_json:
        print_output({**demonstration.summary, "log_dir": str(demonstration.result.log_dir)}, as_json=True)
    else:
        show_prompt_demonstration(demonstration, Console())
