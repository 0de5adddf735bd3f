"""The contenders by name: each calls an optimizer of DSPy or a paper, sized to a budget of actor calls."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import dspy
from dspy.teleprompt import Teleprompter
from dspy.utils.exceptions import AdapterParseError

from optimizers.comparison.contender_arguments import ContenderArguments, Need
from optimizers.comparison.few_shot_contenders import (
    DEMOS,
    MAX_ERRORS,
    compile_bootstrap_fewshot,
    compile_knn_fewshot,
    compile_labeled_fewshot,
    compile_random_search,
)
from optimizers.comparison.instruction_search import accept_plain_proposals
from optimizers.comparison.local_edits import LPO_BATCH, LPO_CANDIDATES, LPO_STEPS, optimize_with_local_edits
from optimizers.comparison.setup import Problem, Resources
from optimizers.comparison.text_gradients import BATCH, STEPS, optimize_with_textgrad
from optimizers.core.reward import Scorer
from optimizers.sgt.nearest.teleprompter import NearestWinner
from optimizers.sgt.recipe import Recipe
from optimizers.sgt.teleprompter import SGTTeleprompter
from optimizers.spt.recipe import Variant
from optimizers.spt.teleprompter import SupervisoryPromptTeleprompter
from sgt_modules.wrapping import rebuild


@dataclass(frozen=True)
class Contender:
    """One way to improve a program.

    `compile` returns the improved program and leaves the inputs' program unchanged. `needs` names what it requires. A
    contender that is not `seeded` gives the same result for every seed.

    >>> mine = Contender("mine", lambda inputs: dspy.LabeledFewShot().compile(inputs.program, trainset=inputs.trainset))
    >>> mine.name
    'mine'
    """

    name: str
    compile: Callable[[ContenderArguments], dspy.Module]
    needs: tuple[Need, ...] = ()
    seeded: bool = True


NEAREST_WINNER = "nearest_winner"
"""The name of the contender that trains nothing; it was `lookup` before."""

ContenderLike = str | Contender | Teleprompter
"""A name in `CONTENDERS`, `ABLATIONS` or `VARIANTS`, your own `Contender`, or any DSPy teleprompter."""


def _compile_none(inputs: ContenderArguments) -> dspy.Module:
    return inputs.program


def _compile_cot(inputs: ContenderArguments) -> dspy.Module:
    """Makes every plain predictor reason before it answers; predictors that already reason stay unchanged."""
    parts = [each for _, each in inputs.program.named_sub_modules()]
    reasoning = {id(own) for each in parts if isinstance(each, dspy.ChainOfThought) for own in each.predictors()}
    plain = [each for each in parts if type(each) is dspy.Predict and id(each) not in reasoning]
    return rebuild(inputs.program, {id(each): _to_chain_of_thought(each) for each in plain})


def _to_chain_of_thought(predictor: dspy.Predict) -> dspy.ChainOfThought:
    """Returns the predictor with a reasoning field; its LM, settings and demos stay."""
    reasoning = dspy.ChainOfThought(cast("Any", predictor).signature, **predictor.config)
    reasoning.predict.lm, reasoning.predict.demos = predictor.lm, list(predictor.demos)
    return reasoning


def _compile_copro(inputs: ContenderArguments) -> dspy.Module:
    """Runs COPRO with the largest depth that fits the budget.

    With several predictors, each depth runs all earlier candidates of each predictor again. At COPRO's temperature of
    1.4 a small model writes noise, so one in this process has 0.7; and a reply without the fields that COPRO asks for,
    which would end it, is read as the proposal.
    """
    small = getattr(getattr(inputs.proposer, "engine", None), "in_process", False)
    predictors, train = len(inputs.program.predictors()), len(inputs.trainset)

    def fit_breadth(depth: int) -> int:
        sweeps = depth if predictors == 1 else predictors * depth * (depth + 1) // 2
        return inputs.fit_steps(sweeps * train, default=10, most=20)

    depth = next((each for each in (3, 2) if fit_breadth(each) >= 2), 1)
    optimizer = dspy.COPRO(
        metric=inputs.score,
        prompt_model=inputs.proposer,
        breadth=max(2, fit_breadth(depth)),
        depth=depth,
        init_temperature=0.7 if small else 1.4,
    )
    evaluation = {"num_threads": inputs.num_threads, "display_progress": False}
    with dspy.context(max_errors=MAX_ERRORS, adapter=accept_plain_proposals(dspy.settings.adapter)):
        return optimizer.compile(inputs.program, trainset=inputs.trainset, eval_kwargs=evaluation)


def _compile_miprov2(inputs: ContenderArguments) -> dspy.Module:
    val, train = len(inputs.valset), len(inputs.trainset)
    candidates = max(2, inputs.fit_steps(train + val, default=10, most=10))
    bootstraps = max(1, candidates - 2) if inputs.has_labels else 1
    trials = inputs.fit_steps(val, reserve=bootstraps * train + val, default=30, most=100)
    optimizer = dspy.MIPROv2(
        metric=inputs.score,
        prompt_model=inputs.proposer,
        task_model=inputs.lm,
        auto=None,
        num_candidates=candidates,
        max_labeled_demos=inputs.labeled_demos,
        max_bootstrapped_demos=DEMOS,
        num_threads=inputs.num_threads,
        seed=inputs.seed,
        max_errors=MAX_ERRORS,
    )
    return optimizer.compile(
        inputs.program,
        trainset=inputs.trainset,
        valset=inputs.valset,
        num_trials=trials,
        minibatch=False,
        seed=inputs.seed,
    )


def _compile_simba(inputs: ContenderArguments) -> dspy.Module:
    """Runs SIMBA; reduces DSPy's sizes until one step and the last sweep over the training set fit the budget."""
    train = len(inputs.trainset)
    size, candidates = min(32, train), 6
    while (
        inputs.runs is not None
        and _count_simba_runs(size, candidates) + 2 * train > inputs.runs
        and size + candidates > 3
    ):
        size, candidates = max(1, size * 3 // 4), max(2, candidates - 1)
    steps = inputs.fit_steps(_count_simba_runs(size, candidates), reserve=(candidates + 1) * train, default=8, most=30)
    optimizer = dspy.SIMBA(
        metric=inputs.score,
        bsize=size,
        num_candidates=candidates,
        max_steps=steps,
        num_threads=inputs.num_threads,
        prompt_model=inputs.proposer,
    )
    return optimizer.compile(inputs.program, trainset=inputs.trainset, seed=inputs.seed)


def _count_simba_runs(size: int, candidates: int) -> int:
    """Counts the program runs of a SIMBA step: the batch with each sampler, each new program, and one more."""
    return size * (2 * candidates + 1)


def _compile_gepa(inputs: ContenderArguments) -> dspy.Module:
    size: dict[str, Any] = {"auto": "medium"} if inputs.runs is None else {"max_metric_calls": max(1, inputs.runs)}
    optimizer = dspy.GEPA(
        metric=inputs.feedback, reflection_lm=inputs.proposer, num_threads=inputs.num_threads, seed=inputs.seed, **size
    )
    return optimizer.compile(inputs.program, trainset=inputs.trainset, valset=inputs.valset)


class _InferRules(dspy.InferRules):
    """`dspy.InferRules` that ignores unreadable rules and does not change signatures that programs share."""

    def induce_natural_language_rules(self, predictor: Any, trainset: Any) -> Any:
        """Returns no rules for an unreadable reply; other errors keep their cause, which DSPy replaces."""
        try:
            return super().induce_natural_language_rules(predictor, trainset)
        except AssertionError as problem:  # DSPy's message blames a long prompt, whatever the cause
            if isinstance(problem.__context__, AdapterParseError):
                return ""
            raise problem.__context__ or problem from None

    def update_program_instructions(self, predictor: Any, natural_language_rules: str) -> None:
        """Updates a copy of the signature, because DSPy changes the one that the student shares."""
        if natural_language_rules:
            predictor.signature = predictor.signature.with_instructions(predictor.signature.instructions)
            super().update_program_instructions(predictor, natural_language_rules)


def _compile_infer_rules(inputs: ContenderArguments) -> dspy.Module:
    """Runs InferRules; the LM that writes the rules is also DSPy's teacher, so it answers the training examples."""
    number = inputs.fit_steps(len(inputs.valset), reserve=len(inputs.trainset), default=10, most=50)
    optimizer = _InferRules(
        metric=inputs.score,
        num_candidates=number,
        num_threads=inputs.num_threads,
        teacher_settings={"lm": inputs.proposer},
        max_bootstrapped_demos=DEMOS,
        max_labeled_demos=inputs.labeled_demos,
        max_errors=MAX_ERRORS,
    )
    return cast("dspy.Module", optimizer.compile(inputs.program, trainset=inputs.trainset, valset=inputs.valset))


def _compile_textgrad(inputs: ContenderArguments) -> dspy.Module:
    val, train = len(inputs.valset), len(inputs.trainset)
    return optimize_with_textgrad(
        inputs.program,
        inputs.trainset,
        inputs.valset,
        scorer=Scorer(inputs.metric),
        proposer=cast("dspy.LM", inputs.proposer),
        steps=inputs.fit_steps(min(BATCH, train) + val, reserve=val, default=STEPS, most=100),
        num_threads=inputs.num_threads,
    )


def _compile_lpo(inputs: ContenderArguments) -> dspy.Module:
    val, train = len(inputs.valset), len(inputs.trainset)
    return optimize_with_local_edits(
        inputs.program,
        inputs.trainset,
        inputs.valset,
        scorer=Scorer(inputs.metric),
        proposer=cast("dspy.LM", inputs.proposer),
        steps=inputs.fit_steps(min(LPO_BATCH, train) + LPO_CANDIDATES * val, reserve=val, default=LPO_STEPS, most=100),
        seed=inputs.seed,
        num_threads=inputs.num_threads,
    )


def _compile_bootstrap_finetune(inputs: ContenderArguments) -> dspy.Module:
    optimizer = dspy.BootstrapFinetune(metric=inputs.score, num_threads=inputs.num_threads)
    student = inputs.program.deepcopy()
    student.set_lm(inputs.lm)
    return optimizer.compile(student, trainset=inputs.trainset)


def _compile_spt(inputs: ContenderArguments, variant: Variant, *, impact: bool) -> dspy.Module:
    """Runs Supervisory Prompt Training, with as many rounds as fit the budget."""
    optimizer = SupervisoryPromptTeleprompter(
        inputs.metric,
        cast("dspy.LM", inputs.proposer),
        variant=variant,
        impact=impact,
        num_threads=inputs.num_threads,
        max_actor_calls=inputs.calls,
        seed=inputs.seed,
        log_dir=inputs.folder / "spt",
        display_progress=False,
    )
    return optimizer.compile(inputs.program, trainset=inputs.trainset, valset=inputs.valset)


def compile_sgt(inputs: ContenderArguments) -> dspy.Module:
    """Runs Supplement Generation Training within the budget."""
    return make_teleprompter(inputs).compile(inputs.program, trainset=inputs.trainset, valset=inputs.valset)


def make_teleprompter(inputs: ContenderArguments) -> SGTTeleprompter:
    """Returns SGT's teleprompter with the inputs' settings."""
    assert inputs.generator is not None
    return SGTTeleprompter(
        inputs.metric,
        inputs.generator,
        recipe=inputs.recipe,
        trainer=inputs.trainer,
        num_threads=inputs.num_threads,
        max_actor_calls=inputs.calls,
        seed=inputs.seed,
        log_dir=inputs.folder / "sgt",
        display_progress=False,
    )


def _compile_nearest_winner(inputs: ContenderArguments) -> dspy.Module:
    """Explores with the untrained generator within the budget, then reads the nearest winner."""
    optimizer = NearestWinner(
        inputs.metric,
        inputs.generator,
        recipe=inputs.recipe,
        num_threads=inputs.num_threads,
        max_actor_calls=inputs.calls,
        seed=inputs.seed,
        log_dir=inputs.folder / NEAREST_WINNER,
        display_progress=False,
    )
    return optimizer.compile(inputs.program, trainset=inputs.trainset, valset=inputs.valset)


def _compile_few_shot_then_sgt(inputs: ContenderArguments) -> dspy.Module:
    """Spends half of the budget on demos, then the rest on supplements for the program with these demos."""
    if inputs.calls is None:
        return compile_sgt(replace(inputs, program=compile_random_search(inputs)))
    program = compile_random_search(replace(inputs, calls=inputs.calls // 2))
    recipe = halve_samples(inputs.recipe or Recipe())
    return compile_sgt(replace(inputs, program=program, calls=inputs.calls - inputs.count_calls(), recipe=recipe))


def halve_samples(recipe: Recipe) -> Recipe:
    """Returns the recipe with half of the samples, for half of the calls.

    >>> half = halve_samples(Recipe())
    >>> half.warm_samples, half.pool_samples, half.direct_samples
    (2, 1, 10)
    """
    names = ("warm_samples", "pool_samples", "concat", "direct_samples")
    return replace(recipe, **cast("Any", {name: max(1, getattr(recipe, name) // 2) for name in names}))


def _compile_sgt_then_knn(inputs: ContenderArguments) -> dspy.Module:
    """Runs SGT, then adds the nearest training examples as demos."""
    program = compile_sgt(inputs)
    program._compiled = False  # DSPy adds no demos to a compiled program
    return compile_knn_fewshot(replace(inputs, program=program))


CONTENDERS: Mapping[str, Contender] = {
    each.name: each
    for each in (
        Contender("none", _compile_none, seeded=False),
        Contender("cot", _compile_cot, seeded=False),
        Contender("labeled_fewshot", compile_labeled_fewshot, needs=("labels",)),
        Contender("bootstrap_fewshot", compile_bootstrap_fewshot),
        Contender("bootstrap_fewshot_random_search", compile_random_search),
        Contender("knn_fewshot", compile_knn_fewshot),
        Contender("copro", _compile_copro, needs=("proposer",)),
        Contender("miprov2", _compile_miprov2, needs=("proposer", "optuna")),
        Contender("simba", _compile_simba, needs=("proposer",)),
        Contender("gepa", _compile_gepa, needs=("proposer",)),
        Contender("infer_rules", _compile_infer_rules, needs=("proposer",)),
        Contender("textgrad", _compile_textgrad, needs=("proposer", "textgrad")),
        Contender("lpo", _compile_lpo, needs=("proposer",)),
        Contender("spt_p", partial(_compile_spt, variant="p", impact=True), needs=("proposer",)),
        Contender("spt_pc", partial(_compile_spt, variant="pc", impact=True), needs=("proposer",)),
        Contender("spt_p_without_impact", partial(_compile_spt, variant="p", impact=False), needs=("proposer",)),
        Contender("spt_pc_without_impact", partial(_compile_spt, variant="pc", impact=False), needs=("proposer",)),
        Contender("bootstrap_finetune", _compile_bootstrap_finetune, needs=("tunable",)),
        Contender(NEAREST_WINNER, _compile_nearest_winner, needs=("generator",)),
        Contender("sgt", compile_sgt, needs=("generator",)),
        Contender("few_shot_then_sgt", _compile_few_shot_then_sgt, needs=("generator",)),
        Contender("sgt_then_knn", _compile_sgt_then_knn, needs=("generator",)),
    )
}
"""Every built-in contender by name; `none` leaves the program unchanged, and all others are compared with it."""

FORMER_NAMES: Mapping[str, Contender] = {"lookup": replace(CONTENDERS[NEAREST_WINNER], name="lookup")}
"""Contenders by the names that they had, which keep these names in a comparison's rows."""


def make_arguments(
    problem: Problem, resources: Resources, *, seed: int, calls: int | None, folder: Path, num_threads: int
) -> ContenderArguments:
    """Returns the arguments of a contender that needs no LM that writes instructions, in a `folder` of its own."""
    return ContenderArguments(
        program=problem.program,
        trainset=shuffle_examples(problem.trainset, seed),
        valset=list(problem.valset),
        metric=problem.metric,
        seed=seed,
        calls=calls,
        folder=folder,
        num_threads=num_threads,
        embedder=resources.embedder,
        generator=resources.generator,
        trainer=resources.trainer,
        recipe=resources.recipe,
    )


def shuffle_examples(examples: Sequence[dspy.Example], seed: int) -> list[dspy.Example]:
    """Returns the examples in an order drawn from the seed."""
    return random.Random(f"{seed}-order").sample(list(examples), len(examples))
