"""Checks the examples, their splits and the program before the first paid call."""

from __future__ import annotations

import inspect
import random
from collections.abc import Sequence
from typing import cast

import dspy

from optimizers.core.canonical import text_of
from optimizers.core.fingerprints import content_of
from optimizers.core.prices import has_price
from optimizers.core.reward import Metric, check_metric
from sgt_modules.calling import find_entry
from sgt_modules.errors import (
    EmptyTrainsetError,
    ExampleError,
    NoActorError,
    NoPredictorError,
    OverlappingSplitsError,
    SetupError,
)
from sgt_modules.generator import SupplementGenerator
from sgt_modules.lms import check_lm
from sgt_modules.prompts import SUPPLEMENT

_SHOWN = 5


def check_task(
    program: dspy.Module,
    metric: Metric,
    trainset: Sequence[dspy.Example],
    valset: Sequence[dspy.Example],
    testset: Sequence[dspy.Example] | None = None,
    *,
    in_dollars: bool = False,
) -> None:
    """Check splits, program and metric together, before anything is paid for; `in_dollars`: LMs need a known price.

    Raises `SetupError`, or one of its kinds that the other checks here name.

    >>> one, two = (dspy.Example(question=q, answer="4").with_inputs("question") for q in ("2+2?", "1+3?"))
    >>> program = dspy.Predict("question -> answer")
    >>> with dspy.context(lm=dspy.LM("openai/gpt-4.1-mini", api_key="a key")):
    ...     check_task(program, lambda example, prediction: True, [one], [two], in_dollars=True)
    """
    check_data(program, trainset, valset, testset, in_dollars=in_dollars)
    check_metric_on(program, metric, trainset[0])


def check_data(
    program: dspy.Module,
    trainset: Sequence[dspy.Example],
    valset: Sequence[dspy.Example],
    testset: Sequence[dspy.Example] | None = None,
    *,
    in_dollars: bool = False,
) -> None:
    """Check splits and program as `check_task` does, without the metric."""
    check_splits(trainset, valset, testset)
    check_program(program, trainset)
    for name, examples in (("valset", valset), ("testset", testset or ())):
        for index, example in enumerate(examples):
            _check_call(program, example, f"{name}[{index}]")
    if in_dollars:
        check_priced(program)


def check_metric_on(program: dspy.Module, metric: Metric, example: dspy.Example) -> None:
    """Check the metric as `check_metric` does, on an example and made-up outputs of the program."""
    own_forward = not type(program).__module__.startswith("dspy.")
    check_metric(metric, example, output_fields(program), more_fields=own_forward)


def output_fields(program: dspy.Module) -> list[str]:
    """The names of every output field of the program's predictors, each once.

    >>> output_fields(dspy.ChainOfThought("question -> answer"))
    ['reasoning', 'answer']
    """
    signatures = [cast("type[dspy.Signature]", predictor.signature) for predictor in program.predictors()]
    return list(dict.fromkeys(name for signature in signatures for name in signature.output_fields))


def check_splits(
    trainset: Sequence[dspy.Example],
    valset: Sequence[dspy.Example],
    testset: Sequence[dspy.Example] | None = None,
) -> None:
    """Check that every split has examples with inputs, and that no two splits share inputs.

    Raises `EmptyTrainsetError`, `SetupError` (another split is empty), `ExampleError` or `OverlappingSplitsError`.

    >>> one, two = (dspy.Example(question=q).with_inputs("question") for q in ("2+2?", "2+3?"))
    >>> check_splits([one], [two])
    >>> try:
    ...     check_splits([one], [two, one])
    ... except OverlappingSplitsError as error:
    ...     print(error)
    1 example has the same inputs in two splits: trainset[0] = valset[1]. \
A score on seen examples means nothing: give each split its own.
    """
    splits = {"trainset": trainset, "valset": valset} | ({} if testset is None else {"testset": testset})
    first: dict[str, tuple[str, int]] = {}
    shared: list[str] = []
    for name, examples in splits.items():
        check_examples(examples, name)
        for index, example in enumerate(examples):
            split, other = first.setdefault(_inputs_of(example), (name, index))
            if split != name:
                shared.append(f"{split}[{other}] = {name}[{index}]")
    if shared:
        pairs = ", ".join(shared[:_SHOWN]) + (", ..." if len(shared) > _SHOWN else "")
        count = "1 example has" if len(shared) == 1 else f"{len(shared)} examples have"
        raise OverlappingSplitsError(
            f"{count} the same inputs in two splits: {pairs}. A score on seen examples means nothing: give each split "
            "its own."
        )


def check_examples(examples: Sequence[dspy.Example], name: str = "trainset") -> None:
    """Check that a split has examples, and that each example names its inputs and has them."""
    if not examples:
        if name == "trainset":
            raise EmptyTrainsetError("The trainset is empty, so there is nothing to learn from. Pass some examples.")
        raise SetupError(f"The {name} is empty. Pass some examples, or leave it out.")
    for index, example in enumerate(examples):
        if not isinstance(example, dspy.Example):
            raise ExampleError(
                f"{name}[{index}] must be a dspy.Example, but a {type(example).__name__} came. "
                "Write dspy.Example(**fields).with_inputs(...)."
            )
        try:
            inputs = example.inputs().keys()
        except (ValueError, AttributeError) as problem:  # no with_inputs(), or a Prediction, which cannot have any
            raise ExampleError(
                f"{name}[{index}] does not say which fields are its inputs ({', '.join(example.keys())}). "
                "Call .with_inputs(...) with their names."
            ) from problem
        if not inputs:
            raise ExampleError(
                f"{name}[{index}] has none of the fields it names as inputs; "
                f"it has {', '.join(example.keys()) or 'no field'}. Call .with_inputs(...) with names of fields."
            )


def hold_out(
    trainset: Sequence[dspy.Example], *, rng: random.Random, share: float = 0.3
) -> tuple[list[dspy.Example], list[dspy.Example]]:
    """Split a training set into one for training and one for validation, for a caller without a validation set.

    `share` (above 0, below 1) of the distinct inputs go to the second, at least one. Examples with equal inputs stay
    together; both parts keep the examples' order. Raises `EmptyTrainsetError` for fewer than two distinct inputs.

    >>> examples = [dspy.Example(question=str(n)).with_inputs("question") for n in range(10)]
    >>> [len(part) for part in hold_out(examples, rng=random.Random(0))]
    [7, 3]
    """
    if not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1, got {share}.")
    check_examples(trainset)
    distinct = list(dict.fromkeys(_inputs_of(example) for example in trainset))
    if len(distinct) < 2:
        raise EmptyTrainsetError(
            "A single example cannot be parted into training and validation. Pass more examples, or a valset."
        )
    held_out = set(rng.sample(distinct, min(len(distinct) - 1, max(1, round(share * len(distinct))))))
    train, validation = ([e for e in trainset if (_inputs_of(e) in held_out) is part] for part in (False, True))
    return train, validation


def _inputs_of(example: dspy.Example) -> str:
    return text_of(content_of(example.inputs()))


def check_program(student: dspy.Module, examples: Sequence[dspy.Example] = ()) -> None:
    """Check that the program has predictors, that each has an actor, and that it can be called with the examples.

    Raises `NoPredictorError`, `NoActorError`, `ExampleError`, or `SetupError` for an actor without its key.

    >>> try:
    ...     check_program(dspy.Module())
    ... except NoPredictorError as error:
    ...     print(error)
    The program Module has no dspy.Predict that could read a supplement. \
Assign its predictors to attributes; the ones inside a compiled child are frozen (child._compiled = False thaws them).
    """
    if not isinstance(student, dspy.Module):
        raise NoPredictorError(
            f"Expected a dspy.Module to train a generator for, but a {type(student).__name__} came. "
            "Pass an instance of your program, such as dspy.ChainOfThought('question -> answer')."
        )
    predictors = student.named_predictors()
    if not predictors:
        raise NoPredictorError(
            f"The program {type(student).__name__} has no dspy.Predict that could read a supplement. "
            "Assign its predictors to attributes; the ones inside a compiled child are frozen "
            "(child._compiled = False thaws them)."
        )
    for name, predictor in predictors:
        actor = predictor.lm or dspy.settings.lm
        if actor is None or isinstance(actor, str):
            came = "none is configured" if actor is None else f"the text {actor!r} came"
            raise NoActorError(
                f"The predictor {name!r} needs an LM to act, but {came}. "
                "Call dspy.configure(lm=dspy.LM('provider/model')), or set_lm() on the program."
            )
        check_lm(actor)
    for index, example in enumerate(examples):
        _check_call(student, example, f"example {index}")


def check_priced(student: dspy.Module) -> None:
    """Check that the price of each predictor's LM is known, for a budget in dollars. Raises `SetupError`."""
    for name, predictor in student.named_predictors():
        actor = predictor.lm or dspy.settings.lm
        if not has_price(actor):
            raise SetupError(
                "Expected LMs with a known price for a limit in dollars, but that of "
                f"{getattr(actor, 'model', actor)!r} (predictor {name!r}) is not known. Limit the calls instead "
                "(max_actor_calls), or tell litellm its price with litellm.register_model."
            )


def check_lengths(
    student: dspy.Module,
    examples: Sequence[dspy.Example],
    generator: SupplementGenerator,
    *,
    most: int,
    only: Sequence[str] | None = None,
) -> None:
    """Check that for each predictor the generator can read the prompt of at least one example. Raises `SetupError`.

    The prompt must fit into the generator's context and have fewer than `most` tokens, the limit of training. Inputs
    that the program computes count as empty; long inputs count as shortened.
    """
    for name, predictor in student.named_predictors():
        if only is not None and name not in only:
            continue
        signature = cast("type[dspy.Signature]", predictor.signature)
        inputs_of_examples = [{key: each[key] for key in signature.input_fields if key in each} for each in examples]
        shortest_first = sorted(inputs_of_examples, key=lambda inputs: sum(len(str(each)) for each in inputs.values()))
        prompts = (generator.prompt_for(signature, inputs, role=name) for inputs in shortest_first)
        if not any(generator.fits(prompt, most) for prompt in prompts):
            raise SetupError(
                f"Expected examples whose inputs {generator.name} can read, got none for the predictor {name!r}: with "
                f"inputs shortened as far as they may be, each prompt is longer than the model's context of "
                f"{generator.engine.context} tokens, or than the {most} that training takes (max_length). Shorten the "
                "instructions or the inputs, raise max_length, or use a generator with a longer context."
            )


def _check_call(student: dspy.Module, example: dspy.Example, name: str) -> None:
    inputs = dict(example.inputs().items())
    if isinstance(student, dspy.Predict):
        missing = [
            name
            for name, field in cast("type[dspy.Signature]", student.signature).input_fields.items()
            if name not in inputs and name != SUPPLEMENT and field.is_required()
        ]
        problem = f"missing {', '.join(missing)}" if missing else ""
    else:
        try:
            inspect.signature(find_entry(student)).bind(**inputs)
            problem = ""
        except TypeError as refusal:
            problem = str(refusal)
    if problem:
        raise ExampleError(
            f"The program cannot be called with the inputs of {name} ({', '.join(inputs)}): {problem}. "
            "Name the program's own inputs in with_inputs(...)."
        )
