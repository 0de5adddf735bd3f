"""TextGrad (arXiv 2406.07496) over a program: its instructions are the variables, the metric's verdict the loss."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import dspy

from optimizers.core.reward import Reward, Scorer
from optimizers.rollouts.outages import is_uninformative
from sgt_modules.calling import called
from sgt_modules.saving.redaction import redacted
from sgt_modules.wrapping import instructions_of, with_instructions

BATCH = 3
"""Training examples a step, as in the paper's prompt optimization (section 3.3)."""

STEPS = 12
"""Steps where no budget limits them, as in the paper."""

_PURPOSE = "The metric that scores the program's answer to its inputs, from 0 to 1."
_LM_COST_MAP = "LITELLM_LOCAL_MODEL_COST_MAP"


def by_text_gradients(
    program: dspy.Module,
    trainset: Sequence[dspy.Example],
    valset: Sequence[dspy.Example],
    *,
    scorer: Scorer,
    proposer: dspy.LM,
    steps: int = STEPS,
    num_threads: int | None = None,
) -> dspy.Module:
    """A copy of the program whose instructions TextGrad rewrote, a variable a predictor, by the LM `proposer`.

    Each step runs the next `BATCH` training examples, has the proposer criticize the instructions and write better
    ones, and keeps those unless the validation score falls. A reply without new instructions changes nothing. A step
    runs the program on the batch and the validation set; before the first, the validation set is run once.
    """
    best = program.deepcopy()
    evaluate = dspy.Evaluate(
        devset=list(valset),
        metric=lambda example, prediction: scorer(example, prediction).score,
        num_threads=num_threads,
        max_errors=sys.maxsize,
        display_progress=False,
    )
    score = evaluate(best).score
    with _textgrad() as textgrad:
        for step in range(steps):
            batch = [trainset[(step * BATCH + place) % len(trainset)] for place in range(min(BATCH, len(trainset)))]
            proposed = _proposed(textgrad, best, batch, scorer, proposer)
            if proposed is None:
                continue
            found = evaluate(proposed).score
            if found >= score:
                best, score = proposed, found
    return best


def _proposed(
    textgrad: Any, program: dspy.Module, batch: Sequence[dspy.Example], scorer: Scorer, proposer: dspy.LM
) -> dspy.Module | None:
    """The program with the instructions that one step writes; None where it writes no others."""
    engine = _Engine(proposer)
    variables = _variables(textgrad, program)
    losses = [
        loss for example in batch if (loss := _loss(textgrad, program, example, variables, scorer, engine)) is not None
    ]
    if not losses:
        return None
    textgrad.sum(losses).backward(engine)
    for variable in variables.values():
        variable.gradients = _in_order(variable)
    try:
        textgrad.TextualGradientDescent(parameters=list(variables.values()), engine=engine).step()
    except IndexError:  # how TextGrad says that the reply holds no new text between its tags
        return None
    written = {name: str(variable) for name, variable in variables.items()}
    if not all(written.values()) or written == instructions_of(program):
        return None
    return with_instructions(program, written)


def _in_order(variable: Any) -> list[Any]:
    """A variable's gradients by what they say and of what: TextGrad's set has no order that another session meets."""
    return sorted(variable.gradients, key=lambda each: (str(each), str(variable.gradients_context[each])))


def _variables(textgrad: Any, program: dspy.Module) -> dict[str, Any]:
    """A variable a predictor, by its name."""
    return {
        name: textgrad.Variable(
            cast("Any", predictor.signature).instructions,
            requires_grad=True,
            role_description=f"instructions to a language model for the step {name!r} of a program: from "
            f"{_listed(cast('Any', predictor.signature).input_fields)} it writes "
            f"{_listed(cast('Any', predictor.signature).output_fields)}",
        )
        for name, predictor in program.named_predictors()
    }


def _loss(
    textgrad: Any,
    program: dspy.Module,
    example: dspy.Example,
    variables: Mapping[str, Any],
    scorer: Scorer,
    engine: _Engine,
) -> Any | None:
    """The metric's verdict on a run, the end of a graph from the instructions over the answer; None for an outage."""
    ran = _ran(program, example, scorer)
    if ran is None:
        return None
    said, reward = ran
    autograd = textgrad.autograd
    answer = textgrad.Variable(
        said, predecessors=list(variables.values()), role_description="what the program answered"
    )
    answer.set_grad_fn(
        autograd.function.BackwardContext(
            autograd.LLMCall(engine).backward,
            response=answer,
            prompt=_fields(example.inputs().items()),
            system_prompt="\n\n".join(f"Step {name!r}: {each}" for name, each in instructions_of(program).items()),
        )
    )
    judged = {"prediction": answer}
    if expected := _fields((name, example[name]) for name in _outputs(program) if name in example.labels()):
        judged["correct_answer"] = textgrad.Variable(expected, requires_grad=False, role_description="correct answer")
    verdict = f"Score: {reward.score:g}. {reward.feedback}".rstrip()
    return autograd.StringBasedFunction(lambda **_: verdict, _PURPOSE)(judged, "verdict on the program's answer")


def _ran(program: dspy.Module, example: dspy.Example, scorer: Scorer) -> tuple[str, Reward] | None:
    """What each step of the program wrote, and its reward; None where an outage kept the answer back."""
    names = {id(predictor): name for name, predictor in program.named_predictors()}
    with dspy.context(trace=[]):
        try:
            prediction = called(program, dict(example.inputs().items()))
            reward = scorer(example, prediction)
            said = [_fields(cast("Any", prediction).items())] if isinstance(prediction, dspy.Prediction) else []
        except Exception as problem:  # noqa: BLE001 - an answer of which the program makes nothing scores nothing
            if is_uninformative(problem):
                return None
            said, reward = [redacted(f"{type(problem).__name__}: {problem}", _lms(program))], Reward(0.0)
        steps = [
            f"Step {names.get(id(each), '')!r} wrote:\n{_fields(outputs.items())}"
            for each, _, outputs in cast("Any", dspy.settings.trace)
        ]
    return "\n\n".join([*(steps if len(names) > 1 else ()), *said]), reward


def _lms(program: dspy.Module) -> list[object]:
    return [dspy.settings.lm, *(each.lm for each in program.predictors())]


def _outputs(program: dspy.Module) -> list[str]:
    return [name for each in program.predictors() for name in cast("Any", each.signature).output_fields]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _fields(fields: Any) -> str:
    return "\n".join(f"{name}: {value}" for name, value in fields)


class _Engine:
    """The LM that proposes, as TextGrad asks its engines; nothing is cached."""

    def __init__(self, lm: dspy.LM) -> None:
        self.lm, self.model_string = lm, lm.model

    def __call__(self, prompt: str, system_prompt: str | None = None) -> str:
        reply = self.lm(f"{system_prompt}\n\n{prompt}" if system_prompt else prompt)[0]
        return reply if isinstance(reply, str) else str(reply.get("text") or "")


@contextmanager
def _textgrad() -> Iterator[Any]:
    """Inside, TextGrad logs nothing and has no engine of its own; both are put back at the end."""
    textgrad = _imported()
    singleton, logger = textgrad.config.SingletonBackwardEngine(), logging.getLogger("textgrad")
    before, disabled = singleton.engine, logger.disabled
    singleton.engine, logger.disabled = None, True
    try:
        yield textgrad
    finally:
        singleton.engine, logger.disabled = before, disabled


def _imported() -> Any:
    """The library. When first imported it opens a log file in the working directory, and LiteLLM asks for prices."""
    if "textgrad" in sys.modules:
        return sys.modules["textgrad"]
    with tempfile.TemporaryDirectory() as folder, _environment(TEXTGRAD_LOG_DIR=folder, **{_LM_COST_MAP: "True"}):
        textgrad = importlib.import_module("textgrad")
        for handler in list(textgrad.logger.handlers):
            textgrad.logger.removeHandler(handler)
            handler.close()
    return textgrad


@contextmanager
def _environment(**settings: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
