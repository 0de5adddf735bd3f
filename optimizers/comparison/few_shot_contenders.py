"""The few-shot contenders: DSPy's optimizers that show examples, with the number of demos chosen on validation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import dspy

from optimizers.comparison.contender_arguments import LABELED_DEMOS, ContenderArguments
from optimizers.comparison.instruction_search import build_evaluate
from sgt_modules.tf_idf import TfIdf

DEMOS = 4
"""DSPy's default number of bootstrapped demos."""

DEMO_NUMBERS = (1, 2, 4, 8, 16)
"""Numbers of demos among which the validation set chooses, where the budget allows."""

HEADROOM = 0.9
"""The share of the remaining budget that the second random search may use, as its cost is an estimate."""

MAX_ERRORS = 10**9
"""Maximum number of failed runs, where DSPy stops at ten: an unreadable answer is a wrong answer, not a failure."""


def compile_labeled_fewshot(inputs: ContenderArguments) -> dspy.Module:
    """Shows the first training examples with their outputs."""

    def compile_with(demos: int) -> dspy.Module:
        return dspy.LabeledFewShot(k=demos).compile(inputs.program, trainset=inputs.trainset, sample=False)

    return _choose_demos(inputs, compile_with, lambda _: len(inputs.valset), default=LABELED_DEMOS)


def compile_bootstrap_fewshot(inputs: ContenderArguments) -> dspy.Module:
    """Shows runs of training examples that the metric accepts."""

    def compile_with(demos: int) -> dspy.Module:
        optimizer = dspy.BootstrapFewShot(
            metric=inputs.score,
            max_bootstrapped_demos=demos,
            max_labeled_demos=inputs.labeled_demos,
            max_errors=MAX_ERRORS,
        )
        return optimizer.compile(inputs.program, trainset=inputs.trainset)

    return _choose_demos(inputs, compile_with, lambda _: len(inputs.trainset) + len(inputs.valset), default=DEMOS)


def _choose_demos(
    inputs: ContenderArguments,
    compile_with: Callable[[int], dspy.Module],
    count_runs: Callable[[int], int],
    *,
    default: int,
) -> dspy.Module:
    """Compiles with several numbers of demos; returns the best on the validation set, the one with fewer on a tie.

    `count_runs` is the largest number of program runs that compiling and validating with a number of demos takes. Only
    numbers that fit the budget are tried; if that is one or none, the result has `default` demos, without validation.
    """
    left, fitting = inputs.runs, list[int]()
    for demos in DEMO_NUMBERS:
        if left is None or count_runs(demos) <= left:
            fitting.append(demos)
            left = None if left is None else left - count_runs(demos)
    if len(fitting) < 2:
        return compile_with(default)
    evaluate = build_evaluate(inputs.valset, inputs.score, inputs.num_threads)
    programs = [compile_with(demos) for demos in fitting]
    scores = [evaluate(program).score for program in programs]
    return programs[scores.index(max(scores))]


def compile_random_search(inputs: ContenderArguments) -> dspy.Module:
    """Searches as many candidates as fit the budget: bootstraps each on the training set, scores it on validation.

    The first search assumes that each bootstrap runs the whole training set. A second search spends what is left.
    """
    val, train = len(inputs.valset), len(inputs.trainset)
    number = inputs.fit_steps(val + train * inputs.has_labels, reserve=3 * val + 2 * train, default=16, most=400)
    best, score = _search_candidates(inputs, range(-3, number))
    if inputs.calls is not None:
        calls_per_candidate = max(val, inputs.count_calls() / (number + 3))
        more = int(HEADROOM * (inputs.calls - inputs.count_calls()) / calls_per_candidate)
        if more > 0:
            other = _search_candidates(inputs, range(number, number + more))
            best, score = max((best, score), other, key=lambda candidate: candidate[1])
    return best


def _search_candidates(inputs: ContenderArguments, candidates: range) -> tuple[dspy.Module, float]:
    """Returns the best of DSPy's candidates with these numbers, and its score on validation."""
    optimizer = dspy.BootstrapFewShotWithRandomSearch(
        metric=inputs.score,
        max_bootstrapped_demos=DEMOS,
        max_labeled_demos=inputs.labeled_demos,
        num_candidate_programs=candidates.stop,
        num_threads=inputs.num_threads,
        max_errors=MAX_ERRORS,
    )
    best = optimizer.compile(inputs.program, trainset=inputs.trainset, valset=inputs.valset, restrict=candidates)
    ranked = cast("Any", best).candidate_programs
    del cast("Any", best).candidate_programs  # each copy of the program would copy all candidates
    return best, float(ranked[0]["score"])


def compile_knn_fewshot(inputs: ContenderArguments) -> dspy.Module:
    """Each answer of the result costs a run more for each of its demos, which are the nearest training examples."""
    texts = [format_for_knn(example) for example in inputs.trainset]
    # DSPy's cache knows a function by its source alone, so it would return another training set's vectors.
    embedder = inputs.embedder or dspy.Embedder(TfIdf(texts).embed, caching=False)

    def compile_with(demos: int) -> dspy.Module:
        optimizer = cast("Any", dspy.KNNFewShot)(
            k=demos,
            trainset=inputs.trainset,
            vectorizer=embedder,
            metric=inputs.score,
            max_bootstrapped_demos=demos,
            max_labeled_demos=demos if inputs.has_labels else 0,
            max_errors=MAX_ERRORS,
        )
        return optimizer.compile(inputs.program)

    return _choose_demos(inputs, compile_with, lambda demos: (1 + demos) * len(inputs.valset), default=DEMOS)


def format_for_knn(example: dspy.Example) -> str:
    """An example's inputs as the text that DSPy's `KNN` embeds.

    >>> format_for_knn(dspy.Example(question="1+1?", unit="m", answer="2").with_inputs("question", "unit"))
    'question: 1+1? | unit: m'
    """
    return " | ".join(f"{name}: {value}" for name, value in example.inputs().items())
