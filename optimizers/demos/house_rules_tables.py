"""Tables after a demonstration of SPT: stages, the impact of sentences, the history of the prompt."""

from __future__ import annotations

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

from optimizers.demos.house_rules import PromptDemonstration
from optimizers.demos.house_terms_tables import format_interval, format_score
from optimizers.observe.tables import plain_table

TRUTHS = {1: "helps", 0: "idle", -1: "harms"}


def show_prompt_demonstration(demonstration: PromptDemonstration, console: Console) -> None:
    """Print the stages' table, the impacts with the true effects, the prompt's history, and the usage."""
    console.print(prompt_stage_table(demonstration))
    console.print(panel_table(demonstration))
    if history := demonstration.result.history:
        console.print(Syntax(history, "diff", word_wrap=True, background_color="default"))
    for line in _closing_lines(demonstration):
        console.print(line, highlight=False)


def prompt_stage_table(demonstration: PromptDemonstration) -> Table:
    """One row per stage: its scores, and how many prompt sentences help, are idle and harm; fits 80 columns."""
    summary, world = demonstration.summary, demonstration.world
    clusters = [world.find_kind(example) for example in world.test]
    table = plain_table(f"House rules, seed {summary['seed']}, {summary['method']}: score by stage")
    for column in ("stage", "val", "test", "95 %", *TRUTHS.values()):
        table.add_column(column, justify="left" if column == "stage" else "right", no_wrap=True)
    for name, row in summary["scores"].items():
        is_selected = name == summary["selected"]
        truths = [world.truth(each) for each in world.sentences(summary["prompts"][name])]
        table.add_row(
            f"{name} *" if is_selected else name,
            format_score(row["val"]),
            format_score(row["test"]),
            format_interval(demonstration.test_rollouts[name], clusters),
            *(str(truths.count(truth)) for truth in TRUTHS),
            style="bold" if is_selected else "",
        )
    table.caption = "* selected on validation; helps, idle, harms: sentences of the prompt"
    table.caption_justify = "left"
    return table


def panel_table(demonstration: PromptDemonstration) -> Table:
    """The sentences of the panels with their true effect and both impacts, the highest first."""
    table = plain_table("Impact of sentences with a known effect")
    for column in ("sentence", "truth", "prefix", "left out"):
        table.add_column(column, justify="left" if column == "sentence" else "right")
    for each in sorted(demonstration.panel_sentences, key=lambda each: -each.prefix):
        table.add_row(each.sentence, TRUTHS[each.truth], f"{each.prefix:+.3f}", f"{each.leave_one_out:+.3f}")
    return table


def _closing_lines(demonstration: PromptDemonstration) -> list[str]:
    summary = demonstration.summary
    tokens, ranked = summary["tokens"], summary["impact"]["spearman"]
    return [
        (
            f"Selected: {summary['selected']}; p against the first prompt: {summary['p_value']['none']:.1e}, "
            f"from flips of {summary['clusters']['test']} clusters (the questions of a kind)."
        ),
        f"Spearman of impact and truth: {ranked['run']} of the run's sentences.",
        f"Of the sentences above: {ranked['prefix']} by prefix, {ranked['leave_one_out']} left out.",
        f"Actor calls: {summary['actor_calls']:,} with {tokens['actor_in']:,} tokens in, {tokens['actor_out']:,} out.",
        f"Corrector calls: {summary['generator_calls']:,}; peak memory: {summary['peak_rss_mb']:.0f} MB.",
        f"Seconds: {summary['seconds']['total']:.0f}.",
        *(f"Note: {note}" for note in summary["notes"]),
        f"The run's folder: {demonstration.result.log_dir}",
    ]
