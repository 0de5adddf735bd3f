"""Wrap a program's predictors so that they read supplements, and unwrap them. The original program is not changed."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from types import MethodType
from typing import Any, cast

import dspy

from sgt_modules.choosing import choice_of
from sgt_modules.episode import program_run
from sgt_modules.errors import NoPredictorError, SetupError
from sgt_modules.gate import Gate
from sgt_modules.generator import GeneratorLike, SupplementGenerator
from sgt_modules.note_chooser import NoteChooser
from sgt_modules.predictor import SUPPLEMENT_STATE, Scope, SupplementedPredictor, check_draft, check_scope, copy_as
from sgt_modules.prompts import ADVICE, SUPPLEMENT, Template, check_template


def supplement(
    program: dspy.Module,
    *,
    generator: GeneratorLike,
    only: Sequence[str] | None = None,
    scope: Scope | None = None,
    template: Template | None = None,
    gate: Gate | None = None,
    draft: bool | None = None,
    samples: int | None = None,
    chooser: NoteChooser | None = None,
) -> dspy.Module:
    """Return a copy of the program whose predictors (or those named in `only`) read supplements.

    `generator` is a generator, or its hub id, folder or LM; all predictors share it. With `scope="turn"`, the default,
    each call of a predictor gets its own supplement. With `"episode"`, all calls of a predictor in one run of the
    program use the supplement of the first call, so an agent keeps its advice from turn to turn. With either scope, a
    call that has a history and no task inputs (ReActV2 from its second turn on) keeps the previous supplement.
    `template` sets how the actor reads the supplement, `gate` when the supplement is dropped.

    With `draft=True` a predictor answers without a supplement first, and the generator reads that draft; see
    `sgt_modules.drafts`. If the generator writes `[none]`, the draft is the answer; else the predictor answers again,
    so a call costs up to two calls of its LM. The user's stream has the second answer only; a draft that is the answer
    comes without chunks, as the final `Prediction`.

    With a `chooser`, the generator writes `samples` notes for a call (8 by default; one greedy, the others sampled with
    seeds that the prompt decides), and the chooser takes one of them, or none, before the predictor is asked; see
    `sgt_modules.choosing`.

    In a program that is supplemented already, the same predictors get the new generator. They keep their scope,
    template and draft unless new ones are passed; the gate and the chooser belong to the generator, and are not kept.

    A predictor's role is its name in `program.named_predictors()`. A predictor that is used in several places is
    wrapped once; frozen (compiled) parts stay the same. Raises `SetupError`, `NoPredictorError`.

    >>> program = supplement(dspy.ChainOfThought("question -> answer"), generator="Qwen/Qwen3-1.7B")
    >>> [name for name, _ in supplemented_predictors(program)]
    ['predict']
    """
    generator, choice = SupplementGenerator.of(generator), choice_of(samples, chooser)
    predictors = dict(program.named_predictors())
    if only is None and (already := supplemented_predictors(program)):
        only = [name for name, _ in already]
    unknown = set(only or ()) - set(predictors)
    if unknown or not predictors or (only is not None and not only):
        raise NoPredictorError(
            f"Expected a program with predictors{f' named {sorted(unknown)}' if unknown else ''}, got "
            f"{type(program).__name__} with {sorted(predictors) or 'none'}. Build it from dspy.Predict or "
            "dspy.ChainOfThought, and name its predictors as named_predictors() does."
        )
    wrapped = {
        id(predict): SupplementedPredictor.wrap(
            predict,
            generator,
            name,
            scope=check_scope(scope or getattr(predict, "scope", "turn")),
            template=check_template(template or getattr(predict, "template", ADVICE)),
            gate=gate,
            draft=check_draft(getattr(predict, "draft", False) if draft is None else draft),
            choice=choice,
        )
        for name, predict in predictors.items()
        if only is None or name in only
    }
    for note in list_plain_parts(program):
        logging.getLogger(__name__).warning(note)
    return _add_memory(rebuild(program, wrapped))


def list_plain_parts(program: dspy.Module) -> list[str]:
    """List a sentence for each predictor that `supplement` does not wrap, with the reason.

    >>> class Nested(dspy.Module):
    ...     def __init__(self) -> None:
    ...         self.qa = dspy.Predict("question -> answer")
    ...         self.steps = [[dspy.Predict("question -> hint")]]
    >>> list_plain_parts(Nested())
    ["The predictor 'steps[0][0]' reads no supplement, as DSPy does not list it. Assign it to an attribute."]
    """
    predictors = {id(each) for _, each in program.named_predictors()}
    parts = {name.removeprefix("self."): each for name, each in program.named_sub_modules()}
    frozen = [name for name, each in parts.items() if name != "self" and getattr(each, "_compiled", False)]
    notes: list[str] = []
    for name, each in parts.items():
        if isinstance(each, cast("type[dspy.Module]", dspy.Flex)):
            notes.append(
                f"The dspy.Flex {name!r} reads no supplement, as it makes new predictors in every call. Use "
                "modules with predictors of their own where supplements are wanted."
            )
        elif isinstance(each, dspy.Predict) and id(each) not in predictors:
            within = next((part for part in frozen if name.startswith((f"{part}.", f"{part}["))), None)
            why, remedy = "DSPy does not list it", "Assign it to an attribute"
            if within is not None:
                why, remedy = f"{within!r} is compiled and so frozen", "Set its _compiled to False to thaw it"
            notes.append(f"The predictor {name!r} reads no supplement, as {why}. {remedy}.")
    return notes


def unsupplement(program: dspy.Module) -> dspy.Module:
    """Return a copy of the program without supplements; demos, instructions and so on stay.

    >>> from sgt_modules.embedded import embedded_generator
    >>> wrapped = supplement(dspy.Predict("question -> answer"), generator=embedded_generator())
    >>> type(wrapped).__name__, type(unsupplement(wrapped)).__name__
    ('SupplementedPredictor', 'Predict')
    """
    plain = rebuild(program, {id(each): each.unwrap() for _, each in supplemented_predictors(program)})
    for module in _named_modules(plain).values():
        for name in _FORWARDS:
            if isinstance(vars(module).get(name), _RunWithMemory):
                delattr(module, name)
                delattr(module, _backup_name(name))
    return plain


def supplemented_predictors(program: dspy.Module) -> list[tuple[str, SupplementedPredictor]]:
    """Return the names and predictors that read supplements, as `named_predictors()` does for all."""
    return [(name, each) for name, each in program.named_predictors() if isinstance(each, SupplementedPredictor)]


def with_generator(program: dspy.Module, generator: SupplementGenerator, gate: Gate | None = None) -> dspy.Module:
    """Return a copy of the program with another generator, and with this gate or none; it chooses among no samples."""
    return rebuild(
        program, {id(each): each.with_generator(generator, gate) for _, each in supplemented_predictors(program)}
    )


def with_instructions(program: dspy.Module, instructions: Mapping[str, str]) -> dspy.Module:
    """Return a copy of the program with new instructions for the named predictors.

    Empty instructions stay empty; DSPy would replace them with its own. Raises `SetupError` for a program whose deep
    copies share its predictors.

    >>> program = with_instructions(dspy.ChainOfThought("question -> answer"), {"predict": "Add."})
    >>> instructions_of(program), list(program.predict.signature.output_fields)
    ({'predict': 'Add.'}, ['reasoning', 'answer'])
    """
    predictors = dict(program.named_predictors())
    new = rebuild(
        program, {id(predictors[name]): copy_as(predictors[name], type(predictors[name])) for name in instructions}
    )
    for name, predictor in new.named_predictors():
        if predictor is predictors[name]:
            raise SetupError(
                f"Expected a program whose deep copies have predictors of their own, but those of "
                f"{type(program).__name__} share {name!r}. Have its __deepcopy__ copy it."
            )
        if name in instructions:
            signature = cast("type[dspy.Signature]", predictor.signature)
            predictor.signature = signature.with_instructions(instructions[name] or " ")
    return new


def instructions_of(program: dspy.Module) -> dict[str, str]:
    """Return each predictor's instructions by its name."""
    return {name: cast("Any", each.signature).instructions for name, each in program.named_predictors()}


def fitting_state(program: dspy.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a saved state for this program, where only one of the two is supplemented.

    `state` comes from `dump_state()` or from a state file. If it has no supplements and the program has, the program
    keeps its own; if it has supplements and the program has none, they are left out. Demos, instructions, field
    descriptions and LMs are kept in both directions.

    >>> from sgt_modules.embedded import embedded_generator
    >>> plain = dspy.Predict("question -> answer")
    >>> plain.demos = [dspy.Example(question="2+2?", answer="4")]
    >>> wrapped = supplement(dspy.Predict("question -> answer"), generator=embedded_generator())
    >>> loaded = wrapped.load_state(fitting_state(wrapped, plain.dump_state()))
    >>> [demo["answer"] for demo in loaded.demos]
    ['4']
    """
    predictors = dict(program.named_predictors())
    if set(predictors) == {"self"} and "signature" in state:
        return _fit_state(predictors["self"], state)
    return {name: _fit_state(predictors[name], each) if name in predictors else each for name, each in state.items()}


def _fit_state(predictor: dspy.Predict, state: Mapping[str, Any]) -> dict[str, Any]:
    """Convert one predictor's state: add or remove its supplement as the predictor needs."""
    if isinstance(predictor, SupplementedPredictor) == ("generator" in state):
        return dict(state)
    names = list(cast("type[dspy.Signature]", predictor.signature).fields)
    fields = list(state["signature"]["fields"])
    if isinstance(predictor, SupplementedPredictor):
        own = predictor.dump_state()
        saved = cast("Any", own["signature"])["fields"][names.index(SUPPLEMENT)]
        fields.insert(names.index(SUPPLEMENT), saved)
        ours = {name: own[name] for name in SUPPLEMENT_STATE if name in own}
    else:
        inputs = len(cast("type[dspy.Signature]", predictor.signature).input_fields)
        del fields[inputs]
        ours = {}
    plain_state = {name: value for name, value in state.items() if name not in SUPPLEMENT_STATE}
    return {**plain_state, "signature": {**state["signature"], "fields": fields}, **ours}


def rebuild(program: dspy.Module, replaced: Mapping[int, dspy.Module]) -> dspy.Module:
    """Return a deep copy in which predictors are replaced, by the id of the old one; the root can be one of them.

    LMs and objects that cannot be copied are shared. `Module.deepcopy` does not work here: it falls back to shallow
    copies and drops callbacks.
    """
    memo: dict[int, object] = dict(replaced)
    for module in _named_modules(program).values():
        attributes = {name: value for name, value in vars(module).items() if name not in _FORWARDS}
        memo.update((id(value), value) for value in _shared_values(attributes))
        memo.update((id(value), None) for name in _FORWARDS if isinstance(value := vars(module).get(name), MethodType))
    new = copy.deepcopy(program, memo)
    copies = _named_modules(new)
    for name, module in _named_modules(program).items():
        copies[name].callbacks = list(module.callbacks)
        for forward in _FORWARDS:
            _rebind(forward, module, copies[name])
    return new


def _rebind(name: str, module: dspy.Module, copied: dspy.Module) -> None:
    """Bind a module's instance method to its copy; drop the class's method that DSPy's tracing leaves there."""
    method = vars(module).get(name)
    if isinstance(method, MethodType):
        vars(copied).pop(name, None)
        if method.__func__ is not getattr(type(module), name, None):
            setattr(copied, name, MethodType(method.__func__, copied))


_FORWARDS = ("forward", "aforward")


class _RunWithMemory:
    """Wraps a program's `forward` or `aforward` in a memory: each call of the program is one run.

    It is an attribute of the program: every call goes through it and every copy keeps it, which no hook of DSPy does.
    """

    def __init__(self, program: dspy.Module, name: str) -> None:
        self._program, self._name = program, name

    def __call__(self, *args: object, **kwargs: object) -> object:
        return (self._call_async if self._name == "aforward" else self._call)(*args, **kwargs)

    def _call(self, *args: object, **kwargs: object) -> object:
        program = self._called_program()
        with program_run():
            return getattr(type(program), self._name)(program, *args, **kwargs)

    async def _call_async(self, *args: object, **kwargs: object) -> object:
        program = self._called_program()
        with program_run():
            return await getattr(type(program), self._name)(program, *args, **kwargs)

    def _called_program(self) -> dspy.Module:
        """Return the called program, which is a copy of the original if DSPy copied its attributes."""
        calling = cast("list[dspy.Module]", dspy.settings.caller_modules or [])
        return calling[-1] if calling and vars(calling[-1]).get(_backup_name(self._name)) is self else self._program

    def __deepcopy__(self, memo: dict[int, object]) -> _RunWithMemory:
        copied = memo.get(id(self._program))
        return self if copied is None else _RunWithMemory(cast("dspy.Module", copied), self._name)


def _backup_name(name: str) -> str:
    """Return the name of the attribute that keeps a program's `_RunWithMemory` when DSPy's tracing replaces it."""
    return f"_one_run_of_{name}"


def _add_memory(program: dspy.Module) -> dspy.Module:
    """Add a memory around each run of the program and return it; a bare predictor needs none."""
    if not isinstance(program, dspy.Predict):
        for name in _FORWARDS:
            if hasattr(type(program), name):
                run = _RunWithMemory(program, name)
                setattr(program, name, run)
                setattr(program, _backup_name(name), run)
    return program


def _named_modules(program: dspy.Module) -> dict[str, dspy.Module]:
    return {name: each for name, each in program.named_sub_modules() if isinstance(each, dspy.Module)}


def _shared_values(value: object) -> Iterator[object]:
    """Yield the values that a copy of the program shares with it: LMs and objects that cannot be copied."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _shared_values(item)
    elif not isinstance(value, dspy.Module) and (isinstance(value, dspy.BaseLM) or not _can_copy(value)):
        yield value


def _can_copy(value: object) -> bool:
    """Whether `deepcopy` works for a value. Clients and locks raise exceptions of many types."""
    try:
        copy.deepcopy(value)
    except Exception:  # noqa: BLE001 - see above
        return False
    return True
