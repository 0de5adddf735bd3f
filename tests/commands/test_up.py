"""`sgt up` as a person meets it: what it refuses, and a real server that is killed while a run uses it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy
import httpx
import pytest

from optimizers import Recipe, SGTTeleprompter, TrainingSettings
from optimizers.cli import main
from optimizers.commands.ports import PortRequest, choose_ports, keep_ports
from optimizers.commands.up import _print_use, _stopped_by_signals
from optimizers.core.result import result_of
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules import Endpoint, LocalEngine
from sgt_modules.embedded import HouseTermsWorld, Sizes, program
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.kinds import KINDS
from sgt_modules.remote.server_use import ServedModel
from sgt_modules.remote.supervision import StopRequest

WORLD = HouseTermsWorld(0, sizes=Sizes(train=4, validation=4, test=4, shifted=4, terms=4, shifted_terms=4))
COMMAND = [sys.executable, "-c", "from optimizers.cli import main; main()", "up"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Expected a model to serve, got none. Write sgt up --generator Qwen/Qwen3-1.7B"),
        (["--generator", "no/such-model"], "Run `hf download no/such-model`, add --download, or pass the folder"),
        (["--generator", "./gone"], "No such folder is on this machine"),
        (["--lm", "."], "Expected config.json and *.safetensors in the folder of '.', got []"),
        (["--lm", "embedded", "--engine", "sglang"], "Expected sglang to be installed, got none"),
        (["--lm", "embedded", "--replicas", "2"], "got transformers serve, which runs one copy"),
        (["--lm", "embedded", "--lm-args", "'open"], "Expected options as in a shell, got"),
        (["--lm", "embedded", "--folder", "x" * 300], "which has a name that is too long"),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_starts(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refusal(words, monkeypatch, capsys)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("role", "option"), [("--generator", "--port"), ("--lm", "--lm-port")])
def test_a_port_in_use_is_refused(
    role: str, option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = refusal([role, "embedded", option, str(taken.getsockname()[1])], monkeypatch, capsys)
        assert "which another program uses on 127.0.0.1" in said
        assert f"with {option}, or {option} 0 for any that is free" in said


def chosen(wanted: dict[str, PortRequest], folder: Path) -> tuple[dict[str, int], list[str]]:
    """The ports of one start, which are kept, and what it says of them."""
    said: list[str] = []
    ports = choose_ports(wanted, folder, said.append)
    keep_ports(wanted, ports, folder)
    return ports, said


def test_a_model_gets_its_last_port_again_and_another_model_or_folder_another_one(folder: Path) -> None:
    (folder / "weights").mkdir()
    both = {"generator": PortRequest("weights"), "lm": PortRequest("Qwen/Qwen3-8B")}
    first, said = chosen(both, folder / "up")
    assert (len(set(first.values())), said) == (2, [])
    other = {"generator": PortRequest("Qwen/Qwen3-1.7B")}
    assert chosen(other, folder / "up")[0]["generator"] not in first.values()
    same = {"lm": PortRequest("Qwen/Qwen3-8B"), "generator": PortRequest(str(folder / "weights"))}
    assert chosen(same, folder / "up") == (first, [])
    assert chosen(both, folder / "elsewhere")[0] != first


def test_a_port_that_was_asked_for_is_the_last_one_from_then_on(folder: Path) -> None:
    before = chosen({"lm": PortRequest("model")}, folder)[0]
    after = chosen({"lm": PortRequest("other")}, folder)[0]
    assert chosen({"lm": PortRequest("model", after["lm"])}, folder) == (after, [])
    assert chosen({"lm": PortRequest("model")}, folder) == (after, [])
    assert before != after


def test_a_last_port_in_use_is_said_and_another_one_is_taken(folder: Path) -> None:
    wanted = {"generator": PortRequest("model")}
    [last] = chosen(wanted, folder)[0].values()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", last))
        taken.listen()
        ports, [said] = chosen(wanted, folder)
    port = ports["generator"]
    assert port != last
    assert said.startswith(f"generator: its last port, {last}, is in use, so it takes {port}.")
    assert said.endswith(f"end what uses port {last}, and start again with --port {last}.")


def test_what_is_printed_names_the_port_and_the_file_that_keeps_it(capsys: pytest.CaptureFixture[str]) -> None:
    served = ServedModel("transformers", str(embedded_folder("generator")), "http://127.0.0.1:8123/v1")
    _print_use({"generator": served}, {}, Path("runs/up"), as_json=False)
    assert "sgt up takes port 8123 for this model again: runs/up/ports.json has it." in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[8000]", '{"lm": {"model": 99999}}'])
def test_a_damaged_file_of_ports_is_refused(
    content: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "ports.json").write_text(content)
    said = " ".join(refusal(["--lm", "embedded", "--folder", "."], monkeypatch, capsys).split())
    assert "Expected ports by role and model in ports.json" in said
    assert "Delete the file" in said


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--generator-at", "127.0.0.1:8000"], "Expected a server as ENGINE@ADDRESS"),
        (
            ["--generator", "./gone", "--generator-at", "vllm@http://127.0.0.1:1/v1"],
            "No such folder is on this machine",
        ),
        (["--api-base", "http://127.0.0.1:1/v1"], "Expected --lm with --api-base http://127.0.0.1:1/v1, got none"),
    ],
)
def test_options_for_servers_that_do_not_fit_are_refused(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("rows.jsonl").write_text('{"question": "How many?", "tables": "t", "sql": "SELECT 1"}\n')
    arguments = ["sgt_modules.embedded:program", "--train", "rows.jsonl", "--metric", "optimizers.tasks:check_task"]
    monkeypatch.setattr("sys.argv", ["sgt", "compile", *arguments, *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("before", "stops"), [(signal.SIG_IGN, False), (signal.SIG_DFL, True)])
def test_a_closed_terminal_ends_the_servers_unless_nohup_started_them(before: signal.Handlers, stops: bool) -> None:
    own, stop = signal.signal(signal.SIGHUP, before), StopRequest()
    try:
        with _stopped_by_signals(stop):
            assert signal.getsignal(signal.SIGHUP) is (stop if stops else before)
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.wanted is stops
        assert signal.getsignal(signal.SIGHUP) is before
    finally:
        signal.signal(signal.SIGHUP, own)


def refusal(words: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says as it refuses; it has started nothing."""
    monkeypatch.setattr("sys.argv", ["sgt", "up", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "starting" not in captured.err
    return captured.err


@dataclass
class Up:
    """The command in a process of its own, and what it printed once the server answered."""

    process: subprocess.Popen[str]
    printed: dict[str, Any]
    errors: Path

    @property
    def address(self) -> str:
        return self.printed["generator"]["address"]

    def is_up(self) -> bool:
        try:
            return httpx.get(f"{self.address.removesuffix('/v1')}/health", timeout=5).is_success
        except httpx.HTTPError:
            return False


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Up]:
    """`sgt up` with the embedded generator behind the real `transformers serve`."""
    errors = tmp_path / "errors.txt"
    words = ["--generator", "embedded", "--engine", "transformers", "--folder", str(tmp_path / "up"), "--json"]
    with (
        errors.open("w") as out,
        subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=out, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, errors.read_text()
            yield Up(process, json.loads(line), errors)
        finally:
            if process.poll() is None:
                process.terminate()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_run_goes_on_when_its_server_is_killed(running: Up, tmp_path: Path) -> None:
    """The server is killed as the first trained adapter is published: the next request finds nobody there."""

    def even(example: dspy.Example, prediction: dspy.Prediction) -> bool:
        return len(prediction.sql) % 2 == 0

    names: dict[str, Any] = {"metric": even}
    exec(running.printed["python"], names)
    printed, base = names["generator"], names["model"]
    killed: list[float] = []

    def publish(path: Path) -> str:
        if not killed:
            os.kill(running.printed["generator"]["pid"], signal.SIGKILL)
            killed.append(time.monotonic())
            while running.is_up():
                time.sleep(0.01)
        return printed.publish(path)

    sgt = SGTTeleprompter(
        even,
        Endpoint(printed.lm, publish=publish, concurrency=4, tokenizer=base),
        recipe=Recipe(
            rounds=1,
            warm_samples=2,
            pool_samples=2,
            ood_kinds=1,
            concat=1,
            kinds={name: KINDS[name] for name in ("background", "pairs")},
        ),
        trainer=TRLTrainer(
            base, TrainingSettings(sft_epochs=1, batch_size=8, gradient_checkpointing=False, max_length=512)
        ),
        num_threads=4,
        log_dir=tmp_path / "run",
        display_progress=False,
    )
    engine = LocalEngine(embedded_folder("actor"), dtype="float32", max_new_tokens=64)
    adapter = dspy.ChatAdapter(use_json_adapter_fallback=False)
    with dspy.context(lm=dspy.LM(engine.model_name, engine=engine, cache=False), adapter=adapter):
        result = result_of(sgt.compile(program(), trainset=WORLD.train, valset=WORLD.val))
    assert killed
    assert [stage.name for stage in result.stages] == ["none", "sft", "dpo1"]
    assert not result.stopped
    said = running.errors.read_text()
    assert said.count("generator: ended by SIGKILL; starts again in 1 s (1 in a row)") == 1
    again = float(said.partition("answers again after ")[2].split()[0])
    assert again < 2 * running.printed["generator"]["seconds_to_start"] + 5
    print(f"first start {running.printed['generator']['seconds_to_start']} s, again {again} s")

    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(timeout=30) == 0
    assert not running.is_up()
    assert "Ending the servers." in running.errors.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_start_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    words = ["--lm", "embedded", "--engine", "transformers", "--folder", str(tmp_path / "up")]
    with subprocess.Popen([*COMMAND, *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        assert "transformers serve" in first
        assert "starting; its log is" in process.stderr.readline()
        process.send_signal(number)
        assert process.wait(timeout=30) == 130
        assert process.stderr.read() == "Ending the servers.\n"
    port = first.split()[first.split().index("--port") + 1]
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"--port {port}" not in listed


@pytest.mark.slow
def test_servers_that_are_started_again_have_the_same_address(tmp_path: Path) -> None:
    words = ["--lm", "embedded", "--engine", "transformers", "--folder", str(tmp_path / "up")]
    started: list[str] = []
    for _ in range(2):
        with subprocess.Popen([*COMMAND, *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            started.append(process.stderr.readline())
            process.terminate()
            assert process.wait(timeout=30) == 130
    assert "--port" in started[0]
    assert started[0] == started[1]
