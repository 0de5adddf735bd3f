"""Finished runs' folders of made-up rollouts, as a compile leaves them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from optimizers.core.records import PreferencePair, Query, Reward, Rollout, SFTExample
from optimizers.core.stages import Stage
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.kinds import SILENCE, Supplement

PROMPT = "Write a supplement that helps another model with this task.\nTask: Add.\nquestion: {}"


def met(
    stage: str,
    position: int,
    score: float | None,
    *,
    kind: str = "none",
    text: str = "",
    answer: str = "4",
    source: str = "",
    prompt: str = "",
    feedback: str = "",
) -> Rollout:
    """What a stage (`dpo1/val`, `warm`) met at a question: no supplement, or one of a kind."""
    supplement = Supplement(kind, text) if text else SILENCE
    split = Stage.read(stage).split or "train"
    query = Query(f"{split}-{position}", position, "self", prompt or PROMPT.format(position))
    return Rollout(
        query,
        stage,
        source or ("direct" if text else "none"),
        supplement,
        None if score is None else Reward(score, feedback),
        {} if score is None else {"answer": answer},
        error="timeout" if score is None else "",
        tokens_in=10,
        tokens_out=2,
    )


SCORES = {"none": [0, 0, 0, 1], "sft": [1, 0, 0, 1], "dpo1": [1, 1, 1, 0]}
"""Four validation questions: two more turn right by SFT and the first round, and that round turns one wrong."""


def validated() -> list[Rollout]:
    """The stages of `SCORES` on validation."""
    return [
        met(
            f"{stage}/val",
            n,
            float(score),
            kind="cot" if n else "pairs",
            text="" if stage == "none" else f"{stage} {n}",
        )
        for stage, scores in SCORES.items()
        for n, score in enumerate(scores)
    ]


def explored() -> list[Rollout]:
    """Three kinds on two training questions, one without a reward."""
    return [
        met("none/train", 0, 0.0),
        met("none/train", 1, 0.0),
        met("warm", 0, 1.0, kind="cot", text="think", source="predefined"),
        met("warm", 1, 0.0, kind="cot", text="think again", source="predefined"),
        met("warm", 1, 1.0, kind="pairs", text="4, not 5", source="predefined"),
        met("round 1", 1, None, kind="hint", text="x" * 40, source="ood"),
    ]


def run_folder(folder: Path, rollouts: Iterable[Rollout] | None = None, **files: object) -> Path:
    """A run's folder; `files` are JSON files by their stem, besides `run.json` and `spent.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    with RolloutStore(folder / "rollouts.sqlite") as store:
        for each in [*explored(), *validated()] if rollouts is None else rollouts:
            store.add(each, each.stage if each.source == "none" else "scope")  # as another program's
    written = {
        "run": {
            "id": "f00d",
            "settings": {"recipe": {"threshold": 1.0}, "seed": 7, "generator": "tiny"},
            "versions": {"dspy": "3.4.1"},
            "command": "sgt demo --seed 7",
        },
        "spent": {"actor_calls": 1234, "actor_in": 100, "cost": 0.25, "total": 61.0},
        "stages": {
            "none": {"seconds": 1.0, "spent": {"actor_calls": 4}},
            "sft": {"seconds": 2.0, "spent": {"actor_calls": 600}},
            "dpo1": {"seconds": 2.0, "spent": {"actor_calls": 1234}},
        },
        **files,
    }
    for name, content in written.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    rows = {
        "sft": [SFTExample("q", "cot", "p", "[cot] think")],
        "dpo1": [PreferencePair("q", "inter", "p", "[cot] a", "[hint] b")] * 2
        + [PreferencePair("q", "intra", "p", "[cot] a", "[cot] b")],
    }
    (folder / "training").mkdir(exist_ok=True)
    for stage, own in rows.items():
        text = "".join(json.dumps(asdict(row)) + "\n" for row in own)
        (folder / "training" / f"{stage}.jsonl").write_text(text, encoding="utf-8")
    return folder
