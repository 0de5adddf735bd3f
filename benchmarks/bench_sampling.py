"""Tokens sampled a second: 512 prompts x 5 samples together, compared with `generate` on one prompt at a time.

The embedded generator in single precision and its own prompts. Five interleaved repeats of each; `generate` gets 24
of the prompts in each. The figure is the ratio of the medians, and the last line is JSON.
"""

from __future__ import annotations

import json
import statistics
import time

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, PreTrainedModel

from sgt_modules.embedded import HouseTermsWorld, program
from sgt_modules.embedded.models import MAX_NEW_TOKENS, embedded_folder
from sgt_modules.generator_prompt import COMPACT
from sgt_modules.local.chat_template import render_chat
from sgt_modules.local.engine import LocalEngine
from sgt_modules.samples import SampleRequest

BAR = 4.0
PROMPTS = 512
SAMPLES = 5
ONE_BY_ONE = 24
REPEATS = 5


def prompts() -> list[str]:
    """Return distinct prompts, as exploration writes them."""
    signature, wanted = program().signature, dict[str, None]()
    for seed in range(20):
        for example in HouseTermsWorld(seed=seed).train:
            wanted[COMPACT.write(signature, example.inputs().toDict())] = None
    return list(wanted)[:PROMPTS]


def ours(engine: LocalEngine, asked: list[str], seed: int) -> float:
    """Tokens a second of one call for all samples of all prompts."""
    requests = [SampleRequest(prompt, seed + n, temperature=1.0) for prompt in asked for n in range(SAMPLES)]
    began = time.perf_counter()
    drawn = engine.sample(requests)
    return sum(each.tokens for each in drawn) / (time.perf_counter() - began)


def theirs(model: PreTrainedModel, encoded: list[torch.Tensor], ends: list[int]) -> float:
    """Return the tokens a second of a loop over the prompts; the end token counts, the padding after it does not."""
    tokens, began = 0, time.perf_counter()
    for ids in encoded:
        with torch.inference_mode():
            drawn = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                num_return_sequences=SAMPLES,
                max_new_tokens=MAX_NEW_TOKENS,
            )
        ended = torch.isin(drawn[:, ids.shape[1] :], torch.tensor(ends)).int()
        tokens += int((ended.cumsum(1) - ended == 0).sum())
    return tokens / (time.perf_counter() - began)


def main() -> None:
    """Measure, print a table, and then the figure."""
    folder, asked = embedded_folder("generator"), prompts()
    engine = LocalEngine(folder, dtype="float32", device="cpu", max_new_tokens=MAX_NEW_TOKENS)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    stops = model.generation_config.eos_token_id
    ends = [stops] if isinstance(stops, int) else list(stops)
    texts = [render_chat(engine.tokenizer, [{"role": "user", "content": prompt}]) for prompt in asked]
    encoded = [torch.tensor([engine.tokenizer(text, add_special_tokens=False)["input_ids"]]) for text in texts]
    ours(engine, asked[:8], seed=0)
    theirs(model, encoded[:2], ends)
    rates: list[tuple[float, float]] = []
    for repeat in range(REPEATS):
        some = encoded[repeat * ONE_BY_ONE : (repeat + 1) * ONE_BY_ONE]
        rates.append((ours(engine, asked, seed=SAMPLES * repeat), theirs(model, some, ends)))
    table = Table(
        "repeat", "together, tokens/s", "a prompt at a time, tokens/s", title=f"{len(asked)} prompts x {SAMPLES}"
    )
    for repeat, (many, single) in enumerate(rates, start=1):
        table.add_row(str(repeat), f"{many:.0f}", f"{single:.0f}")
    Console().print(table)
    fast, slow = (statistics.median(each) for each in zip(*rates, strict=True))
    figure = {"figure": "tokens sampled a second, 512 prompts x 5", "ours": round(fast), "theirs": round(slow)}
    print(json.dumps({**figure, "ratio": round(fast / slow, 2), "bar": BAR, "holds": fast / slow >= BAR}))


if __name__ == "__main__":
    main()
