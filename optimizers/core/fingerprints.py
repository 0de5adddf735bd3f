"""What tells one program, one metric or one data set from another, by what they do and hold."""

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
from sgt_modules.wrapping import supplemented

BORDER = "-"
"""Between the two halves of a scope. A scope of an earlier version has none."""


class Half(NamedTuple):
    """Half a scope as 16 hex digits, and what could not be read for it: where it stands, and its type."""

    mark: str
    unread: tuple[str, ...] = ()


def scope_of(
    program: dspy.Module, metric: Callable[..., object], *, version: str = "", again: int = 0, like: str = ""
) -> str:
    """What a reward depends on besides query and supplement: what answers, and what judges, each as 16 hex digits.

    `version` is a user's word for code that cannot be read. `again` (from 1) numbers a repetition. `like`: a scope of
    the same metric, which need not be read again: it may have counted something since.
    """
    judge = split_scope(like)[1] or read_metric(metric, version).mark
    return f"{read_program(program, version, again).mark}{BORDER}{judge}"


def read_program(program: dspy.Module, version: str = "", again: int = 0) -> Half:
    """The program's code, state, predictors and LMs, and DSPy's adapter.

    An LM counts by its name and settings, without keys and addresses: another key is not another actor. `version`
    counts only where something cannot be read: a new one has every answer paid for anew.
    """
    encoder = CodeIdentity()
    content = [encoder.encode_text(program, "program"), CodeIdentity().encode_text(dspy.settings.adapter, "adapter")]
    unread = tuple(encoder.unclear)
    return Half(_short(json.dumps([*content, version if unread else "", again])), unread)


def read_metric(metric: Callable[..., object], version: str = "") -> Half:
    """The metric's code, what it closes over or is bound to, and the user's functions and constants that it uses."""
    encoder = CodeIdentity(read_modules_of(metric))
    content = [encoder.encode_text(metric, "metric"), version]
    return Half(_short(json.dumps(content)), tuple(encoder.unclear))


def split_scope(scope: str) -> tuple[str, str]:
    """What answers and what judges in a scope; both empty for one of an earlier version, which told no code.

    >>> split_scope("00ff-a1b2"), split_scope("00ffa1b2")
    (('00ff', 'a1b2'), ('', ''))
    """
    answers, border, judges = scope.partition(BORDER)
    return (answers, judges) if border else ("", "")


def warn_of_unread(unread: Sequence[str]) -> str:
    """A sentence on what could not be read; empty where all could.

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
    """What a scope stands for, as a person reads it: the program's class, the models of its predictors, the metric."""
    actors = {name: getattr(each.lm or dspy.settings.lm, "model", "") for name, each in program.named_predictors()}
    judge = getattr(metric, "__qualname__", type(metric).__qualname__)
    return {"program": type(program).__name__, "actors": actors, "metric": f"{metric.__module__}.{judge}"}


def fingerprint(examples: Sequence[dspy.Example], name: str = "examples") -> str:
    """16 hex digits over every field of the examples, in their order; the same in every process.

    Raises `ExampleError`, with the field's name, for what nothing but its address tells.
    """
    return _short(text_of([content_of(example, f"{name}[{n}]") for n, example in enumerate(examples)]))


def content_of(example: dspy.Example, where: str = "example") -> object:
    """An example's fields as JSON; raises `ExampleError` as `fingerprint` does."""
    encoder = CanonicalEncoder()
    content = encoder.encode(dict(example.items()), where)
    if encoder.unclear:
        raise ExampleError(
            f"Expected examples whose fields can be told apart in another process, but nothing except an address tells "
            f"{', '.join(encoder.unclear[:5])}. Give its class fields or a __repr__, or put its content into the field."
        )
    return content


def lm_settings(lm: dspy.LM) -> Mapping[str, object]:
    """An LM's own settings (temperature, max_tokens, top_p ...), without keys and addresses.

    >>> lm_settings(dspy.LM("openai/gpt-4.1", temperature=0.5, api_key="secret"))
    {'max_tokens': None, 'temperature': 0.5}
    """
    given = cast("Mapping[str, object]", lm.kwargs)
    kept = {name: each for name, each in sorted(given.items()) if not name.startswith(("api_", "base_"))}
    return cast("Mapping[str, object]", CanonicalEncoder().encode(kept, "lm"))


def generator_settings(generator: SupplementGenerator) -> dict[str, object]:
    """What decides what a generator writes, besides its weights and the recipe's own temperatures."""
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
    """What decides what a program's own supplements are, by its predictors; empty where it reads none."""
    return {
        name: {
            **generator_settings(each.generator),
            "weights": each.generator.fingerprint[:16],
            "scope": each.scope,
            "template": asdict(each.template),
            "gate": None if each.gate is None else _short(text_of(each.gate.dump_state())),
        }
        for name, each in supplemented(program)
    }


def _short(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]
