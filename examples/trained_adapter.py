"""A trained adapter, the project's first: what it writes, and what that is worth to an actor that it never met.

`examples/trained_adapter/` holds LoRA weights for the package's generator, trained on the house terms of seed 1 from
the outcomes of Qwen2.5-Coder-0.5B-Instruct alone; its README.md says how, and what each stage scored. Here the embedded
actor answers the test questions, a model of another size, tokenizer and training.

    python examples/trained_adapter.py
    python examples/trained_adapter.py local:Qwen/Qwen2.5-Coder-0.5B-Instruct    # the actor that it was trained for
"""

from __future__ import annotations

import sys
from pathlib import Path

import dspy

from sgt_modules import supplement
from sgt_modules.embedded import HouseTermsWorld, embedded_actor, embedded_generator, program
from sgt_modules.lms import lm_named

ADAPTER = Path(__file__).parent / "trained_adapter"
QUESTIONS = 60


def main(actor: str = "") -> None:
    """Print the score with and without supplements, and some that turned an answer right."""
    world = HouseTermsWorld(seed=1)
    test = world.test[:QUESTIONS]
    generator = embedded_generator().with_checkpoint(ADAPTER)  # yours: SupplementGenerator("Qwen/Qwen3-1.7B", ...)
    better = supplement(program(), generator=generator)  # yours: any dspy.Module
    lm = lm_named(actor) if actor else embedded_actor()  # yours: dspy.LM("openai/gpt-4.1-mini")
    with dspy.context(lm=lm):
        score = dspy.Evaluate(devset=test, metric=world.metric, num_threads=16, provide_traceback=False)
        before, after = (round(score(each).score * len(test) / 100) for each in (program(), better))
    print(f"test: {before} of {len(test)} right without supplements, {after} with them")
    for example in [each for each in test if each.term][:3]:
        with dspy.context(lm=lm, trace=[]):
            better(**example.inputs())
            advice = dspy.settings.trace[0][1]["supplement"]
        print(f"  question: {example.question}\n  advice:   {advice}")


if __name__ == "__main__":
    main(*sys.argv[1:])
