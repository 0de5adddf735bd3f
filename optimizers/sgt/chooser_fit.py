"""Fits a `NoteChooser` on a run's rollouts, and measures it on queries that it was not fitted on.

Only notes that the generator wrote as at inference count: those of rounds whose samples name no kind (the source
`direct`). Silence counts once a query and round, with what the query scored unaided.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from optimizers.core.records import Rollout
from optimizers.core.result import SGTResult
from optimizers.core.stages import Stage
from optimizers.sgt.policy_groups import queries_of_round
from sgt_modules.errors import SetupError
from sgt_modules.kinds import Supplement
from sgt_modules.note_chooser import MEASURES, NoteChooser, Proposal, design, measure, propose, sigmoid
from sgt_modules.samples import Sample

_NEWTON_STEPS = 50
_CONVERGED = 1e-9
_EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True, slots=True)
class JudgedNote:
    """A proposal for a query's prompt, and whether the actor was right with it."""

    query: str
    prompt: str
    proposal: Proposal
    won: bool


@dataclass(frozen=True, slots=True)
class ReliabilityRow:
    """The notes whose predicted probability is in [low, high): their number, mean prediction and share of winners."""

    low: float
    high: float
    notes: int
    predicted: float
    won: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """How good predicted probabilities are on queries that the fit did not see.

    `brier` is their mean squared error, `constant_brier` that of predicting the share of winners for all; `auc` is the
    probability that a winner scores above a loser, None without both.
    """

    notes: int
    queries: int
    won: float
    brier: float
    constant_brier: float
    auc: float | None
    rows: Sequence[ReliabilityRow]

    def __str__(self) -> str:
        """The figures as a line and a table in Markdown."""
        auc = "unknown" if self.auc is None else f"{self.auc:.3f}"
        words = (
            f"{self.notes} notes of {self.queries} queries, {self.won:.3f} won; Brier score {self.brier:.3f} "
            f"({self.constant_brier:.3f} for a constant), AUC {auc}, each query predicted by a fit without it."
        )
        lines = [
            words,
            "",
            "| predicted | notes | mean predicted | won |",
            "|---|---|---|---|",
            *(f"| {r.low:.1f}-{r.high:.1f} | {r.notes} | {r.predicted:.3f} | {r.won:.3f} |" for r in self.rows),
        ]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class FittedChooser:
    """A chooser that was fitted on all notes, and the calibration of fits that left queries out."""

    chooser: NoteChooser
    calibration: Calibration


def fit_chooser(
    run: str | Path | SGTResult,
    *,
    store: str | Path | None = None,
    threshold: float | None = None,
    folds: int = 5,
    penalty: float = 1.0,
    seed: int = 0,
) -> FittedChooser:
    """Fit a chooser on the rollouts of a finished or stopped run, for `supplement(..., chooser=)`.

    `run` is the run's folder or result; `store` is the run's, where it is not in the folder. A note wins with a reward
    of at least `threshold`, by default the recipe's. `penalty` is that of `fit_notes`; calibration leaves out one of
    `folds` parts of the queries at a time. Raises `SetupError` without notes that were asked for without a
    kind, as those of DPO's round 2 and later.

    >>> try:
    ...     fit_chooser("runs/no-such-run")
    ... except SetupError as error:
    ...     print(error)
    Expected a run's folder, got 'runs/no-such-run' without rollouts. Pass its log_dir.
    """
    # Here, as they bring SQLAlchemy, which takes longer to import than all of DSPy.
    from optimizers.core.run_folder import RunFolder
    from optimizers.rollouts.queries import with_own_prompts
    from optimizers.rollouts.sampling import read_query
    from optimizers.store.rollout_store import open_run_store

    folder = RunFolder(run.log_dir if isinstance(run, SGTResult) else Path(run))
    known = folder.read("run.json") or {}
    settings = cast("Mapping[str, Any]", known.get("settings") or {})
    recipe = cast("Mapping[str, Any]", settings.get("recipe") or {})
    where = store or (run.store if isinstance(run, SGTResult) else None)
    least = float(recipe.get("threshold", 1.0)) if threshold is None else threshold
    if where is None and not folder.store.exists():
        raise SetupError(f"Expected a run's folder, got {str(folder.path)!r} without rollouts. Pass its log_dir.")
    with open_run_store(folder, where, run=str(known.get("id", ""))) as opened:
        rollouts = with_own_prompts(opened.rollouts())
        stages = sorted({each.stage for each in rollouts if _is_direct(each)})
        samples = {stage: [(read_query(key), each) for key, each in opened.samples(stage)] for stage in stages}
    drawn = {
        stage: place_samples(own, stage, rollouts, recipe, int(settings.get("seed", 0)))
        for stage, own in samples.items()
    }
    judged = judge_notes(rollouts, drawn, threshold=least)
    return fit_and_calibrate(judged, folds=folds, penalty=penalty, seed=seed)


def place_samples(
    samples: Sequence[tuple[str | None, Sample]],
    stage: str,
    rollouts: Sequence[Rollout],
    recipe: Mapping[str, Any],
    seed: int,
) -> list[tuple[str, Sample]]:
    """Return a round's samples with their queries' ids; an id is None in runs of an earlier version.

    There it is found by the order of the requests if the program has one place an example, and every rollout of the
    round is then among its query's samples. Else those samples are left out.
    """
    if all(query is not None for query, _ in samples):
        return [(query or "", sample) for query, sample in samples]
    probed = {each.query.index: each.query for each in rollouts if each.stage == "none/train" and each.query.predictor}
    round_, count = int(stage.removeprefix("round ")), recipe.get("queries_per_round")
    order = queries_of_round([probed[index] for index in sorted(probed)], round_, count, seed=seed)
    ids = [query.id for query in order for _ in range(int(recipe.get("direct_samples", 0)))]
    placed = [
        (known if known is not None else ids[n] if n < len(ids) else "", sample)
        for n, (known, sample) in enumerate(samples)
    ]
    drawn = {(query, sample.supplement.render()) for query, sample in placed}
    direct = [each for each in rollouts if each.stage == stage and _is_direct(each)]
    fits = all((each.query.id, each.supplement.render()) in drawn for each in direct)
    return placed if fits else [(query or "", sample) for query, sample in samples]


def judge_notes(
    rollouts: Sequence[Rollout], samples: Mapping[str, Sequence[tuple[str, Sample]]], *, threshold: float = 1.0
) -> list[JudgedNote]:
    """Return the distinct notes of each round and query that have an outcome, and silence with the unaided one.

    `samples` has each round's samples with the id of the query that each was drawn for. A query none of whose notes is
    among its samples, as where a store lost rows, is left out.
    """
    unaided = {
        (each.query.id, each.query.prompt): each.won(threshold)
        for each in rollouts
        if each.reward is not None and not each.supplement and Stage.read(each.stage).split in ("", "train")
    }
    judged: list[JudgedNote] = []
    for stage, drawn in samples.items():
        by_query: dict[str, list[Sample]] = defaultdict(list)
        for query, sample in drawn:
            by_query[query].append(sample)
        outcomes: dict[str, dict[Supplement, Rollout]] = defaultdict(dict)
        for each in rollouts:
            if each.stage == stage:
                outcomes[each.query.id][each.supplement] = each
        for name in sorted(outcomes):
            own, known = by_query[name], outcomes[name]
            query = next(iter(known.values())).query
            if not any(sample.supplement in known for sample in own if sample.supplement):
                continue
            for proposal in propose(own):
                key = (query.id, query.prompt)
                found = known.get(proposal.sample.supplement)
                if not proposal.sample.supplement and key in unaided:
                    judged.append(JudgedNote(query.id, query.prompt, proposal, unaided[key]))
                elif found is not None and found.reward is not None and _is_direct(found):
                    judged.append(JudgedNote(query.id, query.prompt, proposal, found.won(threshold)))
    return judged


def fit_and_calibrate(
    judged: Sequence[JudgedNote], *, folds: int = 5, penalty: float = 1.0, seed: int = 0
) -> FittedChooser:
    """Fit a chooser on all notes, and calibrate: each query is predicted by a fit on the other folds' queries."""
    queries = sorted({each.query for each in judged})
    if folds < 2 or len(queries) < folds:
        raise SetupError(
            f"Expected judged notes of {max(2, folds)} queries or more, got {len(queries)}. Use a run with two rounds "
            "or more and more training examples: notes that were asked for by kind do not count."
        )
    random.Random(seed).shuffle(queries)
    fold_of = {query: number % folds for number, query in enumerate(queries)}
    predicted = [0.0] * len(judged)
    for fold in range(folds):
        chooser = fit_notes([each for each in judged if fold_of[each.query] != fold], penalty=penalty)
        for place, each in enumerate(judged):
            if fold_of[each.query] == fold:
                predicted[place] = chooser.probabilities(each.prompt, [each.proposal])[0]
    calibration = calibrate(predicted, [each.won for each in judged], queries=len(queries))
    return FittedChooser(fit_notes(judged, penalty=penalty), calibration)


def fit_notes(judged: Sequence[JudgedNote], *, penalty: float = 1.0) -> NoteChooser:
    """Fit the regression by Newton's method. `penalty` (positive): half of it times the squared weights is added to the
    negative log-likelihood, for all weights but the constant's."""
    measures = np.array([measure(each.prompt, each.proposal) for each in judged]).reshape(len(judged), len(MEASURES))
    known = ~np.isnan(measures)
    counts = known.sum(axis=0)
    means = np.where(known, measures, 0.0).sum(axis=0) / np.maximum(counts, 1)
    spread = np.sqrt((np.where(known, measures - means, 0.0) ** 2).sum(axis=0) / np.maximum(counts, 1))
    scales = np.where(spread > _CONVERGED, spread, 1.0)
    named = [each.proposal.sample.kind if each.proposal.sample.supplement else "" for each in judged]
    kinds = sorted(set(named) - {""})
    rows = design(measures.tolist(), named, kinds, means.tolist(), scales.tolist())
    weights = fit_logistic(rows, np.array([each.won for each in judged], dtype=float), penalty=penalty)
    return NoteChooser(tuple(kinds), tuple(means.tolist()), tuple(scales.tolist()), tuple(weights.tolist()))


def fit_logistic(rows: NDArray[np.float64], won: NDArray[np.float64], *, penalty: float = 1.0) -> NDArray[np.float64]:
    """Return the weights of a logistic regression whose first column, a constant, is not penalised.

    >>> weights = fit_logistic(np.ones((4, 1)), np.array([1.0, 1.0, 1.0, 0.0]))
    >>> round(float(sigmoid(weights)[0]), 6)
    0.75
    """
    if penalty <= 0:
        raise SetupError(f"Expected a penalty above 0, got {penalty}.")
    # A hair of penalty on the constant keeps it finite where every note won, or none.
    pull = np.array([1e-6, *[penalty] * (rows.shape[1] - 1)])
    weights = np.zeros(rows.shape[1])
    loss = _loss(rows, won, weights, pull)
    for _ in range(_NEWTON_STEPS):
        chances = sigmoid(rows @ weights)
        gradient = rows.T @ (chances - won) + pull * weights
        curvature = (rows * (chances * (1 - chances))[:, None]).T @ rows + np.diag(pull)
        step = np.linalg.solve(curvature, gradient)
        while (new := _loss(rows, won, weights - step, pull)) > loss and np.abs(step).max() > _CONVERGED:
            step = step / 2
        weights, loss = weights - step, new
        if np.abs(step).max() < _CONVERGED:
            break
    return weights


def calibrate(predicted: Sequence[float], won: Sequence[bool], *, queries: int) -> Calibration:
    """Compare predicted probabilities with outcomes.

    >>> found = calibrate([0.9, 0.7, 0.1], [True, True, False], queries=3)
    >>> round(found.brier, 4), found.auc, [(row.notes, row.won) for row in found.rows]
    (0.0367, 1.0, [(1, 0.0), (1, 1.0), (1, 1.0)])
    """
    chances, outcomes = np.array(predicted, dtype=float), np.array(won, dtype=float)
    rate = float(outcomes.mean())
    rows: list[ReliabilityRow] = []
    for low, high in itertools.pairwise(_EDGES):
        inside = (chances >= low) & ((chances < high) | (high == _EDGES[-1]))
        if inside.any():
            number = int(inside.sum())
            rows.append(
                ReliabilityRow(low, high, number, float(chances[inside].mean()), float(outcomes[inside].mean()))
            )
    return Calibration(
        len(chances),
        queries,
        rate,
        float(((chances - outcomes) ** 2).mean()),
        rate * (1 - rate),
        _area_under_curve(chances, outcomes),
        tuple(rows),
    )


def _loss(
    rows: NDArray[np.float64], won: NDArray[np.float64], weights: NDArray[np.float64], pull: NDArray[np.float64]
) -> float:
    values = rows @ weights
    return float((np.logaddexp(0.0, values) - won * values).sum() + 0.5 * (pull * weights**2).sum())


def _area_under_curve(chances: NDArray[np.float64], outcomes: NDArray[np.float64]) -> float | None:
    winners, losers = chances[outcomes == 1], chances[outcomes == 0]
    if not len(winners) or not len(losers):
        return None
    from scipy.stats import mannwhitneyu

    return float(cast("Any", mannwhitneyu(winners, losers)).statistic / len(winners) / len(losers))


def _is_direct(rollout: Rollout) -> bool:
    """Whether a note was written in a round, for the prompt that the generator reads at inference."""
    return rollout.source == "direct" and rollout.stage.startswith("round ") and not Stage.read(rollout.stage).split
