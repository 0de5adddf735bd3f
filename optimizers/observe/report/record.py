"""A run's folder as the report reads it: its JSON files, training rows, and rollouts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

from optimizers.core.error_types import ErrorType, Failure, group_errors
from optimizers.core.events import RolloutSource
from optimizers.core.run_folder import CLUSTERS_FILE, COSTS_FILE, RESULT, RunFolder
from optimizers.core.safe_reading import read_entry, read_rows
from optimizers.core.verdict import NOTE
from optimizers.observe.report.figures import StageScore, best_stage, splits_of, stage_scores
from optimizers.observe.report.stage_rollouts import StageRollout, compact
from optimizers.store.rollout_store import open_run_store
from sgt_modules.errors import RunFolderError

Content = Mapping[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """Everything a report tells of a run.

    `controls`, `costs`, `prompts` and `summary` are empty where the run has none.

    `pairs` counts a training stage's rows by category, SFT's by kind.
    """

    folder: Path
    run: Content
    spent: Content
    stages: Content
    summary: Content
    result: Content
    controls: Content
    prompts: Content
    pairs: Mapping[str, Mapping[str, int]]
    rollouts: Sequence[StageRollout]
    clusters: Content
    costs: Content

    @property
    def recipe(self) -> Content:
        """The method's options."""
        return _object(_object(self.run, "settings"), "recipe")

    @property
    def threshold(self) -> float:
        """The reward from which a run of the program is a success."""
        return read_entry(self.recipe, "threshold", float, 1.0, file=Path("run.json"))

    @property
    def splits(self) -> list[str]:
        """The splits on which stages were scored: test, validation, the others."""
        return splits_of(self.rollouts)

    @property
    def split(self) -> str:
        """The split that the figures show: the first on which the selected stage was scored."""
        selected = self.selected
        known = {(each.stage, each.split) for each in self.rollouts}
        return next((name for name in self.splits if (selected, name) in known), "val")

    def scores(self, split: str) -> list[StageScore]:
        """Every stage on a split."""
        return stage_scores(self.rollouts, split, threshold=self.threshold, clusters=self._read_clusters(split))

    def _read_clusters(self, split: str) -> list[int]:
        """The number of each question's cluster on a split, by position; empty if the run's folder names none."""
        numbers = cast("list[object]", read_entry(self.clusters, split, list, [], file=Path(CLUSTERS_FILE)))
        return [number for number in numbers if isinstance(number, int)]

    @property
    def selected(self) -> str:
        """The stage that the compiled program is: as the run says, else the best on validation; empty without any."""
        said = self.result.get("selected") or self.summary.get("selected")
        return str(said) if said else best_stage(self.scores("val"))

    @property
    def verdict(self) -> str:
        """The result of the run in words; empty until the run ends."""
        return str(self.result.get("verdict") or "")

    @property
    def notes(self) -> list[str]:
        """Why anything was left undone, without the verdict."""
        said = cast("list[object]", self.result.get("notes") or self.summary.get("notes") or [])
        return [note for note in map(str, said) if not note.startswith(NOTE)]

    def errors(self) -> list[ErrorType]:
        """The types of error that the run's rollouts ended with, the most frequent first."""
        return group_errors(
            Failure(f"{each.stage}/{each.split}", each.error, each.score is not None) for each in self.rollouts
        )


def read_run(path: Path, *, store: RolloutSource | None = None, where: str | Path | None = None) -> RunRecord:
    """Reads a run's folder within bounds, as somebody else may have written it.

    `store` is the run's open store, or `where` it is.

    Raises:
        RunFolderError: the folder holds no run, or files that cannot be read.
    """
    folder = RunFolder(path)
    run = folder.read("run.json")
    if run is None or (store is None and where is None and not folder.store.is_file()):
        raise RunFolderError(
            f"{path} holds no run: expected run.json and {folder.store.name} in it. Pass the log_dir of a compile, or "
            "the folder of a comparison; with --store where its rollouts are in a store elsewhere."
        )
    own = str(run.get("id", ""))
    judge = str(_object(_object(run, "free"), "code").get("metric", ""))
    if store is not None:
        rollouts = list(_rollouts(store, own, judge))
    else:
        with open_run_store(folder, where, run=own) as opened:
            rollouts = list(_rollouts(opened, own, judge))
    others = (Path(file).stem for file in (RESULT, CLUSTERS_FILE, COSTS_FILE))
    names = ("spent", "stages", "summary", "controls", "prompts", *others)
    files = {name: folder.read(f"{name}.json") or {} for name in names}
    return RunRecord(path, run, pairs=_pairs(folder), rollouts=rollouts, **files)


def _rollouts(store: RolloutSource, own: str, judge: str) -> Iterator[StageRollout]:
    """The run's rollouts, and those of its controls for other stages and splits; as its latest metric judges them."""
    ours = list(compact(store.iter_rollouts(judged_by=judge)))
    known = {(each.stage, each.split) for each in ours}
    more = compact(store.iter_rollouts(run=f"{own} controls", judged_by=judge))
    return chain(ours, (each for each in more if (each.stage, each.split) not in known))


def _pairs(folder: RunFolder) -> dict[str, dict[str, int]]:
    """The rows of each training stage by category, the most frequent first."""
    rows = {
        file.stem: Counter(str(row.get("category") or row.get("kind")) for row in read_rows(file))
        for file in folder.training_files
    }
    return {stage: dict(counted.most_common()) for stage, counted in rows.items()}


def _object(content: Content, name: str) -> Content:
    return read_entry(content, name, dict, {}, file=Path("run.json"))
