"""What a caller of a comparison may write for a contender -> the contender."""

from __future__ import annotations

import inspect
import re
from typing import Any, cast

import dspy
from dspy.teleprompt import Teleprompter

from optimizers.comparison.ablations import ABLATIONS
from optimizers.comparison.contenders import CONTENDERS, Bench, Contender, ContenderLike
from sgt_modules.errors import SetupError


def contender_of(wanted: ContenderLike) -> Contender:
    """The contender itself, or that of `CONTENDERS` or `ABLATIONS` by its name.

    One around a teleprompter is called by its class's name.

    >>> contender_of("sgt").needs, contender_of(dspy.BootstrapFewShot()).name
    (('generator',), 'bootstrap_few_shot')
    >>> try:  # doctest: +ELLIPSIS
    ...     contender_of("gepetto")
    ... except SetupError as error:
    ...     print(error)
    There is no contender 'gepetto'. There are none, cot, ...; or pass a Contender or ...
    """
    if isinstance(wanted, Contender):
        return wanted
    if isinstance(wanted, Teleprompter):
        return Contender(_snake(type(wanted).__name__), lambda bench: _by_teleprompter(wanted, bench))
    known = {**CONTENDERS, **ABLATIONS}
    if wanted not in known:
        raise SetupError(
            f"There is no contender {wanted!r}. There are {', '.join(known)}; or pass a Contender or a Teleprompter."
        )
    return known[wanted]


def _by_teleprompter(optimizer: Teleprompter, bench: Bench) -> dspy.Module:
    """Compile with a user's own: it is given those of DSPy's usual arguments that it takes."""
    takes = inspect.signature(optimizer.compile).parameters
    given: dict[str, object] = {"trainset": bench.trainset, "valset": bench.valset, "seed": bench.seed}
    return optimizer.compile(bench.program, **cast("Any", {name: given[name] for name in given if name in takes}))


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).casefold()
