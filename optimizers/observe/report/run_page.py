"""A run's record -> its page: the figures as the template shows them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from optimizers.core.usage import RunUsage, WorkSeconds
from optimizers.observe.report.charts import Chart, curve
from optimizers.observe.report.costs import cost_rows
from optimizers.observe.report.figures import (
    NONE,
    Flipped,
    StageScore,
    baseline_of,
    flipped,
    kind_shares,
    reward_by_length,
    success_by_kind,
)
from optimizers.observe.report.page import rendered
from optimizers.observe.report.payload import Payload, payload
from optimizers.observe.report.record import RunRecord
from optimizers.observe.report.texts import describe_tests, duration, flat, share, signed, span

KINDS_SHOWN = 10
"""Kinds with a colour of their own; the rarer ones are one part."""

_SPLITS = {"test": "on the test set", "val": "on the validation set"}


def run_page(record: RunRecord) -> str:
    """The page of a run."""
    split = record.split
    scores, selected = record.scores(split), record.selected
    base = baseline_of(each.stage for each in scores)
    flips = flipped(record.rollouts, split, selected, threshold=record.threshold)
    carried = payload(record.rollouts, flips, threshold=record.threshold)
    explored = [each for each in record.rollouts if each.explored or (each.split == "train" and each.kind == NONE)]
    reference = next((each.score for each in scores if each.stage == base), None)
    name = record.folder.resolve().name
    return rendered(
        "run.html.jinja",
        title=f"Run {name}",
        scripts=("explorer.js",),
        subtitle=_subtitle(record),
        tiles=_tiles(record, scores, selected, flips, base),
        verdict=record.verdict,
        notes=record.notes,
        errors=record.errors(),
        rollouts=len(record.rollouts),
        scores=scores,
        tests=describe_tests(*max(((each.questions, each.clusters) for each in scores), default=(0, 0))),
        selected=selected,
        baseline="no supplement" if base == NONE else "the program as it came",
        reference=reference,
        split_name=_SPLITS.get(split, f"on {split}"),
        other_splits=_every_split(record),
        shares=_shares(kind_shares(record.rollouts, split, [each.stage for each in scores])),
        kinds=success_by_kind(each for each in explored if each.kind != NONE),
        lengths=reward_by_length(explored) if any(each.explored for each in explored) else [],
        spend=_spend(record),
        curve=_curve(record),
        costs=cost_rows(record.costs),
        pairs=_pairs(record.pairs),
        prompts=[_round(each) for each in cast("list[dict[str, Any]]", record.prompts.get("rounds") or [])],
        controls=record.controls.get("rows") or [],
        payload=carried,
        left_out=_left_out(carried),
        inspect=f"sgt inspect {record.folder}",
        turned_right=len(flips.right),
        turned_wrong=len(flips.wrong),
        command=str(record.run.get("command") or ""),
        this_page=f"sgt report {record.folder}",
        versions=flat(record.run.get("versions") or {}),
        settings=flat({**_object(record.run, "settings"), **_object(record.run, "free")}),
    )


def _subtitle(record: RunRecord) -> str:
    settings = _object(record.run, "settings")
    method = "Supervisory Prompt Training" if settings.get("method") == "spt" else "Supplement Generation Training"
    parts = [
        method,
        f"generator {settings['generator']}" if settings.get("generator") else "",
        f"corrector {settings['corrector']}" if settings.get("corrector") else "",
        f"actor {record.summary['actor']}" if record.summary.get("actor") else "",
        f"begun {record.run['created']}" if record.run.get("created") else "",
    ]
    return ", ".join(filter(None, parts))


def _tiles(
    record: RunRecord, scores: Sequence[StageScore], selected: str, flips: Flipped, base: str
) -> list[dict[str, str]]:
    of = {each.stage: each for each in scores}
    best, spent = of.get(selected), RunUsage.read(record.spent)
    tiles = [{"name": "selected on validation", "value": selected or "nothing yet", "more": ""}]
    if best is not None and base in of:
        gained = "" if best.gain is None else f"{signed(best.gain)} ({span(best.gain_interval)})"
        tiles.append({"name": "score", "value": f"{share(of[base].score)} \u2192 {share(best.score)}", "more": gained})
        turned = f"{len(flips.right)} right, {len(flips.wrong)} wrong"
        tiles.append({"name": "questions that turned", "value": turned, "more": f"of {best.questions}"})
    cost = f"${spent.cost:,.2f}" if spent.cost else "no price known"
    read = f"{spent.actor.tokens:,} tokens, {cost}"
    tiles.append({"name": "actor calls", "value": f"{spent.actor_calls:,}", "more": read})
    tiles.append({"name": "time at work", "value": duration(spent.seconds.total), "more": _work(spent.seconds)})
    return tiles


def _work(seconds: WorkSeconds) -> str:
    return ", ".join(f"{name} {duration(each)}" for name, each in seconds.by_work.items() if each)


def _every_split(record: RunRecord) -> dict[str, Any] | None:
    """Scores by stage and split, where there is more than one split."""
    names = record.splits
    if len(names) < 2:
        return None
    by_split = [{each.stage: each.score for each in record.scores(name)} for name in names]
    stages = list(dict.fromkeys(stage for scores in by_split for stage in scores))
    return {"names": names, "rows": [(stage, [scores.get(stage) for scores in by_split]) for stage in stages]}


def _shares(by_stage: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Rows of parts of a bar; every kind has one colour in all of them."""
    total: dict[str, float] = {}
    for shares in by_stage.values():
        for kind, part in shares.items():
            total[kind] = total.get(kind, 0.0) + part
    ranked = sorted(total, key=lambda kind: -total[kind])
    shown = ranked if len(ranked) <= KINDS_SHOWN else [*ranked[: KINDS_SHOWN - 1], "others"]
    rows: list[dict[str, Any]] = []
    for stage, shares in by_stage.items():
        own = {kind: shares.get(kind, 0.0) for kind in shown}
        if "others" in own and "others" not in shares:
            own["others"] = sum(part for kind, part in shares.items() if kind not in own)
        parts = [
            {
                "kind": kind,
                "number": _colour(kind, number),
                "width": round(100 * own[kind], 2),
                "percent": f"{own[kind]:.0%}",
            }
            for number, kind in enumerate(shown)
            if own[kind]
        ]
        said = ", ".join(f"{each['kind']} {each['percent']}" for each in parts)
        rows.append({"stage": stage, "parts": parts, "said": said})
    return {"kinds": [(kind, _colour(kind, number)) for number, kind in enumerate(shown)], "rows": rows}


def _colour(kind: str, number: int) -> int:
    """The number of a kind's colour; silence is always grey."""
    return KINDS_SHOWN if kind == NONE else number


def _spend(record: RunRecord) -> dict[str, Any]:
    """What was spent by the end of each stage, and in all."""
    columns = ("actor calls", "tokens in", "tokens out", "$", "samples", "sampling", "acting", "training")
    until = [(name, _spent_of(each)) for name, each in record.stages.items() if _object(each, "spent")]
    whole = [("all", RunUsage.read(record.spent))] if record.spent else []
    rows = [
        (
            name,
            [
                *(f"{each:,}" for each in (spent.actor.calls, spent.actor.tokens_in, spent.actor.tokens_out)),
                f"{spent.cost:,.2f}",
                f"{spent.generator_calls:,}",
                *(duration(each) for each in spent.seconds.by_work.values()),
            ],
        )
        for name, spent in [*until, *whole]
    ]
    used = [n for n in range(len(columns)) if any(cells[n] not in ("0", "0.00", "0 s") for _, cells in rows)]
    return {
        "columns": [columns[n] for n in used],
        "rows": [(name, [cells[n] for n in used]) for name, cells in rows],
    }


def _curve(record: RunRecord) -> Chart:
    """The learning curve: validation score by actor calls."""
    scores = {each.stage: each.score for each in record.scores("val")}
    known = {name: _spent_of(each).actor_calls for name, each in record.stages.items() if _object(each, "spent")}
    points = [(name, float(calls), scores[name]) for name, calls in known.items() if name in scores]
    return curve(points if len(points) > 1 else [])


def _pairs(pairs: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    rows = [
        (stage, sum(parts.values()), ", ".join(f"{name} {count:,}" for name, count in parts.items()))
        for stage, parts in pairs.items()
    ]
    return {"rows": rows}


def _round(each: Mapping[str, Any]) -> dict[str, Any]:
    """A round of SPT: what changed, each sentence's impact, and the candidates."""
    before, after = (*(each.get("train") or ()), None, None)[:2]
    accepted, chosen = each.get("accepted"), each.get("chosen")
    scored = "" if after is None else f", {share(before)} to {share(after)} on the training set"
    return {
        "number": each.get("number"),
        "predictor": each.get("predictor"),
        "said": ("accepted" if accepted else "no new candidate" if chosen is None else "refused") + scored,
        "diff": [{"text": line, "kind": _kind_of(line)} for line in str(each.get("diff") or "").splitlines()],
        "impact": [
            {"sentence": one["sentence"].strip(), "impact": one["impact"], "interval": (one["low"], one["high"])}
            for one in each.get("impact") or []
        ],
        "candidates": [
            {"prompt": one["prompt"], "said": _candidate(one, number == chosen)}
            for number, one in enumerate(each.get("candidates") or [])
        ],
    }


def _candidate(one: Mapping[str, Any], best: bool) -> str:
    if one.get("dropped"):
        return f"dropped: {one['dropped']}"
    return f"{share(one.get('score'))} on the mistakes{', best' if best else ''}"


def _kind_of(line: str) -> str:
    if line.startswith(("+++", "---", "@@")):
        return "place"
    return {"+": "added", "-": "removed"}.get(line[:1], "same")


def _left_out(carried: Payload) -> str:
    """What the page does not show, and where it is."""
    said: list[str] = []
    if carried.left_out:
        said.append(f"{carried.left_out:,} rollouts of exploration are left out, evenly.")
    if carried.cut:
        said.append(f"{carried.cut:,} texts are cut at {carried.longest:,} characters.")
    return " ".join([*said, "sgt inspect shows all of it."]) if said else ""


def _object(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = content.get(name)
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else {}


def _spent_of(stage: Mapping[str, Any]) -> RunUsage:
    return RunUsage.read(_object(stage, "spent"))
