"""The model card of exported weights: what they are, how they were trained, and what they were worth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from optimizers.core.safe_reading import read_object
from optimizers.observe.report.record import RunRecord
from optimizers.observe.report.texts import share, signed, span
from sgt_modules.errors import RunFolderError

CARD = "README.md"
_FIELDS = ("stage", "base", "revision", "sha256", "parent", "rows", "data_sha256", "seed", "versions")


def find_checkpoint(record: RunRecord, stage: str = "") -> tuple[str, Path]:
    """The stage to export and its weights' folder: `stage`, else the selected one.

    A stage behind a gate has the weights of the best stage that is not.

    Raises:
        RunFolderError: the run has no weights of that stage; the error names those that it has.
    """
    folders = {each.name: each for each in sorted((record.folder / "checkpoints").glob("*")) if each.is_dir()}
    wanted = stage or record.selected
    if wanted == "gated":
        scores = {each.stage: each.score for each in record.scores("val") if each.stage in folders}
        wanted = max(scores, key=lambda name: scores[name], default="")
    if wanted not in folders:
        raise RunFolderError(
            f"Expected weights of the stage {wanted or 'none'!r} in {record.folder}, got "
            f"{', '.join(folders) or 'no checkpoint'}. "
            + ("Choose one of them with --stage." if folders else "Only a run that trained has weights to export.")
        )
    return wanted, folders[wanted]


def write_card(record: RunRecord, checkpoint: Path, kind: Literal["merged", "adapter"], *, licence: str = "") -> str:
    """The card of a checkpoint's weights, as Markdown with the hub's front matter.

    It names the base with its revision and sha256, the weights that the stage started from, the hash of its rows, the
    recipe, and each stage's score with its interval on every split that was scored. `licence` is the base's, which is
    not known here.
    """
    trained = read_object(checkpoint / "trained_from.json", home=checkpoint) or {}
    base = str(trained.get("base", ""))
    relation = "adapter" if kind == "adapter" else "finetune"
    named = {"base_model": base, "base_model_relation": relation} if "/" in base else {}  # the hub takes hub ids only
    front = {
        **named,
        "library_name": "peft" if kind == "adapter" else "transformers",
        "license": licence or "other",
        "tags": "[dspy, supplement-generation-training]",
    }
    said = licence or (
        f"that of the base, `{base}`: look at its own card. Set it as `license` above before you publish these weights."
    )
    lines = [
        "---",
        *(f"{name}: {value}" for name, value in front.items()),
        "---",
        "",
        f"# A generator of supplements, from {base or 'an unknown base'}",
        "",
        "It reads a task's inputs and writes a short supplement that is added to the inputs of a frozen model.",
        "Supplement Generation Training (arXiv 2604.20727) trained it from the outcomes of that model alone.",
        "",
        f"- Actor: {_actor_of(record)}",
        f"- Licence: {said}",
        f"- Verdict: {record.verdict or 'the run has not ended.'}",
        "",
        "## Scores",
        "",
        "| stage | split | score | 95 % | gain | questions |",
        "|---|---|---|---|---|---|",
        *(_score_rows(record)),
        "",
        "## Lineage",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {_cell(trained.get(name))} |" for name in _FIELDS if name in trained),
        "",
        "## Recipe",
        "",
        "| option | value |",
        "|---|---|",
        *(f"| {name} | {_cell(value)} |" for name, value in record.recipe.items() if name != "kinds"),
        "",
    ]
    return "\n".join(lines)


def _actor_of(record: RunRecord) -> str:
    return _cell(record.summary.get("actor") or "a frozen model, which this run's folder does not name")


def _score_rows(record: RunRecord) -> list[str]:
    """A row a stage and split; the selected stage is bold."""
    names = {record.selected: f"**{record.selected}**"}
    return [
        f"| {names.get(each.stage, each.stage)} | {split} | {share(each.score)} | {span(each.interval)} "
        f"| {signed(each.gain)} | {each.questions} |"
        for split in record.splits
        for each in record.scores(split)
    ]


def _cell(value: Any) -> str:
    """A value in one cell of a table."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_cell(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value))
    return str(value).replace("|", "\\|").replace("\n", " ")
