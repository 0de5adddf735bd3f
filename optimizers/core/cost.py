"""What help costs: prices in units of reward, what a run of the program used, and the frontier of stages. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import NamedTuple

from optimizers.core.records import Effort, Reward, Rollout
from sgt_modules.errors import SetupError


@dataclass(frozen=True, slots=True)
class Cost:
    """Prices in units of reward: what one token, LM call or second of a run takes off the run's reward.

    `supplement_tokens` prices the tokens of the supplement, as the generator's tokenizer counts them where its model is
    in this process, otherwise its words. `actor_tokens` prices the actor's tokens in and out, as its provider counts
    them; answers from DSPy's own cache count none. `steps` prices the LM calls of the program's run, an agent's steps.
    `seconds` prices wall time, which depends on the machine and its load.

    Raises `SetupError` for a price below 0, one that is not finite, or none above 0.

    >>> Cost(steps=0.05).of(Used(steps=4))
    0.2
    """

    supplement_tokens: float = 0.0
    actor_tokens: float = 0.0
    steps: float = 0.0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        for each in fields(self):
            price: object = getattr(self, each.name)
            if not isinstance(price, int | float) or not math.isfinite(price) or price < 0:
                raise SetupError(f"Expected a price of at least 0 as Cost({each.name}=...), got {price!r}.")
        if not any(self.prices.values()):
            raise SetupError("Expected a price above 0, got none. Pass Cost(steps=0.02), or cost=None for no prices.")

    @property
    def prices(self) -> dict[str, float]:
        """The prices by name."""
        return asdict(self)

    def of(self, used: Used) -> float:
        """The price of what a run used."""
        return math.fsum(price * getattr(used, name) for name, price in self.prices.items())


class Used(NamedTuple):
    """What one run of the program used, or the mean over several runs; the names are those of `Cost`."""

    supplement_tokens: float = 0.0
    actor_tokens: float = 0.0
    steps: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class StageCost:
    """A stage's means over the validation examples with a reward: the plain score, what a run used, and its price.

    >>> StageCost(0.9, Used(steps=4), 0.2).net
    0.7
    """

    score: float
    used: Used
    price: float

    @property
    def net(self) -> float:
        """The mean reward minus the mean price, by which stages are compared."""
        return self.score - self.price

    @property
    def content(self) -> dict[str, float]:
        """The means as `costs.json` holds them."""
        return {"score": self.score, "net": self.net, "price": self.price, **self.used._asdict()}


@dataclass(frozen=True, slots=True)
class Pricing:
    """Puts a price on rollouts; without a `cost` they stay as they are. `count` counts a supplement's tokens.

    >>> from optimizers.core.records import Query
    >>> from sgt_modules.kinds import Supplement
    >>> asked, note = Query("1f3a", 0, "solve", "question: 17 x 3?"), Supplement("cot", "Multiply.")
    >>> tried = Rollout(asked, "dpo1", "direct", note, Reward(1.0), effort=Effort(812, steps=4))
    >>> [priced] = Pricing(Cost(steps=0.05))([tried])
    >>> priced.reward.score, priced.price, priced.net
    (1.0, 0.2, 0.8)
    """

    cost: Cost | None = None
    count: Callable[[str], int] = lambda text: len(text.split())

    def __call__(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """The same rollouts, each with the price of its run; rewards stay those of the metric."""
        cost = self.cost
        return list(rollouts) if cost is None else [replace(each, price=cost.of(self.used(each))) for each in rollouts]

    def used(self, rollout: Rollout) -> Used:
        """What the run of a rollout used; a run whose steps are not known made one."""
        effort, supplement = rollout.effort, rollout.supplement
        effort = effort or Effort(rollout.tokens_in + rollout.tokens_out, 1, rollout.seconds)
        tokens = self.count(supplement.render()) if supplement else 0
        return Used(tokens, effort.tokens, effort.steps, effort.seconds)

    def stage(self, rollouts: Sequence[Rollout]) -> StageCost | None:
        """The means of a stage; None without a cost, or where no rollout has a reward."""
        if self.cost is None:
            return None
        rated = [(each.reward.score, self.used(each)) for each in rollouts if each.reward is not None]
        if not rated:
            return None
        used = Used(*(math.fsum(parts) / len(rated) for parts in zip(*(each for _, each in rated), strict=True)))
        return StageCost(math.fsum(score for score, _ in rated) / len(rated), used, self.cost.of(used))


def with_net_rewards(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The rollouts with their net rewards in place of the metric's; the same where nothing has a price."""
    return [
        replace(each, reward=Reward(each.reward.score - each.price, each.reward.feedback), price=0.0)
        if each.price and each.reward
        else each
        for each in rollouts
    ]


def find_frontier(stages: Mapping[str, tuple[float, float]]) -> list[str]:
    """The stages that no other beats, given each one's (price, score): none is as good and as cheap, and better in one.

    >>> find_frontier({"none": (0.3, 0.5), "sft": (0.1, 0.8), "dpo1": (0.2, 0.9), "dpo2": (0.2, 0.7)})
    ['sft', 'dpo1']
    """
    return [
        name
        for name, (price, score) in stages.items()
        if not any(p <= price and s >= score and (p, s) != (price, score) for p, s in stages.values())
    ]


def explain_costs(stages: Mapping[str, StageCost], selected: str) -> str:
    """What the selected stage's help costs, compared with no supplement, in one sentence; empty without both.

    >>> found = {"none": StageCost(0.9, Used(steps=6), 0.3), "dpo1": StageCost(0.9, Used(9, steps=3), 0.15)}
    >>> explain_costs(found, "dpo1")
    'With its costs, dpo1 has a net score of 0.750 on validation (score 0.900, price 0.150, 3.0 steps), no supplement \
0.600 (score 0.900, price 0.300, 6.0 steps).'
    """
    if "none" not in stages or selected not in stages:
        return ""

    def said(stage: StageCost) -> str:
        return f"{stage.net:.3f} (score {stage.score:.3f}, price {stage.price:.3f}, {stage.used.steps:.1f} steps)"

    before = said(stages["none"])
    if selected == "none":
        return f"With its costs, no supplement has the best net score on validation: {before}."
    now = said(stages[selected]).replace(" (", " on validation (", 1)
    return f"With its costs, {selected} has a net score of {now}, no supplement {before}."
