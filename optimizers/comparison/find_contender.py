"""Finds the contender for what a caller passes: a name, a `Contender`, or a `Teleprompter`."""

from __future__ import annotations

import inspect
import re
from typing import Any, cast

import dspy
from dspy.teleprompt import Teleprompter

from optimizers.comparison.ablations import ABLATIONS
from optimizers.comparison.contenders import CONTENDERS, FORMER_NAMES, Contender, ContenderArguments, ContenderLike
from optimizers.comparison.variants import VARIANTS
from sgt_modules.errors import SetupError


def find_contender(contender: ContenderLike) -> Contender:
    """Returns the contender itself, or looks a name up in `CONTENDERS`, `ABLATIONS`, `VARIANTS` and `FORMER_NAMES`.

    A teleprompter becomes a contender with the name of its class, in snake case. Raises `SetupError` for an unknown
    name.

    >>> find_contender("sgt").needs, find_contender(dspy.BootstrapFewShot()).name
    (('generator',), 'bootstrap_few_shot')
    >>> try:  # doctest: +ELLIPSIS
    ...     find_contender("gepetto")
    ... except SetupError as error:
    ...     print(error)
    There is no contender 'gepetto'. There are none, cot, ...; or pass a Contender or ...
    """
    if isinstance(contender, Contender):
        return contender
    if isinstance(contender, Teleprompter):
        return Contender(_to_snake_case(type(contender).__name__), lambda inputs: _compile_with(contender, inputs))
    contenders = {**CONTENDERS, **ABLATIONS, **VARIANTS}
    if contender in FORMER_NAMES:
        return FORMER_NAMES[contender]
    if contender not in contenders:
        raise SetupError(
            f"There is no contender {contender!r}. There are {', '.join(contenders)}; "
            "or pass a Contender or a Teleprompter."
        )
    return contenders[contender]


def _compile_with(optimizer: Teleprompter, inputs: ContenderArguments) -> dspy.Module:
    """Compiles with a user's optimizer; passes those of DSPy's usual arguments that its `compile` has."""
    parameters = inspect.signature(optimizer.compile).parameters
    usual: dict[str, object] = {"trainset": inputs.trainset, "valset": inputs.valset, "seed": inputs.seed}
    return optimizer.compile(
        inputs.program, **cast("Any", {name: value for name, value in usual.items() if name in parameters})
    )


def _to_snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).casefold()
