"""What tells one program, one metric or one data set from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

import dspy

from sgt_modules.wrapping import supplemented


def scope_of(program: dspy.Module, metric: Callable[..., object]) -> str:
    """What a reward depends on besides query and supplement: the program with its LMs, and the metric."""
    lms = [getattr(predictor.lm or dspy.settings.lm, "model", "") for _, predictor in supplemented(program)]
    state = {name: predictor.dump_state() for name, predictor in program.named_predictors()}
    for each in state.values():
        each.pop("generator", None)
    adapter = type(dspy.settings.adapter).__name__
    name = f"{metric.__module__}.{metric.__qualname__}" if hasattr(metric, "__qualname__") else type(metric).__name__
    content = json.dumps([lms, state, adapter, name], sort_keys=True, default=str)
    return _short(content)


def fingerprint(examples: Sequence[dspy.Example]) -> str:
    """16 hex digits over every field of the examples, in their order."""
    content = json.dumps([dict(example.items()) for example in examples], sort_keys=True, default=str)
    return _short(content)


def _short(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]
