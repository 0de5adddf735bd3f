"""The test set is scored after every choice: `compare` and the demonstration never read it before."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import pytest
from scripted import ScriptedEngine, ScriptedTrainer
from secrets_task import RECIPE, TEST, TRAIN, VAL, asked, exact, needs_secret, writer

from optimizers.comparison import CONTENDERS, Comparison, Contender, compare
from optimizers.comparison.contenders import ContenderArguments
from optimizers.core.fingerprints import read_metric
from optimizers.core.result import SGTResult
from optimizers.demos.house_terms import TINY_SCALE, Demonstration, Scale, demonstrate
from sgt_modules.embedded import HouseTermsWorld

GATED = replace(RECIPE, gate=True)
CHOOSING = ["bootstrap_fewshot_random_search", "nearest_winner", "sgt"]
"""Contenders that choose something on validation: demos; the number of neighbours; the stage and its gate."""


class Recorder:
    """A metric that writes down what it judged, in one order with other events. Safe from many threads.

    What it has written down is no part of it, so a metric that uses it stays the same metric.
    """

    def __init__(self) -> None:
        self.events: list[str] = []
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[object, ...]:
        return Recorder, ()

    def note(self, event: str) -> None:
        with self._lock:
            self.events.append(event)


RECORDER = Recorder()


def recording(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    _note(f"judged {example.question}")
    return exact(example, prediction)


def _note(event: str) -> None:
    RECORDER.note(event)


def noting(contender: Contender) -> Contender:
    """The contender, which writes down when it has made its choice."""

    def compile_(inputs: ContenderArguments) -> dspy.Module:
        _note(f"{contender.name} begins")
        program = contender.compile(inputs)
        _note(f"{contender.name} has chosen")
        return program

    return replace(contender, compile=compile_)


def compared(
    folder: Path, names: list[str], test: list[dspy.Example], wrap: Callable[[Contender], Contender]
) -> Comparison:
    RECORDER.events.clear()
    with dspy.context(lm=ScriptedEngine(needs_secret).lm()):
        return compare(
            dspy.Predict("question -> answer"),
            *(TRAIN, VAL, test, recording, [wrap(CONTENDERS[name]) for name in names]),
            seeds=[0],
            budget=200,
            generator=writer(),
            trainer=ScriptedTrainer(),
            recipe=GATED,
            num_threads=4,
            log_dir=folder,
            display_progress=False,
            version="recorded",
        )


def test_what_was_written_down_does_not_change_the_metric() -> None:
    before = read_metric(recording).mark, read_metric(WatchedWorld(100, sizes=SCALE.sizes).metric).mark
    _note("judged another")
    assert (read_metric(recording).mark, read_metric(WatchedWorld(100, sizes=SCALE.sizes).metric).mark) == before


def test_no_test_example_is_judged_before_a_contender_has_chosen(tmp_path: Path) -> None:
    found = compared(tmp_path, CHOOSING, TEST, noting)
    assert not any(row.skipped for row in found.rows)
    events, ours = RECORDER.events, {f"judged {each.question}" for each in TEST}
    for name in CHOOSING:
        begin, chosen = events.index(f"{name} begins"), events.index(f"{name} has chosen")
        assert any(event.startswith("judged") for event in events[begin:chosen])
        assert not ours & set(events[begin:chosen])
        assert ours <= set(events[chosen + 1 : chosen + 1 + len(TEST)])


def test_what_a_contender_chooses_does_not_change_with_the_test_set(tmp_path: Path) -> None:
    chosen: list[list[list[Any]]] = []

    def keeping(contender: Contender) -> Contender:
        def compile_(inputs: ContenderArguments) -> dspy.Module:
            program = contender.compile(inputs)
            generator, result = getattr(program, "generator", None), getattr(program, "detailed_results", None)
            demos = [dict(demo) for each in program.predictors() for demo in each.demos]
            kept: list[Any] = [
                demos,
                getattr(getattr(generator, "engine", None), "neighbours", None),
                getattr(program, "gate", None),
            ]
            if isinstance(result, SGTResult):
                kept += [result.selected, [(stage.name, stage.score) for stage in result.stages]]
            chosen[-1].append(kept)
            return program

        return replace(contender, compile=compile_)

    for folder, test in (("one", TEST), ("other", [asked(n) for n in range(50, 90)])):
        chosen.append([])
        compared(tmp_path / folder, CHOOSING, test, keeping)
    assert chosen[0] == chosen[1]
    _, nearest, sgt = chosen[0]
    assert [name for name, _ in nearest[4]] == ["none", "nearest"]
    assert sgt[2] is not None
    assert sgt[3] == "gated"


class WatchedWorld(HouseTermsWorld):
    """A world whose metric writes down whether the run had ended when it judged an example of the test split.

    `swapped` shows other test questions: those on terms that training never saw, with the plain ones.
    """

    folder = Path()
    swapped = False

    @property
    def test(self) -> list[dspy.Example]:
        """The test split, or the one it is replaced with."""
        own = super().test
        return [*super().shifted, *(each for each in own if not each.term)] if self.swapped else own

    def metric(self, example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> dspy.Prediction:
        """Score as the world does."""
        if any(example.question == each.question for split in ("test", "shifted") for each in self.splits[split]):
            _note(f"run ended: {(self.folder / 'result.json').exists()}")
        return super().metric(example, prediction, trace)


SCALE = Scale(TINY_SCALE.sizes, replace(TINY_SCALE.recipe, gate=True))


def demonstrated(folder: Path, *, swapped: bool = False) -> Demonstration:
    RECORDER.events.clear()
    world = WatchedWorld(100, sizes=SCALE.sizes)
    world.folder, world.swapped = folder, swapped
    return demonstrate(100, world=world, log_dir=folder, scale=SCALE, display=False)


@pytest.mark.slow
def test_the_demonstration_asks_the_test_questions_after_the_run_and_chooses_without_them(tmp_path: Path) -> None:
    one = demonstrated(tmp_path / "one")
    assert set(RECORDER.events) == {"run ended: True"}
    other = demonstrated(tmp_path / "other", swapped=True)
    assert {each.question for each in one.world.test} != {each.question for each in other.world.test}
    first, second = one.result, other.result
    assert [(each.name, each.score, each.gate) for each in first.stages] == [
        (each.name, each.score, each.gate) for each in second.stages
    ]
    assert first.selected == second.selected
    assert one.summary["lookup"]["neighbours"] == other.summary["lookup"]["neighbours"]
    assert one.summary["lookup"]["validation"] == other.summary["lookup"]["validation"]
