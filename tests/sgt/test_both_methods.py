"""SPT's prompt and SGT's supplements in one program, in either order, by hand and through BetterTogether.

Half of what the actor lacks is told by instructions (`Carry the one.`), the other half by a supplement of the kind
`background`; neither method can have both.
"""

from __future__ import annotations

import re
from pathlib import Path

import dspy
import pytest
from prompted import TRAIN, VAL, corrector, exact, spt, student
from scripted import ScriptedEngine, ScriptedTrainer, reply
from small_compile import SMALL, writer

from optimizers import SGTTeleprompter, SupervisoryPromptTeleprompter
from sgt_modules.wrapping import supplemented_predictors


def reads(text: str) -> str:
    kind, number = re.findall(r"\[\[ ## question ## \]\]\s*(\w+) (\d+)", text)[-1]
    known = {"small": True, "carry": "Carry the one." in text, "unit": "[background]" in text}
    return reply(answer=f"{kind}-{number}" if known[kind] else "wrong")


def methods(folder: Path) -> dict[str, SGTTeleprompter | SupervisoryPromptTeleprompter]:
    return {
        "spt": spt(corrector(["Carry the one."] * 8), folder / "spt", rounds=1),
        "sgt": SGTTeleprompter(
            exact,
            writer(),
            recipe=SMALL,
            trainer=ScriptedTrainer(),
            num_threads=4,
            log_dir=folder / "sgt",
            display_progress=False,
        ),
    }


@pytest.mark.parametrize("order", [("spt", "sgt"), ("sgt", "spt")])
def test_by_hand_the_second_keeps_what_the_first_learned(tmp_path: Path, order: tuple[str, str]) -> None:
    program: dspy.Module = student()
    known = methods(tmp_path)
    with dspy.context(lm=ScriptedEngine(reads, whole=True).lm()):
        scores: list[float] = []
        for name in order:
            program = known[name].compile(program, trainset=TRAIN, valset=VAL)
            scores.append(program.detailed_results.best.score)
        assert [program(question=f"{kind} 9").answer for kind in ("small", "carry", "unit")] == [
            "small-9",
            "carry-9",
            "unit-9",
        ]
    assert scores == [pytest.approx(2 / 3), 1.0]
    [(_, predictor)] = supplemented_predictors(program)
    assert predictor.signature.instructions == "Carry the one."


@pytest.mark.parametrize("strategy", ["spt -> sgt", "sgt -> spt"])
def test_better_together_runs_them_in_either_order(tmp_path: Path, strategy: str) -> None:
    program = student()
    program.set_lm(ScriptedEngine(reads, whole=True).lm())
    together = dspy.BetterTogether(metric=exact, **methods(tmp_path))
    better = together.compile(program, trainset=TRAIN, valset=VAL, strategy=strategy, num_threads=2)
    assert not better.flag_compilation_error_occurred
    first = strategy.partition(" ")[0]
    scores = {each["strategy"]: each["score"] for each in better.candidate_programs}
    assert scores == {"": 33.33, first: 66.67, strategy: 100.0}
    assert supplemented_predictors(better)
    assert better.signature.instructions == "Carry the one."
    assert not supplemented_predictors(program)
