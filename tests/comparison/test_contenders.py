"""Every contender of the comparison on a tiny task: it runs, keeps to its budget and leaves the student alone."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from pathlib import Path

import dspy
import pytest
from dspy.lm15 import Message, Request, Response, Usage
from dspy.teleprompt import Teleprompter
from scripted import ScriptedEngine, ScriptedTrainer, reply
from small_compile import SMALL, WORLD, helped, writer

from optimizers.comparison import CONTENDERS, Comparison, Contender, ContenderArguments, compare
from sgt_modules.embedded import program as world_program

ADVICE = "Add with great care."
QUESTION = re.compile(r"\[\[ ## question ## \]\]\s*(\d+)\+")
MARKER = re.compile(r"\[\[ ## (\w+) ## \]\]")
EXAMPLES = [dspy.Example(question=f"{n}+1?", answer=str(n + 1)).with_inputs("question") for n in range(18)]
TRAIN, VAL, TEST = EXAMPLES[:6], EXAMPLES[6:12], EXAMPLES[12:]
PROPOSING = [name for name, each in CONTENDERS.items() if "proposer" in each.needs]
TRAINED = ["nearest_winner", "sgt", "few_shot_then_sgt", "sgt_then_knn"]
UNTRAINED = [name for name, each in CONTENDERS.items() if not {"generator", "tunable"} & set(each.needs)]


class Scripted:
    """An engine that answers each field it is asked for by `said`; it remembers whole requests. Safe from threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.requests: list[str] = []

    def complete(self, request: Request) -> Response:
        last = request.messages[-1].text or ""
        text = "\n".join([str(request.system or ""), *(message.text or "" for message in request.messages)])
        with self.lock:
            self.requests.append(text)
            said = self.said(text, last, request)
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant(said),
            finish_reason="stop",
            usage=Usage(input_tokens=len(text.split()), output_tokens=len(said.split())),
        )

    def said(self, text: str, last: str, request: Request) -> str:
        raise NotImplementedError

    def lm(self) -> dspy.LM:
        return dspy.LM(f"scripted/{type(self).__name__}", engine=self, cache=False, num_retries=0)

    def __deepcopy__(self, memo: dict[int, object]) -> Scripted:
        return self


def fields(last: str, **said: str) -> str:
    """The fields that a prompt asks for; GEPA's asks for JSON only."""
    wanted = [name for name in MARKER.findall(last.rpartition("Respond with")[2]) if name != "completed"]
    return reply(**{name: said.get(name, "ok") for name in wanted}) if wanted else json.dumps(said)


class Actor(Scripted):
    """Adds one to even numbers; to odd ones only under the advice, with a demo, or every other time when sampled."""

    def __init__(self) -> None:
        super().__init__()
        self.sampled: Counter[str] = Counter()

    def said(self, text: str, last: str, request: Request) -> str:
        found = QUESTION.search(last)
        assert found, f"The actor is asked questions only, not: {last}"
        number = int(found[1])
        self.sampled[found[1]] += bool(request.config.temperature)
        shown = len(QUESTION.findall(text)) > 1
        right = number % 2 == 0 or ADVICE in text or shown or self.sampled[found[1]] % 2 == 1
        return fields(last, answer=str(number + 1) if right else "wrong")


class Proposer(Scripted):
    """Gives the same advice for every request for an instruction, and adds correctly if asked to."""

    def said(self, text: str, last: str, request: Request) -> str:
        if "<IMPROVED_VARIABLE>" in text:
            return f"<IMPROVED_VARIABLE>{ADVICE}</IMPROVED_VARIABLE>"
        found = QUESTION.search(last)
        said = dict.fromkeys(
            ("proposed_instruction", "natural_language_rules", "new_instruction", "new_prompt"), ADVICE
        )
        said["marked"], said["rewritten"] = _marked_whole(last), f"<edit>{ADVICE}</edit>"
        said["module_advice"] = json.dumps(dict.fromkeys(("self", "think.predict", "answer"), ADVICE))
        return fields(last, answer=str(int(found[1]) + 1) if found else "", **said)


def _marked_whole(last: str) -> str:
    """The instructions in a request, all of which are at fault."""
    found = re.search(r"\[\[ ## prompt ## \]\]\n(.*?)\n\n\[\[", last, re.DOTALL)
    return f"<edit>{found[1]}</edit>" if found else ""


class Pipeline(dspy.Module):
    """A predictor that thinks, one in a list that does not, and one that stands in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.think = dspy.ChainOfThought("question -> hint")
        self.steps = [dspy.Predict("question, hint -> answer")]
        self.again = self.steps[0]

    def forward(self, question: str) -> dspy.Prediction:
        return self.again(question=question, hint=self.think(question=question).hint)


class Rambling(Scripted):
    """Says nothing that anybody could use."""

    def said(self, text: str, last: str, request: Request) -> str:
        return "I would rather talk about the weather."


def exact(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    return example.answer == prediction.answer


def compared(tmp_path: Path, *names: object, program: dspy.Module | None = None, **changes: object) -> Comparison:
    with dspy.context(lm=changes.pop("lm") if "lm" in changes else Actor().lm()):
        return compare(
            program or dspy.Predict("question -> answer"),
            *(changes.pop("splits", None) or (TRAIN, VAL, TEST)),
            changes.pop("metric", exact),
            list(names),
            **{
                "seeds": [0],
                "num_threads": 4,
                "log_dir": tmp_path / "comparison",
                "display_progress": False,
                "reflection_lm": Proposer().lm(),
                **changes,
            },
        )


def state(program: dspy.Module) -> list[tuple[object, ...]]:
    """All that an optimizer may change."""
    return [
        (name, each.signature, each.signature.instructions, list(each.demos), dict(each.config), each.lm)
        for name, each in program.named_predictors()
    ]


def unlabeled(examples: list[dspy.Example]) -> list[dspy.Example]:
    """The same, with the answer in a field that no program writes."""
    return [dspy.Example(question=each.question, gold=each.answer).with_inputs("question") for each in examples]


def by_gold(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> dspy.Prediction:
    return dspy.Prediction(score=float(example.gold == prediction.answer))


@pytest.mark.parametrize(
    ("name", "budget"),
    [(name, 40) for name in UNTRAINED] + [(name, None) for name in UNTRAINED if name not in ("gepa", "simba")],
)
def test_a_contender_gives_a_better_program_within_its_budget(name: str, budget: int | None, tmp_path: Path) -> None:
    """The actor knows half of the answers, and all of them with a demo or the advice."""
    student = dspy.Predict("question -> answer")
    before = state(student)
    row = compared(tmp_path, name, program=student, budget=budget).row(name)
    assert not row.skipped
    assert row.test == (0.5 if name in ("none", "cot") else 1.0)
    assert row.compiling.actor_calls <= (budget or 10**9)
    assert state(student) == before


@pytest.mark.parametrize(
    ("name", "fallback"),
    [(name, False) for name in UNTRAINED] + [(name, True) for name in ("bootstrap_fewshot", "miprov2", "infer_rules")],
)
def test_predictors_keep_their_own_lms_which_are_metered(name: str, fallback: bool, tmp_path: Path) -> None:
    first, second, other = Actor(), Actor(), Actor()
    student = Pipeline()
    student.set_lm(first.lm())
    if name != "simba":  # it resamples one LM
        student.again.lm = second.lm()
    before = state(student)
    rows = compared(tmp_path, name, program=student, budget=60, lm=other.lm() if fallback else None).rows
    assert not any(row.skipped for row in rows)
    paid = sum(row.compiling.actor_calls + row.answer.actor_calls * len(TEST) for row in rows)
    assert paid == pytest.approx(len(first.requests) + len(second.requests))
    assert not other.requests
    assert state(student) == before


@pytest.mark.parametrize("name", ["bootstrap_fewshot", "bootstrap_fewshot_random_search", "knn_fewshot"])
def test_a_failure_is_never_shown_though_the_metric_returns_a_prediction(name: str, tmp_path: Path) -> None:
    """The actor knows the even ones, so only those may be demos."""
    actor = Actor()
    splits = tuple(map(unlabeled, (TRAIN, VAL, TEST)))
    compared(tmp_path, name, metric=by_gold, splits=splits, lm=actor.lm())
    shown = {int(each) for text in actor.requests for each in QUESTION.findall(text)[:-1]}
    assert shown
    assert all(number % 2 == 0 for number in shown)


def test_knn_reads_the_vectors_of_its_own_training_set_not_of_an_earlier_one(tmp_path: Path) -> None:
    """DSPy caches an embedding by the function's source and the text: test questions of two comparisons are alike."""
    longer = [*TRAIN, *(each.copy(question=f"{each.question} please").with_inputs("question") for each in TRAIN)]
    for number, train in enumerate((TRAIN, longer)):
        row = compared(tmp_path / str(number), "knn_fewshot", splits=(train, VAL, TEST)).row("knn_fewshot")
        assert (row.unanswered, row.errors) == (0, {})


def test_labels_that_are_missing_leave_out_the_contender_that_shows_them(tmp_path: Path) -> None:
    splits = tuple(map(unlabeled, (TRAIN, VAL, TEST)))
    found = compared(tmp_path, "labeled_fewshot", "bootstrap_fewshot", metric=by_gold, splits=splits, budget=40)
    assert found.row("bootstrap_fewshot").test == 1.0
    assert {row.name: row.skipped for row in found.skipped} == {
        "labeled_fewshot": "the training examples have no outputs of the program to show as demos"
    }


def test_without_what_they_need_contenders_are_in_the_table_with_the_reason(tmp_path: Path) -> None:
    found = compared(tmp_path, "cot", *PROPOSING, *TRAINED, "bootstrap_finetune", reflection_lm=None)
    spt = ["spt_p", "spt_pc", "spt_p_without_impact", "spt_pc_without_impact"]
    assert ["copro", "miprov2", "simba", "gepa", "infer_rules", "textgrad", "lpo", *spt] == PROPOSING
    assert {row.name: row.skipped for row in found.skipped} == {
        **dict.fromkeys(PROPOSING, "needs an LM that writes instructions: pass reflection_lm"),
        **dict.fromkeys(TRAINED, "needs a small model to train: pass generator"),
        "bootstrap_finetune": "the actor's provider offers no fine-tuning",
    }


@pytest.mark.parametrize("name", PROPOSING)
def test_proposals_that_nobody_can_use_change_nothing_or_are_the_reason(name: str, tmp_path: Path) -> None:
    row = compared(tmp_path, name, budget=12, reflection_lm=Rambling().lm()).row(name)
    without = {"miprov2": None, "infer_rules": 1.0}  # the last shows labels too
    assert row.test == without.get(name, 0.5)
    assert row.skipped.startswith("seed 0: failed (AdapterParseError: ") == (row.test is None)


class Warmth(Rambling):
    """Remembers the temperatures that it is asked with."""

    def __init__(self, *, in_process: bool) -> None:
        super().__init__()
        self.in_process = in_process
        self.temperatures = set[float | None]()

    def said(self, text: str, last: str, request: Request) -> str:
        self.temperatures.add(request.config.temperature)
        return super().said(text, last, request)


@pytest.mark.parametrize(("in_process", "temperature"), [(True, 0.7), (False, 1.4)])
def test_copro_asks_a_small_model_at_a_temperature_at_which_it_writes_sense(
    in_process: bool, temperature: float, tmp_path: Path
) -> None:
    proposer = Warmth(in_process=in_process)
    compared(tmp_path, "copro", budget=12, reflection_lm=proposer.lm())
    assert proposer.temperatures == {temperature}


def test_every_predictor_of_a_pipeline_thinks_once(tmp_path: Path) -> None:
    student, actor = Pipeline(), Actor()
    student.again.demos = [dspy.Example(question="0+1?", hint="none", answer="1")]
    assert compared(tmp_path, "cot", program=student, lm=actor.lm()).row("cot").test == 1.0
    wanted = [MARKER.findall(text.rpartition("Respond with")[2]) for text in actor.requests]
    assert [each for each in wanted if "answer" in each].count(["reasoning", "answer", "completed"]) == len(TEST)
    assert [each for each in wanted if "hint" in each] == [["reasoning", "hint", "completed"]] * 2 * len(TEST)
    assert type(student.steps[0]) is dspy.Predict


class ShowOne(Teleprompter):
    """A user's own: shows the first training example."""

    def compile(self, student: dspy.Module, *, trainset: list[dspy.Example], seed: int) -> dspy.Module:
        better = student.deepcopy()
        for each in better.predictors():
            each.demos = [trainset[seed]]
        return better


def refuses(inputs: ContenderArguments) -> dspy.Module:
    raise RuntimeError(f"no {inputs.calls} calls, please\nor any")


def test_a_users_own_teleprompter_and_contender_are_compared(tmp_path: Path) -> None:
    advised = Contender("advised", lambda inputs: dspy.Predict(dspy.Signature("question -> answer", ADVICE)))
    found = compared(tmp_path, ShowOne(), Contender("refuses", refuses), advised, seeds=[1, 2], budget=7)
    assert [row.name for row in found.rows] == ["none", "show_one", "advised", "refuses"]
    assert [row.test for row in found.rows] == [0.5, 1.0, 1.0, None]
    assert found.row("refuses").skipped == "seed 1: failed (RuntimeError: no 7 calls, please)"
    assert not found.row("advised").compiling.actor_calls


@pytest.mark.slow
def test_sgt_learns_alone_and_upon_demos(tmp_path: Path) -> None:
    """The actor of the small world is right exactly when its supplement is the one the generator learns to write."""
    engine = ScriptedEngine(helped)
    found = compared(
        tmp_path,
        *TRAINED,
        program=world_program(),
        splits=(WORLD.train, WORLD.val, WORLD.test),
        metric=WORLD.metric,
        lm=engine.lm(),
        budget=400,
        generator=writer(),
        trainer=ScriptedTrainer(),
        recipe=SMALL,
    )
    assert {row.name: row.test for row in found.rows} == {"none": 0.0, **dict.fromkeys(TRAINED, 1.0)}
    assert all(0 < row.compiling.actor_calls <= 400 for row in found.rows[1:])
    assert (tmp_path / "comparison" / "sgt" / "seed-0" / "sgt" / "run.json").exists()
