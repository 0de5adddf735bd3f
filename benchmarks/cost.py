"""The cost of a run, by arithmetic: the tables of docs/scaling.md. Prices and lengths are assumptions, listed here.

    python benchmarks/cost.py

The recipes give the calls; a store that the script writes gives the bytes.
"""

from __future__ import annotations

import random
import tempfile
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optimizers.core.records import Query, Reward, Rollout
from optimizers.sgt import candidates as sources
from optimizers.sgt.recipe import Recipe
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.kinds import Supplement

QUERIES = 1_000
PAPER = {"warm start": 45, "round 1": 14, "rounds 2 to 5": 80}
"""The paper's calls a query; 14 is its own estimate."""

PROMPT, SUPPLEMENT, ANSWER = 800, 150, 200
"""Tokens of the actor's prompt without a supplement, of a supplement, and of an answer: assumptions."""

CHARACTERS = 4
"""Of a token of English: an assumption."""

PRICES = {"small": (0.10, 0.40), "middling": (1.00, 4.00), "large": (3.00, 15.00)}
"""Dollars a million tokens read and written: assumptions, no quotations."""

AT_ONCE, LATENCY = 64, 2.0
"""Calls in flight, and the seconds of one: assumptions."""

SAMPLED_A_SECOND = (1_000, 5_000, 20_000)
"""Tokens a second that a generator writes: assumptions; docs/performance.md says how to measure them."""

TRAINED_A_SECOND = (10_000, 30_000, 100_000)
"""Tokens of preference pairs a second: assumptions too."""


@dataclass(frozen=True, slots=True)
class Calls:
    """The most runs of the program for one training query of one predictor, by stage, and their samples.

    Repeated and empty supplements make them fewer. Excludes the one run without a supplement for each example.
    """

    warm: int
    first: int
    later: int
    sampled: int

    @property
    def total(self) -> int:
        return self.warm + self.first + self.later


def calls(recipe: Recipe) -> Calls:
    """Count on the recipe's own pools; only concatenations cost no sample."""
    query, rng = [Query("0", 0, "self", "")], random.Random(0)
    kinds, names = recipe.kinds, [str(number) for number in range(recipe.ood_kinds)]
    warm = sources.warm_start_requests(query, rng=rng, kinds=kinds, samples=recipe.warm_samples)
    known = sources.predefined_requests(query, rng=rng, kinds=kinds, samples=recipe.pool_samples)
    new = sources.ood_requests(query, names, rng=rng, samples=recipe.pool_samples)
    later = (recipe.rounds - 1) * len(sources.direct_requests(query, rng=rng, samples=recipe.direct_samples))
    sampled = len(warm) + len(known) + len(new) + later
    return Calls(len(warm), len(known) + len(new) + recipe.concat, later, sampled)


def pairs(recipe: Recipe) -> int:
    """Return the most preference pairs of one query over all rounds: half of its candidates won, including silence."""
    most = calls(recipe)
    pools = [most.first, *[recipe.direct_samples] * (recipe.rounds - 1)]
    sizes = [size + recipe.silence for size in pools]
    return sum(min(2 * recipe.pair_cap, size // 2 * -(-size // 2)) for size in sizes)


def dollars(calls: int, price: tuple[float, float]) -> float:
    """Return the cost of that many calls at a price for a million tokens read and one for a million written."""
    read, written = price
    return calls * ((PROMPT + SUPPLEMENT) * read + ANSWER * written) / 1e6


def hours(calls: int) -> float:
    """Return the duration of that many calls with `AT_ONCE` always in flight."""
    return calls * LATENCY / AT_ONCE / 3600


def rollouts(count: int) -> Iterator[Rollout]:
    """Yield rollouts with texts of the assumed lengths, twenty a query."""
    rng = random.Random(0)

    def text(tokens: int) -> str:
        return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz ", k=tokens * CHARACTERS))

    for number in range(count):
        if number % 20 == 0:
            query = Query(f"{rng.getrandbits(128):032x}", number // 20, "predict", text(PROMPT))
        yield Rollout(
            query=query,
            stage="dpo2",
            source="direct",
            supplement=Supplement("background", text(SUPPLEMENT)),
            reward=Reward(1.0),
            output={"answer": text(ANSWER)},
            logprob=rng.random(),
            tokens_in=PROMPT + SUPPLEMENT,
            tokens_out=ANSWER,
            seconds=rng.random(),
        )


def bytes_a_rollout(count: int = 1_000) -> tuple[float, float]:
    """Return the bytes of a rollout on disk, after the store is closed, and in memory, after it is read back."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rollouts.sqlite"
        with RolloutStore(path) as store:
            store.add_all(list(rollouts(count)), f"{0:064x}")
        on_disk = path.stat().st_size
        with RolloutStore(path) as store:
            tracemalloc.start()
            read = store.rollouts()
            in_memory, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
    assert len(read) == count
    return on_disk / count, in_memory / count


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def calls_table(recipes: Mapping[str, Recipe]) -> str:
    """Return the calls a query by stage and in all, for the paper and each recipe."""
    paper = sum(PAPER.values())
    rows: list[list[object]] = [["the paper's", *PAPER.values(), paper, f"{QUERIES * paper:,}"]]
    for name, recipe in recipes.items():
        most = calls(recipe)
        rows.append([f'`auto="{name}"`', most.warm, most.first, most.later, most.total, f"{QUERIES * most.total:,}"])
    return table(["calls a query, at most", "warm start", "round 1", "later rounds", "in all", "for 1,000"], rows)


def actor_table(recipes: Mapping[str, Recipe]) -> str:
    """Return the actor's tokens, dollars at each price, and hours."""
    counts = {"the paper's": QUERIES * sum(PAPER.values())}
    counts |= {f'`auto="{name}"`': QUERIES * calls(recipe).total for name, recipe in recipes.items()}
    heads = [f"{name}: ${read:.2f} and ${written:.2f}" for name, (read, written) in PRICES.items()]
    rows = [
        [
            name,
            f"{count * (PROMPT + SUPPLEMENT) / 1e6:.0f} M",
            f"{count * ANSWER / 1e6:.0f} M",
            *(f"${dollars(count, price):,.0f}" for price in PRICES.values()),
            f"{hours(count):.1f}",
        ]
        for name, count in counts.items()
    ]
    return table(["1,000 queries", "read", "written", *heads, "hours"], rows)


def generator_table(recipes: Mapping[str, Recipe]) -> str:
    """Return the generator's written tokens, and its hours at each speed."""
    written = {name: QUERIES * calls(recipe).sampled * SUPPLEMENT for name, recipe in recipes.items()}
    return _hours_table("written", written, SAMPLED_A_SECOND)


def training_table(recipes: Mapping[str, Recipe]) -> str:
    """Return the tokens of all rounds' preference pairs, of two texts each, and the hours of an epoch at each speed."""
    trained = {name: QUERIES * pairs(recipe) * 2 * (PROMPT + SUPPLEMENT) for name, recipe in recipes.items()}
    return _hours_table("of pairs, at most", trained, TRAINED_A_SECOND)


def _hours_table(what: str, tokens: Mapping[str, int], speeds: Sequence[int]) -> str:
    rows = [
        [f'`auto="{name}"`', f"{count / 1e6:.1f} M", *(f"{count / speed / 3600:.1f}" for speed in speeds)]
        for name, count in tokens.items()
    ]
    return table(["1,000 queries", what, *(f"hours at {speed:,}/s" for speed in speeds)], rows)


def tables() -> list[str]:
    """Return all of the page's tables, as Markdown."""
    recipes = {"heavy": Recipe.auto("heavy"), "medium": Recipe.auto("medium"), "light": Recipe.auto("light")}
    return [calls_table(recipes), actor_table(recipes), generator_table(recipes), training_table(recipes)]


def main() -> None:
    """Print the page's tables."""
    print("\n\n".join(tables()))
    on_disk, in_memory = bytes_a_rollout()
    print(f"\nbytes a rollout: {on_disk:,.0f} on disk, {in_memory:,.0f} in memory")


if __name__ == "__main__":
    main()
