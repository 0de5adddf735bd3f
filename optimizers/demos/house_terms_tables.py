"""Tables after a demonstration of SGT: the stages, and questions before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from optimizers.core.clusters import Clusters
from optimizers.core.records import Rollout
from optimizers.core.statistics import mean_interval
from optimizers.demos.house_terms import Demonstration
from optimizers.observe.tables import plain_table
from sgt_modules.embedded import find_term

MAX_QUESTIONS = 3
SMALLEST_SHARE = 0.02
"""The smallest share of a kind that the table shows."""


def show_demonstration(demonstration: Demonstration, console: Console) -> None:
    """Print the stages' table, the shares of kinds, the usage, and three questions before and after."""
    summary = demonstration.summary
    console.print(stage_table(demonstration))
    console.print(kinds_table(summary))
    for line in _closing_lines(demonstration):
        console.print(line, highlight=False)
    for panel in before_and_after_panels(demonstration):
        console.print(panel)


def stage_table(demonstration: Demonstration) -> Table:
    """One row per stage and control: its score on every split, with a 95 % interval on test; fits 80 columns."""
    summary, scored = demonstration.summary, demonstration.stage_rollouts
    clusters = [find_term(example) for example in demonstration.world.test]
    seconds = {stage.name: f"{stage.seconds:.0f}" for stage in demonstration.result.stages}
    table = plain_table(f"House terms, seed {summary['seed']}: score by stage")
    last = {"transfer": "actor 2"} if any("transfer" in row for row in summary["scores"].values()) else {}
    for column in ("stage", "val", "test", "95 %", "terms", "plain", "shifted", *last.values(), "s"):
        table.add_column(column, justify="left" if column == "stage" else "right", no_wrap=True)
    for name, row in summary["scores"].items():
        is_selected = name == summary["selected"]
        table.add_row(
            f"{name} *" if is_selected else name,
            _cell(row, "val"),
            _cell(row, "test"),
            format_interval(scored[name]["test"], clusters),
            *(_cell(row, split) for split in ("test_terms", "test_plain", "shifted", *last)),
            seconds.get(name, ""),
            style="bold" if is_selected else "",
        )
    for name in summary["skipped"]:
        table.add_row(name, "", "skipped")
    table.caption = (
        "* selected on validation; terms and plain: the parts of test; s: seconds;\n"
        "lookup: the supplement that won for the most similar training questions;\n"
        "elimination: the meaning that the outcomes of training make most likely;\n"
        "oracle: the true meaning; oracle_glossary: all of them in the instructions"
    )
    table.caption_justify = "left"
    return table


def _cell(row: Mapping[str, float], split: str) -> str:
    """Format a score; empty if a row has none on this split."""
    return format_score(row[split]) if split in row else ""


def kinds_table(summary: Mapping[str, Any]) -> Table:
    """One row per stage: the kinds of its supplements on test, by share."""
    table = plain_table("Kinds of supplement on test")
    table.add_column("stage", no_wrap=True)
    table.add_column("share of each kind")
    for stage, shares in summary["kinds"].items():
        table.add_row(
            stage, ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items() if share >= SMALLEST_SHARE)
        )
    return table


def before_and_after_panels(demonstration: Demonstration) -> list[Panel]:
    """Show test questions that failed without a supplement and won at the selected stage, with the supplement."""
    before = demonstration.stage_rollouts["none"]["test"]
    after = demonstration.stage_rollouts[str(demonstration.summary["selected"])]["test"]
    turned = [(first, second) for first, second in zip(before, after, strict=True) if first.lost() and second.won()]
    return [_question_panel(demonstration, first, second) for first, second in turned[:MAX_QUESTIONS]]


def _question_panel(demonstration: Demonstration, before: Rollout, after: Rollout) -> Panel:
    example = demonstration.world.test[before.query.index]
    text = Text()
    for label, words, style in (
        ("before      ", before.output.get("sql", before.error), "red"),
        ("supplement  ", after.supplement.render(), "cyan"),
        ("after       ", after.output.get("sql", ""), "green"),
    ):
        text.append(label, style="bold").append(f"{words}\n", style=style)
    text.rstrip()
    return Panel(text, title=Text(example.question), title_align="left")


def _closing_lines(demonstration: Demonstration) -> list[str]:
    summary = demonstration.summary
    tokens, seconds = summary["tokens"], summary["seconds"]
    return [
        (
            f"Selected: {summary['selected']}; p against no supplement: {summary['p_value']['none']:.1e}, "
            f"from flips of {summary['clusters']['test']} clusters (a term's questions, or one plain question)."
        ),
        *_control_lines(summary),
        f"Actor calls: {summary['actor_calls']:,} with {tokens['actor_in']:,} tokens in, {tokens['actor_out']:,} out.",
        f"Generator samples: {summary['generator_calls']:,}; peak memory: {summary['peak_rss_mb']:.0f} MB.",
        *_memory_lines(summary["peak_mb"]),
        f"Supplements on test: {summary['lengths'].get(summary['selected'], 0):.0f} characters on average.",
        f"Dropped by the gate: {', '.join(f'{split} {share:.0%}' for split, share in summary['gated'].items())}.",
        f"Seconds: {', '.join(f'{name} {value:.0f}' for name, value in seconds.items())}.",
        *(f"Note: {note}" for note in summary["notes"]),
        f"The run's folder: {demonstration.result.log_dir}",
    ]


def _control_lines(summary: Mapping[str, Any]) -> list[str]:
    """Say what training gains over the lookup, how much outcomes tell by themselves, and why rows were skipped."""
    lookup, deduced = summary["lookup"], summary["elimination"]
    lines: list[str] = []
    if lookup["gain"] is not None:
        low, high = lookup["interval"]
        lines.append(
            f"Over lookup (neighbours: {lookup['neighbours']}), which trains nothing, the selected stage gains "
            f"{lookup['gain']:+.3f} on test ({low:+.3f} to {high:+.3f}), p "
            f"{summary['p_value']['lookup']:.1e}: what training is worth."
        )
    lines.append(f"The outcomes of training imply {deduced['right']} of {deduced['terms']} meanings.")
    return [*lines, *(f"{name}: skipped, {reason}." for name, reason in summary["skipped"].items())]


def _memory_lines(peaks: Mapping[str, Mapping[str, float]]) -> list[str]:
    names = {"rss": "RAM", "cuda": "GPU"}
    return [
        f"Peak {names[kind]} by stage: {', '.join(f'{stage} {mb:.0f}' for stage, mb in stages.items())} MB."
        for kind, stages in peaks.items()
    ]


def format_interval(rollouts: Sequence[Rollout], clusters: Clusters) -> str:
    """Format the 95 % interval of the share of rollouts that won, for clustered questions, as `.48-.61`."""
    judged = [
        (float(rollout.won()), cluster)
        for rollout, cluster in zip(rollouts, clusters, strict=True)
        if rollout.reward is not None
    ]
    low, high = mean_interval([won for won, _ in judged], clusters=[cluster for _, cluster in judged])
    return f"{format_score(low, 2)}-{format_score(high, 2)}"


def format_score(value: float, places: int = 3) -> str:
    """Format a score as papers print it: `.375`."""
    text = f"{value:.{places}f}"
    return text if value >= 1 else text.lstrip("0")
