"""A compile that is stopped, by a budget or by Ctrl-C, ends in good order and goes on from there later."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import dspy
import numpy as np
import pytest
from safetensors.numpy import save_file
from scripted import ScriptedEngine, ScriptedGenerator, ScriptedTrainer
from small_compile import SMALL, WORLD, helped, named, teleprompter

from optimizers.core.records import Checkpoint
from optimizers.core.result import SGTResult, result_of
from optimizers.observe.progress import Lines
from optimizers.store.rollout_store import RolloutStore
from sgt_modules import SupplementedPredictor
from sgt_modules.embedded import program
from sgt_modules.errors import SetupError
from sgt_modules.kinds import Supplement
from sgt_modules.saving.weights import ADAPTER, fingerprint_of


class Learner(ScriptedGenerator):
    """A generator that learns to write background, and signs it with the stage that taught it."""

    def __init__(self, stage: str = "") -> None:
        super().__init__(lambda prompt: named(prompt, "background" if stage else "cot"))
        self._stage = stage

    @property
    def fingerprint(self) -> str:
        """Its weights are the stage's."""
        return self._stage

    def said(self, prompt: str, seed: int) -> Supplement:
        """As it learned to."""
        supplement = super().said(prompt, seed)
        return Supplement(supplement.kind, f"{supplement.text} {self._stage}".strip())

    def with_checkpoint(self, path: Path) -> Learner:
        """As the stage of that name taught it."""
        return Learner(path.name)


class WritingTrainer(ScriptedTrainer):
    """A trainer whose weights are a hash of all that they depend on; it remembers which stages it trained."""

    def __init__(self) -> None:
        super().__init__()
        self.stages: list[str] = []

    def trained(self, rows: Sequence[object], start: Checkpoint | None, output: Path, seed: int) -> Checkpoint:
        """As `ScriptedTrainer`, and written."""
        self.stages.append(output.name)
        digest = hashlib.sha256(repr((rows, start.fingerprint if start else "", seed)).encode()).digest()
        output.mkdir(parents=True, exist_ok=True)
        (output / ADAPTER).write_text("{}")
        save_file({"weights": np.frombuffer(digest, dtype=np.uint8)}, output / "adapter_model.safetensors")
        return Checkpoint(output.name, output, fingerprint_of(output), {"rows": len(rows)}, ["Trained."])


class Session:
    """One compile in a folder: its program, what it paid, and what it trained."""

    def __init__(self, folder: Path, script: Callable[[str], str] = helped, **changes: object) -> None:
        self.engine, self.trainer = ScriptedEngine(script), WritingTrainer()
        settings = {"trainer": self.trainer, "generator": Learner(), **changes}
        self._compile = lambda: teleprompter(folder, **settings).compile(
            program(), trainset=WORLD.train, valset=WORLD.val
        )

    def run(self) -> SGTResult:
        with dspy.context(lm=self.engine.lm()):
            self.program = self._compile()
        return result_of(self.program)


def outcome(result: SGTResult) -> list[tuple[str, float, str]]:
    """Every stage with its score and its weights."""
    return [
        (stage.name, stage.score, stage.checkpoint.fingerprint if stage.checkpoint else "") for stage in result.stages
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[SGTResult, int]:
    """A run that nothing stopped, and how many calls it made."""
    session = Session(tmp_path_factory.mktemp("whole") / "run")
    return session.run(), len(session.engine.asked)


@pytest.mark.parametrize("most", [1, 6, 30])
def test_a_run_ends_at_its_budget_and_a_larger_one_goes_on_from_there(
    tmp_path: Path, whole: tuple[SGTResult, int], most: int
) -> None:
    uninterrupted, calls = whole
    first = Session(tmp_path / "run", max_actor_calls=most)
    result = first.run()
    assert len(first.engine.asked) == most
    assert result.spent.actor_calls == most
    assert f"{most} of at most {most} actor calls are made" in result.stopped
    assert "a larger budget" in result.stopped
    assert result.notes[-2:] == (result.stopped, f"Verdict: {result.verdict}")
    assert result.verdict.startswith("The run was stopped before its end")
    assert not isinstance(first.program, SupplementedPredictor)  # nothing was trained yet: it comes back as it was
    second = Session(tmp_path / "run", max_actor_calls=calls + 1)
    assert outcome(second.run()) == outcome(uninterrupted)
    assert most + len(second.engine.asked) == calls


def test_a_stopped_run_returns_the_best_stage_so_far(tmp_path: Path, whole: tuple[SGTResult, int]) -> None:
    uninterrupted, calls = whole
    session = Session(tmp_path / "run", max_actor_calls=calls - 1)
    result = session.run()
    done = outcome(result)
    assert done == outcome(uninterrupted)[: len(done)]
    assert "sft" in [name for name, *_ in done]
    assert result.selected == max(result.stages, key=lambda stage: stage.score).name


@pytest.mark.parametrize("short", [0, 1])
def test_a_run_that_ended_at_its_budget_gives_the_same_again(
    tmp_path: Path, whole: tuple[SGTResult, int], short: int
) -> None:
    """Whether the budget was just enough for the whole run, or short of one call."""
    first, again = (Session(tmp_path / "run", max_actor_calls=whole[1] - short) for _ in range(2))
    assert outcome(first.run()) == outcome(again.run())
    assert again.engine.asked == []
    assert result_of(again.program).selected == result_of(first.program).selected


def test_seconds_end_a_run_too(tmp_path: Path) -> None:
    result = Session(tmp_path / "run", max_seconds=1e-6).run()
    assert "seconds are over" in result.stopped
    assert result.spent.actor_calls == 0
    assert (result.stages, result.selected) == ((), "none")


def test_a_finished_stage_is_not_trained_again(tmp_path: Path, whole: tuple[SGTResult, int]) -> None:
    first, second = Session(tmp_path / "run"), Session(tmp_path / "run")
    assert outcome(first.run()) == outcome(second.run()) == outcome(whole[0])
    assert (first.trainer.stages, second.trainer.stages) == (["sft", "dpo1"], [])
    assert second.engine.asked == []


@pytest.mark.parametrize(
    "damage", [lambda file: file.unlink(), lambda file: os.truncate(file, 60)], ids=["gone", "torn"]
)
def test_a_stage_whose_weights_are_broken_is_trained_again(
    tmp_path: Path, whole: tuple[SGTResult, int], damage: Callable[[Path], None]
) -> None:
    Session(tmp_path / "run").run()
    damage(tmp_path / "run" / "checkpoints" / "sft" / "adapter_model.safetensors")
    again = Session(tmp_path / "run")
    assert outcome(again.run()) == outcome(whole[0])
    assert again.trainer.stages == ["sft"]


def test_more_rounds_go_on_from_a_finished_run(tmp_path: Path) -> None:
    first = Session(tmp_path / "run").run()
    more = Session(tmp_path / "run", rounds=SMALL.rounds + 1)
    assert outcome(more.run())[: len(first.stages)] == outcome(first)
    assert "dpo1" not in more.trainer.stages


def pressing(at: int, times: int, then: Callable[[], None] = lambda: None) -> Callable[[str], str]:
    """An actor during whose call of that number somebody presses Ctrl-C."""
    calls = iter(range(1, 10**6))

    def script(text: str) -> str:
        if next(calls) == at:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.3)  # the main thread hears of it between two of its own steps
            then()
        return helped(text)

    return script


@pytest.mark.parametrize("at", [2, 40])
def test_ctrl_c_ends_a_run_in_good_order_and_nothing_paid_is_lost(
    tmp_path: Path, whole: tuple[SGTResult, int], at: int
) -> None:
    uninterrupted, calls = whole
    before = signal.getsignal(signal.SIGINT)
    first = Session(tmp_path / "run", pressing(at, times=1))
    with pytest.raises(KeyboardInterrupt, match="Ctrl-C was pressed"):
        first.run()
    assert signal.getsignal(signal.SIGINT) is before
    with RolloutStore(tmp_path / "run" / "rollouts.sqlite") as store:
        assert store.count() == len(first.engine.asked)
    second = Session(tmp_path / "run")
    assert outcome(second.run()) == outcome(uninterrupted)
    assert len(first.engine.asked) + len(second.engine.asked) == calls


def test_two_ctrl_c_stop_at_once_though_the_actor_hangs(tmp_path: Path) -> None:
    said = io.StringIO()
    hanging = pressing(6, times=2, then=lambda: time.sleep(60))
    session = Session(tmp_path / "run", hanging, num_threads=1, display_progress=Lines(said))
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        session.run()
    assert said.getvalue().endswith(f"Compile with log_dir='{tmp_path / 'run'}' to go on.\n")
    assert time.monotonic() - began < 30
    with RolloutStore(tmp_path / "run" / "rollouts.sqlite") as store:
        assert store.count() == len(session.engine.asked) - 1  # all but the one that hangs


def test_runs_that_share_a_store_pay_no_rollout_twice(tmp_path: Path, whole: tuple[SGTResult, int]) -> None:
    store = tmp_path / "shared.sqlite"
    first, second = (Session(tmp_path / name, store=store) for name in ("one", "two"))
    assert outcome(first.run()) == outcome(second.run()) == outcome(whole[0])
    assert len(first.engine.asked) == whole[1]
    assert second.engine.asked == []
    assert result_of(second.program).spent.actor_calls == 0
    assert not (tmp_path / "two" / "rollouts.sqlite").exists()


def test_an_adaptive_run_pays_less_and_goes_on_like_any_other(tmp_path: Path, whole: tuple[SGTResult, int]) -> None:
    recipe = replace(SMALL, adaptive=True, warm_samples=3)
    broken, again = (Session(tmp_path / "run", recipe=recipe, max_actor_calls=most) for most in (12, 500))
    undisturbed = Session(tmp_path / "other", recipe=recipe)
    broken.run()
    assert outcome(again.run()) == outcome(undisturbed.run())
    assert len(broken.engine.asked) + len(again.engine.asked) == len(undisturbed.engine.asked)
    full = Session(tmp_path / "full", recipe=replace(recipe, adaptive=False))
    full.run()
    assert len(undisturbed.engine.asked) < len(full.engine.asked)


def test_a_budget_in_dollars_wants_a_known_price(tmp_path: Path) -> None:
    session = Session(tmp_path / "run", max_cost_usd=1.0)
    with pytest.raises(SetupError, match=r"known price.*'scripted/actor'.*max_actor_calls"):
        session.run()
    assert session.engine.asked == []


def test_a_rollout_knows_who_wrote_its_supplement_and_its_scope_who_acted(tmp_path: Path) -> None:
    Session(tmp_path / "run").run()
    with RolloutStore(tmp_path / "run" / "rollouts.sqlite") as store:
        tried = store.rollouts(stage="round 1")
        scopes = [store.get_description(scope) for scope in scopes_of(tmp_path / "run" / "rollouts.sqlite")]
    assert {rollout.writer for rollout in tried if rollout.source == "predefined"} == {"sft"}
    assert [scope["actors"] for scope in scopes] == [{"self": "scripted/actor"}]


def scopes_of(file: Path) -> list[str]:
    """The scopes that a store's file knows."""
    with closing(sqlite3.connect(file)) as connection:
        return [scope for (scope,) in connection.execute("SELECT scope FROM scopes")]
