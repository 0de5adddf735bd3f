"""What controls found: a row each, leakage and noise; they print as a table and go to JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult

from optimizers.comparison.cells import printed
from optimizers.comparison.noise import Noise, noise_of
from optimizers.core.records import Rollout
from optimizers.core.statistics import gain_interval, mean_interval, paired_p_value
from optimizers.observe.report.texts import p_text, share, signed, span
from optimizers.observe.tables import plain_table

_COLUMNS = ("control", "score", "95 %", "gain", "95 % of it", "p", "p sel", "n")
_LEGEND = (
    "Gains are against no supplement on the same n questions, under the same actor. p is of the gain, p sel of the "
    "difference to the selected stage: paired, and not adjusted, as each row asks a question of its own."
)


@dataclass(frozen=True, slots=True)
class ControlRow:
    """A control on its questions. Scores are in [0, 1]; what could not be found out is None.

    `gain`, with a 95 % `gain_interval`, is against no supplement on the questions that both answered; `p_none` is of
    that gain, `p_selected` of the difference to the selected stage where both were asked the same. `questions` is how
    many were answered, `unanswered` how many an outage kept back. `skipped` says why there is nothing else.
    """

    name: str
    score: float | None = None
    interval: tuple[float, float] | None = None
    gain: float | None = None
    gain_interval: tuple[float, float] | None = None
    p_none: float | None = None
    p_selected: float | None = None
    questions: int = 0
    unanswered: int = 0
    note: str = ""
    skipped: str = ""

    @property
    def helps(self) -> bool:
        """Whether it is surely better than no supplement: the interval of its gain lies above 0."""
        return self.gain_interval is not None and self.gain_interval[0] > 0

    @property
    def cells(self) -> list[str]:
        """Score, its interval, gain, its interval and its p-value, as a table shows them."""
        around, of_gain = span(self.interval), span(self.gain_interval)
        return [share(self.score), around, signed(self.gain), of_gain, p_text(self.p_none)]


def row_of(
    name: str,
    rollouts: Sequence[Rollout],
    *,
    none: Sequence[Rollout] | None = None,
    selected: Sequence[Rollout] | None = None,
    note: str = "",
) -> ControlRow:
    """The row of a control, beside no supplement and the selected stage on the same examples in the same order."""
    scores = [each.reward.score for each in rollouts if each.reward is not None]
    row = ControlRow(name, questions=len(scores), unanswered=len(rollouts) - len(scores), note=note)
    if not scores:
        return row
    mean, interval = sum(scores) / len(scores), mean_interval(scores)
    gain, p_none, around = None, None, None
    if none is not None:
        before, after = both(none, rollouts)
        if before:
            gain, around = (sum(after) - sum(before)) / len(before), gain_interval(before, after)
            p_none = paired_p_value(before, after)
    p_selected = None if selected is None else paired_p_value(*both(selected, rollouts))
    return ControlRow(
        name, mean, interval, gain, around, p_none, p_selected, len(scores), len(rollouts) - len(scores), note
    )


def both(first: Sequence[Rollout], second: Sequence[Rollout]) -> tuple[list[float], list[float]]:
    """The scores of two on the examples that both answered."""
    pairs = [
        (one.reward.score, other.reward.score)
        for one, other in zip(first, second, strict=True)
        if one.reward is not None and other.reward is not None
    ]
    return [one for one, _ in pairs], [other for _, other in pairs]


@dataclass(frozen=True, slots=True)
class Leakage:
    """The `share` of the selected supplements that hold the gold answer, and the gain on the other questions.

    `held` says of each question whether its supplement does.
    """

    share: float
    rest: ControlRow
    held: Sequence[bool] = field(default=(), repr=False)


def leakage_of(held: Sequence[bool], selected: Sequence[Rollout], none: Sequence[Rollout]) -> Leakage:
    """The leakage of a program whose supplements `held` the gold answer or not, all in the examples' order."""
    kept = [index for index, leak in enumerate(held) if not leak]
    rest = row_of("rest", [selected[index] for index in kept], none=[none[index] for index in kept])
    return Leakage(sum(held) / len(held), rest, tuple(held))


def noise_between(runs: Sequence[Sequence[Rollout]], none: Sequence[Rollout]) -> Noise | None:
    """The noise of several runs of the same supplements, on the questions that all of them and `none` answered."""
    whole = [[each.reward.score for each in own if each.reward is not None] for own in zip(*runs, none, strict=True)]
    answered = [own for own in whole if len(own) == len(runs) + 1]
    if len(runs) < 2 or not answered:
        return None
    *scores, before = ([own[number] for own in answered] for number in range(len(runs) + 1))
    return noise_of(scores, before)


@dataclass(frozen=True)
class Controls:
    """What `controls` found of one compiled program. It prints as a table.

    `selected` is the stage that the program is; `scored` holds each row's rollouts in the examples' order, `again`
    those of the selected supplements run again.

    >>> print(Controls("sft", [ControlRow("none", 0.5, (0.2, 0.8)), ControlRow("shifted", skipped="no such set")]))
    Controls of sft
    ...
    shifted: skipped, no such set
    """

    selected: str
    rows: Sequence[ControlRow]
    leakage: Leakage | None = None
    noise: Noise | None = None
    log_dir: Path = Path()
    scored: Mapping[str, Sequence[Rollout]] = field(default_factory=dict[str, Sequence[Rollout]], repr=False)
    again: Sequence[Sequence[Rollout]] = field(default=(), repr=False)

    def row(self, name: str) -> ControlRow:
        """A control's row; raises `KeyError` for one that was not asked for."""
        try:
            return next(row for row in self.rows if row.name == name)
        except StopIteration:
            raise KeyError(f"{name!r} is no row; there are {[row.name for row in self.rows]}.") from None

    def content(self) -> dict[str, Any]:
        """The controls as JSON holds them: `selected`, `rows`, `leakage` and `noise`."""
        return {
            "selected": self.selected,
            "rows": [asdict(row) for row in self.rows],
            "leakage": None
            if self.leakage is None
            else {"share": self.leakage.share, "rest": asdict(self.leakage.rest)},
            "noise": None if self.noise is None else asdict(self.noise),
        }

    def to_markdown(self) -> str:
        """The table as Markdown, with what else was found below it."""
        head = [f"| {' | '.join(_COLUMNS)} |", f"|---|{'---:|' * (len(_COLUMNS) - 1)}"]
        body = [f"| {' | '.join(_cells(row))} |" for row in self.rows if not row.skipped]
        return "\n".join(
            [
                f"**Controls of {self.selected}**",
                "",
                *head,
                *body,
                "",
                _LEGEND,
                "",
                *(f"- {line}" for line in self._lines),
                "",
            ]
        )

    @property
    def _lines(self) -> list[str]:
        said: list[str] = []
        if (found := self.leakage) is not None:
            rest = f"{signed(found.rest.gain)} ({span(found.rest.gain_interval)})" if found.rest.questions else "none"
            said.append(f"{found.share:.1%} of the supplements hold the gold answer; the gain on the rest is {rest}.")
        if self.noise is not None:
            said.append(self.noise.words)
        said += [f"{row.name}: {row.note}." for row in self.rows if row.note]
        return [*said, *(f"{row.name}: skipped, {row.skipped}" for row in self.rows if row.skipped)]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table on a terminal."""
        table = plain_table(f"Controls of {self.selected}")
        for number, name in enumerate(_COLUMNS):
            table.add_column(name, justify="right" if number else "left", no_wrap=True)
        for row in self.rows:
            if not row.skipped:
                table.add_row(*_cells(row), style="bold" if row.name == "selected" else "")
        yield table
        yield _LEGEND
        yield from self._lines

    def __str__(self) -> str:
        return printed(self, width=140)


def pooled(found: Sequence[Controls]) -> Controls:
    """The controls of several programs, say of several seeds, as those of one that was asked all their questions.

    What not all of them have is left out: rows, the leakage, runs of the same supplements beyond the fewest.
    """
    all_rows = [{row.name: row for row in each.rows} for each in found]
    names = [name for name in all_rows[0] if all(name in each.scored for each in found)]
    scored = {name: [rollout for each in found for rollout in each.scored[name]] for name in names}
    rows: list[ControlRow] = []
    for name in names:
        bare = scored.get(f"{name}_none", None if name.endswith("none") else scored["none"])
        beside = name != "selected" and all(each.row(name).p_selected is not None for each in found)
        rows.append(row_of(name, scored[name], none=bare, selected=scored["selected"] if beside else None))
    leaks = [each.leakage for each in found if each.leakage is not None]
    held = [leak for each in leaks for leak in each.held]
    again = [
        [rollout for run in runs for rollout in run] for runs in zip(*(each.again for each in found), strict=False)
    ]
    return Controls(
        f"{len(found)} programs",
        rows,
        leakage_of(held, scored["selected"], scored["none"]) if len(leaks) == len(found) else None,
        noise_between([scored["selected"], *again], scored["none"]),
        found[0].log_dir,
        scored,
        again,
    )


def _cells(row: ControlRow) -> list[str]:
    return [row.name, *row.cells, p_text(row.p_selected), str(row.questions)]
