"""A DPO round of 1,000 pairs, 20 samples a query, on the embedded generator: ours compared with TRL's trainer.

The pairs follow a learnable rule: the shorter half of a query's supplements is preferred. `preference_rounds.py` says
what is equal on both sides, and how TRL's settings are chosen. Interleaved repeats, one seed each; the figure is the
median of their ratios.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from preference_rounds import LARGER_STEPS, STEPS_OF_8, Round, compare

from optimizers.core.records import Query, Reward, Rollout
from optimizers.sgt.candidates import to_candidates, warm_start_requests
from optimizers.sgt.preference_pairs import preference_pairs
from sgt_modules.embedded import HouseTermsWorld, embedded_generator
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.embedded.program import AnswerInSQL
from sgt_modules.generator_prompt import COMPACT

BAR = 3.0
PAIRS, HELD_OUT, SAMPLES, REPEATS = 1000, 200, 20, 5
QUERIES = 60
WAYS, TRIED_ON = STEPS_OF_8 + LARGER_STEPS, 200
LEARNING_RATE = 4e-3


def supplements() -> Iterator[Rollout]:
    """Return at most twenty distinct supplements a query; the shorter ten won."""
    rng, generator = random.Random(0), embedded_generator()
    queries = [
        Query(str(index), index, "self", COMPACT.write(AnswerInSQL, example.inputs()))
        for index, example in enumerate(HouseTermsWorld(seed=0).train[:QUERIES])
    ]
    requests = warm_start_requests(queries, rng=rng, samples=4)
    samples = generator.samples([replace(request, temperature=1.0) for _, request in requests])
    drawn = list(to_candidates(requests, samples))
    for query in queries:
        of_query = {each.supplement.render(): each.supplement for each in drawn if each.query == query}
        kept = sorted(rng.sample(sorted(of_query), min(SAMPLES, len(of_query))), key=len)
        for place, text in enumerate(kept):
            yield Rollout(query, "dpo", "direct", of_query[text], Reward(float(place < SAMPLES // 2)))


def main() -> None:
    """Measure, print a table, and then the figure."""
    every = preference_pairs(supplements(), rng=random.Random(0))
    border = every[PAIRS - 1].query
    held = [pair for pair in every[PAIRS:] if pair.query != border][:HELD_OUT]
    model = embedded_folder("generator")
    round_ = Round(model, every[:PAIRS], held, LEARNING_RATE, 512, REPEATS, WAYS, TRIED_ON)
    compare(round_, "seconds of a DPO round of 1,000 pairs, embedded lengths", BAR)


if __name__ == "__main__":
    main()
