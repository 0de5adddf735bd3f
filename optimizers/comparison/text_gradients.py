"""TextGrad (arXiv 2406.07496) for a program: the variables are its instructions, the loss is the metric's verdict."""

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

from optimizers.comparison.instruction_search import build_evaluate, format_fields, quote_names, run_as_text, take_batch
from optimizers.core.reward import Scorer
from sgt_modules.wrapping import instructions_of, with_instructions

BATCH = 3
"""Training examples per step, as in the paper's prompt optimization (section 3.3)."""

STEPS = 12
"""Steps without a budget, as in the paper."""

_PURPOSE = "The metric that scores the program's answer to its inputs, from 0 to 1."
_LM_COST_MAP = "LITELLM_LOCAL_MODEL_COST_MAP"


def optimize_with_textgrad(
    program: dspy.Module,
    trainset: Sequence[dspy.Example],
    valset: Sequence[dspy.Example],
    *,
    scorer: Scorer,
    proposer: dspy.LM,
    steps: int = STEPS,
    num_threads: int | None = None,
) -> dspy.Module:
    """Returns a copy of the program with instructions that TextGrad optimized, one variable per predictor.

    Each step runs the next `BATCH` training examples, asks the LM `proposer` to criticize the instructions and to write
    better ones, and keeps them unless the validation score falls. A reply without new instructions changes nothing. A
    step runs the program on the batch and the validation set; one more run of the validation set comes first.
    """
    best = program.deepcopy()
    evaluate = build_evaluate(valset, lambda example, prediction: scorer(example, prediction).score, num_threads)
    score = evaluate(best).score
    with _open_textgrad() as textgrad:
        for step in range(steps):
            batch = take_batch(trainset, step, BATCH)
            candidate = _propose(textgrad, best, batch, scorer, proposer)
            if candidate is None:
                continue
            candidate_score = evaluate(candidate).score
            if candidate_score >= score:
                best, score = candidate, candidate_score
    return best


def _propose(
    textgrad: Any, program: dspy.Module, batch: Sequence[dspy.Example], scorer: Scorer, proposer: dspy.LM
) -> dspy.Module | None:
    """Returns the program with the instructions that one step writes; None if they do not change."""
    engine = _Engine(proposer)
    variables = _make_variables(textgrad, program)
    losses = [
        loss
        for example in batch
        if (loss := _compute_loss(textgrad, program, example, variables, scorer, engine)) is not None
    ]
    if not losses:
        return None
    textgrad.sum(losses).backward(engine)
    for variable in variables.values():
        variable.gradients = _sort_gradients(variable)
    try:
        textgrad.TextualGradientDescent(parameters=list(variables.values()), engine=engine).step()
    except IndexError:  # TextGrad raises it if the reply has no new text between its tags
        return None
    instructions = {name: str(variable) for name, variable in variables.items()}
    if not all(instructions.values()) or instructions == instructions_of(program):
        return None
    return with_instructions(program, instructions)


def _sort_gradients(variable: Any) -> list[Any]:
    """Sorts a variable's gradients by text and context, because TextGrad's set differs in order between sessions."""
    return sorted(variable.gradients, key=lambda each: (str(each), str(variable.gradients_context[each])))


def _make_variables(textgrad: Any, program: dspy.Module) -> dict[str, Any]:
    """Returns a variable for the instructions of each predictor, by the predictor's name."""
    return {
        name: textgrad.Variable(
            cast("Any", predictor.signature).instructions,
            requires_grad=True,
            role_description=f"instructions to a language model for the step {name!r} of a program: from "
            f"{quote_names(cast('Any', predictor.signature).input_fields)} it writes "
            f"{quote_names(cast('Any', predictor.signature).output_fields)}",
        )
        for name, predictor in program.named_predictors()
    }


def _compute_loss(
    textgrad: Any,
    program: dspy.Module,
    example: dspy.Example,
    variables: Mapping[str, Any],
    scorer: Scorer,
    engine: _Engine,
) -> Any | None:
    """Returns the metric's verdict on one run, the end of the graph instructions -> answer -> verdict.

    Returns None if an outage prevented the answer.
    """
    run = run_as_text(program, example, scorer)
    if run is None:
        return None
    answer_text, reward = run
    autograd = textgrad.autograd
    answer = textgrad.Variable(
        answer_text, predecessors=list(variables.values()), role_description="what the program answered"
    )
    answer.set_grad_fn(
        autograd.function.BackwardContext(
            autograd.LLMCall(engine).backward,
            response=answer,
            prompt=format_fields(example.inputs().items()),
            system_prompt="\n\n".join(f"Step {name!r}: {each}" for name, each in instructions_of(program).items()),
        )
    )
    metric_inputs = {"prediction": answer}
    labels = [(name, example[name]) for name in _list_outputs(program) if name in example.labels()]
    if expected := format_fields(labels):
        metric_inputs["correct_answer"] = textgrad.Variable(
            expected, requires_grad=False, role_description="correct answer"
        )
    verdict = f"Score: {reward.score:g}. {reward.feedback}".rstrip()
    return autograd.StringBasedFunction(lambda **_: verdict, _PURPOSE)(metric_inputs, "verdict on the program's answer")


def _list_outputs(program: dspy.Module) -> list[str]:
    return [name for each in program.predictors() for name in cast("Any", each.signature).output_fields]


class _Engine:
    """The LM `proposer` with the interface of TextGrad's engines; caches nothing."""

    def __init__(self, lm: dspy.LM) -> None:
        self.lm, self.model_string = lm, lm.model

    def __call__(self, prompt: str, system_prompt: str | None = None) -> str:
        reply = self.lm(f"{system_prompt}\n\n{prompt}" if system_prompt else prompt)[0]
        return reply if isinstance(reply, str) else str(reply.get("text") or "")


@contextmanager
def _open_textgrad() -> Iterator[Any]:
    """Silences TextGrad's log and removes its default engine; restores both at the end."""
    textgrad = _import_textgrad()
    singleton, logger = textgrad.config.SingletonBackwardEngine(), logging.getLogger("textgrad")
    before, disabled = singleton.engine, logger.disabled
    singleton.engine, logger.disabled = None, True
    try:
        yield textgrad
    finally:
        singleton.engine, logger.disabled = before, disabled


def _import_textgrad() -> Any:
    """Imports TextGrad without the log file that it opens in the working directory, and without LiteLLM's download."""
    if "textgrad" in sys.modules:
        return sys.modules["textgrad"]
    with tempfile.TemporaryDirectory() as folder, _set_environment(TEXTGRAD_LOG_DIR=folder, **{_LM_COST_MAP: "True"}):
        textgrad = importlib.import_module("textgrad")
        for handler in list(textgrad.logger.handlers):
            textgrad.logger.removeHandler(handler)
            handler.close()
    return textgrad


@contextmanager
def _set_environment(**settings: str) -> Iterator[None]:
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
