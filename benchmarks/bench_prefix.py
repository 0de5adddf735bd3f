"""Seconds and tokens read for twenty supplements a question: every shared prefix read once (`share="prefix"`).

Compared with the prefix of the whole batch read once (`share="batch"`), and with `generate` on padded batches, of the
size that is fastest on every eighth prompt; the faster of the two counts for the seconds. The actors are a real 0.5B
model from the folder SGT_REAL_MODELS on questions of Spider from SGT_REAL_DATA, in DSPy's chat prompts, with 20
supplements each, and the embedded actor on its own questions. `--quick` uses two questions and 10 supplements.
`--score` instead answers 60 of the questions in float32 and in 8 bits, and scores both.

One layer of that actor on a core of an AMD EPYC (AVX-512), 1,024 tokens: 95 ms in float32, 47 in bfloat16, 27 in int8;
64 tokens, as in writing: 8.8, 3.7 and 2.1 ms. So `dtype="int8"` is the fastest on a CPU with such instructions.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import dspy
import torch
from figures import Figure, report, round_to
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from optimizers.tasks import task
from sgt_modules.embedded import HouseTermsWorld, program
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.local.batching import TokenRequest, cut_batches
from sgt_modules.local.engine import LocalEngine
from sgt_modules.prompts import with_supplement
from sgt_modules.samples import SampleRequest

BARS = {"fewer tokens read": 4.0, "faster": 1.6, "faster with int8": 3.0, "int8 within": 0.05}
ACTOR = "qwen2.5-coder-0.5b"
NEW_TOKENS = 100
SCORED = 60
TABLES = (
    "First name the tables that the question speaks of, then join them by their id columns.",
    "Count with COUNT(*), and group by the column that the question names.",
    "Select only the columns that are asked for, in the order of the question.",
    "Mind the spelling of values: compare text exactly as it stands in the question.",
)
CLAUSES = (
    "Sort with ORDER BY and take the first row with LIMIT 1 where the most or the least is wanted.",
    "Use DISTINCT where the question says different.",
    "Put conditions into WHERE, and conditions on groups into HAVING.",
    "Leave out tables that give no column.",
    "An average is AVG(column), a sum is SUM(column).",
)
SUPPLEMENTS = [f"{first} {then}" for first in TABLES for then in CLAUSES]

PADDED_TOKENS = (2_048, 8_192, 16_384)
"""The sizes of padded batches that `generate` tries, in tokens."""

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Way:
    """One way to answer every prompt: tokens read, seconds, and the texts."""

    name: str
    read: int
    seconds: float
    texts: list[str]


def home(variable: str) -> Path:
    """Return the folder that an environment variable names."""
    return Path(os.environ[variable])


def spider_questions(count: int) -> list[dspy.Example]:
    """Return questions from all databases."""
    pools = task("spider").read(home("SGT_REAL_DATA") / "spider").rows.values()
    rows = [placed.example for pool in pools for placed in pool]
    return rows[:: max(1, len(rows) // count)][:count]


def chats(
    signature: type[dspy.Signature], questions: Sequence[dspy.Example], supplements: Sequence[str]
) -> list[Messages]:
    """Return the actor's messages for every question with every supplement, or with none."""
    advised = with_supplement(signature) if supplements else signature
    added = [{"supplement": each} for each in supplements] or [{}]
    adapter = dspy.ChatAdapter()
    return [
        cast("Messages", adapter.format(advised, [], {**question.inputs().toDict(), **each}))
        for question in questions
        for each in added
    ]


def greedy(engine: LocalEngine, asked: Sequence[Messages]) -> list[TokenRequest]:
    """The chats as greedy requests."""
    encoder, settings = engine.encoder, SampleRequest("", max_new_tokens=NEW_TOKENS)
    return [encoder.drawn(encoder.encode(messages), settings) for messages in asked]


def ours(name: str, engine: LocalEngine, asked: Sequence[Messages]) -> Way:
    """The engine's own way."""
    requests = greedy(engine, asked)
    engine._decode([TokenRequest(requests[0].ids[:8], 0, 0.0, 1)])
    before, began = engine.tokens_read, time.perf_counter()
    done = engine._decode(requests)
    return Way(
        name, engine.tokens_read - before, time.perf_counter() - began, [done[request].text for request in requests]
    )


def theirs(folder: Path, engine: LocalEngine, asked: Sequence[Messages]) -> Way:
    """Answer with `generate` on batches of similar length, padded on the left."""
    model = cast("Any", AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)).eval()
    requests = greedy(engine, asked)
    tried = {tokens: generate(model, engine, requests[::8], tokens)[0] for tokens in PADDED_TOKENS}
    best = min(tried, key=tried.__getitem__)
    seconds, texts = generate(model, engine, requests, best)
    read = sum(len(request.ids) for request in requests)
    return Way(f"generate, padded batches of {best:,} tokens", read, seconds, [texts[request] for request in requests])


def generate(
    model: Any, engine: LocalEngine, requests: Sequence[TokenRequest], batch_tokens: int
) -> tuple[float, dict[TokenRequest, str]]:
    """Return the seconds of `generate` on padded batches of at most that many tokens, and the texts."""
    texts, pad = dict[TokenRequest, str](), engine.tokenizer.pad_token_id
    began = time.perf_counter()
    for batch in cut_batches(requests, batch_tokens):
        width = max(len(request.ids) for request in batch)
        ids = torch.tensor([[pad] * (width - len(request.ids)) + list(request.ids) for request in batch])
        mask = torch.tensor([[0] * (width - len(request.ids)) + [1] * len(request.ids) for request in batch])
        with torch.inference_mode():
            drawn = model.generate(
                ids, attention_mask=mask, do_sample=False, repetition_penalty=1.0, max_new_tokens=NEW_TOKENS
            )
        texts |= zip(batch, engine.tokenizer.batch_decode(drawn[:, width:], skip_special_tokens=True), strict=True)
    return time.perf_counter() - began, texts


def compared(title: str, folder: Path, asked: Sequence[Messages], dtypes: Sequence[str]) -> list[Way]:
    """Run all ways on the same prompts, and print a table."""
    make: Callable[..., LocalEngine] = lambda **how: LocalEngine(folder, device="cpu", **how)  # noqa: E731
    ways = [ours('share="batch"', make(share="batch", dtype="float32"), asked)]
    ways += [ours(f'share="prefix", {dtype}', make(dtype=dtype), asked) for dtype in dtypes]
    ways.append(theirs(folder, make(), asked))
    table = Table(
        "way", "tokens read", "fewer", "seconds", "faster", "same text", title=f"{title}: {len(asked)} prompts"
    )
    first = ways[0]
    for way in ways:
        same = sum(one == other for one, other in zip(first.texts, way.texts, strict=True)) / len(asked)
        fewer, faster = first.read / way.read, first.seconds / way.seconds
        table.add_row(way.name, f"{way.read:,}", f"{fewer:.1f}x", f"{way.seconds:.1f}", f"{faster:.2f}x", f"{same:.0%}")
    Console().print(table)
    return ways


def score() -> list[Figure]:
    """Return the share of 60 questions that the actor answers right without a supplement, in float32 and in 8 bits."""
    spider, questions = task("spider"), spider_questions(SCORED)
    asked, found = chats(cast("type[dspy.Signature]", spider.program), questions, ()), dict[str, float]()
    adapter, signature = dspy.ChatAdapter(), cast("type[dspy.Signature]", spider.program)
    for dtype in ("float32", "int8"):
        way = ours(dtype, LocalEngine(home("SGT_REAL_MODELS") / ACTOR, device="cpu", dtype=dtype), asked)
        won = 0.0
        for question, text in zip(questions, way.texts, strict=True):
            try:
                answer = dspy.Prediction(**adapter.parse(signature, text))
            except dspy.utils.exceptions.AdapterParseError:
                continue
            won += float(cast("Any", spider.metric(question, answer)).score)
        found[dtype] = round(won / len(questions), 3)
        print(f"{dtype}: {found[dtype]} of {len(questions)} questions, {way.seconds:.0f} s", flush=True)
    lost = round_to(found["float32"] - found["int8"])
    name = f"score that 8 bits lose, on {len(questions)} questions"
    return [Figure(name, lost, BARS["int8 within"], True, found["int8"], found["float32"], "float32")]


def speed(*, quick: bool) -> list[Figure]:
    """Measure both models; the figure is that of the real one."""
    world, embedded = HouseTermsWorld(seed=0), embedded_folder("actor")
    own = chats(program().signature, world.test[: 4 if quick else 8], SUPPLEMENTS)
    compared("embedded actor", embedded, own, ["float32"])
    questions = spider_questions(2 if quick else 8)
    signature = cast("type[dspy.Signature]", task("spider").program)
    asked = chats(signature, questions, SUPPLEMENTS[: 10 if quick else 20])
    before, now, small, padded = compared(ACTOR, home("SGT_REAL_MODELS") / ACTOR, asked, ["float32", "int8"])
    rival = min((before, padded), key=lambda way: way.seconds)
    fault = "" if before.texts == now.texts else "the texts differ from those without a shared prefix"
    about = f"{len(asked)} prompts of {len(questions)} questions"

    def figure(name: str, ours: float, other: Way, theirs: float) -> Figure:
        ratio = round_to(theirs / ours)
        return Figure(
            f"{name}, {about}", ratio, BARS[name], False, round_to(ours), round_to(theirs), other.name, fault=fault
        )

    return [
        figure("fewer tokens read", now.read, before, before.read),
        figure("faster", now.seconds, rival, rival.seconds),
        figure("faster with int8", small.seconds, rival, rival.seconds),
    ]


def main() -> None:
    """Measure, print tables, and then the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two questions with 10 supplements each")
    parser.add_argument("--score", action="store_true", help="score float32 against int8 on 60 questions instead")
    options = parser.parse_args()
    if missing := [name for name in ("SGT_REAL_MODELS", "SGT_REAL_DATA") if not os.environ.get(name)]:
        reason = f"not measured: set {' and '.join(missing)} to the folder with {ACTOR} and to the one with rows"
        report(*(Figure(name, None, BARS[name], fault=reason) for name in list(BARS)[:3]))
        return
    report(*(score() if options.score else speed(quick=options.quick)))


if __name__ == "__main__":
    main()
