"""TextGrad over a program: what it reads, what it keeps, and that it leaves nothing behind."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

import dspy
import pytest
from scripted import ScriptedEngine, reply

from optimizers.comparison.text_gradients import optimize_with_textgrad
from optimizers.core.reward import Scorer

TRAIN = [dspy.Example(question=f"{n}+1?", answer=str(n + 1)).with_inputs("question") for n in range(4)]
VAL = [dspy.Example(question=f"{n}+1?", answer=str(n + 1)).with_inputs("question") for n in range(4, 8)]


class Sums(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.think = dspy.ChainOfThought(dspy.Signature("question -> hint", "Give a hint."))
        self.answer = dspy.Predict(dspy.Signature("question, hint -> answer", "Answer."))

    def forward(self, question: str) -> dspy.Prediction:
        return self.answer(question=question, hint=self.think(question=question).hint)


def graded(example: dspy.Example, prediction: dspy.Prediction) -> dspy.Prediction:
    return dspy.Prediction(score=float(example.answer == prediction.answer), feedback="Add one.")


class Actor(dspy.Module):
    """A program of one predictor that needs no LM: it is right under instructions with `right` in them."""

    def __init__(self) -> None:
        super().__init__()
        self.predict = dspy.Predict(dspy.Signature("question -> answer", "Guess."))
        self.answered: list[str] = []

    def forward(self, question: str) -> dspy.Prediction:
        instructions = self.predict.signature.instructions
        self.answered.append(f"{instructions} {question}")
        return dspy.Prediction(answer=str(int(question[0]) + ("right" in instructions)))

    def __deepcopy__(self, memo: dict[int, object]) -> Actor:
        copy = Actor()
        copy.predict.signature, copy.answered = self.predict.signature, self.answered
        return copy


def proposing(*texts: str, criticism: str = "Say more.") -> ScriptedEngine:
    """A proposer that writes one new instruction after the other; none where its text is empty."""
    left = iter(texts)
    return ScriptedEngine(
        lambda text: f"So: {next(left)}" if "Send the improved variable in the following format" in text else criticism
    )


def tagged(text: str) -> str:
    return f"<IMPROVED_VARIABLE>{text}</IMPROVED_VARIABLE>"


def optimized(program: dspy.Module, proposer: ScriptedEngine, steps: int) -> dspy.Module:
    return optimize_with_textgrad(
        program, TRAIN, VAL, scorer=Scorer(graded), proposer=proposer.lm("scripted/proposer"), steps=steps
    )


@pytest.mark.parametrize(
    ("proposals", "kept"),
    [
        ([tagged("Be right.")], "Be right."),
        ([tagged("Be wrong.")], "Be wrong."),  # as good as before
        ([tagged("Be right."), tagged("Be wrong.")], "Be right."),  # validation falls from 1 to 0
        ([tagged("Be wrong."), tagged("Be right.")], "Be right."),
        (["no tag", tagged("Be right.")], "Be right."),
        (["no tag", "", tagged("")], "Guess."),
        (["<IMPROVED_VARIABLE>Be right."], "Be right."),  # TextGrad takes a tag that is never closed
    ],
)
def test_instructions_are_kept_unless_validation_falls(proposals: list[str], kept: str) -> None:
    student = Actor()
    better = optimized(student, proposing(*proposals), len(proposals))
    assert better.predictors()[0].signature.instructions == kept
    assert student.predict.signature.instructions == "Guess."


def test_a_step_runs_a_batch_and_validates_what_is_new() -> None:
    student = Actor()
    optimized(student, proposing(tagged("Be right."), "no tag"), 2)
    asked = ["Guess. 4+1?", "Guess. 5+1?", "Guess. 6+1?", "Guess. 7+1?"]
    first = ["Guess. 0+1?", "Guess. 1+1?", "Guess. 2+1?"]
    validated = [each.replace("Guess", "Be right") for each in asked]
    second = ["Be right. 3+1?", "Be right. 0+1?", "Be right. 1+1?"]
    assert sorted(student.answered[:4]) == asked
    assert student.answered[4:7] == first
    assert sorted(student.answered[7:11]) == validated
    assert student.answered[11:] == second


def test_the_proposer_reads_inputs_output_score_feedback_and_the_right_answer() -> None:
    proposer = proposing(tagged("Be right."))
    optimized(Actor(), proposer, 1)
    verdicts = [text for text in proposer.asked if "Score: 0. Add one." in text and "correct answer" in text]
    assert len(verdicts) == 3
    assert all("answer: " in text for text in verdicts)
    about_instructions = [text for text in proposer.asked if "<LM_INPUT> question: 0+1? </LM_INPUT>" in text]
    assert about_instructions
    assert all("<LM_OUTPUT> answer: 0 </LM_OUTPUT>" in text and "Guess." in text for text in about_instructions)
    assert proposer.asked[-1].count("<FEEDBACK>Say more.</FEEDBACK>") == 3
    assert proposer.asked[0].startswith("You are part of an optimization system")


def pipeline_actor(text: str) -> str:
    return reply(reasoning="so", hint="one more") if "[[ ## reasoning ## ]]" in text else reply(answer="9")


def test_each_predictor_of_a_pipeline_gets_instructions_of_its_own() -> None:
    proposer = ScriptedEngine(
        lambda text: tagged(f"For {text.partition('the step ')[2][:8]}") if "Send the improved" in text else "Say more."
    )
    with dspy.context(lm=ScriptedEngine(pipeline_actor).lm()):
        better = optimized(Sums(), proposer, 1)
    assert [each.signature.instructions for each in better.predictors()] == ["For 'think.p", "For 'answer'"]
    said = "Step 'think.predict' wrote:\nreasoning: so\nhint: one more\n\nStep 'answer' wrote:\nanswer: 9"
    assert any(said in text for text in proposer.asked)


def test_another_session_asks_the_proposer_the_same() -> None:
    """The order of TextGrad's sets differs from run to run."""
    asked = [proposing(tagged("Be right."), tagged("Be wrong.")) for _ in range(4)]
    for proposer in asked:
        optimized(Actor(), proposer, 2)
    assert len({tuple(sorted(proposer.asked)) for proposer in asked}) == 1


def raises(question: str) -> dspy.Prediction:
    raise ValueError(f"{question} is no question")


def out(question: str) -> dspy.Prediction:
    raise dspy.utils.exceptions.LMRateLimitError("slow down", model="m")


@pytest.mark.parametrize(("forward", "asks"), [(raises, True), (out, False)], ids=["an error", "an outage"])
def test_an_error_is_criticized_and_an_outage_is_not(
    forward: Callable[[str], dspy.Prediction], asks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Actor, "forward", lambda self, question: forward(question))
    proposer = proposing(tagged("Be right."))
    optimized(Actor(), proposer, 1)
    assert any("ValueError: 0+1? is no question" in text for text in proposer.asked) == asks
    assert bool(proposer.asked) == asks


def test_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not even where TextGrad is imported for the first time, or has an engine of the user's."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "textgrad"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.chdir(tmp_path)
    environment = dict(os.environ)
    optimized(Actor(), proposing("no tag"), 1)
    singleton = sys.modules["textgrad"].config.SingletonBackwardEngine()
    singleton.set_engine(theirs := object())
    optimized(Actor(), proposing("no tag"), 1)
    assert singleton.engine is theirs
    assert dict(os.environ) == environment
    assert list(tmp_path.iterdir()) == []
    assert not logging.getLogger("textgrad").handlers
    assert not logging.getLogger("textgrad").disabled
    out, err = capfd.readouterr()
    assert not out
    assert all("dspy.evaluate" in line for line in err.splitlines())  # as every optimizer of DSPy's
