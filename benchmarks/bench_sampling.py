"""Tokens sampled a second: 512 prompts x 5 samples together, compared with `generate` over padded batches.

The embedded generator in single precision and its own prompts; both sides go from prompts to texts. `generate` first
tries several batch sizes on every fourth prompt; the fastest then runs interleaved with ours, five times each, on all
prompts. Greedy replies in double precision must be the same texts on both sides. The figure is the median of the
repeats' ratios.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch
from figures import Figure, report, round_to
from padded_batch import PaddedBatches
from rich.console import Console
from rich.table import Table

from sgt_modules.embedded import HouseTermsWorld, program
from sgt_modules.embedded.models import MAX_NEW_TOKENS, embedded_folder
from sgt_modules.generator_prompt import COMPACT
from sgt_modules.local.engine import LocalEngine
from sgt_modules.samples import SampleRequest

BAR = 2.0
PROMPTS = 512
SAMPLES = 5
SIZES = (1, 4, 8, 16, 32, 64)
"""Prompts of a batch; each has `SAMPLES` rows."""

TRIED = 128
SAME_TEXT = 64
REPEATS = 5


def prompts() -> list[str]:
    """Return distinct prompts, as exploration writes them."""
    signature, wanted = program().signature, dict[str, None]()
    for seed in range(20):
        for example in HouseTermsWorld(seed=seed).train:
            wanted[COMPACT.write(signature, example.inputs().toDict())] = None
    return list(wanted)[:PROMPTS]


def ours(engine: LocalEngine, asked: Sequence[str], seed: int) -> float:
    """Tokens a second of one call for all samples of all prompts."""
    requests = [SampleRequest(prompt, seed + n, temperature=1.0) for prompt in asked for n in range(SAMPLES)]
    began = time.perf_counter()
    drawn = engine.sample(requests)
    return sum(each.tokens for each in drawn) / (time.perf_counter() - began)


def theirs(model: PaddedBatches, asked: Sequence[str], size: int) -> float:
    """Tokens a second of `generate` over padded batches of `size` prompts."""
    began = time.perf_counter()
    texts = model.render(asked)
    _, tokens = model.write(texts, size, do_sample=True, temperature=1.0, top_k=0, num_return_sequences=SAMPLES)
    return tokens / (time.perf_counter() - began)


def differing_texts(asked: Sequence[str]) -> int:
    """Return how many greedy replies differ, in double precision on both sides."""
    folder = embedded_folder("generator")
    engine = LocalEngine(folder, dtype="float64", device="cpu", max_new_tokens=MAX_NEW_TOKENS)
    model = PaddedBatches(folder, torch.float64, MAX_NEW_TOKENS)
    mine = engine.sample([SampleRequest(prompt, 0, temperature=0.0) for prompt in asked])
    others, _ = model.write(model.render(asked), 16)
    return sum(sample.text.strip() != other.strip() for sample, other in zip(mine, others, strict=True))


def main() -> None:
    """Measure, print a table, and then the figure."""
    folder, asked = embedded_folder("generator"), prompts()
    engine = LocalEngine(folder, dtype="float32", device="cpu", max_new_tokens=MAX_NEW_TOKENS)
    model = PaddedBatches(folder, torch.float32, MAX_NEW_TOKENS)
    few = asked[:: len(asked) // TRIED]
    ours(engine, few[:8], seed=0)
    theirs(model, few[:8], 8)
    tried = {size: theirs(model, few[: 4 * size] if size < 8 else few, size) for size in SIZES}
    best = max(tried, key=tried.__getitem__)
    rates = [(ours(engine, asked, seed=SAMPLES * repeat), theirs(model, asked, best)) for repeat in range(REPEATS)]
    table = Table("", "together, tokens/s", "generate, tokens/s", title=f"{len(asked)} prompts x {SAMPLES}")
    for size, rate in tried.items():
        table.add_row(f"tried: {size} x {SAMPLES} rows", "", f"{rate:.0f}")
    for repeat, (many, padded) in enumerate(rates, start=1):
        table.add_row(f"repeat {repeat}", f"{many:.0f}", f"{padded:.0f}")
    Console().print(table)
    fast, slow = (statistics.median(each) for each in zip(*rates, strict=True))
    differ = differing_texts(few[:SAME_TEXT])
    ratio = statistics.median(many / padded for many, padded in rates)
    report(
        Figure(
            "tokens sampled a second, 512 prompts x 5",
            round_to(ratio),
            BAR,
            ours=round(fast),
            theirs=round(slow),
            rival=f"generate over padded batches of {best} x {SAMPLES} rows",
            fault=f"{differ} of {SAME_TEXT} greedy texts differ" if differ else "",
        )
    )


if __name__ == "__main__":
    main()
