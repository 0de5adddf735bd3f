"""DSPy's optimizers over a program with supplements: they optimize it as any other, and the supplements stay."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import dspy
import numpy as np
import pytest
from dspy.lm15 import Message, Request, Response, Usage
from scripted import reply

from optimizers import Recipe, SGTTeleprompter, TrainingSettings
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules import SupplementedPredictor, SupplementGenerator, supplement
from sgt_modules.embedded import embedded_generator
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.episode import episode
from sgt_modules.wrapping import supplemented_predictors

PROPOSED = "Add with great care."
TRAIN = [dspy.Example(question=f"{n}+1?", answer=str(n + 1)).with_inputs("question") for n in range(6)]
MARKER = re.compile(r"\[\[ ## (\w+) ## \]\]")

Knows = Callable[[str], bool]
"""Whether the actor answers right, by all that a request says."""


Optimize = Callable[[dspy.Module], dspy.Module]


def always(_: str) -> bool:
    return True


def when_proposed(text: str) -> bool:
    return PROPOSED in text


def when_shown_demos(text: str) -> bool:
    return len(re.findall(r"\[\[ ## question ## \]\]\s*\d", text)) > 1


def when_supplemented(text: str) -> bool:
    return "[[ ## supplement ## ]]" in text.rpartition("[[ ## question ## ]]")[2]


class Actor:
    """An engine that adds one to the question, right or wrong by `knows`, proposes the same instruction to whoever asks
    for one, and answers every other field with `ok`. It remembers whole requests. Safe from many threads."""

    def __init__(self, knows: Knows = always) -> None:
        self._knows = knows
        self._lock = threading.Lock()
        self.asked: list[str] = []
        self.requests: list[Request] = []

    def complete(self, request: Request) -> Response:
        last = request.messages[-1].text or ""
        text = "\n".join([str(request.system or ""), *(message.text or "" for message in request.messages)])
        with self._lock:
            self.asked.append(text)
            self.requests.append(request)
            knows = self._knows(text)
        wanted = [name for name in MARKER.findall(last.rpartition("Respond with")[2]) if name != "completed"]
        number = re.search(r"\[\[ ## question ## \]\]\s*(\d+)\+", last)
        answer = str(int(number[1]) + 1) if number and knows else "wrong"
        said = {"answer": answer, "module_advice": json.dumps(dict.fromkeys(("self", "think.predict"), PROPOSED))}
        said |= dict.fromkeys(("proposed_instruction", "natural_language_rules"), PROPOSED)
        in_json = json.dumps({"new_instruction": PROPOSED})  # GEPA's proposer reads JSON only
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant(reply(**{name: said.get(name, "ok") for name in wanted}) if wanted else in_json),
            finish_reason="stop",
            usage=Usage(input_tokens=1, output_tokens=1),
        )

    def lm(self) -> dspy.LM:
        return dspy.LM("scripted/actor", engine=self, cache=False, num_retries=0)

    def __deepcopy__(self, memo: dict[int, object]) -> Actor:
        return self


class Pipeline(dspy.Module):
    """A predictor in a module, one in a list, and an attribute that no deepcopy takes."""

    def __init__(self) -> None:
        super().__init__()
        self.think = dspy.ChainOfThought("question -> hint")
        self.steps = [dspy.Predict("hint, question -> answer")]
        self.lock = threading.Lock()

    def forward(self, question: str) -> dspy.Prediction:
        return self.steps[0](question=question, hint=self.think(question=question).hint)


def exact(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    return example.answer == prediction.answer


def with_feedback(
    example: dspy.Example, prediction: dspy.Prediction, trace: object = None, name: object = None, traced: object = None
) -> dspy.Prediction:
    return dspy.Prediction(score=float(exact(example, prediction)), feedback="Add one.")


@pytest.fixture(scope="module")
def generator() -> SupplementGenerator:
    return embedded_generator()


@pytest.fixture(params=[lambda: dspy.Predict("question -> answer"), Pipeline], ids=["root", "pipeline"])
def student(request: pytest.FixtureRequest, generator: SupplementGenerator) -> dspy.Module:
    return supplement(request.param(), generator=generator)


def state(program: dspy.Module) -> list[tuple[object, ...]]:
    """All that an optimizer may change."""
    return [
        (name, each.signature, each.signature.instructions, list(each.demos), dict(each.config), each.lm)
        for name, each in program.named_predictors()
    ]


def optimized(optimize: Optimize, student: dspy.Module, actor: Actor) -> tuple[dspy.Module, list[Request]]:
    """The optimized program, with what its actor read for one more question; the student must be as it was."""
    before = state(student)
    with dspy.context(lm=actor.lm()):
        better = optimize(student)
        actor.requests.clear()
        with episode(None) as run:
            assert better(question="41+1?").answer == "42"
    assert state(student) == before
    assert better is not student
    written = [each.render() for role in run.supplements.values() for each in role]
    assert written
    assert all("[[ ## supplement ## ]]" in (request.messages[-1].text or "") for request in actor.requests)
    return better, list(actor.requests)


def keeps_supplements(better: dspy.Module, student: dspy.Module) -> bool:
    """Whether the same predictors, by name, read supplements of the same generator."""
    old, new = supplemented_predictors(student), supplemented_predictors(better)
    return (
        [name for name, _ in new] == [name for name, _ in old] == [name for name, _ in better.named_predictors()]
        and all(each.role == name for name, each in new)
        and {id(each.generator) for _, each in new} == {id(each.generator) for _, each in old}
        and all("supplement" in each.signature.input_fields for _, each in new)
    )


def distance(texts: list[str]) -> np.ndarray:
    """Texts as vectors, so that equal questions are nearest."""
    return np.array([[float(ord(text[-3])), 1.0] for text in texts], dtype=np.float32)


FEW_SHOT: dict[str, Optimize] = {
    "LabeledFewShot": lambda student: dspy.LabeledFewShot(k=2).compile(student, trainset=TRAIN),
    "BootstrapFewShot": lambda student: dspy.BootstrapFewShot(
        metric=exact, max_bootstrapped_demos=2, max_labeled_demos=0
    ).compile(student, trainset=TRAIN),
    "BootstrapFewShotWithRandomSearch": lambda student: dspy.BootstrapFewShotWithRandomSearch(
        metric=exact, max_bootstrapped_demos=1, max_labeled_demos=1, num_candidate_programs=1, num_threads=2
    ).compile(student, trainset=TRAIN[:3], valset=TRAIN[3:]),
    "KNNFewShot": lambda student: dspy.KNNFewShot(
        k=2, trainset=TRAIN, vectorizer=dspy.Embedder(distance), metric=exact
    ).compile(student),
}

INSTRUCTIONS: dict[str, Optimize] = {
    "COPRO": lambda student: dspy.COPRO(metric=exact, breadth=2, depth=2).compile(
        student, trainset=TRAIN[:2], eval_kwargs={"num_threads": 1}
    ),
    "GEPA": lambda student: dspy.GEPA(
        metric=with_feedback,
        max_metric_calls=24,
        reflection_minibatch_size=2,
        reflection_lm=dspy.settings.lm,
        num_threads=2,
    ).compile(student, trainset=TRAIN[:3], valset=TRAIN[3:]),
    "MIPROv2": lambda student: dspy.MIPROv2(
        metric=exact, auto=None, num_candidates=2, num_threads=2, max_bootstrapped_demos=1, max_labeled_demos=1
    ).compile(student, trainset=TRAIN[:3], valset=TRAIN[3:], num_trials=6, minibatch=False),
}


def rows(optimizers: dict[str, Optimize]) -> list[object]:
    return [
        pytest.param(optimize, id=name, marks=pytest.mark.compatible("Optimizers", name))
        for name, optimize in optimizers.items()
    ]


@pytest.mark.parametrize("optimize", rows(FEW_SHOT))
def test_a_few_shot_optimizer_gives_demos_to_supplemented_predictors(
    optimize: Optimize, student: dspy.Module, request: pytest.FixtureRequest
) -> None:
    random_search = "RandomSearch" in request.node.name  # it returns the program without demos where those win nothing
    better, requests = optimized(optimize, student, Actor(when_shown_demos if random_search else always))
    assert keeps_supplements(better, student)
    assert len(requests[-1].messages) > 1


@pytest.mark.compatible("Optimizers", "BootstrapFewShot")
def test_a_bootstrapped_demo_shows_the_supplement_that_helped(
    student: dspy.Module, generator: SupplementGenerator
) -> None:
    better, requests = optimized(FEW_SHOT["BootstrapFewShot"], student, Actor())
    for (_, predictor), request in zip(better.named_predictors(), requests, strict=True):
        for demo, shown in zip(predictor.demos, request.messages[::2], strict=False):
            assert demo.augmented
            assert demo.supplement
            assert demo.supplement in (shown.text or "")


@pytest.mark.parametrize("optimize", rows(INSTRUCTIONS))
def test_an_instruction_optimizer_s_proposal_reaches_the_actor_with_the_supplement(
    optimize: Optimize, student: dspy.Module, request: pytest.FixtureRequest
) -> None:
    if "MIPROv2" in request.node.name:
        pytest.importorskip("optuna", reason="needs optuna: pip install 'dspy[optuna]'")
    better, requests = optimized(optimize, student, Actor(when_proposed))
    assert keeps_supplements(better, student)
    assert any(PROPOSED in each.signature.instructions for each in better.predictors())
    assert any(PROPOSED in str(each.system) for each in requests)


@pytest.mark.compatible("Optimizers", "GEPA")
def test_gepa_s_reflection_reads_the_supplements_that_the_actor_read(
    student: dspy.Module, request: pytest.FixtureRequest
) -> None:
    actor = Actor(when_proposed)
    optimized(INSTRUCTIONS["GEPA"], student, actor)
    reflections = [text for text in actor.asked if "examples_with_feedback" in text]
    assert reflections
    assert all('"supplement": ' in text for text in reflections)


@pytest.mark.compatible("Optimizers", "InferRules")
def test_infer_rules_writes_its_rules_into_supplemented_predictors(student: dspy.Module) -> None:
    """DSPy's InferRules writes them into the student's signatures too, supplemented or not."""
    optimizer = dspy.InferRules(metric=exact, num_candidates=1, num_threads=2, max_bootstrapped_demos=1)
    actor = Actor(when_proposed)
    with dspy.context(lm=actor.lm()):
        better = optimizer.compile(student, trainset=TRAIN[:3], valset=TRAIN[3:])
        actor.requests.clear()
        assert better(question="41+1?").answer == "42"
    assert keeps_supplements(better, student)
    assert all(PROPOSED in str(request.system) for request in actor.requests)
    assert all("[[ ## supplement ## ]]" in (request.messages[-1].text or "") for request in actor.requests)


@pytest.mark.slow
@pytest.mark.compatible("Optimizers", "SIMBA")
@pytest.mark.parametrize("max_demos", [0, 2], ids=["rules", "demos"])
def test_simba_adds_rules_and_demos_to_supplemented_predictors(student: dspy.Module, max_demos: int) -> None:
    seen: Counter[str] = Counter()

    def knows(text: str) -> bool:
        """Every other time, and always for 41 and under a rule: the attempts at a question must differ."""
        question = text.rpartition("[[ ## question ## ]]")[2].strip()[:3]
        seen[question] += "[[ ## answer ## ]]" in text.rpartition("Respond with")[2]
        return PROPOSED in text or question.startswith("41") or seen[question] % 2 == 0

    def simba(student: dspy.Module) -> dspy.Module:
        optimizer = dspy.SIMBA(metric=exact, bsize=3, num_candidates=2, max_steps=2, max_demos=max_demos, num_threads=1)
        return optimizer.compile(student, trainset=TRAIN)

    better, _ = optimized(simba, student, Actor(knows))
    assert keeps_supplements(better, student)
    programs = [candidate["program"] for candidate in better.candidate_programs]
    assert all(keeps_supplements(each, student) for each in programs)
    predictors = [each for program in programs for each in program.predictors()]
    assert any(PROPOSED in each.signature.instructions or each.demos for each in predictors)


@pytest.mark.compatible("Optimizers", "Ensemble")
def test_an_ensemble_asks_each_of_its_supplemented_programs(student: dspy.Module) -> None:
    ensemble = dspy.Ensemble(reduce_fn=lambda answers: answers[0])
    better, requests = optimized(
        lambda program: ensemble.compile([program, program.deepcopy()]), student, Actor(when_supplemented)
    )
    assert len(requests) == 2 * len(student.predictors())
    assert len(supplemented_predictors(better)) == 2 * len(supplemented_predictors(student))


@pytest.mark.compatible("Optimizers", "Evaluate")
def test_evaluate_scores_a_supplemented_program(student: dspy.Module) -> None:
    evaluate = dspy.Evaluate(devset=TRAIN, metric=exact, num_threads=4)
    with dspy.context(lm=Actor(when_supplemented).lm()):
        assert evaluate(student).score == 100.0


def sgt(log_dir: Path) -> SGTTeleprompter:
    return SGTTeleprompter(
        metric=exact,
        generator=embedded_generator(),
        recipe=Recipe(rounds=1, warm_samples=1, pool_samples=1, ood_kinds=1, concat=1, max_per_kind=4, pair_cap=2),
        trainer=TRLTrainer(embedded_folder("generator"), TrainingSettings(sft_epochs=1, batch_size=8)),
        num_threads=4,
        log_dir=log_dir,
        display_progress=False,
    )


@pytest.mark.slow
@pytest.mark.compatible("Optimizers", "BetterTogether with SGTTeleprompter")
@pytest.mark.parametrize("strategy", ["few -> sgt", "sgt -> few"])
def test_better_together_runs_sgt_before_and_after_a_prompt_optimizer(tmp_path: Path, strategy: str) -> None:
    actor = Actor(when_supplemented)
    student = dspy.ChainOfThought("question -> answer")
    student.set_lm(actor.lm())
    together = dspy.BetterTogether(metric=exact, few=dspy.LabeledFewShot(k=1), sgt=sgt(tmp_path / "run"))
    better = together.compile(student, trainset=TRAIN[:4], valset=TRAIN[4:], strategy=strategy, num_threads=2)
    assert not better.flag_compilation_error_occurred
    scores = {candidate["strategy"]: candidate["score"] for candidate in better.candidate_programs}
    first, _, _ = strategy.partition(" ")
    assert scores == {"": 0.0, first: 100.0 if first == "sgt" else 0.0, strategy: 100.0}
    assert all(isinstance(each, SupplementedPredictor) for each in better.predictors())
    last = next(each["program"] for each in better.candidate_programs if each["strategy"] == strategy)
    assert len(last.predict.demos) == 1
    assert isinstance(last.predict, SupplementedPredictor)
    assert type(student.predict) is dspy.Predict
    assert student.predict.demos == []


@pytest.mark.slow
@pytest.mark.compatible("Optimizers", "SGTTeleprompter")
def test_sgt_is_called_as_dspy_s_optimizers_are(tmp_path: Path) -> None:
    student = dspy.Predict("question -> answer")
    with dspy.context(lm=Actor(when_supplemented).lm()):
        better = sgt(tmp_path / "run").compile(student, trainset=TRAIN[:4], valset=TRAIN[4:], teacher=None)
    assert isinstance(better, SupplementedPredictor)
    assert better._compiled
    assert type(student) is dspy.Predict
