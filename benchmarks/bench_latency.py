"""Seconds of one call of a `SupplementedPredictor`, compared with the bare predictor and one raw `generate`.

Both run the embedded actor and generator, one call at a time, on the same questions, and write the same tokens: the
raw side passes its generated supplement to the bare predictor's actor. Interleaved call by call; the figure is the
median of the pairs' ratios.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import dspy
import torch
from figures import Figure, report, round_to
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from sgt_modules import supplement
from sgt_modules.embedded import HouseTermsWorld, embedded_actor, embedded_generator, program
from sgt_modules.generator_prompt import COMPACT
from sgt_modules.local.chat_template import render_chat
from sgt_modules.prompts import SUPPLEMENT, with_supplement

BAR = 1.15
QUESTIONS = 12
REPEATS = 5


def by_hand() -> Callable[[dspy.Example], object]:
    """Return a user's own code: the prompt through the template, `generate`, the predictor with one more input."""
    generator, plain = embedded_generator(), dspy.Predict(with_supplement(program().signature))
    tokenizer, engine = generator.engine.tokenizer, generator.engine
    model = AutoModelForCausalLM.from_pretrained(engine.weights.folders[0], dtype=torch.float64).eval()

    def call(example: dspy.Example) -> object:
        prompt = COMPACT.write(program().signature, example.inputs().toDict())
        ids = tokenizer(render_chat(tokenizer, [{"role": "user", "content": prompt}]), add_special_tokens=False)
        asked = torch.tensor([ids["input_ids"]])
        with torch.inference_mode():
            drawn = model.generate(
                asked,
                attention_mask=torch.ones_like(asked),
                do_sample=False,
                max_new_tokens=generator.max_new_tokens,
            )
        written = tokenizer.decode(drawn[0, asked.shape[1] :], skip_special_tokens=True)
        return plain(**example.inputs(), **({SUPPLEMENT: written} if written.strip() else {}))

    return call


def seconds(call: Callable[[dspy.Example], object], example: dspy.Example, actor: dspy.LM) -> float:
    """Return the seconds of one call."""
    with dspy.context(lm=actor, disable_history=True):
        began = time.perf_counter()
        call(example)
        return time.perf_counter() - began


def main() -> None:
    """Measure, print a table, and then the figure."""
    wrapped = supplement(program(), generator=embedded_generator())
    calls = (lambda example: wrapped(**example.inputs()), by_hand())
    actor, examples = embedded_actor(), HouseTermsWorld(seed=0).test[: QUESTIONS + 2]
    for example in examples[QUESTIONS:]:
        for call in calls:
            seconds(call, example, actor)
    table = Table("repeat", "wrapped, ms", "by hand, ms", title="One call, the median of 12 questions")
    every: tuple[list[float], list[float]] = ([], [])
    for repeat in range(REPEATS):
        for place, example in enumerate(examples[:QUESTIONS]):
            order = (0, 1) if (repeat + place) % 2 else (1, 0)
            for side in order:
                every[side].append(seconds(calls[side], example, actor))
        latest = [1000 * statistics.median(taken[-QUESTIONS:]) for taken in every]
        table.add_row(str(repeat + 1), *(f"{each:.1f}" for each in latest))
    Console().print(table)
    ours, theirs = (1000 * statistics.median(taken) for taken in every)
    ratio = statistics.median(wrapped / raw for wrapped, raw in zip(*every, strict=True))
    report(
        Figure(
            "milliseconds of one supplemented call",
            round_to(ratio, 4),
            BAR,
            at_most=True,
            ours=round_to(ours),
            theirs=round_to(theirs),
            rival="the bare predictor and one raw generate",
        )
    )


if __name__ == "__main__":
    main()
