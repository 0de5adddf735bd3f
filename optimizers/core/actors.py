"""Several frozen actors by name: the LMs that act in a program's runs, and what identifies them together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import dspy

from optimizers.core.code_identity import CodeIdentity
from optimizers.core.fingerprints import Half, describe_scope, read_program
from sgt_modules.errors import SetupError

Actors = Mapping[str, dspy.BaseLM]
"""LMs by a name of their own, sorted; empty where the program's own LMs act."""


def name_actors(lms: object) -> dict[str, dspy.BaseLM]:
    """The LMs by name, in an order that does not depend on the given one.

    The name is the model's; a second actor of the same model with other settings gets a number.

    Raises `SetupError` unless these are different LMs, at least one.

    >>> cold, warm = (dspy.LM("openai/gpt-4.1", temperature=each, api_key="a key") for each in (0.0, 1.0))
    >>> list(name_actors([warm, dspy.LM("openai/gpt-4.1-mini", api_key="a key"), cold]))
    ['openai/gpt-4.1', 'openai/gpt-4.1 #2', 'openai/gpt-4.1-mini']
    """
    if not isinstance(lms, Sequence) or isinstance(lms, str) or not lms:
        came = "an empty list" if isinstance(lms, Sequence) and not lms else f"a {type(lms).__name__}"
        raise SetupError(f"Expected actors as a list of at least one dspy.LM, got {came}. Pass [lm_a, lm_b].")
    for lm in lms:
        if not isinstance(lm, dspy.BaseLM):
            came = repr(lm) if isinstance(lm, str) else f"a {type(lm).__name__}"
            raise SetupError(
                f"Expected each of the actors to be a dspy.LM, got {came}. Write dspy.LM('provider/model')."
            )
    known: dict[str, dspy.BaseLM] = {}
    for lm in lms:
        if (identity := identify_actor(lm)) in known:
            raise SetupError(
                f"Expected different actors, got {lm.model!r} twice with the same settings. Another key or address is "
                "not another actor: leave one out."
            )
        known[identity] = lm
    named: dict[str, dspy.BaseLM] = {}
    for _, lm in sorted(known.items(), key=lambda item: (item[1].model, item[0])):
        count = sum(each.model == lm.model for each in named.values())
        named[f"{lm.model} #{count + 1}" if count else lm.model] = lm
    return named


def identify_actor(lm: dspy.BaseLM) -> str:
    """16 hex digits over an LM's class, name and settings, without keys and addresses."""
    return hashlib.sha256(CodeIdentity().encode_text(lm, "actor").encode()).hexdigest()[:16]


@contextmanager
def acting_with(lm: dspy.BaseLM | None) -> Iterator[None]:
    """Set DSPy's LM inside the block; None changes nothing."""
    if lm is None:
        yield
    else:
        with dspy.context(lm=lm):
            yield


def read_programs(program: dspy.Module, version: str, actors: Actors) -> Half:
    """As `read_program`, over all actors together; the order of the actors makes no difference."""
    if not actors:
        return read_program(program, version)
    halves: list[Half] = []
    for lm in actors.values():
        with acting_with(lm):
            halves.append(read_program(program, version))
    joined = hashlib.sha256(" ".join(sorted(half.mark for half in halves)).encode()).hexdigest()[:16]
    return Half(joined, tuple(dict.fromkeys(each for half in halves for each in half.unread)))


def describe_actors(program: dspy.Module, metric: Callable[..., object], actors: Actors) -> dict[str, object]:
    """As `describe_scope`; each predictor's actor is the names of all of them."""
    found = describe_scope(program, metric)
    every = ", ".join(actors)
    return {**found, "actors": {name: every for name, _ in program.named_predictors()}} if actors else found
