"""A small world for prompts: an actor that follows the sentences of its instructions, and a corrector by script.

A question is a kind and a number. The actor is right on `small` ones unless told to guess, on `carry` ones if told to
carry the one, on `unit` ones if told to name the unit. `Be polite.` does nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import dspy
from scripted import ScriptedEngine, reply

from optimizers.spt.teleprompter import SupervisoryPromptTeleprompter

FIRST = "Answer briefly."
HINTS = {"carry": "Carry the one.", "unit": "Name the unit."}


def asked(kind: str, *numbers: int) -> list[dspy.Example]:
    return [dspy.Example(question=f"{kind} {n}", answer=f"{kind}-{n}").with_inputs("question") for n in numbers]


TRAIN = [*asked("small", 1, 2, 3, 4), *asked("carry", 1, 2), *asked("unit", 1, 2)]
VAL = [*asked("small", 5, 6), *asked("carry", 3, 4), *asked("unit", 3, 4)]


def exact(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    return example.answer == prediction.answer


def student(text: str = FIRST) -> dspy.Predict:
    return dspy.Predict(dspy.Signature("question -> answer", text))


def right(kind: str, instructions: str) -> bool:
    if kind == "small":
        return "Guess." not in instructions
    return HINTS[kind] in instructions


def follows(text: str) -> str:
    """The actor's answer to a request, instructions and all."""
    kind, number = re.findall(r"\[\[ ## question ## \]\]\s*(\w+) (\d+)", text)[-1]
    instructions = text.rpartition("your objective is:")[2].partition("[[ ##")[0]
    return reply(answer=f"{kind}-{number}" if right(kind, instructions) else "wrong")


def actor() -> ScriptedEngine:
    return ScriptedEngine(follows, whole=True)


def corrector(prompts: Iterable[str], briefs: Iterable[str] = ()) -> ScriptedEngine:
    """One that writes these prompts and these briefs, in this order, whatever it reads."""
    said, told = iter(prompts), iter(briefs)

    def write(text: str) -> str:
        wanted = text.rpartition("Respond with")[2]
        return reply(new_meta_prompt=next(told)) if "new_meta_prompt" in wanted else reply(new_prompt=next(said))

    return ScriptedEngine(write, whole=True)


def spt(
    engine: ScriptedEngine, log_dir: Path, metric: Callable[..., object] = exact, **changes: object
) -> SupervisoryPromptTeleprompter:
    settings = {"num_threads": 1, "log_dir": log_dir, "display_progress": False, **changes}
    return SupervisoryPromptTeleprompter(metric, engine.lm("scripted/corrector"), **settings)
