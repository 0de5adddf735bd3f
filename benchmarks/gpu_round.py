"""A round with a generator of 1.7 B parameters on one GPU: tokens sampled and trained a second, and memory.

    python benchmarks/gpu_round.py --out gpu.json
    python benchmarks/gpu_round.py --shape tiny            the same code on a CPU, in seconds: its figures mean nothing

The weights are random, in bfloat16, and the texts too; lengths are exact. Rewards are simulated. Parts, of which
`--only` names some:

    sampling       tokens a second of one batch of distinct prompts
    largest-batch  the most prompts that are sampled together, doubled until memory runs out
    dpo            preference training with LoRA, 20 completions a query, ours and TRL's: speed, share of the peak
    round          sample, pair, train, sample with the new adapter, in one process: the most memory it held
    micro-batch    the most pairs that are trained on together, doubled until memory runs out

Writes `--out` after every figure. Prints a table and one line of JSON for each figure at the end.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch
from gpu_bench import PLANS, SAMPLES, Bench, Memory, Plan, Trained, halvings_noted
from operations import peak_tflops, tokens_of
from rich.console import Console
from rich.table import Table

from optimizers.training.trainer import TrainingSettings
from sgt_modules.errors import TrainingError
from sgt_modules.local.engine import LocalEngine
from sgt_modules.samples import Sample, SampleRequest

FEW_NEW = 16
"""Tokens written to test whether a batch fits; the prompts are longer instead."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure, in the form of the other benchmarks: with `theirs`, `ratio`, `bar` and `holds` if there is a bar."""

    figure: str
    ours: float
    unit: str
    theirs: float | None = None
    ratio: float | None = None
    bar: float | None = None
    holds: bool | None = None
    details: Mapping[str, object] = field(default_factory=dict[str, object])


def largest(first: int, most: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number that fits, doubling from `first` up to `most`; 0 if `first` does not fit."""
    found = 0
    while first <= most and fits(first):
        found, first = first, 2 * first
    return found


def sampling(bench: Bench) -> Iterator[Figure]:
    """(a) Sample one batch of distinct prompts with the engine."""
    plan, memory = bench.plan, Memory()
    prompt, new = plan.sampling
    engine, asked = bench.engine, bench.prompts(plan.batch, prompt)
    engine.sample([SampleRequest(each, temperature=1.0, max_new_tokens=2) for each in asked[:2]])
    rates: list[float] = []
    memory.begin()
    with halvings_noted() as halvings:
        for repeat in range(bench.repeats):
            began = time.perf_counter()
            drawn = engine.sample([SampleRequest(each, repeat, temperature=1.0, max_new_tokens=new) for each in asked])
            rates.append(sum(each.tokens for each in drawn) / (time.perf_counter() - began))
    lengths = {"prompt": prompt, "new": new, "repeats": [round(rate) for rate in rates]}
    details = {**lengths, "memory_gb": memory.most(), "out_of_memory": halvings}
    yield Figure(
        f"tokens sampled a second, batch {plan.batch}", round(statistics.median(rates)), "1/s", details=details
    )


def largest_batch(bench: Bench) -> Iterator[Figure]:
    """(a) Find the most prompts of the same lengths that an engine holds at once."""
    plan, memory = bench.plan, Memory()
    room = sum(plan.sampling)
    held: dict[int, dict[str, float]] = {}

    def fits(rows: int) -> bool:
        memory.begin()
        prompts = bench.prompts(rows, room - FEW_NEW)
        with halvings_noted() as halvings:
            bench.sampler(rows * room).sample(
                [SampleRequest(each, temperature=1.0, max_new_tokens=FEW_NEW) for each in prompts]
            )
        held[rows] = memory.most()
        return not halvings

    found = largest(plan.batch, plan.most_prompts, fits)
    details = {"tokens_each": room, "tried_up_to": max(held), "memory_gb": held.get(found)}
    yield Figure(f"largest batch sampled, prompts of {room} tokens in all", found, "prompts", details=details)


def dpo(bench: Bench) -> Iterator[Figure]:
    """(b) The same pairs trained on by our trainer and by TRL's, in turn."""
    plan = bench.plan
    pairs = bench.pairs(bench.prompts(plan.queries, plan.training[0]))
    runs: dict[str, list[Trained]] = {"ours": [], "TRL": []}
    bench.train(pairs[:1], TrainingSettings())  # the first one readies the device, too
    for _ in range(bench.repeats):
        runs["ours"].append(bench.train(pairs, TrainingSettings()))
        runs["TRL"].append(bench.train_with_trl(pairs, TrainingSettings()))
    of_pair = 2 * sum(plan.training)
    needed = min(operations(each, plan) for each in runs["ours"])
    seconds = {trainer: statistics.median(each.seconds for each in own) for trainer, own in runs.items()}
    for trainer, own in runs.items():
        rate, done = len(pairs) / seconds[trainer], operations(own[0], plan)
        details: dict[str, object] = {
            "pairs": len(pairs),
            "tokens_each_pair": of_pair,
            "tokens_read": sum(read.tokens for read in own[0].reads),
            "seconds": [round(each.seconds, 2) for each in own],
            "whole_call_seconds": [round(each.call_seconds, 2) for each in own],
            "pairs_a_second": _short(rate),
            "tflop_done": _short(done / 1e12),
            "tflop_needed": _short(needed / 1e12),
        }
        yield Figure(f"DPO, {trainer}: tokens of pairs a second", round(rate * of_pair), "1/s", details=details)
        if bench.peak is not None:
            shares = {
                name: work / seconds[trainer] / bench.peak / 1e12 for name, work in (("done", done), ("needed", needed))
            }
            of_peak = {"peak_tflops": bench.peak, "of_what_it_read": _short(shares["done"])}
            yield Figure(f"DPO, {trainer}: share of the peak", _short(shares["needed"]), "", details=of_peak)
    ratio = seconds["TRL"] / seconds["ours"]
    ours, theirs = round(seconds["ours"], 2), round(seconds["TRL"], 2)
    yield Figure(f"seconds of a DPO round, {len(pairs)} pairs", ours, "s", theirs=theirs, ratio=round(ratio, 2))


def _short(number: float) -> float:
    return float(f"{number:.4g}")


def operations(trained: Trained, plan: Plan) -> int:
    """Return the operations of a round's passes: the reference's forward, the trained ones forward and back."""
    lora = TrainingSettings().lora
    assert lora is not None
    adapter = plan.shape.adapter(lora.rank)
    reference, training = (
        tokens_of([read for read in trained.reads if read.trained == each], *plan.training) for each in (False, True)
    )
    return reference.forward(plan.shape) + training.forward_and_back(plan.shape, adapter)


def whole_round(bench: Bench) -> Iterator[Figure]:
    """(c) Sample, pair, train, sample with the new adapter."""
    plan, memory = bench.plan, Memory()
    prompt, reply = plan.training
    prompts = bench.prompts(plan.queries, prompt)
    asked = [each for each in prompts for _ in range(SAMPLES)]
    engine = bench.sampler(plan.round_rows * (prompt + reply))
    stages: dict[str, dict[str, float]] = {}

    def sampled(engine: LocalEngine) -> list[Sample]:
        settings = {"temperature": 1.0, "max_new_tokens": reply - 2}
        return engine.sample([SampleRequest(each, seed, **settings) for seed, each in enumerate(asked)])

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        memory.go_on()
        began = time.perf_counter()
        yield
        stages[name] = {"seconds": round(time.perf_counter() - began, 2), **memory.most()}

    memory.begin()
    with stage("sampling"):
        drawn = sampled(engine)
    pairs = bench.pairs(prompts, [each.text for each in drawn])
    with stage("training"):
        checkpoint = bench.train(pairs, TrainingSettings()).checkpoint
    assert checkpoint is not None
    with stage("sampling with the adapter"):
        sampled(engine.with_adapter(checkpoint.path))
    most = max(each["reserved"] for each in stages.values())
    sizes = {"texts": len(asked), "sampled_at_once": plan.round_rows, "pairs": len(pairs)}
    details = {**sizes, "stages": stages}
    name = f"peak memory of a round at {prompt + reply} tokens"
    yield Figure(name, most, "GB", bar=plan.bar, holds=None if plan.bar is None else most < plan.bar, details=details)


def micro_batch(bench: Bench) -> Iterator[Figure]:
    """(d) The most pairs of distinct prompts that one pass of training holds; the sampler's weights stay."""
    plan, memory = bench.plan, Memory()
    prompt, reply = plan.training
    held: dict[int, dict[str, float]] = {}
    sampled = bench.pairs(bench.prompts(plan.most_pairs, prompt))
    pairs = list({pair.query: pair for pair in sampled}.values())

    def fits(count: int) -> bool:
        memory.begin()
        settings = TrainingSettings(batch_size=count, gradient_accumulation=1)
        try:
            checkpoint = bench.train(pairs[:count], settings).checkpoint
            assert checkpoint is not None
            fitted = checkpoint.metrics["batch_size"]
        except TrainingError:  # one pair does not fit
            fitted = 0
        held[count] = memory.most()
        return fitted == count

    found = largest(min(8, plan.most_pairs), plan.most_pairs, fits)
    details = {"tokens_each": prompt + reply, "tried_up_to": max(held), "memory_gb": held.get(found)}
    yield Figure(f"largest micro-batch trained, {prompt + reply} tokens", found, "pairs", details=details)


PARTS: dict[str, Callable[[Bench], Iterator[Figure]]] = {
    "sampling": sampling,
    "dpo": dpo,
    "round": whole_round,
    "largest-batch": largest_batch,
    "micro-batch": micro_batch,
}


def machine(shape: str) -> dict[str, object]:
    """Return the origin of the figures: device and versions."""
    names = ("torch", "transformers", "trl", "peft", "accelerate", "dspy")
    found: dict[str, object] = {"device": "cpu", "shape": shape, "python": platform.python_version()}
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found |= {"device": card.name, "memory_gb": round(card.total_memory / 1e9, 1), "cuda": torch.version.cuda}
    return found | {name: version(name) for name in names}


def main(arguments: Sequence[str] | None = None) -> list[Figure]:
    """Measure the requested parts."""
    options = _options(arguments)
    began, where, found = time.perf_counter(), machine(options.shape), list[Figure]()
    peak = options.peak_tflops or peak_tflops(str(where["device"]))
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(PLANS[options.shape], options.folder or Path(scratch), repeats=options.repeats, peak=peak)
        for name, part in PARTS.items():
            spent = time.perf_counter() - began
            if name not in options.only or spent > options.seconds:
                note = f"{name}: left out" + (f" after {spent:.0f} s" if name in options.only else "")
                print(note, file=sys.stderr, flush=True)
                continue
            for figure in part(bench):
                found.append(figure)
                print(
                    f"{time.perf_counter() - began:.0f} s  {figure.figure}: {figure.ours} {figure.unit}",
                    file=sys.stderr,
                )
                if options.out:
                    report = {"machine": where, "figures": [asdict(each) for each in found]}
                    options.out.write_text(json.dumps(report, indent=1), encoding="utf-8")
    _say(found, where)
    return found


def _say(found: Sequence[Figure], where: Mapping[str, object]) -> None:
    table = Table("figure", "", "bar", title=f"{where['device']}, {where['shape']}")
    for each in found:
        held = "" if each.holds is None else f"{each.bar:g}: {'holds' if each.holds else 'fails'}"
        table.add_row(each.figure, f"{each.ours:,} {each.unit}".strip(), held)
    console = Console()
    console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in where.items()))
    for each in found:
        print(json.dumps({**asdict(each), "device": where["device"]}), flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(PLANS), default="qwen3-1.7b")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts to measure")
    parser.add_argument(
        "--repeats", type=int, default=2, help="of sampling and of each trainer's DPO; the median counts"
    )
    parser.add_argument("--peak-tflops", type=float, help="of the device in bfloat16, where its name is not known")
    parser.add_argument("--seconds", type=float, default=420, help="no part begins later than this")
    parser.add_argument("--folder", type=Path, help="where the random model is kept; else it goes at the end")
    parser.add_argument("--out", type=Path, help="a JSON file of all figures, written after each")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
