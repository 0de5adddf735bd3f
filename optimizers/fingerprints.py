"""What tells one program, one metric or one data set from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import dspy


def scope_of(program: dspy.Module, metric: Callable[..., object]) -> str:
    """What a reward depends on besides query and supplement, as 16 hex digits: the program, its LMs, and the metric.

    An LM counts by its name and settings, without keys and addresses: another key is not another actor.
    """
    predictors = [
        [name, cast("Any", each.signature).dump_state(), each.demos, each.config, _lm(each.lm or dspy.settings.lm)]
        for name, each in program.named_predictors()
    ]
    adapter = type(dspy.settings.adapter).__name__
    judge = getattr(metric, "__qualname__", type(metric).__qualname__)
    return _short(json.dumps([predictors, adapter, metric.__module__, judge], sort_keys=True, default=str))


def described(program: dspy.Module, metric: Callable[..., object]) -> dict[str, object]:
    """What a scope stands for, as a person reads it: the program's class, the models of its predictors, the metric."""
    actors = {name: getattr(each.lm or dspy.settings.lm, "model", "") for name, each in program.named_predictors()}
    judge = getattr(metric, "__qualname__", type(metric).__qualname__)
    return {"program": type(program).__name__, "actors": actors, "metric": f"{metric.__module__}.{judge}"}


def _lm(lm: object) -> list[object]:
    settings: Mapping[str, object] = getattr(lm, "kwargs", {})
    kept = {name: value for name, value in settings.items() if not name.startswith(("api_", "base_"))}
    return [getattr(lm, "model", ""), kept]


def fingerprint(examples: Sequence[dspy.Example]) -> str:
    """16 hex digits over every field of the examples, in their order."""
    content = json.dumps([dict(example.items()) for example in examples], sort_keys=True, default=str)
    return _short(content)


def _short(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]
