"""The contenders by name: each a few lines over DSPy's own class, set up to fit a budget of actor calls."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import dspy
from dspy.teleprompt import Teleprompter
from dspy.utils.exceptions import AdapterParseError

from optimizers.comparison.bench import LABELED, Bench, Need
from optimizers.comparison.nearest import word_embedder
from optimizers.comparison.textual import BATCH, STEPS, by_text_gradients
from optimizers.core.reward import Scorer
from optimizers.sgt.recipe import Recipe
from optimizers.sgt.teleprompter import SGTTeleprompter
from optimizers.spt.recipe import Variant
from optimizers.spt.teleprompter import SupervisoryPromptTeleprompter

DEMOS = 4
"""DSPy's own number of bootstrapped demos."""

HEADROOM = 0.9
"""The share of what is left of a budget that an estimate may fill."""


@dataclass(frozen=True)
class Contender:
    """One way to better a program: `compile` gives a program, the bench's own left as it was.

    `needs` is what it cannot do without. One that is not `seeded` gives the same for every seed.

    >>> mine = Contender("mine", lambda bench: dspy.LabeledFewShot(k=2).compile(bench.program, trainset=bench.trainset))
    >>> mine.name
    'mine'
    """

    name: str
    compile: Callable[[Bench], dspy.Module]
    needs: tuple[Need, ...] = ()
    seeded: bool = True


ContenderLike = str | Contender | Teleprompter
"""A name of `CONTENDERS`, a contender of your own, or any of your own teleprompters."""


def _none(bench: Bench) -> dspy.Module:
    return bench.program


def _cot(bench: Bench) -> dspy.Module:
    """Every bare predictor thinks before it answers; those that do already stay."""
    return cast("dspy.Module", _thinking(bench.program.deepcopy(), {}))


def _thinking(part: Any, known: dict[int, Any]) -> Any:
    """A part of a program with its bare predictors replaced; one that stands in several places stays one."""
    if id(part) not in known:
        known[id(part)] = part
        if type(part) in (list, tuple):
            known[id(part)] = type(part)(_thinking(each, known) for each in part)
        elif type(part) is dict:
            known[id(part)] = {name: _thinking(each, known) for name, each in part.items()}
        elif type(part) is dspy.Predict:
            known[id(part)] = _thought(part)
        elif isinstance(part, dspy.Module) and not isinstance(part, (dspy.Predict, dspy.ChainOfThought)):
            for name, each in vars(part).items():
                setattr(part, name, _thinking(each, known))
    return known[id(part)]


def _thought(predictor: dspy.Predict) -> dspy.ChainOfThought:
    """The same with a reasoning; its LM, settings and demos stay."""
    thinking = dspy.ChainOfThought(cast("Any", predictor).signature, **predictor.config)
    thinking.predict.lm, thinking.predict.demos = predictor.lm, list(predictor.demos)
    return thinking


def _labeled(bench: Bench) -> dspy.Module:
    return dspy.LabeledFewShot(k=LABELED).compile(bench.program, trainset=bench.trainset, sample=False)


def _bootstrap(bench: Bench) -> dspy.Module:
    optimizer = dspy.BootstrapFewShot(
        metric=bench.score, max_bootstrapped_demos=DEMOS, max_labeled_demos=bench.labels, max_errors=_ANY
    )
    return optimizer.compile(bench.program, trainset=bench.trainset)


def _random_search(bench: Bench) -> dspy.Module:
    """As many candidates as the budget holds: each is bootstrapped on the training set and scored on validation.

    First as many as fit if each bootstrap ran the whole training set; what those leave over goes to more of them.
    """
    val, train = len(bench.valset), len(bench.trainset)
    number = bench.times(val + train * bench.labeled, spare=3 * val + 2 * train, default=16, most=400)
    best, score = _searched(bench, range(-3, number))
    if bench.calls is not None:
        each = max(val, bench.spent() / (number + 3))
        more = int(HEADROOM * (bench.calls - bench.spent()) / each)
        if more > 0:
            best, score = max((best, score), _searched(bench, range(number, number + more)), key=lambda found: found[1])
    return best


def _searched(bench: Bench, candidates: range) -> tuple[dspy.Module, float]:
    """The best of the candidates with these of DSPy's numbers, and its score on validation."""
    optimizer = dspy.BootstrapFewShotWithRandomSearch(
        metric=bench.score,
        max_bootstrapped_demos=DEMOS,
        max_labeled_demos=bench.labels,
        num_candidate_programs=candidates.stop,
        num_threads=bench.num_threads,
        max_errors=_ANY,
    )
    best = optimizer.compile(bench.program, trainset=bench.trainset, valset=bench.valset, restrict=candidates)
    tried = cast("Any", best).candidate_programs
    del cast("Any", best).candidate_programs  # every copy of the program would copy them all
    return best, float(tried[0]["score"])


def _knn(bench: Bench) -> dspy.Module:
    """Compiling costs nothing; each answer costs up to `DEMOS` runs more, of its neighbours."""
    optimizer = cast("Any", dspy.KNNFewShot)(
        k=DEMOS,
        trainset=bench.trainset,
        vectorizer=bench.embedder or word_embedder(),
        metric=bench.score,
        max_bootstrapped_demos=DEMOS,
        max_labeled_demos=DEMOS if bench.labeled else 0,
        max_errors=_ANY,
    )
    return optimizer.compile(bench.program)


def _copro(bench: Bench) -> dspy.Module:
    """With several predictors, each depth tries all earlier candidates of each again; few runs make it less deep."""
    predictors, train = len(bench.program.predictors()), len(bench.trainset)

    def breadth(depth: int) -> int:
        sweeps = depth if predictors == 1 else predictors * depth * (depth + 1) // 2
        return bench.times(sweeps * train, default=10, most=20)

    depth = next((each for each in (3, 2) if breadth(each) >= 2), 1)
    optimizer = dspy.COPRO(metric=bench.score, prompt_model=bench.proposer, breadth=max(2, breadth(depth)), depth=depth)
    evaluation = {"num_threads": bench.num_threads, "display_progress": False}
    with dspy.context(max_errors=_ANY):
        return optimizer.compile(bench.program, trainset=bench.trainset, eval_kwargs=evaluation)


def _mipro(bench: Bench) -> dspy.Module:
    val, train = len(bench.valset), len(bench.trainset)
    candidates = max(2, bench.times(train + val, default=10, most=10))
    bootstraps = max(1, candidates - 2) if bench.labeled else 1
    trials = bench.times(val, spare=bootstraps * train + val, default=30, most=100)
    optimizer = dspy.MIPROv2(
        metric=bench.score,
        prompt_model=bench.proposer,
        task_model=bench.lm,
        auto=None,
        num_candidates=candidates,
        max_labeled_demos=bench.labels,
        max_bootstrapped_demos=DEMOS,
        num_threads=bench.num_threads,
        seed=bench.seed,
        max_errors=_ANY,
    )
    return optimizer.compile(
        bench.program, trainset=bench.trainset, valset=bench.valset, num_trials=trials, minibatch=False, seed=bench.seed
    )


def _simba(bench: Bench) -> dspy.Module:
    """DSPy's own sizes, made smaller until a step and the last sweep over the training set fit the budget."""
    train = len(bench.trainset)
    size, candidates = min(32, train), 6
    while bench.runs is not None and _simba_step(size, candidates) + 2 * train > bench.runs and size + candidates > 3:
        size, candidates = max(1, size * 3 // 4), max(2, candidates - 1)
    steps = bench.times(_simba_step(size, candidates), spare=(candidates + 1) * train, default=8, most=30)
    optimizer = dspy.SIMBA(
        metric=bench.score,
        bsize=size,
        num_candidates=candidates,
        max_steps=steps,
        num_threads=bench.num_threads,
        prompt_model=bench.proposer,
    )
    return optimizer.compile(bench.program, trainset=bench.trainset, seed=bench.seed)


def _simba_step(size: int, candidates: int) -> int:
    """Runs of one step: a batch with each of the samplers, then with each new program and one more."""
    return size * (2 * candidates + 1)


def _gepa(bench: Bench) -> dspy.Module:
    size: dict[str, Any] = {"auto": "medium"} if bench.runs is None else {"max_metric_calls": max(1, bench.runs)}
    optimizer = dspy.GEPA(
        metric=bench.feedback, reflection_lm=bench.proposer, num_threads=bench.num_threads, seed=bench.seed, **size
    )
    return optimizer.compile(bench.program, trainset=bench.trainset, valset=bench.valset)


class _InferRules(dspy.InferRules):
    """DSPy's, but rules that cannot be read are none, and a candidate's are written into no other's signature."""

    def induce_natural_language_rules(self, predictor: Any, trainset: Any) -> Any:
        """As DSPy's, which asserts that a prompt was too long where anything went wrong."""
        try:
            return super().induce_natural_language_rules(predictor, trainset)
        except AssertionError as failed:
            if isinstance(failed.__context__, AdapterParseError):
                return ""
            raise failed.__context__ or failed from None

    def update_program_instructions(self, predictor: Any, natural_language_rules: str) -> None:
        """As DSPy's, which changes a signature that the student shares."""
        if natural_language_rules:
            predictor.signature = predictor.signature.with_instructions(predictor.signature.instructions)
            super().update_program_instructions(predictor, natural_language_rules)


def _infer_rules(bench: Bench) -> dspy.Module:
    """The LM that writes the rules is DSPy's teacher here, so it answers the training examples too."""
    number = bench.times(len(bench.valset), spare=len(bench.trainset), default=10, most=50)
    optimizer = _InferRules(
        metric=bench.score,
        num_candidates=number,
        num_threads=bench.num_threads,
        teacher_settings={"lm": bench.proposer},
        max_bootstrapped_demos=DEMOS,
        max_labeled_demos=bench.labels,
        max_errors=_ANY,
    )
    return cast("dspy.Module", optimizer.compile(bench.program, trainset=bench.trainset, valset=bench.valset))


def _textgrad(bench: Bench) -> dspy.Module:
    val, train = len(bench.valset), len(bench.trainset)
    return by_text_gradients(
        bench.program,
        bench.trainset,
        bench.valset,
        scorer=Scorer(bench.metric),
        proposer=cast("dspy.LM", bench.proposer),
        steps=bench.times(min(BATCH, train) + val, spare=val, default=STEPS, most=100),
        num_threads=bench.num_threads,
    )


def _finetune(bench: Bench) -> dspy.Module:
    optimizer = dspy.BootstrapFinetune(metric=bench.score, num_threads=bench.num_threads)
    student = bench.program.deepcopy()
    student.set_lm(bench.lm)
    return optimizer.compile(student, trainset=bench.trainset)


def _spt(bench: Bench, variant: Variant, *, impact: bool) -> dspy.Module:
    """Supervisory Prompt Training within the bench's budget: as many rounds as fit."""
    optimizer = SupervisoryPromptTeleprompter(
        bench.metric,
        cast("dspy.LM", bench.proposer),
        variant=variant,
        impact=impact,
        num_threads=bench.num_threads,
        max_actor_calls=bench.calls,
        seed=bench.seed,
        log_dir=bench.folder / "spt",
        display_progress=False,
    )
    return optimizer.compile(bench.program, trainset=bench.trainset, valset=bench.valset)


def sgt(bench: Bench) -> dspy.Module:
    """Supplement Generation Training within the bench's budget."""
    return teleprompter(bench).compile(bench.program, trainset=bench.trainset, valset=bench.valset)


def teleprompter(bench: Bench) -> SGTTeleprompter:
    """SGT as the bench has it set up, with a folder of its own inside the bench's."""
    assert bench.generator is not None
    return SGTTeleprompter(
        bench.metric,
        bench.generator,
        recipe=bench.recipe,
        trainer=bench.trainer,
        num_threads=bench.num_threads,
        max_actor_calls=bench.calls,
        seed=bench.seed,
        log_dir=bench.folder / "sgt",
        display_progress=False,
    )


def _few_shot_then_sgt(bench: Bench) -> dspy.Module:
    """Half of the budget for each: demos first, then supplements for the program that shows them."""
    if bench.calls is None:
        return sgt(replace(bench, program=_random_search(bench)))
    program = _random_search(replace(bench, calls=bench.calls // 2))
    recipe = half_of(bench.recipe or Recipe())
    return sgt(replace(bench, program=program, calls=bench.calls - bench.spent(), recipe=recipe))


def half_of(recipe: Recipe) -> Recipe:
    """The same recipe with half of the samples, for half of the calls.

    >>> half_of(Recipe()).warm_samples, half_of(Recipe()).pool_samples, half_of(Recipe()).direct_samples
    (2, 1, 10)
    """
    names = ("warm_samples", "pool_samples", "concat", "direct_samples")
    return replace(recipe, **cast("Any", {name: max(1, getattr(recipe, name) // 2) for name in names}))


def _sgt_then_knn(bench: Bench) -> dspy.Module:
    """Supplements, and the nearest training examples as demos beside them."""
    program = sgt(bench)
    program._compiled = False  # DSPy gives demos to no program that is
    return _knn(replace(bench, program=program))


_ANY = 10**9
"""An answer that cannot be read is a wrong answer of the actor's, however many there are; DSPy would stop at ten."""

CONTENDERS: Mapping[str, Contender] = {
    each.name: each
    for each in (
        Contender("none", _none, seeded=False),
        Contender("cot", _cot, seeded=False),
        Contender("labeled_fewshot", _labeled, needs=("labels",)),
        Contender("bootstrap_fewshot", _bootstrap),
        Contender("bootstrap_fewshot_random_search", _random_search),
        Contender("knn_fewshot", _knn),
        Contender("copro", _copro, needs=("proposer",)),
        Contender("miprov2", _mipro, needs=("proposer", "optuna")),
        Contender("simba", _simba, needs=("proposer",)),
        Contender("gepa", _gepa, needs=("proposer",)),
        Contender("infer_rules", _infer_rules, needs=("proposer",)),
        Contender("textgrad", _textgrad, needs=("proposer", "textgrad")),
        Contender("spt_p", partial(_spt, variant="p", impact=True), needs=("proposer",)),
        Contender("spt_pc", partial(_spt, variant="pc", impact=True), needs=("proposer",)),
        Contender("spt_p_without_impact", partial(_spt, variant="p", impact=False), needs=("proposer",)),
        Contender("spt_pc_without_impact", partial(_spt, variant="pc", impact=False), needs=("proposer",)),
        Contender("bootstrap_finetune", _finetune, needs=("tunable",)),
        Contender("sgt", sgt, needs=("generator",)),
        Contender("few_shot_then_sgt", _few_shot_then_sgt, needs=("generator",)),
        Contender("sgt_then_knn", _sgt_then_knn, needs=("generator",)),
    )
}
"""Every contender that ships, by name; `none` is no change, and what all are measured against."""


def shuffled(examples: Sequence[dspy.Example], seed: int) -> list[dspy.Example]:
    """The examples in an order drawn from the seed."""
    return random.Random(f"{seed}-order").sample(list(examples), len(examples))
