"""`sgt report`, `inspect` and `export`: a run as a page, on a terminal, as data sets, and as weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from optimizers.commands.output import ActorOption, JsonOption, check_writable, print_output
from optimizers.commands.stacks import (
    RunGeneratorOption,
    RunInputsOption,
    RunMetricOption,
    RunProgramOption,
    RunTrainOption,
    RunValOption,
    export_environment,
)
from sgt_modules.errors import SetupError

if TYPE_CHECKING:
    from rich.table import Table

    from optimizers.observe.report import RunRecord
    from optimizers.observe.report.inspecting import Wanted
    from optimizers.observe.report.stage_rollouts import StageRollout

RunArgument = Annotated[Path, typer.Argument(help="The run's folder.")]
StoreOption = Annotated[str, typer.Option(help="The run's rollouts, if outside its folder: a file or a URL.")]


def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run, or of a comparison.")],
    out: Annotated[Path | None, typer.Option(help="The page's file; by default report.html in the folder.")] = None,
    store: StoreOption = "",
    as_json: JsonOption = False,
) -> None:
    """Write a run, or a comparison, as one self-contained HTML page.

    Example: sgt report runs/demo --out demo.html
    """
    from optimizers.comparison.result import COMPARISON_FILE, Comparison
    from optimizers.observe.report import REPORT_FILE, read_run, write_page

    check_writable(out or run / REPORT_FILE if run.is_dir() else None, what="the page (--out)")
    outcome: dict[str, object] = {}
    shown: list[Table | str] = []
    if (run / COMPARISON_FILE).is_file():
        page = Comparison.read(run).to_html(out or run / REPORT_FILE)
    else:
        record = read_run(run, where=store or None)
        page = write_page(record, out)
        outcome, shown = _summarize_outcome(record)
    print_output({"report": str(page), "bytes": page.stat().st_size, **outcome}, str(page), *shown, as_json=as_json)


def inspect(
    run: RunArgument,
    query: Annotated[str, typer.Option(help="A question's position, or the first characters of a query's id.")] = "",
    kind: Annotated[str, typer.Option(help="A kind of supplement.")] = "",
    reward: Annotated[str, typer.Option(help="won, lost, unanswered, or two numbers such as 0.5:1.")] = "",
    stage: Annotated[str, typer.Option(help="A stage such as dpo1 or warm, or one on a split: dpo1/val.")] = "",
    text: Annotated[str, typer.Option(help="Words in the prompt, the supplement, the answer or the feedback.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Maximum rollouts to show.")] = 20,
    store: StoreOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show a run's rollouts: its stages by default, a list by filters, a query's winners next to its losers.

    Examples: sgt inspect runs/demo --stage dpo1 --reward lost; sgt inspect runs/demo --query 12
    """
    from optimizers.observe.report import read_run
    from optimizers.observe.report.inspecting import Wanted, as_rows

    record = read_run(run, where=store or None)
    filters = Wanted(query, kind, reward, stage, text, record.threshold)
    if filters == Wanted(threshold=record.threshold):
        _show_overview(record, as_json=as_json)
        return
    rollouts = filters.of(record.rollouts)
    content = {"found": len(rollouts), "rollouts": as_rows(rollouts[:limit])}
    if query:
        print_output(content, *_compare_sides(rollouts, record.threshold, limit), as_json=as_json)
    else:
        more = f"; the first {limit} are shown" if len(rollouts) > limit else ""
        summary = f"{len(rollouts):,} found{more}."
        print_output(content, _list_rollouts(rollouts[:limit], filters), summary, as_json=as_json)


def export(
    run: RunArgument,
    to: Annotated[
        str,
        typer.Option(
            help="Tables: parquet, jsonl, or hub-format (a folder that datasets.load_dataset reads). Weights: merged "
            "(a whole model), adapter, or hub (as they were trained, uploaded to --repo). Or verifiers: an environment "
            "for stacks of reinforcement learning."
        ),
    ],
    output: Annotated[Path, typer.Option(help="A new folder.")],
    stage: Annotated[str, typer.Option(help="Weights of this stage; by default the selected one.")] = "",
    base: Annotated[str, typer.Option(help="The base model's folder or hub id, if it has moved.")] = "",
    dtype: Annotated[str, typer.Option(help="A merged model's number format: float32, bfloat16, float16.")] = "auto",
    licence: Annotated[str, typer.Option(help="The base's licence, for the model card.")] = "",
    repo: Annotated[str, typer.Option(help="With --to hub: the model repository, owner/name.")] = "",
    public: Annotated[bool, typer.Option("--public", help="With --to hub: a new repository is public.")] = False,
    program: RunProgramOption = "",
    metric: RunMetricOption = "",
    train: RunTrainOption = None,
    val: RunValOption = None,
    inputs: RunInputsOption = "",
    lm: ActorOption = "",
    generator: RunGeneratorOption = "",
    as_json: JsonOption = False,
) -> None:
    """Write a run's tables (rollouts, and training rows as TRL reads them), or its trained weights with a model card.

    With --to verifiers, write its program, metric and training rows as an environment; the options from --program on
    are for that alone.

    Examples: sgt export runs/demo --to parquet --output demo-tables; sgt export runs/demo --to merged --output model
    """
    from optimizers.observe.hub_upload import check_repo

    check_writable(output / "README.md", what="--output")
    if (to == "hub") != bool(repo):
        raise SetupError(f"Expected --repo owner/name together with --to hub, got --to {to} and --repo {repo!r}.")
    if to == "verifiers":
        from optimizers.commands.recorded import inputs_of

        known = inputs_of(
            run, program=program, metric=metric, train=train, val=val, inputs=inputs, lm=lm, generator=generator
        )
        export_environment(run, output, known, as_json=as_json)
        return
    if to in ("merged", "adapter", "hub"):
        upload = (check_repo(repo), public) if repo else None
        _export_weights(
            run, to, output, stage=stage, base=base, dtype=dtype, licence=licence, upload=upload, as_json=as_json
        )
        return
    from optimizers.observe import export as tables

    written = tables.export(run, cast("tables.Format", to), output)
    content = [{"table": each.table, "file": str(each.file), "rows": each.rows} for each in written]
    print_output(content, *(f"{each.file}: {each.rows:,} rows" for each in written), as_json=as_json)


def _export_weights(
    run: Path,
    to: Literal["merged", "adapter", "hub"],
    output: Path,
    *,
    stage: str,
    base: str,
    dtype: str,
    licence: str,
    upload: tuple[str, bool] | None,
    as_json: bool,
) -> None:
    from optimizers.observe.hub_upload import upload_weights
    from optimizers.observe.model_card import CARD, find_checkpoint, write_card
    from optimizers.observe.report import read_run
    from optimizers.training.weights_export import is_whole_model, write_weights

    record = read_run(run)
    name, checkpoint = find_checkpoint(record, stage)
    kind = to if to != "hub" else "merged" if is_whole_model(checkpoint) else "adapter"
    write_weights(checkpoint, kind, output, base=base or None, dtype=dtype)
    (output / CARD).write_text(write_card(record, checkpoint, kind, licence=licence), encoding="utf-8")
    size = sum(file.stat().st_size for file in output.iterdir())
    content = {"stage": name, "output": str(output), "bytes": size}
    said = f"{output}: weights of {name}, {size / 1e6:,.1f} MB, with a model card."
    if upload is not None:
        repo, public = upload
        content["repository"] = upload_weights(output, repo, public=public)
        said += f" Uploaded to {content['repository']}."
    print_output(content, said, as_json=as_json)


def _show_overview(record: RunRecord, *, as_json: bool) -> None:
    from collections import Counter
    from dataclasses import asdict

    from optimizers.observe.report.texts import share, signed, span

    splits = {split: record.scores(split) for split in record.splits}
    counts = Counter(f"{each.stage}/{each.split}" for each in record.rollouts)
    table = _make_table("stage", "split", "score", "95 %", "gain", "right", "wrong")
    for split, scores in splits.items():
        for each in scores:
            changes = ["", ""] if each.gain is None else [str(each.right), str(each.wrong)]
            cells = [each.stage, split, share(each.score), span(each.interval), signed(each.gain), *changes]
            table.add_row(*cells, style="bold" if each.stage == record.selected else "")
    outcome, shown = _summarize_outcome(record)
    content = {
        **outcome,
        "selected": record.selected,
        "scores": {split: [asdict(each) for each in scores] for split, scores in splits.items()},
        "rollouts": dict(counts),
    }
    counts_text = ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none yet"
    lines = [f"Selected: {record.selected or 'nothing yet'}.", f"Rollouts: {counts_text}.", *shown]
    print_output(content, table, *lines, as_json=as_json)


def _summarize_outcome(record: RunRecord) -> tuple[dict[str, object], list[Table | str]]:
    """Return the verdict and the errors by type, as JSON and for printing; empty if the run has neither."""
    from dataclasses import asdict

    from optimizers.observe.report.inspecting import strip_commands

    errors = record.errors()
    shown: list[Table | str] = [strip_commands(f"Verdict: {record.verdict}")] if record.verdict else []
    if errors:
        table = _make_table("error", "runs", "no reward", "stages", "one example")
        for each in errors:
            cells = (each.name, f"{each.count:,}", f"{each.unrewarded:,}", ", ".join(each.stages), each.example)
            table.add_row(*map(strip_commands, cells))
        shown.append(table)
    return {"verdict": record.verdict, "errors": [asdict(each) for each in errors]}, shown


def _list_rollouts(rollouts: list[StageRollout], filters: Wanted) -> Table:
    from optimizers.observe.report.inspecting import strip_rollout

    table = _make_table("stage", "#", "reward", "supplement", "answer")
    for each in map(strip_rollout, rollouts):
        score = "" if each.score is None else f"{each.score:g}"
        place = f"{each.stage}/{each.split}" if not filters.stage else each.split
        table.add_row(place, str(each.position), score, each.supplement or "(none)", each.answer or each.error)
    return table


def _compare_sides(rollouts: list[StageRollout], threshold: float, limit: int) -> list[Table | str]:
    from optimizers.observe.report.inspecting import sides, strip_rollout

    shown: list[Table | str] = []
    for query in list(dict.fromkeys(each.query for each in rollouts))[:limit]:
        own = [strip_rollout(each) for each in rollouts if each.query == query]
        winners, losers = sides(own, threshold)
        table = _make_table(f"won ({len(winners)})", f"lost ({len(losers)})", lines=True)
        for place in range(min(limit, max(len(winners), len(losers)))):
            table.add_row(
                *("\n".join(_describe_rollout(side[place])) if place < len(side) else "" for side in (winners, losers))
            )
        where = f"Query {query}, {own[0].split} {own[0].position}, for {own[0].place}"
        shown += [f"{where}:", own[0].prompt, table]
    return shown or ["0 found."]


def _describe_rollout(each: StageRollout) -> list[str]:
    return [
        each.supplement or "(no supplement)",
        f"-> {each.answer}",
        *([f"   {each.feedback}"] if each.feedback else []),
        f"   {each.stage}",
    ]


def _make_table(*columns: str, lines: bool = False) -> Table:
    from optimizers.observe.tables import plain_table

    table = plain_table(lines=lines)
    for name in columns:
        table.add_column(name, overflow="fold", justify="right" if name in ("score", "gain", "#") else "left")
    return table
