"""Shows what causes a gain: compares the program that SGT compiled with programs that each lack one part."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import dspy

from optimizers.comparison.compiled_run import CompiledRun, OneKindGenerator, run_with_supplements
from optimizers.comparison.control_rows import (
    ControlRow,
    Controls,
    Leakage,
    build_control_row,
    measure_leakage,
    measure_noise,
)
from optimizers.comparison.interventions import (
    SplitCalls,
    exchange_supplements,
    join_supplements,
    measure_unchanged,
    remove_tags,
    replace_words,
)
from optimizers.comparison.setup import Problem
from optimizers.comparison.summary import Leaks, contains_label
from optimizers.core.best_stage import select_best
from optimizers.core.clusters import Clusters, number_clusters
from optimizers.core.events import EventBus
from optimizers.core.records import Rollout
from optimizers.core.run_folder import CLUSTERS_FILE, RunFolder
from optimizers.core.validation import check_program, check_splits
from optimizers.observe.progress import Display, build_views
from optimizers.rollouts.evaluation import Evaluator, Scored
from optimizers.sgt.nearest.winners import choose_lookup
from sgt_modules.errors import SetupError
from sgt_modules.generator import SupplementGenerator
from sgt_modules.lms import ANSWER_TOKENS, check_lm
from sgt_modules.local.engine import LocalEngine
from sgt_modules.remote.endpoint import Endpoint
from sgt_modules.winner_lookup import WinnerLookup

KindsOn = Literal["test", "val"]
"""The split on which the controls `always` run: with `val`, the choice of a kind does not use the test set."""

CONTROLS_FILE = "controls.json"
"""Where the run's folder keeps the last result."""


def controls(
    program: dspy.Module,
    problem: Problem,
    *,
    shifted: Sequence[dspy.Example] | None = None,
    second_actor: dspy.LM | None = None,
    num_threads: int | None = None,
    repeats: int = 3,
    leaks: Leaks = contains_label,
    names: Collection[str] | None = None,
    kinds_on: KindsOn = "test",
    seed: int = 0,
    display_progress: Display = None,
) -> Controls:
    """Scores a program that `SGTTeleprompter` compiled, and its controls, with the same LM and metric.

    The run's store keeps every answer, so a second call pays for nothing. The first rows are `none`, the program
    without supplements, and `selected`, the compiled program. The other rows are the controls of `CONTROLS`, some with
    several rows. A control that cannot run is in the table with the reason. The result is also written to
    `controls.json` in the run's folder.

    Args:
        program: The program that `compile` returned, with its `detailed_results`.
        problem: The program before compiling, its metric, and its splits; the controls run on the test set.
        shifted: Examples unlike the training examples, for the controls `shifted_none` and `shifted`.
        second_actor: Another LM that replaces the program's own, for `second_actor_none` and `second_actor`.
        num_threads: Number of concurrent program runs; DSPy's setting by default.
        repeats: How often to run the selected supplement of each question, to measure the noise of the reward; 1 skips
            the measurement.
        leaks: Whether a supplement contains its example's gold answer; by default, a label as whole words.
        names: Names in `CONTROLS`; all by default.
        kinds_on: The split on which the controls `always` run.
        seed: Seed of the controls `lookup`, `shuffled` and `filler`.
        display_progress: False shows nothing; a function is called with a `Snapshot` periodically.

    Raises:
        SetupError: SGT did not compile the program, splits share examples, or there is no such control.
    """
    selected_names = _select_controls(names)
    problem.check()
    if shifted is not None:
        check_splits(problem.trainset, problem.valset, shifted)
        check_program(problem.program, shifted)
    check_lm(second_actor)
    if kinds_on not in get_args(KindsOn):
        raise SetupError(f"Expected kinds_on to be one of {', '.join(get_args(KindsOn))}, got {kinds_on!r}.")
    if repeats < 1:
        raise SetupError(f"Expected repeats of at least 1, got {repeats}.")
    bus = EventBus(build_views(display_progress))
    with (
        CompiledRun.open(program, problem.program, problem.metric, num_threads=num_threads, bus=bus) as run,
        run.open_split("test", problem.testset) as test,
    ):
        selected = run.score(run.result.selected, test)
        valset = problem.valset if kinds_on == "val" else None
        context = ControlContext(
            run, test, selected, seed, shifted, second_actor, valset, problem.valset, problem=problem
        )
        for name in selected_names:
            context.rows += CONTROLS[name](context)
        repetitions = _repeat_selected(context, repeats)
        first = [
            context.make_row("none", test.unaided),
            context.make_row("selected", context.selected.rollouts, run.result.selected),
        ]
        result = Controls(
            run.result.selected,
            (*first, *context.rows),
            _measure_leakage(context, leaks),
            measure_noise([context.selected.rollouts, *repetitions], test.unaided, context.clusters.get("selected")),
            run.result.log_dir,
            context.scored,
            repetitions,
            context.clusters,
        )
    RunFolder(result.log_dir).write(CONTROLS_FILE, result.content())
    if problem.cluster is not None:
        splits = {"val": problem.valset, "test": problem.testset, "shifted": shifted or ()}
        numbers = {name: number_clusters(problem.find_clusters(split)) for name, split in splits.items()}
        RunFolder(result.log_dir).write(CLUSTERS_FILE, numbers)
    return result


@dataclass
class ControlContext:
    """A finished run with its test set, the inputs of the controls, and the rows so far."""

    run: CompiledRun
    test: Evaluator
    selected: Scored
    seed: int
    shifted: Sequence[dspy.Example] | None
    second_actor: dspy.LM | None
    kinds_on: Sequence[dspy.Example] | None = None
    valset: Sequence[dspy.Example] = ()
    problem: Problem | None = None
    clusters: dict[str, Clusters] = field(default_factory=dict[str, Clusters])
    rows: list[ControlRow] = field(default_factory=list[ControlRow])
    scored: dict[str, Sequence[Rollout]] = field(default_factory=dict[str, Sequence[Rollout]])

    @property
    def silence_reason(self) -> str:
        """Says that the selected stage writes no supplements, so that none can be changed; empty if it writes some."""
        if any(call.supplement for calls in self.selected.calls for call in calls):
            return ""
        return f"the selected stage, {self.run.result.selected}, has no supplements"

    @property
    def trained_generator(self) -> SupplementGenerator | None:
        """The generator of the selected stage; None if this run did not train it."""
        result = self.run.result
        trained = any(stage.name == result.selected and stage.checkpoint for stage in result.stages)
        return result.generator_of(result.selected) if trained else None

    def make_row(self, name: str, rollouts: Sequence[Rollout], note: str = "") -> ControlRow:
        """Keeps a control's rollouts on the test set; returns its row."""
        self.scored[name] = rollouts
        clusters = self.find_clusters(name, self.test.examples)
        selected = None if name == "selected" else self.selected.rollouts
        none = None if name == "none" else self.test.unaided
        return build_control_row(name, rollouts, none=none, selected=selected, note=note, clusters=clusters)

    def find_clusters(self, name: str, examples: Sequence[dspy.Example]) -> Clusters | None:
        """Keeps the clusters of a control's examples; returns them, or None if no problem defines clusters."""
        if self.problem is None:
            return None
        self.clusters[name] = self.problem.find_clusters(examples)
        return self.clusters[name]

    def intervene(self, name: str, changed: SplitCalls) -> ControlRow:
        """Runs the test set with changed supplements; returns the row."""
        same = measure_unchanged(self.selected.calls, changed)
        note = f"{same:.0%} of the questions have the same supplement as before" if same else ""
        return self.make_row(name, run_with_supplements(self.test, f"{name}/test", changed, self.test.unaided), note)

    def rng(self, purpose: str) -> random.Random:
        """Returns the random numbers of one control."""
        return random.Random(f"{self.seed}-{purpose}")


def _score_untrained(context: ControlContext) -> Iterator[ControlRow]:
    yield context.make_row("untrained", context.test.score("untrained", context.run.result.generator).rollouts)


def _score_stages(context: ControlContext) -> Iterator[ControlRow]:
    """Scores every stage of the run: the student's own supplements, SFT, each round, the gate."""
    for stage in context.run.result.stages:
        if stage.name != "none":
            yield context.make_row(stage.name, context.run.score(stage.name, context.test).rollouts)


def _score_lookup(context: ControlContext) -> Iterator[ControlRow]:
    """Reads the supplement that won for the most similar training queries; no generator writes it.

    All rollouts of training queries that the run paid for count. Validation chooses the number of neighbours.
    """
    explored = context.run.explored(context.test)
    if not explored:
        yield ControlRow("lookup", skipped="the run has no training rollouts of this program, actor and metric")
        return
    if not context.valset:
        yield ControlRow("lookup", skipped="pass a problem with a validation set, which chooses the neighbours")
        return
    run = context.run
    with run.open_split("val", context.valset) as val:
        lookup = choose_lookup(explored, run.result.generator, val, threshold=run.threshold, seed=context.seed)
    yield context.make_row("lookup", context.test.score("lookup", lookup.generator).rollouts, lookup.words)


def _score_small_model(context: ControlContext) -> Iterator[ControlRow]:
    alone = run_small_model(context.run, context.test)
    yield ControlRow("small_model", skipped=alone) if isinstance(alone, str) else context.make_row("small_model", alone)


def run_small_model(run: CompiledRun, test: Evaluator) -> Sequence[Rollout] | str:
    """Runs the generator's base model in place of the actor.

    Returns why it was skipped if it is not there, or if none of its answers has the form that the program reads: then
    its score would say nothing about what it knows.
    """
    generator = run.result.generator
    if isinstance(generator.engine, WinnerLookup):
        return "the run has no small model: it looked supplements up"
    try:
        generator.check()
    except SetupError as problem:
        return str(problem).partition("\n")[0]
    with run.open_split("test", test.examples, lm=make_base_lm(generator)) as alone:
        if any(each.output or each.reward is None for each in alone.unaided):
            return alone.unaided
    return f"none of the {len(test.examples)} answers of {generator.name} has the form that the program reads"


def make_base_lm(generator: SupplementGenerator) -> dspy.LM:
    """Returns the LM of the generator's base model."""
    engine = generator.engine
    if isinstance(engine, Endpoint):
        return engine.lm
    assert isinstance(engine, LocalEngine)
    name, most = engine.model_name, max(engine.max_new_tokens, ANSWER_TOKENS)
    return dspy.LM(name, engine=engine, async_engine=engine.asynchronous(), max_tokens=most, cache=False)


def _score_shuffled(context: ControlContext) -> Iterator[ControlRow]:
    calls = context.selected.calls
    if context.silence_reason:
        yield ControlRow("shuffled", skipped=context.silence_reason)
    elif sum(map(bool, calls)) < 2:
        yield ControlRow("shuffled", skipped="fewer than two questions ask for a supplement")
    else:
        yield context.intervene("shuffled", exchange_supplements(calls, context.rng("shuffled")))


def _score_always(context: ControlContext) -> Iterator[ControlRow]:
    """For each kind, asks the selected generator for this kind at every question, without a gate."""
    if context.kinds_on is not None:
        yield from _score_always_on_validation(context, context.kinds_on)
        return
    for kind in context.run.kinds.values():
        name = f"always_{kind.name}"
        if context.trained_generator is None:
            yield ControlRow(
                name, skipped=f"the selected stage, {context.run.result.selected}, was not trained in this run"
            )
            continue
        generator = OneKindGenerator(context.trained_generator, kind)
        yield context.make_row(name, context.test.score(f"{context.run.result.selected} {name}", generator).rollouts)


def _score_always_on_validation(context: ControlContext, examples: Sequence[dspy.Example]) -> Iterator[ControlRow]:
    """Asks the best trained stage for each kind on the validation set, also if the run selected no supplement."""
    result = context.run.result
    trained = [stage for stage in result.stages if stage.checkpoint is not None]
    if not trained:
        yield ControlRow("always", skipped="the run trained no stage")
        return
    stage = trained[select_best([each.rollouts for each in trained])].name
    generator = result.generator_of(stage)
    assert generator is not None
    with context.run.open_split("val", examples) as val:
        for kind in context.run.kinds.values():
            name = f"always_{kind.name}"
            rollouts = val.score(f"{stage} {name}", OneKindGenerator(generator, kind)).rollouts
            context.scored |= {f"{name}_none": val.unaided, name: rollouts}
            note, clusters = f"{stage}, on validation", context.find_clusters(name, examples)
            yield build_control_row(name, rollouts, none=val.unaided, note=note, clusters=clusters)


def _score_no_tag(context: ControlContext) -> Iterator[ControlRow]:
    yield _intervene_unless_silent(context, "no_tag", lambda: remove_tags(context.selected.calls))


def _score_filler(context: ControlContext) -> Iterator[ControlRow]:
    rng = context.rng("filler")
    yield _intervene_unless_silent(context, "filler", lambda: replace_words(context.selected.calls, rng))


def _intervene_unless_silent(context: ControlContext, name: str, change: Callable[[], SplitCalls]) -> ControlRow:
    if context.silence_reason:
        return ControlRow(name, skipped=context.silence_reason)
    return context.intervene(name, change())


def _score_second_actor(context: ControlContext) -> Iterator[ControlRow]:
    if context.second_actor is None:
        yield ControlRow("second_actor", skipped="pass second_actor, another LM")
        return
    yield from _score_elsewhere(context, "second_actor", "transfer", context.test.examples, context.second_actor)


def _score_shifted(context: ControlContext) -> Iterator[ControlRow]:
    if context.shifted is None:
        yield ControlRow("shifted", skipped="pass shifted, examples unlike the training examples")
        return
    yield from _score_elsewhere(context, "shifted", "shifted", context.shifted, None)


def _score_elsewhere(
    context: ControlContext, name: str, split: str, examples: Sequence[dspy.Example], lm: dspy.LM | None
) -> Iterator[ControlRow]:
    """Scores no supplement and the selected stage, with another actor or on other examples."""
    with context.run.open_split(split, examples, lm=lm) as other:
        rollouts = context.run.score(context.run.result.selected, other).rollouts
        context.scored |= {f"{name}_none": other.unaided, name: rollouts}
        none, clusters = f"{name}_none", context.find_clusters(name, examples)
        yield build_control_row(none, other.unaided, clusters=context.find_clusters(none, examples))
        yield build_control_row(name, rollouts, none=other.unaided, clusters=clusters)


CONTROLS: Mapping[str, Callable[[ControlContext], Iterator[ControlRow]]] = {
    "untrained": _score_untrained,
    "stages": _score_stages,
    "lookup": _score_lookup,
    "small_model": _score_small_model,
    "shuffled": _score_shuffled,
    "always": _score_always,
    "no_tag": _score_no_tag,
    "filler": _score_filler,
    "second_actor": _score_second_actor,
    "shifted": _score_shifted,
}
"""Every control by name. `stages` makes a row per stage, `always` a row per kind (`always_cot`)."""


def _measure_leakage(context: ControlContext, leaks: Leaks) -> Leakage | None:
    """Measures the leakage of the selected supplements; None if there are none."""
    if context.silence_reason:
        return None
    examples, selected = context.test.examples, context.selected
    leaking = [leaks(example, join_supplements(calls)) for example, calls in zip(examples, selected.calls, strict=True)]
    return measure_leakage(leaking, selected.rollouts, context.test.unaided, context.clusters.get("selected"))


def _repeat_selected(context: ControlContext, repeats: int) -> list[Sequence[Rollout]]:
    """Runs the selected supplements again, `repeats - 1` times; never if there are no supplements."""
    runs: list[Sequence[Rollout]] = []
    for number in range(1, 1 if context.silence_reason else repeats):
        with context.run.open_split("test", context.test.examples, repetition=number) as test:
            selected = context.selected
            runs.append(run_with_supplements(test, f"again {number}/test", selected.calls, selected.rollouts))
    return runs


def _select_controls(names: Collection[str] | None) -> list[str]:
    """Returns the names in the table's order; raises `SetupError` for an unknown one."""
    unknown = sorted(set(names or ()) - set(CONTROLS))
    if unknown:
        raise SetupError(f"There is no control {', '.join(unknown)}. There are {', '.join(CONTROLS)}.")
    return [name for name in CONTROLS if names is None or name in names]
