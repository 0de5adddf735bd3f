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

from optimizers.comparison import CONTENDERS, Bench, Comparison, Contender, compare
from sgt_modules.embedded import program as world_program

ADVICE = "Add with great care."
MARKER = re.compile(r"\[\[ ## (\w+) ## \]\]")
EXAMPLES = [dspy.Example(question=f"{n}+1?", answer=str(n + 1)).with_inputs("question") for n in range(18)]
TRAIN, VAL, TEST = EXAMPLES[:6], EXAMPLES[6:12], EXAMPLES[12:]
PROPOSING = [name for name, each in CONTENDERS.items() if "proposer" in each.needs]
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
    """Adds one to an even number; to an odd one only under the advice, with a demo, or every other time when sampled."""

    def __init__(self) -> None:
        super().__init__()
        self.sampled: Counter[str] = Counter()

    def said(self, text: str, last: str, request: Request) -> str:
        found = re.search(r"\[\[ ## question ## \]\]\s*(\d+)\+", last)
        assert found, f"The actor is asked questions only, not: {last}"
        number = int(found[1])
        self.sampled[found[1]] += bool(request.config.temperature)
        shown = len(re.findall(r"\[\[ ## question ## \]\]\s*\d", text)) > 1
        right = number % 2 == 0 or ADVICE in text or shown or self.sampled[found[1]] % 2 == 1
        return fields(last, answer=str(number + 1) if right else "wrong")


class Proposer(Scripted):
    """Gives the same advice to whoever asks for an instruction, and adds right where it is asked to."""

    def said(self, text: str, last: str, request: Request) -> str:
        if "<IMPROVED_VARIABLE>" in text:
            return f"<IMPROVED_VARIABLE>{ADVICE}</IMPROVED_VARIABLE>"
        found = re.search(r"\[\[ ## question ## \]\]\s*(\d+)\+", last)
        said = dict.fromkeys(("proposed_instruction", "natural_language_rules", "new_instruction"), ADVICE)
        said["module_advice"] = json.dumps(dict.fromkeys(("self", "think.predict", "answer"), ADVICE))
        return fields(last, answer=str(int(found[1]) + 1) if found else "", **said)


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
    with dspy.context(lm=changes.pop("lm", None) or Actor().lm()):
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


def graded(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> dspy.Prediction:
    """Never false, whatever the score."""
    return dspy.Prediction(score=float(exact(example, prediction)), feedback="Add one.")


def unlabeled(examples: list[dspy.Example]) -> list[dspy.Example]:
    """The same, with the answer in a field that no program writes."""
    return [dspy.Example(question=each.question, gold=each.answer).with_inputs("question") for each in examples]


def by_gold(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> dspy.Prediction:
    return dspy.Prediction(score=float(example.gold == prediction.answer))


@pytest.mark.parametrize("budget", [40, None])
@pytest.mark.parametrize("name", UNTRAINED)
def test_a_contender_gives_a_better_program_within_its_budget(name: str, budget: int | None, tmp_path: Path) -> None:
    """The actor knows half of the answers, and all of them with a demo or the advice."""
    student = dspy.Predict("question -> answer")
    before = state(student)
    row = compared(tmp_path, name, program=student, budget=budget).row(name)
    assert not row.skipped
    assert row.test == (0.5 if name in ("none", "cot") else 1.0)
    assert row.compiling.actor_calls <= (budget or 10**9)
    assert state(student) == before


@pytest.mark.parametrize("name", UNTRAINED)
def test_predictors_with_an_lm_of_their_own_are_metered(name: str, tmp_path: Path) -> None:
    first, second = Actor(), Actor()
    student = Pipeline()
    student.think.set_lm(first.lm())
    student.again.lm = second.lm()
    with dspy.context(lm=None):
        row = compared(tmp_path, name, program=student, budget=60, lm=Forbidden().lm()).row(name)
    assert not row.skipped
    assert row.compiling.actor_calls <= 60
