"""Several processes on one machine, started by `accelerate launch`, do what one process does; and end together."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import launched_compile
import launched_training
import pytest
import torch
from places import DOUBLES
from safetensors.torch import load_file
from scripted import ScriptedTrainer
from torch.distributed import HashStore

from optimizers.store.rollout_store import RolloutStore
from optimizers.training.distributed import DistributedTrainer, repeat_calls
from optimizers.training.processes import Team
from sgt_modules.errors import MainProcessError, SetupError

pytestmark = pytest.mark.slow

ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
LAUNCH = (
    *(sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
)
"""Two processes; on a machine without GPUs accelerate makes them talk over gloo."""

SHARDED = (
    *("--use_fsdp", "--fsdp_version", "2", "--fsdp_cpu_ram_efficient_loading", "false"),
    *("--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"),
)


def launched(output: Path, script: str, *words: str, options: tuple[str, ...] = ("--multi_gpu",)) -> str:
    """Run a script of this folder in two processes; what they said."""
    output.mkdir()
    done = subprocess.run(
        [*LAUNCH, *options, str(DOUBLES / script), str(output), *words],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    (output / "status").write_text(str(done.returncode))
    return done.stdout + done.stderr


def report_of(output: Path, rank: int) -> dict:
    return json.loads((output / f"{rank}.json").read_text())


def distance(one: Path, other: Path) -> float:
    """How far the weights of two checkpoints are apart, as a share of their length."""
    flat = [
        torch.cat([each.flatten().double() for _, each in sorted(load_file(next(path.glob("*.safetensors"))).items())])
        for path in (one, other)
    ]
    return float((flat[0] - flat[1]).norm() / flat[0].norm())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each loss trained in one process."""
    output = tmp_path_factory.mktemp("alone")
    launched_training.main(output, list(launched_training.STAGES))
    return output


def assert_trained_alike(alone: Path, output: Path, said: str) -> None:
    assert (output / "status").read_text() == "0", said
    one, first, second = report_of(alone, 0), report_of(output, 0), report_of(output, 1)
    assert first == second
    for stage, found in first.items():
        assert found["losses"] == pytest.approx(one[stage]["losses"], abs=1e-4)
        assert found["losses"][0] != pytest.approx(found["losses"][-1], abs=1e-2)
        assert distance(alone / stage, output / stage) < 1e-3
        assert found["undisturbed"], "an engine of the same base never sees the training"
        assert not list(output.glob(".*")), "no scratch folder is left"


def test_two_processes_have_the_losses_and_the_weights_of_one(alone: Path, tmp_path: Path):
    """SFT and DPO, each with an adapter and with all weights, each with a last step that is not full."""
    said = launched(tmp_path / "two", "launched_training.py", *launched_training.STAGES)
    assert_trained_alike(alone, tmp_path / "two", said)


def test_sharded_weights_have_the_losses_and_the_weights_of_one_process(alone: Path, tmp_path: Path):
    """FSDP on a CPU that accelerate takes for a GPU: see `launched_sharded.py`."""
    said = launched(tmp_path / "two", "launched_sharded.py", *launched_training.STAGES, options=SHARDED)
    assert_trained_alike(alone, tmp_path / "two", said)


def rollouts(run: Path) -> set[tuple]:
    with RolloutStore(run / "rollouts.sqlite") as store:
        return {
            (each.query.id, each.supplement.render(), None if each.reward is None else each.reward.score)
            for each in store.rollouts()
        }


def test_a_compile_in_two_processes_is_that_of_one(tmp_path: Path):
    (tmp_path / "one").mkdir()
    launched_compile.main(tmp_path / "one")
    said = launched(tmp_path / "two", "launched_compile.py")
    assert (tmp_path / "two" / "status").read_text() == "0", said
    one, first, second = report_of(tmp_path / "one", 0), report_of(tmp_path / "two", 0), report_of(tmp_path / "two", 1)
    assert rollouts(tmp_path / "two" / "run") == rollouts(tmp_path / "one" / "run")
    assert first["losses"] == pytest.approx(one["losses"], abs=1e-4)
    for stage in ("sft", "dpo1"):
        folders = [tmp_path / each / "run" / "checkpoints" / stage for each in ("one", "two")]
        assert distance(*folders) < 1e-3
    for key in ("scores", "selected", "actor_calls"):
        assert first[key] == second[key] == one[key]
    assert first["selected"] != "none"
    assert first["program"] == second["program"], "every process gets the program"
    assert first["judged"] == one["judged"]
    assert second["judged"] == 0, "only the main process asks the actor"
    assert second["refused"] == first["refused"] == one["refused"] != "", "the mistake is one in every process"


def test_processes_end_when_one_of_them_runs_out_of_memory(tmp_path: Path):
    """It does not retry alone, which would leave the other in a collective for ever."""
    said = launched(tmp_path / "two", "launched_exhausted.py")
    assert (tmp_path / "two" / "status").read_text() != "0"
    assert "Expected memory for 4 rows at a time in each of 2 processes, got: CUDA out of memory." in said
    assert "Set batch_size=2, gradient_accumulation=4, which takes the same steps." in said
    assert not (tmp_path / "two" / "sft").exists()


def test_processes_end_when_the_main_one_is_killed_even_without_a_launcher(tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**ENVIRONMENT, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, str(DOUBLES / "launched_waiting.py"), str(tmp_path)]
    running = [
        subprocess.Popen(
            command, env={**environment, "RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True
        )
        for rank in ("0", "1")
    ]
    ended = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [-9, 1], ended


def two() -> tuple[Team, Team]:
    """The main process and another, at one store."""
    store = HashStore()
    return Team(0, 2, store, session=1), Team(1, 2, store, session=1)


def test_values_are_received_in_the_order_of_sending_however_large():
    main, other = two()
    large = "supplement " * 1_000_000
    for value in ("first", large, None):
        main.send(value)
    assert [other.receive() for _ in range(3)] == ["first", large, None]


def test_the_main_process_computes_once_and_every_process_has_the_result():
    main, other = two()
    made: list[int] = []

    def make() -> str:
        made.append(1)
        return "made"

    assert [main.run_once(make), other.run_once(make)] == ["made", "made"]
    assert made == [1]


@pytest.mark.parametrize("error", [SetupError("No key."), KeyboardInterrupt()])
def test_an_error_of_ours_and_an_interrupt_reach_every_process_as_they_are(error: BaseException):
    main, other = two()

    def fail() -> None:
        raise error

    for team in (main, other):
        with pytest.raises(type(error)) as raised:
            team.run_once(fail)
        assert str(raised.value) == str(error)


def test_an_error_of_somebody_elses_reaches_the_others_as_a_message():
    main, other = two()
    with pytest.raises(ZeroDivisionError), main.send_failure():
        1 / 0  # noqa: B018
    with pytest.raises(MainProcessError, match="stopped with ZeroDivisionError: division by zero"):
        other.receive()


def test_the_others_repeat_the_calls_of_the_main_processs_trainer_until_the_end_is_sent(tmp_path: Path):
    main, other = two()
    trainers = ScriptedTrainer(), ScriptedTrainer()
    together = DistributedTrainer(trainers[0], main)
    start = together.sft(launched_training.ROWS, start=None, output=tmp_path / "sft", seed=0)
    together.dpo(launched_training.PAIRS, start=start, output=tmp_path / "dpo1", seed=0)
    together.grpo(launched_training.SAMPLES, start=start, output=tmp_path / "grpo2", seed=0)
    main.send("the end")
    assert repeat_calls(trainers[1], other) == "the end"
    assert trainers[1].rows == trainers[0].rows
    assert list(trainers[1].rows) == ["sft", "dpo1", "grpo2"]
