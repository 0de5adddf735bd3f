"""`sgt report`, `inspect` and `export`: a run as a page, on a terminal, and as data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from optimizers.commands.output import AsJson, tell, writable

if TYPE_CHECKING:
    from rich.table import Table

    from optimizers.observe.report import RunRecord
    from optimizers.observe.report.inspecting import Wanted
    from optimizers.observe.report.stage_rollouts import StageRollout

Run = Annotated[Path, typer.Argument(help="The run's folder.")]
Store = Annotated[str, typer.Option(help="Where the run's rollouts are, if not in its folder: a file, or a URL.")]


def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run, or of a comparison.")],
    out: Annotated[Path | None, typer.Option(help="The page's file; report.html in the folder by default.")] = None,
    store: Store = "",
    as_json: AsJson = False,
) -> None:
    """Write a run, or a comparison, as one HTML page that needs nothing else.

    Example: sgt report runs/demo --out demo.html
    """
    from optimizers.comparison.result import FILE as COMPARED
    from optimizers.comparison.result import Comparison
    from optimizers.observe.report import FILE, read_run, write_page

    writable(out or run / FILE if run.is_dir() else None, what="the page (--out)")
    said: dict[str, object] = {}
    shown: list[Table | str] = []
    if (run / COMPARED).is_file():
        page = Comparison.read(run).to_html(out or run / FILE)
    else:
        record = read_run(run, where=store or None)
        page = write_page(record, out)
        said, shown = _outcome(record)
    tell({"report": str(page), "bytes": page.stat().st_size, **said}, str(page), *shown, as_json=as_json)


def inspect(
    run: Run,
    query: Annotated[str, typer.Option(help="A question's position, or the beginning of a query's id.")] = "",
    kind: Annotated[str, typer.Option(help="A kind of supplement.")] = "",
    reward: Annotated[str, typer.Option(help="won, lost, unanswered, or two numbers such as 0.5:1.")] = "",
    stage: Annotated[str, typer.Option(help="A stage such as dpo1 or warm, or one on a split: dpo1/val.")] = "",
    text: Annotated[str, typer.Option(help="Words in the prompt, the supplement, the answer or the feedback.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="The most rollouts to show.")] = 20,
    store: Store = "",
    as_json: AsJson = False,
) -> None:
    """Show a run's rollouts: its stages by default, a list by filters, a query's winners beside its losers.

    Examples: sgt inspect runs/demo --stage dpo1 --reward lost; sgt inspect runs/demo --query 12
    """
    from optimizers.observe.report import read_run
    from optimizers.observe.report.inspecting import Wanted, as_rows

    record = read_run(run, where=store or None)
    wanted = Wanted(query, kind, reward, stage, text, record.threshold)
    if wanted == Wanted(threshold=record.threshold):
        _overview(record, as_json=as_json)
        return
    found = wanted.of(record.rollouts)
    content = {"found": len(found), "rollouts": as_rows(found[:limit])}
    if query:
        tell(content, *_sides(found, record.threshold, limit), as_json=as_json)
    else:
        left = f"{len(found):,} found; the first {limit} are shown." if len(found) > limit else f"{len(found):,} found."
        tell(content, _list(found[:limit], wanted), left, as_json=as_json)


def export(
    run: Run,
    to: Annotated[str, typer.Option(help="parquet, jsonl, or hub-format (a folder that datasets.load_dataset reads).")],
    output: Annotated[Path, typer.Option(help="A new folder for the tables.")],
    as_json: AsJson = False,
) -> None:
    """Write a run's rollouts, and the rows it was trained on as TRL reads them, as tables.

    Example: sgt export runs/demo --to parquet --output demo-tables
    """
    from optimizers.observe import export as tables

    writable(output / "README.md", what="--output")
    written = tables.export(run, cast("tables.Format", to), output)
    content = [{"table": each.table, "file": str(each.file), "rows": each.rows} for each in written]
    tell(content, *(f"{each.file}: {each.rows:,} rows" for each in written), as_json=as_json)


def _overview(record: RunRecord, *, as_json: bool) -> None:
    from collections import Counter
    from dataclasses import asdict

    from optimizers.observe.report.texts import share, signed, span

    splits = {split: record.scores(split) for split in record.splits}
    counted = Counter(f"{each.stage}/{each.split}" for each in record.rollouts)
    table = _table("stage", "split", "score", "95 %", "gain", "right", "wrong")
    for split, scores in splits.items():
        for each in scores:
            turned = ["", ""] if each.gain is None else [str(each.right), str(each.wrong)]
            cells = [each.stage, split, share(each.score), span(each.interval), signed(each.gain), *turned]
            table.add_row(*cells, style="bold" if each.stage == record.selected else "")
    said, shown = _outcome(record)
    content = {
        **said,
        "selected": record.selected,
        "scores": {split: [asdict(each) for each in scores] for split, scores in splits.items()},
        "rollouts": dict(counted),
    }
    counts = ", ".join(f"{name} {count:,}" for name, count in counted.items()) or "none yet"
    lines = [f"Selected: {record.selected or 'nothing yet'}.", f"Rollouts: {counts}.", *shown]
    tell(content, table, *lines, as_json=as_json)


def _outcome(record: RunRecord) -> tuple[dict[str, object], list[Table | str]]:
    """The verdict and the errors by type, as JSON and as they are printed; nothing where the run has neither."""
    from dataclasses import asdict

    from optimizers.observe.report.inspecting import harmless

    found = record.errors()
    shown: list[Table | str] = [harmless(f"Verdict: {record.verdict}")] if record.verdict else []
    if found:
        table = _table("error", "runs", "no reward", "stages", "one example")
        for each in found:
            cells = (each.name, f"{each.count:,}", f"{each.unrewarded:,}", ", ".join(each.stages), each.example)
            table.add_row(*map(harmless, cells))
        shown.append(table)
    return {"verdict": record.verdict, "errors": [asdict(each) for each in found]}, shown


def _list(found: list[StageRollout], wanted: Wanted) -> Table:
    from optimizers.observe.report.inspecting import harmless_on_a_terminal

    table = _table("stage", "#", "reward", "supplement", "answer")
    for each in map(harmless_on_a_terminal, found):
        score = "" if each.score is None else f"{each.score:g}"
        place = f"{each.stage}/{each.split}" if not wanted.stage else each.split
        table.add_row(place, str(each.position), score, each.supplement or "(none)", each.answer or each.error)
    return table


def _sides(found: list[StageRollout], threshold: float, limit: int) -> list[Table | str]:
    """A query's question, and its winners beside its losers."""
    from optimizers.observe.report.inspecting import harmless_on_a_terminal, sides

    shown: list[Table | str] = []
    for query in list(dict.fromkeys(each.query for each in found))[:limit]:
        own = [harmless_on_a_terminal(each) for each in found if each.query == query]
        winners, losers = sides(own, threshold)
        table = _table(f"won ({len(winners)})", f"lost ({len(losers)})", lines=True)
        for place in range(min(limit, max(len(winners), len(losers)))):
            table.add_row(*("\n".join(_said(side[place])) if place < len(side) else "" for side in (winners, losers)))
        where = f"Query {query}, {own[0].split} {own[0].position}, for {own[0].place}"
        shown += [f"{where}:", own[0].prompt, table]
    return shown or ["0 found."]


def _said(each: StageRollout) -> list[str]:
    told = each.supplement or "(no supplement)"
    return [told, f"-> {each.answer}", *([f"   {each.feedback}"] if each.feedback else []), f"   {each.stage}"]


def _table(*columns: str, lines: bool = False) -> Table:
    from optimizers.observe.tables import plain_table

    table = plain_table(lines=lines)
    for name in columns:
        table.add_column(name, overflow="fold", justify="right" if name in ("score", "gain", "#") else "left")
    return table
