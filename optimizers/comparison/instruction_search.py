"""What optimizers of a program's instructions share: batches, runs as text for an LM, and the score on validation."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import dspy
from dspy.utils.exceptions import AdapterParseError

from optimizers.core.reward import Reward, Scorer
from optimizers.rollouts.outages import is_provider_failure
from sgt_modules.calling import call_program
from sgt_modules.saving.redaction import redact

_PROPOSED = "proposed_instruction"
"""The output field of DSPy's optimizers that holds new instructions."""


def build_evaluate(
    valset: Sequence[dspy.Example], metric: Callable[..., Any], num_threads: int | None
) -> dspy.Evaluate:
    """Returns DSPy's evaluation on the validation set; a run that fails scores 0 and stops nothing."""
    return dspy.Evaluate(
        devset=list(valset),
        metric=metric,
        num_threads=num_threads,
        max_errors=sys.maxsize,
        display_progress=False,
    )


def accept_plain_proposals(adapter: dspy.Adapter | None) -> dspy.Adapter:
    """Returns a copy of an adapter that reads a reply without fields as the instructions, where these are asked for.

    >>> signature = dspy.Signature("basic_instruction -> proposed_instruction, proposed_prefix_for_output_field")
    >>> accept_plain_proposals(None).parse(signature, "Count twice.")
    {'proposed_instruction': 'Count twice.', 'proposed_prefix_for_output_field': ''}
    """
    accepting = cast("Any", copy.copy(adapter or dspy.ChatAdapter()))
    parse = accepting.parse

    def read(signature: Any, completion: str) -> dict[str, Any]:
        try:
            return parse(signature, completion)
        except AdapterParseError:
            if _PROPOSED not in signature.output_fields:
                raise
            return {name: completion.strip() if name == _PROPOSED else "" for name in signature.output_fields}

    accepting.parse = read
    return accepting


def take_batch(examples: Sequence[dspy.Example], step: int, size: int) -> list[dspy.Example]:
    """Returns the examples of a step, from the first one on and round again; at most all of them.

    >>> take_batch("abc", 1, 2), take_batch("abc", 0, 8)
    (['c', 'a'], ['a', 'b', 'c'])
    """
    return [examples[(step * size + place) % len(examples)] for place in range(min(size, len(examples)))]


def run_as_text(program: dspy.Module, example: dspy.Example, scorer: Scorer) -> tuple[str, Reward] | None:
    """Runs the program; returns the outputs of its steps as text, and the reward. None if an outage prevented it."""
    names = {id(predictor): name for name, predictor in program.named_predictors()}
    with dspy.context(trace=[]):
        try:
            prediction = call_program(program, dict(example.inputs().items()))
            reward = scorer(example, prediction)
            texts = [format_fields(cast("Any", prediction).items())] if isinstance(prediction, dspy.Prediction) else []
        except Exception as problem:  # noqa: BLE001 - an answer that the program cannot use scores 0
            if is_provider_failure(problem):
                return None
            texts, reward = [redact(f"{type(problem).__name__}: {problem}", _list_lms(program))], Reward(0.0)
        steps = [
            f"Step {names.get(id(each), '')!r} wrote:\n{format_fields(outputs.items())}"
            for each, _, outputs in cast("Any", dspy.settings.trace)
        ]
    return "\n\n".join([*(steps if len(names) > 1 else ()), *texts]), reward


def _list_lms(program: dspy.Module) -> list[object]:
    return [dspy.settings.lm, *(each.lm for each in program.predictors())]


def quote_names(names: Iterable[str]) -> str:
    """Names as text: each between backquotes, separated by commas."""
    return ", ".join(f"`{name}`" for name in names)


def format_fields(fields: Any) -> str:
    """Fields as text: a line `name: value` for each."""
    return "\n".join(f"{name}: {value}" for name, value in fields)
