"""The results of controls: a row per control, leakage and noise; as a table, Markdown and JSON. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult

from optimizers.comparison.cells import render_text
from optimizers.comparison.noise import Noise, estimate_noise
from optimizers.core.clusters import Clusters, count_clusters
from optimizers.core.paired_scores import pair_scores, select_clusters
from optimizers.core.records import Rollout
from optimizers.core.statistics import gain_interval, mean_interval, paired_p_value
from optimizers.observe.report.texts import describe_tests, p_text, share, signed, span
from optimizers.observe.tables import plain_table

_INTERVAL = "95 %"
_CONTROL_COLUMNS: Sequence[str] = ("control", "score", _INTERVAL, "gain", "95 % of gain", "p", "p selected", "n")
_WIDE = 92
"""Characters of a terminal that shows all columns; a narrower one leaves out the interval of the score."""
_CONTROL_LEGEND = (
    "gain compares with no supplement, on the same n questions and with the same actor. p tests the gain, p selected "
    "the difference from the selected stage. Both tests are paired, and not adjusted for the number of rows, because "
    "each row answers a question of its own. {tests}"
)


@dataclass(frozen=True, slots=True)
class ControlRow:
    """The result of one control. Scores are in [0, 1]; an unknown value is None.

    `gain`, with a 95 % `gain_interval`, compares with no supplement on the questions that have both scores. `p_none`
    tests the gain, `p_selected` the difference from the selected stage, if both ran on the same questions. `questions`
    counts the questions with a score, `clusters` their clusters, for which intervals and tests allow, `unanswered` the
    questions that an outage left without a score. `skipped` says why a control did not run.
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
    clusters: int = 0

    @property
    def helps(self) -> bool:
        """Whether the control is significantly better than no supplement: the interval of its gain is above 0."""
        return self.gain_interval is not None and self.gain_interval[0] > 0

    @property
    def cells(self) -> list[str]:
        """The texts of score, interval, gain, its interval and its p-value."""
        return [
            share(self.score),
            span(self.interval),
            signed(self.gain),
            span(self.gain_interval),
            p_text(self.p_none),
        ]


def build_control_row(
    name: str,
    rollouts: Sequence[Rollout],
    *,
    none: Sequence[Rollout] | None = None,
    selected: Sequence[Rollout] | None = None,
    note: str = "",
    clusters: Clusters | None = None,
) -> ControlRow:
    """Compares a control with no supplement and with the selected stage; all arguments are in the same order."""
    scores = [each.reward.score for each in rollouts if each.reward is not None]
    row = ControlRow(name, questions=len(scores), unanswered=len(rollouts) - len(scores), note=note)
    if not scores:
        return row
    own = select_clusters(clusters, rollouts)
    row = replace(row, score=sum(scores) / len(scores), interval=mean_interval(scores, clusters=own))
    row = replace(row, clusters=count_clusters(own))
    if selected is not None:
        shared = select_clusters(clusters, selected, rollouts)
        row = replace(row, p_selected=paired_p_value(*pair_scores(selected, rollouts), clusters=shared))
    before, after = ([], []) if none is None else pair_scores(none, rollouts)
    if not before:
        return row
    gain = (sum(after) - sum(before)) / len(before)
    paired = [] if none is None else select_clusters(clusters, none, rollouts)
    return replace(
        row,
        gain=gain,
        gain_interval=gain_interval(before, after, clusters=paired),
        p_none=paired_p_value(before, after, clusters=paired),
    )


@dataclass(frozen=True, slots=True)
class Leakage:
    """The `share` of supplements that contain the gold answer, and the `rest`: the row of the other questions.

    `leaking` says for each question whether its supplement contains the gold answer.
    """

    share: float
    rest: ControlRow
    leaking: Sequence[bool] = field(default=(), repr=False)


def measure_leakage(
    leaking: Sequence[bool], selected: Sequence[Rollout], none: Sequence[Rollout], clusters: Clusters | None = None
) -> Leakage:
    """Returns the share of leaking supplements, and the gain of the others; all arguments are in the same order."""
    kept = [index for index, leaks in enumerate(leaking) if not leaks]
    rest = build_control_row(
        "rest",
        [selected[index] for index in kept],
        none=[none[index] for index in kept],
        clusters=None if clusters is None else [clusters[index] for index in kept],
    )
    return Leakage(sum(leaking) / len(leaking), rest, tuple(leaking))


def measure_noise(
    runs: Sequence[Sequence[Rollout]], none: Sequence[Rollout], clusters: Clusters | None = None
) -> Noise | None:
    """Estimates the noise from rollouts of the same supplements, on the questions for which all runs have a score.

    Returns None with fewer than two runs, or without such a question.
    """
    by_question = [
        [each.reward.score for each in rollouts if each.reward is not None]
        for rollouts in zip(*runs, none, strict=True)
    ]
    complete = [scores for scores in by_question if len(scores) == len(runs) + 1]
    if len(runs) < 2 or not complete:
        return None
    *scores, before = ([each[number] for each in complete] for number in range(len(runs) + 1))
    return estimate_noise(scores, before, select_clusters(clusters, *runs, none))


@dataclass(frozen=True)
class Controls:
    """The result of `controls` for one compiled program. It prints as a table.

    `selected` is the stage that the program uses. `scored` has the rollouts of each row, `repetitions` those of each
    further run of the selected supplements; both are in the examples' order. `clusters` has the examples' clusters of
    each row.

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
    repetitions: Sequence[Sequence[Rollout]] = field(default=(), repr=False)
    clusters: Mapping[str, Clusters] = field(default_factory=dict[str, Clusters], repr=False)

    def row(self, name: str) -> ControlRow:
        """Returns a control's row; raises `KeyError` if there is none."""
        try:
            return next(row for row in self.rows if row.name == name)
        except StopIteration:
            raise KeyError(f"There is no row {name!r}; there are {[row.name for row in self.rows]}.") from None

    @property
    def over_lookup(self) -> ControlRow | None:
        """The row of the selected stage, whose gain is over the control `lookup`; None without that control."""
        if not {"selected", "lookup"} <= set(self.scored):
            return None
        return build_control_row(
            "selected",
            self.scored["selected"],
            none=self.scored["lookup"],
            clusters=self.clusters.get("selected"),
        )

    def content(self) -> dict[str, Any]:
        """Returns the controls as JSON: `selected`, `rows`, `leakage` and `noise`."""
        return {
            "selected": self.selected,
            "rows": [asdict(row) for row in self.rows],
            "leakage": None
            if self.leakage is None
            else {"share": self.leakage.share, "rest": asdict(self.leakage.rest)},
            "noise": None if self.noise is None else asdict(self.noise),
        }

    def to_markdown(self) -> str:
        """Returns the table as Markdown, followed by leakage, noise and notes."""
        head = [f"| {' | '.join(_CONTROL_COLUMNS)} |", f"|---|{'---:|' * (len(_CONTROL_COLUMNS) - 1)}"]
        body = [f"| {' | '.join(_format_control(row))} |" for row in self.rows if not row.skipped]
        return "\n".join(
            [
                f"**Controls of {self.selected}**",
                "",
                *head,
                *body,
                "",
                self.legend,
                "",
                *(f"- {line}" for line in self._lines),
                "",
            ]
        )

    @property
    def legend(self) -> str:
        """What the columns mean, how many clusters of questions there are, and which tests were used."""
        questions, clusters = max(((row.questions, row.clusters) for row in self.rows), default=(0, 0))
        return _CONTROL_LEGEND.format(tests=describe_tests(questions, clusters))

    @property
    def _lines(self) -> list[str]:
        lines: list[str] = []
        if self.leakage is not None:
            rest = self.leakage.rest
            gain = f"{signed(rest.gain)} ({span(rest.gain_interval)})" if rest.questions else "none"
            lines.append(
                f"{self.leakage.share:.1%} of the supplements hold the gold answer; the gain on the rest is {gain}."
            )
        if self.noise is not None:
            lines.append(self.noise.words)
        if (over := self.over_lookup) is not None and over.questions:
            gain = f"{signed(over.gain)} ({span(over.gain_interval)}, p {p_text(over.p_none)})"
            lines.append(f"The selected stage gains {gain} over lookup: what training adds to exploration's outcomes.")
        lines += [f"{row.name}: {row.note}." for row in self.rows if row.note]
        return [*lines, *(f"{row.name}: skipped, {row.skipped}" for row in self.rows if row.skipped)]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Shows the table on a terminal."""
        table = plain_table(f"Controls of {self.selected}")
        columns = [each for each in _CONTROL_COLUMNS if options.max_width >= _WIDE or each != _INTERVAL]
        for name in columns:
            table.add_column(name, justify="left" if name == columns[0] else "right", no_wrap=True)
        for row in self.rows:
            if not row.skipped:
                cells = dict(zip(_CONTROL_COLUMNS, _format_control(row), strict=True))
                table.add_row(*(cells[name] for name in columns), style="bold" if row.name == "selected" else "")
        yield table
        yield self.legend
        yield from self._lines

    def __str__(self) -> str:
        return render_text(self, width=140)


def pooled(programs: Sequence[Controls]) -> Controls:
    """Pools the controls of several programs, for example of several seeds, over all their questions.

    Leaves out what a program lacks: rows, leakage, and repetitions beyond the smallest number of them. Two programs,
    such as of two worlds, share no cluster.
    """
    names = [row.name for row in programs[0].rows if all(row.name in each.scored for each in programs)]
    scored = {name: [rollout for each in programs for rollout in each.scored[name]] for name in names}
    clusters = {name: _join_clusters([each.clusters.get(name) for each in programs], programs, name) for name in names}
    rows: list[ControlRow] = []
    for name in names:
        none = scored.get(f"{name}_none", None if name.endswith("none") else scored["none"])
        same_questions = name != "selected" and all(each.row(name).p_selected is not None for each in programs)
        selected = scored["selected"] if same_questions else None
        rows.append(build_control_row(name, scored[name], none=none, selected=selected, clusters=clusters[name]))
    leakages = [each.leakage for each in programs if each.leakage is not None]
    leaking = [leaks for each in leakages for leaks in each.leaking]
    repetitions = [
        [rollout for run in runs for rollout in run]
        for runs in zip(*(each.repetitions for each in programs), strict=False)
    ]
    return Controls(
        f"{len(programs)} programs",
        rows,
        measure_leakage(leaking, scored["selected"], scored["none"], clusters["selected"])
        if len(leakages) == len(programs)
        else None,
        measure_noise([scored["selected"], *repetitions], scored["none"], clusters["selected"]),
        programs[0].log_dir,
        scored,
        repetitions,
        clusters,
    )


def _join_clusters(parts: Sequence[Clusters | None], programs: Sequence[Controls], name: str) -> Clusters:
    """Joins a row's clusters of several programs, so that programs share none."""
    joined: list[Hashable | None] = []
    for number, (part, program) in enumerate(zip(parts, programs, strict=True)):
        own = [None] * len(program.scored[name]) if part is None else part
        joined += [None if each is None else (number, each) for each in own]
    return joined


def _format_control(row: ControlRow) -> list[str]:
    return [row.name, *row.cells, p_text(row.p_selected), str(row.questions)]
