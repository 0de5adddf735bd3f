"""Supplement every predictor of a program, and take the supplements out again. The given program is left alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import dspy

from sgt_modules.errors import NoPredictorError
from sgt_modules.generator import SupplementGenerator
from sgt_modules.predictor import SupplementedPredictor


def supplement(
    program: dspy.Module, *, generator: SupplementGenerator | str | Path, only: Sequence[str] | None = None
) -> dspy.Module:
    """A copy of the program whose predictors (or those named in `only`) read supplements.

    `generator` is one, or the hub id or folder of one; all predictors share it.

    A predictor's role is its name in `program.named_predictors()`. A predictor that is used in several places is
    wrapped once; frozen (compiled) parts stay as they are. Raises `NoPredictorError`.

    >>> program = supplement(dspy.ChainOfThought("question -> answer"), generator="Qwen/Qwen3-1.7B")
    >>> [name for name, _ in supplemented(program)]
    ['predict']
    """
    generator = SupplementGenerator.of(generator)
    named = dict(program.named_predictors())
    unknown = set(only or ()) - set(named)
    if unknown or not named or (only is not None and not only):
        raise NoPredictorError(
            f"Expected a program with predictors{f' named {sorted(unknown)}' if unknown else ''}, got "
            f"{type(program).__name__} with {sorted(named) or 'none'}. Build it from dspy.Predict or "
            "dspy.ChainOfThought, and name its predictors as named_predictors() does."
        )
    return _rebuilt(
        program,
        {
            id(predict): SupplementedPredictor.wrap(predict, generator, name)
            for name, predict in named.items()
            if only is None or name in only
        },
    )


def unsupplement(program: dspy.Module) -> dspy.Module:
    """A copy of the program without supplements, with everything else that was learned."""
    return _rebuilt(program, {id(each): each.unwrap() for _, each in supplemented(program)})


def supplemented(program: dspy.Module) -> list[tuple[str, SupplementedPredictor]]:
    """The predictors that read supplements, by name."""
    return [(name, each) for name, each in program.named_predictors() if isinstance(each, SupplementedPredictor)]


def with_generator(program: dspy.Module, generator: SupplementGenerator) -> dspy.Module:
    """A copy of the program whose supplements another generator writes."""
    return _rebuilt(
        program,
        {id(each): SupplementedPredictor.wrap(each, generator, each.role) for _, each in supplemented(program)},
    )


def _rebuilt(program: dspy.Module, replaced: Mapping[int, dspy.Predict]) -> dspy.Module:
    """A deep copy with other predictors (by the id of the old one) wherever the old ones stood, the root included.

    LMs are shared, and so is what cannot be copied. `Module.deepcopy` will not do: it falls back to shallow copies, and
    forgets callbacks.
    """
    memo: dict[int, object] = dict(replaced)
    for module in _modules(program).values():
        memo.update((id(value), value) for value in _shared(vars(module)))
    new = copy.deepcopy(program, memo)
    copies = _modules(new)
    for name, module in _modules(program).items():
        copies[name].callbacks = list(module.callbacks)
    return new


def _modules(program: dspy.Module) -> dict[str, dspy.Module]:
    return {name: each for name, each in program.named_sub_modules() if isinstance(each, dspy.Module)}


def _shared(value: object) -> Iterator[object]:
    """What a copy of the program holds in common with it: the LMs, and what cannot be copied."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _shared(item)
    elif not isinstance(value, dspy.Module) and (isinstance(value, dspy.BaseLM) or not _copyable(value)):
        yield value


def _copyable(value: object) -> bool:
    """Whether deepcopy can take a value: a client or a lock cannot be copied, and raises what it likes."""
    try:
        copy.deepcopy(value)
    except Exception:  # noqa: BLE001 - see above
        return False
    return True
