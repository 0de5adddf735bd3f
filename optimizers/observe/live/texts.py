"""Numbers and texts as a line of a live view has them: short, and harmless on a terminal. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optimizers.core.budget import BudgetState
from optimizers.core.events import RunEnded
from optimizers.core.verdict import NOTE
from optimizers.observe.live.snapshot import Snapshot, StageView
from sgt_modules.local.work_progress import Activity

_BARS = ("▁▂▃▄▅▆▇█", "_.-:=+*#")
"""From none to all, as blocks and in ASCII."""

BRIEF = 5.0
"""Seconds below which the end of a stage's part goes without a line."""


def clock(seconds: float) -> str:
    """Seconds as on a clock.

    >>> clock(42.4), clock(323), clock(7384)
    ('0:42', '5:23', '2:03:04')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def roughly(seconds: float) -> str:
    """Seconds as a person says them.

    >>> roughly(8), roughly(100), roughly(5400)
    ('8 s', '2 min', '1.5 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def sparkline(shares: Sequence[float], *, ascii_only: bool = False) -> str:
    """Shares in [0, 1] as a line of bars.

    >>> sparkline([0.0, 0.5, 1.0]), sparkline([0.0, 0.5, 1.0], ascii_only=True)
    ('▁▅█', '_=#')
    """
    bars = _BARS[ascii_only]
    return "".join(bars[min(len(bars) - 1, int(max(0.0, each) * len(bars)))] for each in shares)


def one_line(text: str) -> str:
    """A text on one line, with no character that a terminal would obey or that turns the direction of others.

    >>> one_line("one\\x1b[2J\\n  two")
    'one [2J two'
    """
    return " ".join(printable(text).split())


def printable(line: str) -> str:
    """A line as it is, with a space for each character that is no text."""
    return "".join(each if each.isprintable() else " " for each in line)


def ended(stage: StageView) -> str:
    """A finished stage on a line.

    >>> ended(StageView("warm: acting", 3, 3, seconds=2.0, judged=2, won=1))
    'warm: acting: 3/3  50% won  2 s'
    """
    won = "" if stage.success is None else f"  {stage.success:.0%} won"
    return f"{one_line(stage.name)}: {stage.done:,}/{stage.total:,}{won}  {stage.seconds:.0f} s"


def working(work: Activity) -> list[str]:
    """What a model of this process does, the most important first.

    >>> working(Activity("Qwen3-1.7B", "writing", 64, 12.5, 0.31, 116.2, 45.0))
    ['Qwen3-1.7B writes', '31% done', '0:45 left', '116 tokens/s', '12 of 64 replies']
    >>> working(Activity("Qwen3-1.7B", "loading", seconds=4.0))
    ['loading Qwen3-1.7B', '0:04']
    """
    name = one_line(work.model)
    if work.phase == "loading":
        return [f"loading {name}", clock(work.seconds)]
    at_most = "at most " if work.is_upper_bound else ""
    left = [] if work.seconds_left is None else [f"{at_most}{clock(work.seconds_left)} left"]
    rate = [f"{work.rate:,.0f} tokens/s"] if work.rate else []
    does = "reads" if work.phase == "reading" else "writes"
    replies = f"{int(work.answered):,} of {work.rows:,} replies"
    return [f"{name} {does}", f"{work.share:.0%} done", *left, *rate, replies]


def worth_a_line(stage: StageView) -> bool:
    """Whether a stage's end gets a line: not a part that took no time, such as a candidate of SPT.

    >>> from optimizers.core.stages import Stage
    >>> worth_a_line(StageView("round1/impact3: train", stage=Stage("round1", "impact3"))), worth_a_line(StageView("-"))
    (False, True)
    """
    return stage.seconds >= BRIEF or not stage.stage.part


def shares(kinds: Mapping[str, float]) -> list[str]:
    """Each kind with its share, those below 1 % together.

    >>> shares({"cot": 0.8, "pairs": 0.195, "free": 0.005})
    ['cot 80%', 'pairs 20%', 'others 0.5%']
    """
    small = sum(share for share in kinds.values() if share < 0.01)
    large = [f"{one_line(kind)} {share:.0%}" for kind, share in kinds.items() if share >= 0.01]
    return [*large, *([f"others {small:.1%}"] if small else [])]


def scores(stages: Sequence[StageView]) -> list[str]:
    """The mean reward of each finished stage on validation, in their order; the last of each stage counts.

    >>> from optimizers.core.stages import Stage
    >>> stages = [Stage("none", split="val"), Stage("warm"), Stage("sft", split="val")]
    >>> scores([StageView("", mean=mean, stage=stage) for stage, mean in zip(stages, (0.375, 0.5, 1.0))])
    ['none .375', 'sft 1.000']
    """
    found = {each.stage: each.mean for each in stages if each.stage.split == "val" and each.mean is not None}
    return [
        f"{stage.on('')} {f'{mean:.3f}'.removeprefix('0') if mean < 1 else '1.000'}" for stage, mean in found.items()
    ]


def spent(spend: BudgetState) -> list[str]:
    """Calls, dollars and seconds, each with its limit where it has one.

    >>> from optimizers.core.budget import Limits
    >>> from optimizers.core.usage import Usage
    >>> spent(BudgetState(Usage(calls=1234, seconds=151.0), Limits(actor_calls=5000)))
    ['1,234 of 5,000 calls', '2:31']
    >>> spent(BudgetState(Usage(calls=3, cost=0.5, seconds=20.0), Limits(cost_usd=2)))
    ['3 calls', '$0.50 of $2.00', '0:20']
    """
    used, limits = spend.usage, spend.limits
    calls = "" if limits.actor_calls is None else f" of {limits.actor_calls:,}"
    dollars = "" if limits.cost_usd is None else f" of ${limits.cost_usd:,.2f}"
    seconds = "" if limits.seconds is None else f" of {clock(limits.seconds)}"
    money = [f"${used.cost:,.2f}{dollars}"] if used.cost or dollars else []
    return [f"{used.calls:,}{calls} calls", *money, f"{clock(used.seconds)}{seconds}"]


def most_spent(spend: BudgetState) -> float | None:
    """The largest share of a limit that is used, in [0, 1]; None without a limit.

    >>> from optimizers.core.budget import Limits
    >>> from optimizers.core.usage import Usage
    >>> most_spent(BudgetState(Usage(calls=10, cost=0.5), Limits(actor_calls=100, cost_usd=1.0)))
    0.5
    """
    used, limits = spend.usage, spend.limits
    pairs = ((used.calls, limits.actor_calls), (used.cost, limits.cost_usd), (used.seconds, limits.seconds))
    return max((min(1.0, used / limit) for used, limit in pairs if limit), default=None)


def errors(snapshot: Snapshot) -> list[str]:
    """Each type of error with how often it came."""
    return [f"{one_line(name)} {count:,}" for name, count in snapshot.errors.items()]


def closing(snapshot: Snapshot) -> list[str]:
    """The lines at a run's end: what was spent, and which errors came.

    >>> from optimizers.core.usage import Usage
    >>> closing(Snapshot(spend=BudgetState(Usage(calls=12, seconds=3.0)), errors={"RateLimitError": 2}))
    ['Spent: 12 calls, 0:03.', 'Errors: RateLimitError 2.']
    """
    lines = [] if snapshot.spend is None else [f"Spent: {', '.join(spent(snapshot.spend))}."]
    return [*lines, *([f"Errors: {', '.join(errors(snapshot))}."] if snapshot.errors else [])]


def outcome(event: RunEnded) -> list[str]:
    """What the run came to: why it stopped, and its verdict, as far as there are any.

    >>> outcome(RunEnded("finished", verdict="Stage sft raises the score."))
    ['Verdict: Stage sft raises the score.']
    """
    return [*([event.stopped] if event.stopped else []), *([f"{NOTE}{event.verdict}"] if event.verdict else [])]
