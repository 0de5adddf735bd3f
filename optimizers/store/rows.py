"""A rollout as a row of the store, and back: texts that every database takes, a key, a checksum."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any
from zlib import crc32

from optimizers.core.records import Query, Reward, Rollout
from sgt_modules.episode import Call, Place
from sgt_modules.kinds import Supplement
from sgt_modules.samples import Sample

TEXTS = (
    "scope",
    "query",
    "supplement",  # as the actor reads it
    "live",  # the name of a live run, which is never answered from the store
    "run",  # the run that wrote this row
    "predictor",
    "others",  # JSON: what every other place read, as [role, turn, kind, text]
    "prompt",
    "kind",
    "text",
    "feedback",
    "output",  # JSON: the answer's fields as text, and under no name what these do not tell
    "error",
    "writer",
    "trace",  # JSON: the calls of a live run, with the first of its rollouts; see `calls_text`
)
NUMBERS = ("position", "turn", "asked", "tokens_in", "tokens_out", "cut")  # `cut` is 0 or 1
FRACTIONS = ("cost", "seconds", "created")
SEPARATOR = "\x1f"
"""Between texts and numbers where they are joined for the checksum, which covers all but a row's id and key."""

_SAMPLE = ("run", "stage", "number", "key", "kind", "text", "logprob", "prompt_tokens", "tokens", "cut")
_ANSWER = ""
"""Where `output` has what its texts do not tell of the answer: no field has such a name."""

_json = json.JSONEncoder(ensure_ascii=False).encode
_FRACTIONS = struct.Struct("<4d").pack

MET = ("stage", "source", "logprob")
"""What a stage says of a rollout that it met."""


class UnreadableRowError(ValueError):
    """A row is not as it was written."""


def storable(text: str) -> str:
    """The text without what a database cannot hold: NUL, and halves of surrogate pairs.

    >>> storable("a\\x00b")
    'a\ufffdb'
    """
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode("utf-8")
    return text.replace("\0", "\ufffd") if "\0" in text else text


def key_of(scope: str, query: str, supplement: str, *, live: str = "", run: str = "") -> str:
    """32 hex digits that make a run of the actor distinct; a live one by its name within its own run."""
    return _key(*map(storable, (scope, query, supplement, live, run)))


def _key(scope: str, query: str, supplement: str, live: str, run: str) -> str:
    parts = (scope, query, supplement, live, run if live else "")
    return blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


def row_of(
    rollout: Rollout, scope: str, *, run: str, live: str, asked: int, created: float, trace: str
) -> dict[str, Any]:
    """The row of a rollout, without its id."""
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
        "output": _json({**rollout.output, **({_ANSWER: rollout.answer} if rollout.answer else {})}),
        "error": rollout.error,
        "writer": rollout.writer,
        "trace": trace,
    }
    if (joined := SEPARATOR.join(texts.values())) != storable(joined):
        texts = {name: storable(text) for name, text in texts.items()}
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
    return signed(row)


def signed(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of all its content with its key and its checksum."""
    key = _key(row["scope"], row["query"], row["supplement"], row["live"], row["run"])
    return {**row, "key": key, "checksum": _checksum(row)}


def met_by(rollout: Rollout) -> dict[str, Any]:
    """What the rollout's stage says of it, as parameters; a log-probability that is no number counts as unknown."""
    logprob = 0.0 if math.isnan(rollout.logprob) else float(rollout.logprob)
    return {"met_stage": storable(rollout.stage), "met_source": storable(rollout.source), "met_logprob": logprob}


def check(row: Mapping[str, Any]) -> None:
    """Raise `UnreadableRowError` unless the row is as it was written."""
    sound = (
        all(isinstance(row[name], str) for name in TEXTS)
        and all(isinstance(row[name], int) for name in NUMBERS)
        and all(isinstance(row[name], float) for name in FRACTIONS)
        and (row["score"] is None or isinstance(row["score"], float))
    )
    if not sound or row["checksum"] != _checksum(row):
        raise UnreadableRowError(f"The row of query {row['query']!r} is not as it was written.")


def rollout_of(row: Mapping[str, Any]) -> Rollout:
    """The rollout of a row and of what a stage says of it; raises `UnreadableRowError` for a damaged one."""
    check(row)
    try:
        others = tuple(
            (Place(role, turn), Supplement(kind, text)) for role, turn, kind, text in json.loads(row["others"])
        )
        output = {str(name): str(value) for name, value in json.loads(row["output"]).items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as problem:
        raise UnreadableRowError(f"The row of query {row['query']!r} holds no readable JSON: {problem}") from problem
    answer = output.pop(_ANSWER, "")
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
    )


def sample_row(key: str, sample: Sample, *, run: str, stage: str, number: int) -> dict[str, Any]:
    """The row of a sample, `run` and `stage` being storable already; `key` stands for its request and the weights."""
    row: dict[str, Any] = {
        "run": run,
        "stage": stage,
        "number": number,
        "key": storable(key),
        "kind": storable(sample.kind),
        "text": storable(sample.text),
        "logprob": 0.0 if math.isnan(sample.logprob) else float(sample.logprob),
        "prompt_tokens": sample.prompt_tokens,
        "tokens": sample.tokens,
        "cut": int(sample.cut),
    }
    return {**row, "checksum": _sample_checksum(row)}


def sample_of(row: Mapping[str, Any]) -> tuple[str, Sample]:
    """The key and the sample of a row; raises `UnreadableRowError` for a damaged one."""
    if row["checksum"] != _sample_checksum(row):
        raise UnreadableRowError(f"Sample {row['number']} of stage {row['stage']!r} is not as it was written.")
    counts = row["prompt_tokens"], row["tokens"]
    return row["key"], Sample(row["text"], *counts, row["logprob"], cut=bool(row["cut"]), kind=row["kind"])


def _sample_checksum(row: Mapping[str, Any]) -> int:
    return crc32(repr([row[name] for name in _SAMPLE]).encode())


def calls_text(calls: Sequence[Call]) -> str:
    """A run's calls as JSON, each as [role, turn, prompt, kind, text, cut, logprob, gated]; empty without calls.

    >>> calls_text([Call(Place("self"), "2+2?", Supplement("answer", "4"), -0.5)])
    '[["self", 0, "2+2?", "answer", "4", false, -0.5, false]]'
    """
    return "" if not calls else _json([_call_row(call) for call in calls])


def calls_of(row: Mapping[str, Any]) -> list[Call]:
    """The calls that a row's trace tells of; raises `UnreadableRowError` where `calls_text` has not written it."""
    try:
        return [
            Call(Place(role, turn), prompt, Supplement(kind, said, cut=cut), logprob, gated)
            for role, turn, prompt, kind, said, cut, logprob, gated in json.loads(row["trace"] or "[]")
        ]
    except (ValueError, TypeError, RecursionError) as problem:
        raise UnreadableRowError(f"The calls of a live run cannot be read: {problem}") from problem


def _call_row(call: Call) -> list[object]:
    said = call.supplement
    return [*call.place, call.prompt, said.kind, said.text, said.cut, call.logprob, call.gated]


def _checksum(row: Mapping[str, Any]) -> int:
    try:
        words = SEPARATOR.join([*(row[name] for name in TEXTS), *(str(row[name]) for name in NUMBERS)])
        return checksum(words.encode(), row["cost"], row["seconds"], row["created"], row["score"])
    except (TypeError, struct.error) as problem:
        raise UnreadableRowError(f"The row of query {row['query']!r} holds what is none of its types.") from problem


def checksum(words: bytes, cost: float, seconds: float, created: float, score: float | None) -> int:
    """The checksum of a row's texts and numbers, joined, and of its fractions; a missing score counts as no number."""
    return crc32(_FRACTIONS(cost, seconds, created, math.nan if score is None else score), crc32(words))
