"""What a gain is due to: the program that SGT compiled beside programs that lack one thing each, on the test set."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import dspy

from optimizers.comparison.compiled_run import Asking, FinishedRun, given
from optimizers.comparison.control_rows import ControlRow, Controls, Leakage, leakage_of, noise_between, row_of
from optimizers.comparison.interventions import Told, filler, shuffled, unchanged, untagged, words_of
from optimizers.comparison.setup import Problem
from optimizers.comparison.summary import Leaks, label_in_supplement
from optimizers.core.best_stage import select_best
from optimizers.core.records import Rollout
from optimizers.core.run_folder import RunFolder
from optimizers.core.validation import check_splits
from optimizers.observe.progress import Display, reporter
from optimizers.rollouts.evaluation import Evaluator, Scored
from sgt_modules.errors import SetupError
from sgt_modules.generator import SupplementGenerator
from sgt_modules.lms import ANSWER_TOKENS
from sgt_modules.local.engine import LocalEngine
from sgt_modules.remote.endpoint import Endpoint

KindsOn = Literal["test", "val"]
"""Where the generator is asked for each kind always: on test, or on validation, so that test decides nothing."""

FILE = "controls.json"
"""Where the run's folder keeps what was found last."""


def controls(
    program: dspy.Module,
    problem: Problem,
    *,
    shifted: Sequence[dspy.Example] | None = None,
    second_actor: dspy.LM | None = None,
    num_threads: int | None = None,
    repeats: int = 3,
    leaks: Leaks = label_in_supplement,
    names: Collection[str] | None = None,
    kinds_on: KindsOn = "test",
    seed: int = 0,
    display_progress: Display = None,
) -> Controls:
    """Score what `SGTTeleprompter` compiled beside its controls, under the same LM and metric, and keep the result.

    Every answer is kept in the run's store, so a second call pays for nothing. Always there: `none`, the program
    without supplements, and `selected`, the compiled one. Each other row is a control of `CONTROLS`, where several
    stand for more rows than one; what cannot be had is in the table with the reason.

    Args:
        program: What `compile` returned, with its `detailed_results`.
        problem: The program that was compiled, its metric, its splits; the test set is what counts.
        shifted: Examples unlike the training ones, for the controls `shifted_none` and `shifted`.
        second_actor: Another LM in the place of the program's own, for `second_actor_none` and `second_actor`.
        num_threads: Program runs at once; DSPy's setting by default.
        repeats: How often the selected supplement of each question is run to see the reward's noise; 1 for not at all.
        leaks: Whether a supplement holds its example's gold answer; by default, one of its labels as whole words.
        names: Controls of `CONTROLS`; all by default.
        kinds_on: The questions on which the selected generator is asked for each kind always.
        seed: Draws the shuffle and the filler.
        display_progress: False is silence; a function is called with a `Snapshot` now and then.

    Raises:
        SetupError: the program was not compiled here, splits share examples, or a name is no control's.
    """
    wanted = _checked(names)
    for examples in (problem.testset, *([shifted] if shifted is not None else [])):
        check_splits(problem.trainset, problem.valset, examples)
    if repeats < 1:
        raise SetupError(f"Expected repeats of at least 1, got {repeats}.")
    view = reporter(display_progress)
    with (
        FinishedRun.opened(program, problem.program, problem.metric, num_threads=num_threads, view=view) as run,
        run.on("test", problem.testset) as test,
    ):
        chosen = run.score(run.result.selected, test)
        valset = problem.valset if kinds_on == "val" else None
        trial = Trial(run, test, chosen, seed, shifted, second_actor, valset)
        for name in wanted:
            trial.rows += CONTROLS[name](trial)
        again = _again(trial, repeats)
        first = [trial.row("none", test.unaided), trial.row("selected", trial.selected.rollouts, run.result.selected)]
        found = Controls(
            run.result.selected,
            (*first, *trial.rows),
            _leakage(trial, leaks),
            noise_between([trial.selected.rollouts, *again], test.unaided),
            run.result.log_dir,
            trial.scored,
            again,
        )
    RunFolder(found.log_dir).write(FILE, found.content())
    return found


@dataclass
class Trial:
    """A finished run on the test set, and the rows found so far."""

    run: FinishedRun
    test: Evaluator
    selected: Scored
    seed: int
    shifted: Sequence[dspy.Example] | None
    second_actor: dspy.LM | None
    kinds_on: Sequence[dspy.Example] | None = None
    rows: list[ControlRow] = field(default_factory=list[ControlRow])
    scored: dict[str, Sequence[Rollout]] = field(default_factory=dict[str, Sequence[Rollout]])

    @property
    def silent(self) -> str:
        """Why nothing can be made of the selected supplements; empty where there are some."""
        if any(call.supplement for calls in self.selected.calls for call in calls):
            return ""
        return f"the selected stage, {self.run.result.selected}, tells the actor nothing"

    @property
    def writer(self) -> SupplementGenerator | None:
        """The generator as it is at the selected stage; None where that is none of this run's training."""
        result = self.run.result
        trained = any(stage.name == result.selected and stage.checkpoint for stage in result.stages)
        return result.generator_of(result.selected) if trained else None

    def row(self, name: str, rollouts: Sequence[Rollout], note: str = "") -> ControlRow:
        """A row on the test set, under the program's own actor."""
        self.scored[name] = rollouts
        chosen = None if name == "selected" else self.selected.rollouts
        none = None if name == "none" else self.test.unaided
        return row_of(name, rollouts, none=none, selected=chosen, note=note)

    def changed(self, name: str, told: Told) -> ControlRow:
        """A row of the selected stage's runs with other supplements."""
        same = unchanged(self.selected.calls, told)
        note = f"{same:.0%} read what they would have read" if same else ""
        return self.row(name, given(self.test, f"{name}/test", told, self.test.unaided), note)

    def rng(self, purpose: str) -> random.Random:
        """Randomness for one control."""
        return random.Random(f"{self.seed}-{purpose}")


def _untrained(trial: Trial) -> Iterator[ControlRow]:
    yield trial.row("untrained", trial.test.score("untrained", trial.run.result.generator).rollouts)


def _stages(trial: Trial) -> Iterator[ControlRow]:
    """Every stage that was validated: the student's own supplements, SFT, each round, the gate."""
    for stage in trial.run.result.stages:
        if stage.name != "none":
            yield trial.row(stage.name, trial.run.score(stage.name, trial.test).rollouts)


def _small_model(trial: Trial) -> Iterator[ControlRow]:
    """The generator's base model answers in the actor's place."""
    generator, name = trial.run.result.generator, "small_model"
    try:
        generator.check()
    except SetupError as problem:
        yield ControlRow(name, skipped=str(problem).partition("\n")[0])
        return
    with trial.run.on("test", trial.test.examples, lm=_answering(generator)) as alone:
        yield trial.row(name, alone.unaided)


def _answering(generator: SupplementGenerator) -> dspy.LM:
    engine = generator.engine
    if isinstance(engine, Endpoint):
        return engine.lm
    assert isinstance(engine, LocalEngine)
    name, most = engine.model_name, max(engine.max_new_tokens, ANSWER_TOKENS)
    return dspy.LM(name, engine=engine, async_engine=engine.asynchronous(), max_tokens=most, cache=False)


def _shuffled(trial: Trial) -> Iterator[ControlRow]:
    told = trial.selected.calls
    reason = trial.silent or ("" if sum(map(bool, told)) > 1 else "a single question has no other's supplement")
    if reason:
        yield ControlRow("shuffled", skipped=reason)
    else:
        yield trial.changed("shuffled", shuffled(told, trial.rng("shuffled")))


def _always(trial: Trial) -> Iterator[ControlRow]:
    """For each kind, the selected generator is asked for it at every question; no gate drops anything."""
    if trial.kinds_on is not None:
        yield from _always_on(trial, trial.kinds_on)
        return
    for kind in trial.run.kinds.values():
        name = f"always_{kind.name}"
        if trial.writer is None:
            yield ControlRow(name, skipped=f"the selected stage, {trial.run.result.selected}, was not trained here")
            continue
        asking = Asking(trial.writer, kind)
        yield trial.row(name, trial.test.score(f"{trial.run.result.selected} {name}", asking).rollouts)


def _always_on(trial: Trial, examples: Sequence[dspy.Example]) -> Iterator[ControlRow]:
    """The same on validation, by the best trained stage there, also where no supplement was selected."""
    result = trial.run.result
    trained = [stage for stage in result.stages if stage.checkpoint is not None]
    if not trained:
        yield ControlRow("always", skipped="no stage was trained here")
        return
    stage = trained[select_best([each.rollouts for each in trained])].name
    writer = result.generator_of(stage)
    assert writer is not None
    with trial.run.on("val", examples) as val:
        for kind in trial.run.kinds.values():
            name = f"always_{kind.name}"
            found = val.score(f"{stage} {name}", Asking(writer, kind)).rollouts
            trial.scored |= {f"{name}_none": val.unaided, name: found}
            yield row_of(name, found, none=val.unaided, note=f"{stage}, on validation")


def _no_tag(trial: Trial) -> Iterator[ControlRow]:
    yield _unless_silent(trial, "no_tag", lambda: untagged(trial.selected.calls))


def _filler(trial: Trial) -> Iterator[ControlRow]:
    yield _unless_silent(trial, "filler", lambda: filler(trial.selected.calls, trial.rng("filler")))


def _unless_silent(trial: Trial, name: str, told: Callable[[], Told]) -> ControlRow:
    return ControlRow(name, skipped=trial.silent) if trial.silent else trial.changed(name, told())


def _second_actor(trial: Trial) -> Iterator[ControlRow]:
    if trial.second_actor is None:
        yield ControlRow("second_actor", skipped="pass second_actor, another LM")
        return
    yield from _elsewhere(trial, "second_actor", "transfer", trial.test.examples, trial.second_actor)


def _shifted(trial: Trial) -> Iterator[ControlRow]:
    if trial.shifted is None:
        yield ControlRow("shifted", skipped="pass shifted, examples unlike the training ones")
        return
    yield from _elsewhere(trial, "shifted", "shifted", trial.shifted, None)


def _elsewhere(
    trial: Trial, name: str, split: str, examples: Sequence[dspy.Example], lm: dspy.LM | None
) -> Iterator[ControlRow]:
    """No supplement and the selected stage, under another actor or on other examples."""
    with trial.run.on(split, examples, lm=lm) as other:
        found = trial.run.score(trial.run.result.selected, other).rollouts
        trial.scored |= {f"{name}_none": other.unaided, name: found}
        yield row_of(f"{name}_none", other.unaided)
        yield row_of(name, found, none=other.unaided)


CONTROLS: Mapping[str, Callable[[Trial], Iterator[ControlRow]]] = {
    "untrained": _untrained,
    "stages": _stages,
    "small_model": _small_model,
    "shuffled": _shuffled,
    "always": _always,
    "no_tag": _no_tag,
    "filler": _filler,
    "second_actor": _second_actor,
    "shifted": _shifted,
}
"""Every control by name: what its rows are made by. `stages` has a row a stage, `always` one a kind (`always_cot`)."""


def _leakage(trial: Trial, leaks: Leaks) -> Leakage | None:
    """The share of supplements that hold the gold answer, and the gain where none does."""
    if trial.silent:
        return None
    examples, chosen, bare = trial.test.examples, trial.selected, trial.test.unaided
    held = [leaks(example, words_of(calls)) for example, calls in zip(examples, chosen.calls, strict=True)]
    return leakage_of(held, chosen.rollouts, bare)


def _again(trial: Trial, repeats: int) -> list[Sequence[Rollout]]:
    """The rollouts of the selected supplements in each further run of them; none where there are no supplements."""
    runs: list[Sequence[Rollout]] = []
    for number in range(1, 1 if trial.silent else repeats):
        with trial.run.on("test", trial.test.examples, again=number) as again:
            runs.append(given(again, f"again {number}/test", trial.selected.calls, trial.selected.rollouts))
    return runs


def _checked(names: Collection[str] | None) -> list[str]:
    """The controls that are wanted, in the table's order."""
    unknown = sorted(set(names or ()) - set(CONTROLS))
    if unknown:
        raise SetupError(f"There is no control {', '.join(unknown)}. There are {', '.join(CONTROLS)}.")
    return [name for name in CONTROLS if names is None or name in names]
