"""Rollouts and samples to rows of the store and back: clean texts, a key, a checksum."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any
from zlib import crc32

from optimizers.core.records import Effort, Query, Reward, Rollout
from sgt_modules.episode import Call, Place
from sgt_modules.kinds import Supplement
from sgt_modules.safety import clean_text
from sgt_modules.samples import Sample

TEXT_COLUMNS = (
    "scope",
    "query",
    "supplement",  # as the actor reads it
    "live",  # the name of a live run, which `RolloutStore.get` never returns; else empty
    "run",  # the run that wrote this row
    "predictor",
    "others",  # JSON: the supplements at all other places, as [role, turn, kind, text]
    "prompt",
    "kind",
    "text",
    "feedback",
    "output",  # JSON: the answer's fields as text; under an empty name, `Rollout.answer`; under `#`, its effort
    "error",
    "writer",
    "trace",  # JSON: a live run's calls, in the row of its first rollout; without a supplement, the prompts' key
)
INTEGER_COLUMNS = ("position", "turn", "asked", "tokens_in", "tokens_out", "cut")  # `cut` is 0 or 1
FLOAT_COLUMNS = ("cost", "seconds", "created")
SEPARATOR = "\x1f"
"""Joins texts and integers for the checksum, which covers every column but `id` and `key`."""

_SAMPLE_COLUMNS = ("run", "stage", "number", "key", "kind", "text", "logprob", "prompt_tokens", "tokens", "cut")
_ANSWER_KEY = ""
"""The name of `Rollout.answer` in the column `output`: no field has such a name."""

_EFFORT_KEY = "#"
"""The name of `Rollout.effort` in the column `output`: tokens, steps and seconds, of a run of several LM calls."""

_json = json.JSONEncoder(ensure_ascii=False).encode
_pack_floats = struct.Struct("<4d").pack

STAGE_COLUMNS = ("stage", "source", "logprob")
"""Columns of `seen` that differ between the stages that use one rollout."""


class UnreadableRowError(ValueError):
    """A row does not match its checksum, or cannot be decoded."""


def make_key(scope: str, query: str, supplement: str, *, live: str = "", run: str = "", prompts: str = "") -> str:
    """32 hex digits that identify a rollout; a live one by its name and its run too, one without a supplement by the
    key of its program's prompts."""
    return _hash_key(*map(clean_text, (scope, query, supplement, live, run, prompts)))


def _hash_key(scope: str, query: str, supplement: str, live: str, run: str, trace: str) -> str:
    parts = (scope, query, supplement, live, run if live else "" if supplement else trace)
    return blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


def build_row(
    rollout: Rollout, scope: str, *, run: str, live: str, asked: int, created: float, trace: str
) -> dict[str, Any]:
    """Builds the row of a rollout, without its id."""
    query, supplement, reward = rollout.query, rollout.supplement, rollout.reward
    texts = {
        "scope": scope,
        "query": query.id,
        "supplement": supplement.render(),
        "live": live,
        "run": run,
        "predictor": query.predictor,
        "others": _json([[*place, each.kind, each.text] for place, each in query.others]) if query.others else "[]",
        "prompt": query.prompt,
        "kind": supplement.kind,
        "text": supplement.text,
        "feedback": "" if reward is None else reward.feedback,
        "output": _json(
            {**rollout.output, **({_ANSWER_KEY: rollout.answer} if rollout.answer else {}), **_dump_effort(rollout)}
        ),
        "error": rollout.error,
        "writer": rollout.writer,
        "trace": trace,
    }
    if (joined := SEPARATOR.join(texts.values())) != clean_text(joined):
        texts = {name: clean_text(text) for name, text in texts.items()}
    row: dict[str, Any] = {
        **texts,
        "position": query.index,
        "turn": query.turn,
        "asked": asked,
        "tokens_in": rollout.tokens_in,
        "tokens_out": rollout.tokens_out,
        "cut": int(supplement.cut),
        "cost": float(rollout.cost),
        "seconds": float(rollout.seconds),
        "created": float(created),
        "score": None if reward is None else float(reward.score),
    }
    return add_checksum(row)


def add_checksum(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its key and its checksum."""
    key = _hash_key(*(row[name] for name in ("scope", "query", "supplement", "live", "run", "trace")))
    return {**row, "key": key, "checksum": _compute_row_checksum(row)}


def build_stage_values(rollout: Rollout) -> dict[str, Any]:
    """The values of a rollout's stage, as parameters; a log-probability that is NaN becomes 0, as if unknown."""
    logprob = 0.0 if math.isnan(rollout.logprob) else float(rollout.logprob)
    return {"seen_stage": clean_text(rollout.stage), "seen_source": clean_text(rollout.source), "seen_logprob": logprob}


def verify(row: Mapping[str, Any]) -> None:
    """Raises `UnreadableRowError` if the row has other types than its columns, or another checksum."""
    sound = (
        all(isinstance(row[name], str) for name in TEXT_COLUMNS)
        and all(isinstance(row[name], int) for name in INTEGER_COLUMNS)
        and all(isinstance(row[name], float) for name in FLOAT_COLUMNS)
        and (row["score"] is None or isinstance(row["score"], float))
    )
    if not sound or row["checksum"] != _compute_row_checksum(row):
        raise UnreadableRowError(f"The row of query {row['query']!r} does not match its checksum.")


def read_rollout(row: Mapping[str, Any]) -> Rollout:
    """Decodes a row with its stage's columns; raises `UnreadableRowError` for a damaged one."""
    verify(row)
    try:
        others = tuple(
            (Place(role, turn), Supplement(kind, text)) for role, turn, kind, text in json.loads(row["others"])
        )
        output = {str(name): str(value) for name, value in json.loads(row["output"]).items()}
        effort = _read_effort(output.pop(_EFFORT_KEY, ""))
    except (ValueError, TypeError, AttributeError, RecursionError) as problem:
        raise UnreadableRowError(f"The row of query {row['query']!r} holds no readable JSON: {problem}") from problem
    answer = output.pop(_ANSWER_KEY, "")
    return Rollout(
        query=Query(row["query"], row["position"], row["predictor"], row["prompt"], row["turn"], others),
        stage=row["stage"],
        source=row["source"],
        supplement=Supplement(row["kind"], row["text"], cut=bool(row["cut"])),
        reward=None if row["score"] is None else Reward(row["score"], row["feedback"]),
        output=output,
        error=row["error"],
        logprob=row["logprob"],
        tokens_in=row["tokens_in"],
        tokens_out=row["tokens_out"],
        seconds=row["seconds"],
        cost=row["cost"],
        writer=row["writer"],
        answer=answer,
        effort=effort,
    )


def _dump_effort(rollout: Rollout) -> dict[str, str]:
    effort = rollout.effort
    return {} if effort is None else {_EFFORT_KEY: _json([effort.tokens, effort.steps, effort.seconds])}


def _read_effort(said: str) -> Effort | None:
    """The effort that `_dump_effort` wrote; raises `ValueError` or `TypeError` for any other text."""
    if not said:
        return None
    tokens, steps, seconds = json.loads(said)
    return Effort(int(tokens), int(steps), float(seconds))


def build_sample_row(key: str, sample: Sample, *, run: str, stage: str, number: int) -> dict[str, Any]:
    """Builds the row of a sample from a clean `run` and `stage` (see `clean_text`).

    `key` stands for the request and the weights.
    """
    row: dict[str, Any] = {
        "run": run,
        "stage": stage,
        "number": number,
        "key": clean_text(key),
        "kind": clean_text(sample.kind),
        "text": clean_text(sample.text),
        "logprob": 0.0 if math.isnan(sample.logprob) else float(sample.logprob),
        "prompt_tokens": sample.prompt_tokens,
        "tokens": sample.tokens,
        "cut": int(sample.cut),
    }
    return {**row, "checksum": _compute_sample_checksum(row)}


def read_sample(row: Mapping[str, Any]) -> tuple[str, Sample]:
    """Decodes the key and the sample of a row; raises `UnreadableRowError` for a damaged one."""
    if row["checksum"] != _compute_sample_checksum(row):
        raise UnreadableRowError(f"Sample {row['number']} of stage {row['stage']!r} does not match its checksum.")
    counts = row["prompt_tokens"], row["tokens"]
    return row["key"], Sample(row["text"], *counts, row["logprob"], cut=bool(row["cut"]), kind=row["kind"])


def _compute_sample_checksum(row: Mapping[str, Any]) -> int:
    return crc32(repr([row[name] for name in _SAMPLE_COLUMNS]).encode())


def dump_calls(calls: Sequence[Call]) -> str:
    """Encodes a run's calls as JSON: [role, turn, prompt, kind, text, cut, logprob, gated] each; empty without calls.

    >>> dump_calls([Call(Place("self"), "2+2?", Supplement("answer", "4"), -0.5)])
    '[["self", 0, "2+2?", "answer", "4", false, -0.5, false]]'
    """
    return "" if not calls else _json([_dump_call(call) for call in calls])


def read_calls(row: Mapping[str, Any]) -> list[Call]:
    """Decodes the calls of a row's trace; raises `UnreadableRowError` unless `dump_calls` wrote it."""
    try:
        return [
            Call(Place(role, turn), prompt, Supplement(kind, text, cut=cut), logprob, gated)
            for role, turn, prompt, kind, text, cut, logprob, gated in json.loads(row["trace"] or "[]")
        ]
    except (ValueError, TypeError, RecursionError) as problem:
        raise UnreadableRowError(f"The calls of a live run cannot be read: {problem}") from problem


def _dump_call(call: Call) -> list[object]:
    supplement = call.supplement
    return [*call.place, call.prompt, supplement.kind, supplement.text, supplement.cut, call.logprob, call.gated]


def _compute_row_checksum(row: Mapping[str, Any]) -> int:
    try:
        texts = SEPARATOR.join([*(row[name] for name in TEXT_COLUMNS), *(str(row[name]) for name in INTEGER_COLUMNS)])
        return compute_checksum(texts.encode(), row["cost"], row["seconds"], row["created"], row["score"])
    except (TypeError, struct.error) as problem:
        raise UnreadableRowError(
            f"The row of query {row['query']!r} holds a value of another type than its column."
        ) from problem


def compute_checksum(texts: bytes, cost: float, seconds: float, created: float, score: float | None) -> int:
    """Computes the checksum of a row's joined texts and integers and of its floats; a missing score counts as NaN."""
    return crc32(_pack_floats(cost, seconds, created, math.nan if score is None else score), crc32(texts))
