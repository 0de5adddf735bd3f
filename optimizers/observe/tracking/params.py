"""A run in the form of a tracker: `run.json` to parameters, a stage to points. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from optimizers.core.usage import RunUsage
from optimizers.observe.tracking.tracker import Point
from sgt_modules.saving.redaction import redact

_LONG = ("kinds", "meta_prompts")
"""Settings of many lines, of which a tracker gets the names."""


def run_parameters(record: Mapping[str, Any], about: Mapping[str, object]) -> dict[str, str]:
    """The settings and versions in a run's `run.json` and what describes the run, by dotted names, without secrets.

    >>> record = {"settings": {"seed": 0, "recipe": {"margin": None}}, "versions": {"dspy": "3.4.1"}}
    >>> run_parameters(record, {"actors": {"self": "openai/gpt-4.1"}})
    {'seed': '0', 'recipe.margin': 'None', 'versions.dspy': '3.4.1', 'actors.self': 'openai/gpt-4.1'}
    """
    settings = {**record.get("settings", {}), **record.get("free", {}), "versions": record.get("versions", {}), **about}
    return {name: redact(str(value)) for name, value in _flat(settings, "")}


def _flat(settings: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, object]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and name in _LONG:
            yield f"{prefix}{name}", ", ".join(cast("Mapping[str, Any]", value))
        elif isinstance(value, Mapping):
            yield from _flat(cast("Mapping[str, Any]", value), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def stage_points(number: int, values: Mapping[str, float | None], spent: RunUsage) -> list[Point]:
    """The points of a scored stage: its values that are not None, and what the run had spent by its end.

    >>> from optimizers.core.usage import Usage
    >>> stage_points(1, {"val/score": 0.5, "train/score": None}, RunUsage(Usage(calls=8)))[:2]
    [Point(name='val/score', value=0.5, step=1), Point(name='spent/actor_calls', value=8, step=1)]
    """
    paid = {
        "spent/actor_calls": spent.actor_calls,
        "spent/generator_calls": spent.generator_calls,
        **{f"spent/tokens_{name}": count for name, count in spent.tokens.items()},
        "spent/cost_usd": spent.cost,
        "spent/seconds": spent.seconds.total,
    }
    return [Point(name, value, number) for name, value in {**values, **paid}.items() if value is not None]
