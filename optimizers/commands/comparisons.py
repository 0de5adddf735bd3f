"""`sgt compare` and `sgt bench`: contenders under one budget, on the embedded worlds or on a task."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optimizers.commands.output import (
    AUTO,
    ActorPrecisionOption,
    BenchActorOption,
    JsonOption,
    Size,
    check_writable,
    print_output,
)
from sgt_modules.errors import SetupError

if TYPE_CHECKING:
    from optimizers.comparison import Comparison, Controls
    from optimizers.tasks.checking import Check
    from optimizers.tasks.splitting import Sizes

_MAX_BAD_ROWS = 20


def compare(
    task: Annotated[
        str, typer.Option(help="embedded, the world of house terms; embedded-spt, house rules.")
    ] = "embedded",
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    contenders: Annotated[
        str, typer.Option(help="Names, separated by commas; by default all that come with the package.")
    ] = "",
    budget: Annotated[int | None, typer.Option(help="Maximum actor calls to compile a contender.")] = None,
    gold: Annotated[bool, typer.Option("--gold", help="Training examples show their gold output.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A smaller world, in at most ten minutes.")] = False,
    with_controls: Annotated[bool, typer.Option("--controls", help="Score SGT's controls too.")] = False,
    log_dir: Annotated[Path | None, typer.Option(help="The comparison's folder; an unfinished one is resumed.")] = None,
    page: Annotated[Path | None, typer.Option(help="Also write the tables as a page, .html or .md.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compile one program with every optimizer on the same data and budget, and score them on the same test set.

    Example: sgt compare --task embedded --seeds 0,1,2 --log-dir runs/compare
    """
    from optimizers.comparison import pooled
    from optimizers.demos.house_rules_comparison import compare_rules
    from optimizers.demos.house_terms_comparison import compare_embedded, score_embedded_controls

    if task not in ("embedded", "embedded-spt"):
        raise SetupError(f"Expected the task 'embedded' or 'embedded-spt', got {task!r}.")
    if task == "embedded-spt" and (gold or with_controls):
        raise SetupError("Expected neither --gold nor --controls with embedded-spt: both are about supplements.")
    if with_controls and page is not None and page.suffix == ".html":
        raise SetupError("Expected --page with a Markdown file, such as controls.md, as an HTML page has no controls.")
    check_writable(page, what="--page")
    comparison = compare_rules if task == "embedded-spt" else partial(compare_embedded, gold=gold)
    result = comparison(
        [name for name in contenders.split(",") if name] or None,
        seeds=_parse_seeds(seeds),
        quick=quick,
        budget=budget,
        log_dir=log_dir,
        display_progress=False if as_json else None,
    )
    parts: list[Comparison | Controls] = [result]
    if with_controls:
        each = score_embedded_controls(result.log_dir, seeds=result.seeds, quick=quick, budget=budget)
        parts += [pooled(each), *each]
    if page is not None and page.suffix == ".html":
        result.to_html(page)
    elif page is not None:
        page.write_text("\n".join(part.to_markdown() for part in parts), encoding="utf-8")
    more = {"controls": [part.content() for part in parts[1:]]} if with_controls else {}
    print_output({**result.content(), **more}, *parts, as_json=as_json)


def bench(
    task: Annotated[str, typer.Argument(help="A task's name, path/to/file.py:TASK or module:TASK.")],
    actor: BenchActorOption = "",
    actor_dtype: ActorPrecisionOption = "auto",
    data_dir: Annotated[Path | None, typer.Option(help="A folder of the task's rows; the hub by default.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only check the rows: gold answers must score 1.0.")] = False,
    limit: Annotated[
        str, typer.Option(metavar="<N or TRAIN,VAL,TEST>", help="Maximum examples per split, or of each split.")
    ] = "",
    contenders: Annotated[
        str, typer.Option(help="Names, separated by commas; by default none, sgt, and few-shot for a real generator.")
    ] = "",
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0",
    budget: Annotated[int | None, typer.Option(help="Maximum actor calls to compile a contender.")] = None,
    generator: Annotated[
        str, typer.Option(help="The model to train: hub id, folder, or the embedded one.")
    ] = "embedded",
    auto: Annotated[Size, typer.Option(help="How much SGT samples: light, medium, or heavy as in the paper.")] = AUTO,
    api_base: Annotated[str, typer.Option(help="The address of the actor's server.")] = "",
    reflection: Annotated[
        str,
        typer.Option(
            help="The LM that writes instructions, for contenders that need one; on this machine in --actor-dtype too."
        ),
    ] = "",
    judge: Annotated[str, typer.Option(help="The LM that judges open answers, where the task takes one.")] = "",
    metric: Annotated[str, typer.Option(help="Name of another metric of the task.")] = "",
    with_controls: Annotated[
        bool, typer.Option("--controls", help="Score SGT's controls too, and write summary.json.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Every step on 24 questions per split.")] = False,
    threads: Annotated[int, typer.Option(help="Concurrent program runs.")] = 8,
    log_dir: Annotated[Path | None, typer.Option(help="The comparison's folder; an unfinished one is resumed.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compile a task's program with SGT and others for any actor, and compare them on its test questions.

    Example: sgt bench gsm8k --actor openai/gpt-4.1-mini --generator Qwen/Qwen3-1.7B --limit 100
    """
    from rich.console import Console

    from optimizers.tasks import check_task
    from optimizers.tasks.calling import choose_task, load_actor, load_proposer

    chosen = choose_task(task, metric=metric, judge=judge)
    if check:
        report = check_task(chosen, data_dir)
        if as_json:
            Console(stderr=True).print(*report.notes, sep="\n", end="\n" if report.notes else "", soft_wrap=True)
        print_output(report.content(), *report.notes, *_describe_check(report), as_json=as_json)
        raise typer.Exit(int(bool(report.bad_rows)))
    from optimizers.sgt.recipe import Recipe
    from optimizers.tasks.benching import run_bench

    sizes = _parse_limit(limit)
    proposer = load_proposer(reflection, dtype=actor_dtype) if reflection else None
    result = run_bench(
        chosen,
        load_actor(actor, chosen, api_base=api_base, dtype=actor_dtype),
        data_dir=data_dir,
        limit=sizes,
        contenders=[name for name in contenders.split(",") if name] or None,
        seeds=_parse_seeds(seeds),
        budget=budget,
        generator=generator,
        recipe=None if quick else Recipe.auto(auto),
        controls=with_controls,
        quick=quick,
        reflection_lm=proposer,
        num_threads=threads,
        log_dir=log_dir,
        display_progress=False if as_json else None,
    )
    print_output(result.content(), result, as_json=as_json)


def _describe_check(report: Check) -> list[str]:
    bad = [f"{each.place}: {each.problem}" for each in report.bad_rows[:_MAX_BAD_ROWS]]
    more = [f"... and {len(report.bad_rows) - _MAX_BAD_ROWS:,} more."] if len(report.bad_rows) > _MAX_BAD_ROWS else []
    verdict = "Every gold answer scores 1.0." if not report.bad_rows else f"Bad rows: {len(report.bad_rows):,}."
    return [*bad, *more, f"{report.task}: {report.rows:,} rows, mean gold score {report.gold_score:g}. {verdict}"]


def _parse_limit(text: str) -> Sizes | None:
    """Return the sizes that `--limit` names, or None: one number for all splits, or three."""
    from optimizers.tasks.splitting import Sizes

    numbers = [int(each) for each in text.split(",") if each.strip().isdecimal()]
    if not text:
        return None
    if len(numbers) != text.count(",") + 1 or len(numbers) not in (1, 3) or not all(numbers):
        raise SetupError(f"Expected --limit N or TRAIN,VAL,TEST, each at least 1, got {text!r}.")
    train, val, test = numbers * 3 if len(numbers) == 1 else numbers
    return Sizes(train, val, test)


def _parse_seeds(text: str) -> list[int]:
    try:
        return [int(each) for each in text.split(",")]
    except ValueError:
        raise SetupError(f"Expected numbers separated by commas, got {text!r}.") from None
