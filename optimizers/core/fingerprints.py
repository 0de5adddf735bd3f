"""Fingerprints of programs, metrics and data sets: equal if they do and contain the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple, cast

import dspy

from optimizers.core.canonical import CanonicalEncoder, text_of
from optimizers.core.code_identity import CodeIdentity
from optimizers.core.user_modules import read_modules_of
from sgt_modules.errors import ExampleError
from sgt_modules.generator import SupplementGenerator
from sgt_modules.wrapping import supplemented_predictors

BORDER = "-"
"""Separates the two halves of a scope. A scope of an earlier version has none."""


class Half(NamedTuple):
    """Half of a scope: 16 hex digits, and the place and type of what could not be read for it."""

    mark: str
    unread: tuple[str, ...] = ()


def scope_of(
    program: dspy.Module, metric: Callable[..., object], *, version: str = "", again: int = 0, like: str = ""
) -> str:
    """Names the program and the metric that a reward depends on: 16 hex digits each.

    `version` is the user's name for code that cannot be read. `again` (from 1) numbers a repetition. `like` is a scope
    of the same metric, whose half is reused: a metric that counts its calls would read differently now.
    """
    judge = split_scope(like)[1] or read_metric(metric, version).mark
    return f"{read_program(program, version, again).mark}{BORDER}{judge}"


def read_program(program: dspy.Module, version: str = "", again: int = 0) -> Half:
    """The half of a scope for the program's code, state, predictors and LMs, and DSPy's adapter.

    An LM counts by its name and settings, without keys and addresses: another key is not another actor. `version`
    counts only if something cannot be read; with a new version every answer is paid for again.
    """
    encoder = CodeIdentity()
    content = [encoder.encode_text(program, "program"), CodeIdentity().encode_text(dspy.settings.adapter, "adapter")]
    unread = tuple(encoder.unclear)
    return Half(_short(json.dumps([*content, version if unread else "", again])), unread)


def read_metric(metric: Callable[..., object], version: str = "") -> Half:
    """The half of a scope for the metric: its code, closure, bound object, and the user's code that it uses."""
    encoder = CodeIdentity(read_modules_of(metric))
    content = [encoder.encode_text(metric, "metric"), version]
    return Half(_short(json.dumps(content)), tuple(encoder.unclear))


def split_scope(scope: str) -> tuple[str, str]:
    """The halves of a scope for the program and the metric; both empty for a scope of an earlier version.

    >>> split_scope("00ff-a1b2"), split_scope("00ffa1b2")
    (('00ff', 'a1b2'), ('', ''))
    """
    answers, border, judges = scope.partition(BORDER)
    return (answers, judges) if border else ("", "")


def warn_of_unread(unread: Sequence[str]) -> str:
    """A sentence on what could not be read; empty if everything could.

    >>> warn_of_unread(["metric (eq)"])[:47]
    'The code or state of metric (eq) cannot be read'
    """
    if not unread:
        return ""
    shown = ", ".join(unread[:5]) + (f" and {len(unread) - 5} more" if len(unread) > 5 else "")
    return (
        f"The code or state of {shown} cannot be read, so a change of it is not noticed and old rewards would stand. "
        "Pass version='1' to the teleprompter, and another word after each change."
    )


def describe_scope(program: dspy.Module, metric: Callable[..., object]) -> dict[str, object]:
    """Describes a scope for people: the program's class, the models of its predictors, and the metric."""
    actors = {name: getattr(each.lm or dspy.settings.lm, "model", "") for name, each in program.named_predictors()}
    judge = getattr(metric, "__qualname__", type(metric).__qualname__)
    return {"program": type(program).__name__, "actors": actors, "metric": f"{metric.__module__}.{judge}"}


def fingerprint(examples: Sequence[dspy.Example], name: str = "examples") -> str:
    """16 hex digits over every field of the examples, in their order; the same in every process.

    Raises `ExampleError` with the field's name for a value that differs only by its memory address.
    """
    return _short(text_of([content_of(example, f"{name}[{n}]") for n, example in enumerate(examples)]))


def content_of(example: dspy.Example, where: str = "example") -> object:
    """An example's fields as JSON; raises `ExampleError` as `fingerprint` does."""
    encoder = CanonicalEncoder()
    content = encoder.encode(dict(example.items()), where)
    if encoder.unclear:
        raise ExampleError(
            f"Expected examples whose fields can be compared in another process, but only a memory address identifies "
            f"{', '.join(encoder.unclear[:5])}. Give its class fields or a __repr__, or put its content into the field."
        )
    return content


def lm_settings(lm: dspy.LM) -> Mapping[str, object]:
    """An LM's own settings (temperature, max_tokens, top_p ...), without keys and addresses.

    >>> lm_settings(dspy.LM("openai/gpt-4.1", temperature=0.5, api_key="secret"))
    {'max_tokens': None, 'temperature': 0.5}
    """
    settings = cast("Mapping[str, object]", lm.kwargs)
    public = {name: each for name, each in sorted(settings.items()) if not name.startswith(("api_", "base_"))}
    return cast("Mapping[str, object]", CanonicalEncoder().encode(public, "lm"))


def generator_settings(generator: SupplementGenerator) -> dict[str, object]:
    """The settings that change what a generator writes, apart from its weights and the recipe's temperatures."""
    lm = getattr(generator.engine, "lm", None)
    return {
        "generator": generator.identity,
        "generator_lm": lm_settings(lm) if isinstance(lm, dspy.LM) else None,
        "prompt": generator.prompt.dump_state(),
        "temperature": generator.temperature,
        "max_new_tokens": generator.max_new_tokens,
        "max_prompt_tokens": generator.max_prompt_tokens,
    }


def supplement_settings(program: dspy.Module) -> dict[str, object]:
    """The settings that change a program's own supplements, by predictor; empty if it reads none."""
    return {
        name: {
            **generator_settings(each.generator),
            "weights": each.generator.fingerprint[:16],
            "scope": each.scope,
            "template": asdict(each.template),
            "gate": None if each.gate is None else _short(text_of(each.gate.dump_state())),
            **({"draft": True} if each.draft else {}),
            **({} if each.choice is None else {"choice": _short(text_of(each.choice.dump_state()))}),
        }
        for name, each in supplemented_predictors(program)
    }


def _short(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]
