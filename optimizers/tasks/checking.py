"""Checks that a task's rows are sound: each gold answer must score 1.0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from optimizers.core.records import Reward
from optimizers.core.reward import Scorer
from optimizers.tasks.definition import Task
from optimizers.tasks.rows import BadRow
from sgt_modules.errors import MetricError

_FULL_SCORE = 1 - 1e-9


@dataclass(frozen=True, slots=True)
class Check:
    """The result of checking a task's rows: how many there are, the mean gold score, and the bad rows.

    Bad rows do not fit the schema, or their gold answer scores below 1.0. `gold_score` is the mean over the rows that
    fit, in [0, 1]; 0.0 if none fits.
    """

    task: str
    rows: int
    gold_score: float
    bad_rows: Sequence[BadRow]
    notes: Sequence[str] = ()

    def content(self) -> dict[str, Any]:
        """Return the JSON form."""
        bad = [asdict(each) for each in self.bad_rows]
        return {"task": self.task, "rows": self.rows, "gold_score": self.gold_score, "bad_rows": bad}


def check_task(task: Task, data_dir: str | Path | None = None) -> Check:
    """Read every row of a task, and judge each gold answer by the task's metric.

    >>> from optimizers.tasks import task
    >>> check_task(task("house_terms")).content()
    {'task': 'house_terms', 'rows': 404, 'gold_score': 1.0, 'bad_rows': []}
    """
    pools, scorer = task.read(data_dir), Scorer(task.metric)
    every, bad, total = pools.all_rows, list(pools.bad), 0.0
    for each in every:
        try:
            reward = scorer(each.example, task.gold_prediction(each.example))
        except MetricError as problem:
            reward = Reward(0.0, str(problem))
        total += reward.score
        if reward.score < _FULL_SCORE:
            bad.append(BadRow(each.place, f"the gold answer scores {reward.score:g}: {reward.feedback}"))
    mean = total / len(every) if every else 0.0
    return Check(task.name, len(every) + len(pools.bad), round(mean, 6), bad, pools.notes)
