"""Ctrl-C in the middle of a local model's work: answered within two seconds, without a traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from families import FAMILIES, family_model
from places import PATHS
from real_models import real_model

from optimizers.store.rollout_store import RolloutStore

pytestmark = pytest.mark.slow

CLI = "import sys; from optimizers.cli import main; sys.argv[0] = 'sgt'; main()"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that never ends its replies by itself."""
    return family_model(FAMILIES["SmolLM2"], tmp_path_factory.mktemp("models") / "tiny-model")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Twelve questions."""
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps({"question": f"Is {n} odd?", "answer": "yes"}) + "\n" for n in range(12)))
    return file


COMPARING = """
import sys
import dspy
from dspy import Example
from optimizers.comparison import compare
from sgt_modules import LocalEngine


rows = [Example(question=f"{n}?", answer="yes").with_inputs("question") for n in range(2_997)]
splits = rows[::3], rows[1::3], rows[2::3]
compare(
    dspy.Predict("question -> answer"), *splits, lambda *_: True, ["none"], seeds=[0],
    actor=dspy.LM("x", engine=LocalEngine(sys.argv[1], device="cpu", max_new_tokens=4_000)),
    log_dir=sys.argv[2],
)
"""


def test_ctrl_c_in_a_comparison_is_answered_within_two_seconds_and_no_thread_is_waited_for(
    folder: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", COMPARING, str(folder), str(tmp_path / "run")]
    env = {**os.environ, "PYTHONPATH": PATHS, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "test:" in line and " left" in line:
                break
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        said = next(line for line in process.stderr if line.startswith("Stopping"))
        seconds = time.monotonic() - began
        rest = process.communicate(timeout=20)[1]
    finally:
        process.kill()
    assert seconds < 2
    assert "every answer that was paid for is kept" in said
    assert rest.rstrip().endswith("KeyboardInterrupt")


@contextmanager
def compiling(rows: Path, generator: Path | str, log_dir: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """`sgt compile` in a process of its own, which gets Ctrl-C as from a terminal."""
    asked = ["compile", "slow_app:program", "--train", str(rows), "--metric", "slow_app:metric", "--inputs", "question"]
    command = [sys.executable, "-c", CLI, *asked, "--generator", str(generator), "--log-dir", str(log_dir)]
    paths = PATHS
    env = {**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", **environment}
    pipe = subprocess.PIPE
    process = subprocess.Popen([*command, "--rounds", "1"], stdout=pipe, stderr=pipe, text=True, env=env)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(stream: IO[str] | None, word: str, times: int = 1) -> None:
    """Read a stream up to a line that begins with the word."""
    assert stream is not None
    for line in stream:
        times -= line.startswith(word)
        if not times:
            return
    pytest.fail(f"The process ended before it said {word!r}.")


def pressed(process: subprocess.Popen[str], times: int = 1) -> tuple[float, str]:
    """Press Ctrl-C; the seconds until the run has said where it stands, and all that it said until its end."""
    began, told = time.monotonic(), ""
    for number in range(times):
        time.sleep(0.1 * bool(number))
        process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    for line in process.stderr:
        told += line
        if line.startswith("Stopped in"):
            break
    seconds = time.monotonic() - began
    return seconds, told + process.communicate(timeout=20)[1]


@pytest.mark.parametrize(
    ("local", "at"), [("generator", "loading"), ("actor", "reading"), ("generator", "writing"), ("actor", "writing")]
)
def test_ctrl_c_in_the_middle_of_a_batch_is_answered_within_two_seconds(
    rows: Path, folder: Path, tmp_path: Path, local: str, at: str
) -> None:
    log_dir = tmp_path / "run"
    environment = {"SLOW_SECONDS": "0.5", "SLOW_ACTOR": str(folder) if local == "actor" else ""}
    with compiling(rows, folder, log_dir, **environment) as process:
        wait_for(process.stdout, at)
        time.sleep(0.2)
        seconds, told = pressed(process)
    assert seconds < 2.0, told
    assert "Traceback" not in told, told
    assert process.returncode == 130, told
    assert "Ctrl-C was pressed. Compile with log_dir=" in told
    with RolloutStore(log_dir / "rollouts.sqlite") as store:
        assert all(rollout.reward is not None for rollout in store.rollouts())  # an abandoned call is no outage


def test_a_run_stopped_in_a_batch_goes_on_in_its_folder_and_a_second_ctrl_c_ends_it_at_once(
    rows: Path, folder: Path, tmp_path: Path
) -> None:
    counts: list[int] = []
    for times in (1, 2):
        with compiling(rows, folder, tmp_path / "run", SLOW_SECONDS="0.5") as process:
            wait_for(process.stdout, "writing")
            seconds, told = pressed(process, times)
        assert seconds < 2.0, told
        assert "none: val: 4/4" in told
        assert "Traceback" not in told, told
        assert process.returncode == 130, told
        with RolloutStore(tmp_path / "run" / "rollouts.sqlite") as store:
            counts.append(store.count())
    assert counts == [12, 12]  # nothing is paid twice


@pytest.mark.real_model
def test_a_batch_of_a_real_model_is_named_and_given_up_within_two_seconds(rows: Path, tmp_path: Path) -> None:
    with compiling(rows, real_model("smollm2-135m"), tmp_path / "run") as process:
        wait_for(process.stdout, "reading smollm2-135m")
        time.sleep(1.0)
        seconds, told = pressed(process)
    assert seconds < 2.0, told
    assert "Traceback" not in told, told
    assert "loading smollm2-135m" in told
    assert process.returncode == 130
