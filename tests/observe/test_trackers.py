"""`report_to`: what trackers get of a run, and what a tracker that fails costs.

MLflow over a SQLite file, TensorBoard's event files and W&B offline are the real ones; they get one compile together.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import run
from typing import Any

import dspy
import pytest
from dspy.utils.callback import ACTIVE_CALL_ID, BaseCallback
from observers import Recorder
from places import DOUBLES, PATHS
from prompted import TRAIN, VAL, actor, corrector, spt, student
from scripted import ScriptedEngine, ScriptedTrainer
from small_compile import SMALL, WORLD, compiled, helped, teleprompter, writer

from optimizers.core.events import Ending, Note
from optimizers.core.records import Checkpoint
from optimizers.core.result import SGTResult
from optimizers.observe.tracking import Point, TrackedRun, check_report_to, dispatcher
from optimizers.observe.tracking.params import run_parameters
from optimizers.training.trainer import OnStep
from sgt_modules.embedded import program
from sgt_modules.errors import SetupError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
"""The trackers' packages have some of their own."""

Curves = dict[str, list[tuple[int, float]]]


@dataclass
class Notebook:
    """A tracker that keeps what it gets, and its thread; `fails` names a method that raises."""

    name: str = "notebook"
    fails: str = ""
    error: str = "no such host"
    curves: Curves = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    runs: list[TrackedRun] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    waits: Callable[[], object] = lambda: None

    def _take(self, what: str) -> None:
        self.calls.append(what)
        self.threads.add(threading.current_thread().name)
        self.waits()
        if what == self.fails:
            raise OSError(self.error)

    def begin(self, run: TrackedRun) -> str:
        self._take("begin")
        self.runs.append(run)
        return "page 1"

    def points(self, points: Sequence[Point]) -> None:
        self._take("points")
        for each in points:
            self.curves.setdefault(each.name, []).append((each.step, each.value))

    def label(self, name: str, text: str) -> None:
        self._take("label")
        self.labels[name] = text

    def file(self, path: Path, place: str) -> None:
        self._take("file")
        self.files.append(f"{place or '.'}: {path.name}")

    def end(self, ending: Ending) -> None:
        self._take("end")
        self.endings.append(ending)


class Losing(ScriptedTrainer):
    """Logs two losses a stage, 0.9 and 0.4; the training of `breaks` ends after the first of them, once."""

    def __init__(self, breaks: str = "") -> None:
        super().__init__()
        self.breaks = breaks

    def sft(self, rows: Any, *, start: Any, output: Path, seed: int, on_step: OnStep | None = None) -> Checkpoint:
        return self._train(output, on_step)

    dpo = sft

    def _train(self, output: Path, on_step: OnStep | None) -> Checkpoint:
        log = on_step or (lambda step, steps, loss: None)
        log(1, 2, 0.9)
        if output.name == self.breaks:
            self.breaks = ""
            raise RuntimeError("the power went")
        log(2, 2, 0.4)
        output.mkdir(parents=True, exist_ok=True)
        (output / "adapter_config.json").write_text("{}")
        return Checkpoint(output.name, output, "scripted", {"loss": 0.65})


def scripted(log_dir: Path, tracker: object, **changes: object) -> SGTResult:
    """A compile in which nothing is trained; the generator learns to write what helps."""
    given = {"generator": writer(), "trainer": Losing(), "report_to": tracker} | changes
    better, _ = compiled(helped, log_dir, **given)
    return better.detailed_results


# One compile in all three, which then goes on


@dataclass(frozen=True)
class Tracked:
    """A finished run, its folder, and MLflow's database."""

    result: SGTResult
    folder: Path
    database: str


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracked]:
    home = tmp_path_factory.mktemp("tracked")
    database = f"sqlite:///{home}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", database)
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "1")
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_PROJECT", "of the tests")
        patch.chdir(home)  # MLflow puts artifacts of a database into the working folder
        given = {"generator": writer(), "report_to": ["mlflow", "wandb", "tensorboard"]}
        first, _ = compiled(helped, home / "run", **given)
        again, _ = compiled(helped, home / "run", **given)
        notes = [*first.detailed_results.notes, *again.detailed_results.notes]
        assert not any("gets no more events" in note for note in notes)
        yield Tracked(first.detailed_results, home / "run", database)


def scores(result: SGTResult) -> list[tuple[int, float]]:
    return [(n, pytest.approx(stage.score)) for n, stage in enumerate(result.stages)]


def steps(result: SGTResult, stage: str) -> int:
    checkpoint = result.stage(stage).checkpoint
    assert checkpoint is not None
    return int(checkpoint.metrics["steps"])


@pytest.mark.slow
def test_mlflow_has_each_stage_once_though_the_run_goes_on(tracked: Tracked) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracked.database)
    (found,) = client.search_runs(["0"])
    curve = {
        name: [(each.step, each.value) for each in client.get_metric_history(found.info.run_id, name)]
        for name in ("val/score", "train/score", "train/rows", "train/pairs", "spent/actor_calls", "sft/loss")
    }
    assert curve["val/score"] == scores(tracked.result)
    assert [step for step, _ in curve["train/score"]] == [1, 2]
    assert [step for step, _ in curve["train/rows"]] == [1]
    assert [step for step, _ in curve["train/pairs"]] == [2]
    assert curve["spent/actor_calls"] == [(n, each.spent.actor_calls) for n, each in enumerate(tracked.result.stages)]
    assert [step for step, _ in curve["sft/loss"]] == [*range(1, steps(tracked.result, "sft") + 1)]
    assert "sft/loss_2" not in found.data.metrics
    assert (found.info.run_name, found.info.status) == ("run", "FINISHED")
    assert found.data.tags["sgt.stage.1"] == "sft"
    assert found.data.tags["sgt.selected"] == tracked.result.selected
    assert found.data.params["recipe.pair_cap"] == str(SMALL.pair_cap)
    assert found.data.params["actors.self"] == "scripted/actor"


@pytest.mark.slow
def test_mlflow_has_the_adapters_and_the_report_as_artifacts(tracked: Tracked, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracked.database)
    (found,) = client.search_runs(["0"])
    got = Path(client.download_artifacts(found.info.run_id, "", str(tmp_path)))
    for stage in ("sft", "dpo1"):
        name = f"checkpoints/{stage}/adapter_model.safetensors"
        assert (got / name).read_bytes() == (tracked.folder / name).read_bytes()
    for name in ("report.html", "result.json"):
        assert (got / name).read_bytes() == (tracked.folder / name).read_bytes()


@pytest.mark.slow
def test_tensorboard_reads_each_stage_and_loss_once(tracked: Tracked) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tracked.folder / "tensorboard")).Reload()
    read = {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert read["val/score"] == scores(tracked.result)
    assert [step for step, _ in read["dpo1/loss"]] == [*range(1, steps(tracked.result, "dpo1") + 1)]
    assert "parameters/text_summary" in events.Tags()["tensors"]


def wandb_records(folder: Path) -> Iterator[Any]:
    """Every record of W&B's offline files, the earlier session's first.

    A file has 7 bytes of its own, and is a LevelDB log: blocks of 32 KiB with fragments of records, each behind a
    checksum (4 bytes), its length (2) and whether it is a whole (1), a first (2), a middle (3) or a last one (4).
    """
    from wandb.proto.wandb_internal_pb2 import Record

    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        content, at, begun = file.read_bytes(), 7, b""
        while at + 7 <= len(content):
            if (left := 32768 - at % 32768) < 7:
                at += left
                continue
            size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
            begun += content[at + 7 : at + 7 + size]
            at += 7 + size
            if kind in (1, 4):
                yield Record.FromString(begun)
                begun = b""


@pytest.mark.slow
def test_wandb_has_each_stage_and_loss_once_and_nothing_about_the_machine(tracked: Tracked) -> None:
    records = list(wandb_records(tracked.folder))
    rows = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    assert [(row["stage"], row["val/score"]) for row in rows if "val/score" in row] == scores(tracked.result)
    assert [row["sft/step"] for row in rows if "sft/loss" in row] == [*range(1, steps(tracked.result, "sft") + 1)]
    begun = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert {(each.run_id, each.project) for each in begun} == {(begun[0].run_id, "of the tests")}
    kinds = Counter(record.WhichOneof("record_type") for record in records)
    assert kinds["output"] == kinds["output_raw"] == kinds["stats"] == 0
    assert not list(tracked.folder.glob("wandb/**/wandb-metadata.json"))
    saved = {each.name for each in tracked.folder.glob("wandb/offline-run-*/files/*")}
    assert {"report.html", "result.json"} <= saved


@pytest.mark.slow
def test_the_folder_keeps_which_tracker_has_which_stage(tracked: Tracked) -> None:
    known = json.loads((tracked.folder / "trackers.json").read_text())
    assert known["attempts"] == {"sft": 1, "dpo1": 1}
    stages = {name: each["stages"] for name, each in known["trackers"].items()}
    assert stages == {name: ["none", "sft", "dpo1"] for name in ("mlflow", "wandb", "tensorboard")}


# What any tracker gets


def test_a_tracker_of_ones_own_gets_losses_stages_and_files_in_the_thread_of_the_run(tmp_path: Path) -> None:
    book = Notebook()
    result = scripted(tmp_path / "run", book)
    assert book.curves["val/score"] == [(n, stage.score) for n, stage in enumerate(result.stages)]
    assert book.curves["sft/loss"] == book.curves["dpo1/loss"] == [(1, 0.9), (2, 0.4)]
    assert book.labels == {"stage.0": "none", "stage.1": "sft", "stage.2": "dpo1", "selected": result.selected}
    assert book.files == ["checkpoints/sft: sft", "checkpoints/dpo1: dpo1", ".: result.json", ".: report.html"]
    assert (book.calls[0], book.calls[-1], book.endings) == ("begin", "end", ["finished"])
    assert book.threads == {threading.current_thread().name}


def test_the_figures_of_training_are_those_of_what_the_stage_was_trained_from(tmp_path: Path) -> None:
    book = Notebook()
    result = scripted(tmp_path / "run", book)
    known = {name: dict(book.curves[name]) for name in ("train/rows", "train/pairs", "train/score")}
    rows = {
        stage: len((tmp_path / f"run/training/{stage}.jsonl").read_text().splitlines()) for stage in ("sft", "dpo1")
    }
    assert known["train/rows"] == {1: rows["sft"]}
    assert known["train/pairs"] == {2: rows["dpo1"]}
    assert set(known["train/score"]) == {1, 2}
    assert all(0 <= score <= 1 for score in known["train/score"].values())
    assert [stage.name for stage in result.stages] == ["none", "sft", "dpo1"]


def test_training_that_was_broken_off_begins_a_curve_of_its_own_and_stages_are_sent_once(tmp_path: Path) -> None:
    first, second = Notebook(), Notebook()
    with pytest.raises(RuntimeError, match="power"):
        scripted(tmp_path / "run", first, trainer=Losing(breaks="dpo1"))
    scripted(tmp_path / "run", second, trainer=Losing())
    assert [first.curves["dpo1/loss"], second.curves["dpo1/loss_2"]] == [[(1, 0.9)], [(1, 0.9), (2, 0.4)]]
    assert [step for step, _ in first.curves["val/score"]] == [0, 1]
    assert [step for step, _ in second.curves["val/score"]] == [2]
    assert [first.runs[0].known, second.runs[0].known] == [None, "page 1"]
    assert (first.endings, second.endings) == (["failed"], ["finished"])


def test_a_tracker_that_joins_later_gets_every_stage(tmp_path: Path) -> None:
    book = Notebook()
    scripted(tmp_path / "run", None)
    result = scripted(tmp_path / "run", book)
    assert [step for step, _ in book.curves["val/score"]] == [*range(len(result.stages))]


def test_a_run_that_a_budget_ended_says_so(tmp_path: Path) -> None:
    book = Notebook()
    result = scripted(tmp_path / "run", book, max_actor_calls=10)
    assert result.stopped
    assert book.labels["stopped"] == result.stopped
    assert book.endings == ["finished"]


def test_ctrl_c_ends_a_session_as_stopped(tmp_path: Path) -> None:
    book = Notebook()

    class Interrupted(Losing):
        def _train(self, output: Path, on_step: OnStep | None) -> Checkpoint:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scripted(tmp_path / "run", book, trainer=Interrupted())
    assert book.endings == ["stopped"]


def test_an_estimate_sends_nothing(tmp_path: Path) -> None:
    book = Notebook()
    sgt = teleprompter(tmp_path / "run", generator=writer(), trainer=Losing(), report_to=book)
    with dspy.context(lm=ScriptedEngine(helped).lm()):
        sgt.estimate(program(), WORLD.train, WORLD.val, probe=2)
    assert book.calls == []


def test_spt_sends_each_accepted_prompt_s_score(tmp_path: Path) -> None:
    """The course of `test_spt.py` from its second round on: 2/6, then 4/6 and 6/6; 6/8 and 8/8 in training."""
    book = Notebook()
    written = [*["Name the unit."] * 4, *["Name the unit. Carry the one."] * 4]
    with dspy.context(lm=actor().lm()):
        better = spt(corrector(written), tmp_path / "run", report_to=book).compile(
            student(), trainset=TRAIN, valset=VAL
        )
    assert [stage.name for stage in better.detailed_results.stages] == ["student", "round1", "round2"]
    assert book.curves["val/score"] == [(0, pytest.approx(2 / 6)), (1, pytest.approx(4 / 6)), (2, 1.0)]
    assert book.curves["train/score"] == [(1, 6 / 8), (2, 1.0)]
    assert book.curves["train/mistakes"] == [(1, 4), (2, 2)]
    assert "prompts.json" in " ".join(book.files)
    assert book.runs[0].parameters["method"] == "spt"


# Trackers that fail


@pytest.mark.parametrize("where", ["begin", "points", "label", "file", "end"])
def test_a_tracker_that_fails_costs_a_note_and_nothing_else(where: str, tmp_path: Path) -> None:
    well, ill = Notebook(), Notebook("broken", fails=where, error="401 for key sk-0123456789abcdef")
    result = scripted(tmp_path / "run", [ill, well])
    assert well.endings == ["finished"]
    assert well.curves["val/score"] == [(n, stage.score) for n, stage in enumerate(result.stages)]
    [note] = [note for note in result.notes if "gets no more events" in note]
    assert note.startswith("broken gets no more events of this run (OSError: 401 for key <key>)")
    assert ill.calls.count(where) == 1


def test_a_tracker_that_failed_gets_the_missing_stages_next_time(tmp_path: Path) -> None:
    ill, well = Notebook(fails="file"), Notebook()
    scripted(tmp_path / "run", ill)
    result = scripted(tmp_path / "run", well)
    assert [step for step, _ in ill.curves["val/score"]] == [0, 1]
    assert [step for step, _ in well.curves["val/score"]] == [*range(1, len(result.stages))]


def test_losses_are_sent_together_and_at_once_where_time_has_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, at_once = Notebook(), Notebook()
    scripted(tmp_path / "one", together)
    monkeypatch.setattr(dispatcher, "INTERVAL", 0.0)
    scripted(tmp_path / "two", at_once)
    assert together.curves["sft/loss"] == at_once.curves["sft/loss"]
    # Two losses of two stages: SFT is scored after the second, so all four may go together.
    assert at_once.calls.count("points") == together.calls.count("points") + 3


def test_a_tracker_that_is_slow_gets_one_call_and_costs_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "CALL_SECONDS", 0.1)
    book = Notebook(waits=lambda: time.sleep(0.2))
    result = scripted(tmp_path / "run", book)
    assert book.calls == ["begin"]
    [note] = [note for note in result.notes if "gets no more events" in note]
    assert "one call took 0 s, more than the 0.1 s that a run waits" in note
    assert [stage.name for stage in result.stages] == ["none", "sft", "dpo1"]


def test_ctrl_c_does_not_wait_for_a_tracker_that_hangs(tmp_path: Path) -> None:
    """The run ends in good order, as without the tracker, long before the 30 seconds are over."""

    def hang() -> None:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        time.sleep(30)

    began, seen = time.monotonic(), Recorder()
    with pytest.raises(KeyboardInterrupt, match="Stopped in the warm start: Ctrl-C was pressed"):
        scripted(tmp_path / "run", [Notebook(waits=hang), seen])
    assert time.monotonic() - began < 20
    notes = [each.text for each in seen.events if isinstance(each, Note)]
    assert notes[0].startswith("Stopping: ")
    assert "notebook gets no more events of this run (TimeoutError: Ctrl-C was pressed" in notes[1]


def test_an_mlflow_server_that_is_down_costs_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:my-own-word@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    result = scripted(tmp_path / "run", "mlflow")
    assert result.stages
    [note] = [note for note in result.notes if "gets no more events" in note]
    assert note.startswith("mlflow gets no more events of this run (")
    assert "my-own-word" not in note


# What is refused, and what is no secret


@pytest.mark.parametrize("given", ["excel", ["mlflow", "excel"], 3, [None]])
def test_what_is_no_tracker_is_refused_with_what_would_do(given: Any, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="mlflow, wandb, tensorboard"):
        teleprompter(tmp_path / "run", report_to=given)


def test_a_package_that_is_missing_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SetupError, match=r"pip install 'dspy-sgt\[trackers\]'"):
        check_report_to("wandb")


def test_each_tracker_is_taken_once() -> None:
    assert check_report_to(["tensorboard", "mlflow", "tensorboard"]) == ("tensorboard", "mlflow")


def test_parameters_hold_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "plain words")
    known = {"settings": {"generator": "served with plain words", "note": "Bearer abcdefgh"}}
    assert run_parameters(known, {}) == {"generator": "served with <key>", "note": "Bearer <key>"}


# DSPy's callbacks


class Ancestry(BaseCallback):
    """Notes each call with what it is, the one that it was made in, and its thread; and which of them ended."""

    def __init__(self) -> None:
        self.begun: dict[str, tuple[str, str | None, str]] = {}
        self.ended: set[str] = set()

    def _begins(self, call_id: str, what: str) -> None:
        self.begun[call_id] = what, ACTIVE_CALL_ID.get(), threading.current_thread().name

    def on_compile_start(self, call_id: str, instance: object, inputs: object) -> None:
        self._begins(call_id, "compile")

    def on_module_start(self, call_id: str, instance: object, inputs: object) -> None:
        self._begins(call_id, "module")

    def on_lm_start(self, call_id: str, instance: object, inputs: object) -> None:
        self._begins(call_id, "lm")

    def _ends(self, call_id: str, outputs: object, exception: BaseException | None = None) -> None:
        self.ended.add(call_id)

    on_compile_end = on_module_end = on_lm_end = _ends

    def path(self, call_id: str | None) -> list[str]:
        """What a call is, then what it was made in, and so on."""
        if call_id is None:
            return []
        what, parent, _ = self.begun[call_id]
        return [what, *self.path(parent)]


@pytest.mark.compatible("Calls", "callbacks")
def test_callbacks_get_a_compile_s_calls_below_it_in_every_thread_and_none_again_when_it_goes_on(
    tmp_path: Path,
) -> None:
    first, again = Ancestry(), Ancestry()
    engine = ScriptedEngine(helped)
    for calls in (first, again):
        sgt = teleprompter(tmp_path / "run", generator=writer(), trainer=Losing(), num_threads=4)
        with dspy.context(lm=engine.lm(), callbacks=[calls]):
            sgt.compile(program(), trainset=WORLD.train, valset=WORLD.val)
    calls = [call_id for call_id, (what, _, _) in first.begun.items() if what == "lm"]
    assert len(calls) == len(engine.asked)
    assert {tuple(first.path(call_id)) for call_id in calls} == {("lm", "module", "compile")}
    assert {first.begun[call_id][2] for call_id in calls} == {"sgt-actor"}
    assert first.ended == first.begun.keys()
    assert [what for what, _, _ in again.begun.values()] == ["compile"]


# MLflow beside a user's own use of it


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `tracked_alone.py` found, in a process of its own, as autolog changes DSPy's classes."""
    home = tmp_path_factory.mktemp("alone")
    path = os.pathsep.join([PATHS, os.environ.get("PYTHONPATH", "")])
    own = {"MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db", "MLFLOW_DISABLE_TELEMETRY": "1", "PYTHONPATH": path}
    script = [sys.executable, str(DOUBLES / "tracked_alone.py")]
    done = run(script, cwd=home, env={**os.environ, **own}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.compatible("Calls", "MLflow autolog")
def test_an_autologged_trace_holds_the_supplement_step_and_a_compile_makes_no_traces(alone: dict[str, Any]) -> None:
    assert alone["traces"] == 1
    assert alone["spans"][:4] == [
        ["ChainOfThought.forward", "", ""],
        ["SupplementedPredictor.forward", "ChainOfThought.forward", ""],
        ["SupplementGenerator.forward", "SupplementedPredictor.forward", "Add one."],
        ["LM.__call__", "SupplementGenerator.forward", ""],
    ]
    assert ["LM.__call__", "SupplementedPredictor.forward", ""] in alone["spans"][4:]


@pytest.mark.slow
@pytest.mark.compatible("Calls", "MLflow autolog")
def test_a_run_that_is_under_way_is_joined_and_its_end_left_to_its_owner(alone: dict[str, Any]) -> None:
    """The user's own first, then the one that `autolog(log_compiles=True)` begins around a compile."""
    assert (alone["still open"], alone["status"]) == (True, "RUNNING")
    assert alone["runs"] == [["FINISHED", alone["selected"], True]] * 2
    assert alone["known"]
