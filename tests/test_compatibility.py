"""DSPy's own modules and optimizers on a supplemented program: it works, and the supplement is still read."""

from __future__ import annotations

from collections.abc import Callable

import dspy
import pytest
from scripted import ScriptedEngine, reply

from sgt_modules import supplement
from sgt_modules.embedded import embedded_generator
from sgt_modules.wrapping import supplemented, unsupplement

TRAIN = [dspy.Example(question=f"{n}+1?", answer=str(n + 1)).with_inputs("question") for n in range(6)]


def adding(text: str) -> str:
    """An actor that adds right, for whichever of these programs' fields it is asked."""
    question = text.rpartition("[[ ## question ## ]]")[2].strip().partition("+")[0]
    answer = str(int(question) + 1) if question.isdigit() else "1"
    asked = text.partition("Respond with")[2]
    fields = {
        name: value
        for name, value in {"reasoning": "Add.", "rationale": "Add.", "answer": answer, "hint": "Add."}.items()
        if f"[[ ## {name} ## ]]" in asked
    }
    return reply(**(fields or {"answer": answer}))


def exact(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    return example.answer == prediction.answer


def knows(program: dspy.Module) -> bool:
    """Whether every predictor of the program still reads a supplement."""
    return len(supplemented(program)) == len(program.named_predictors()) > 0


class Pipeline(dspy.Module):
    """Predictors as attributes, in a list and in a dict, one of them shared."""

    def __init__(self) -> None:
        super().__init__()
        self.think = dspy.ChainOfThought("question -> hint")
        self.steps = [dspy.Predict("question, hint -> answer")]
        self.named = {"again": self.steps[0]}

    def forward(self, question: str) -> dspy.Prediction:
        hint = self.think(question=question).hint
        return self.named["again"](question=question, hint=hint)


MODULES: dict[str, Callable[[], dspy.Module]] = {
    "Predict": lambda: dspy.Predict("question -> answer"),
    "ChainOfThought": lambda: dspy.ChainOfThought("question -> answer"),
    "nested, listed and shared": Pipeline,
    "BestOfN": lambda: dspy.BestOfN(
        dspy.Predict("question -> answer"), N=2, reward_fn=lambda _, prediction: 1.0, threshold=1.0
    ),
    "Refine": lambda: dspy.Refine(
        dspy.Predict("question -> answer"), N=2, reward_fn=lambda _, prediction: 1.0, threshold=1.0
    ),
}


@pytest.mark.parametrize("build", MODULES.values(), ids=MODULES)
def test_a_wrapped_module_answers_as_before_and_its_actor_reads_supplements(build: Callable[[], dspy.Module]) -> None:
    plain, engine = build(), ScriptedEngine(adding)
    wrapped = supplement(plain, generator=embedded_generator())
    with dspy.context(lm=engine.lm()):
        assert wrapped(question="2+1?").answer == "3"
    assert all("[[ ## supplement ## ]]" in text for text in engine.asked)
    back = unsupplement(wrapped)
    assert [name for name, _ in back.named_predictors()] == [name for name, _ in plain.named_predictors()]
    assert not supplemented(back)


def test_parallel_runs_a_wrapped_program_in_many_threads() -> None:
    wrapped = supplement(dspy.Predict("question -> answer"), generator=embedded_generator())
    with dspy.context(lm=ScriptedEngine(adding).lm()):
        pairs = [(wrapped, example.inputs()) for example in TRAIN * 4]
        answers = dspy.Parallel(num_threads=8, disable_progress_bar=True)(pairs)
    assert [answer.answer for answer in answers] == [example.answer for example in TRAIN * 4]


OPTIMIZERS: dict[str, Callable[[dspy.Module], dspy.Module]] = {
    "LabeledFewShot": lambda student: dspy.LabeledFewShot(k=2).compile(student, trainset=TRAIN),
    "BootstrapFewShot": lambda student: dspy.BootstrapFewShot(metric=exact, max_bootstrapped_demos=2).compile(
        student, trainset=TRAIN
    ),
    "BootstrapFewShotWithRandomSearch": lambda student: dspy.BootstrapFewShotWithRandomSearch(
        metric=exact, max_bootstrapped_demos=1, max_labeled_demos=1, num_candidate_programs=1, num_threads=2
    ).compile(student, trainset=TRAIN[:3], valset=TRAIN[3:]),
    "Ensemble": lambda student: dspy.Ensemble(reduce_fn=lambda answers: answers[0]).compile([student, student]),
}


@pytest.mark.parametrize("optimize", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_dspys_optimizers_keep_the_supplement(optimize: Callable[[dspy.Module], dspy.Module]) -> None:
    engine = ScriptedEngine(adding)
    wrapped = supplement(dspy.Predict("question -> answer"), generator=embedded_generator())
    with dspy.context(lm=engine.lm()):
        better = optimize(wrapped)
        engine.asked.clear()
        assert better(question="4+1?").answer == "5"
    assert all("[[ ## supplement ## ]]" in text for text in engine.asked)
    if supplemented(better):
        assert knows(better)
        assert all(each.generator is wrapped.generator for _, each in supplemented(better))
