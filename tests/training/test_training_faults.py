"""When training fails: the round starts again from its adapter or says why not; nothing starts from broken weights."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from places import PATHS
from runtime_fixtures import tiny_model
from safetensors import SafetensorError
from safetensors.torch import load_file

from optimizers.core.records import Checkpoint, PreferencePair, SFTExample
from optimizers.training.base_trainer import BaseTrainer, LossRecorder
from optimizers.training.provenance import is_intact
from optimizers.training.retries import retry_with_lower_rate
from optimizers.training.side_effects import explain_full_disk
from optimizers.training.trainer import LoRASettings, TrainingSettings
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules.errors import DivergedError, TrainingError

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

ROWS = [SFTExample("q", "cot", f"What is {n} + 1?", f"[cot] It is {n + 1}.") for n in range(4)]
PAIRS = [PreferencePair("q", "inter", row.prompt, f"yes {n}", "it is not so") for n, row in enumerate(ROWS)]
SETTINGS = TrainingSettings(
    lora=LoRASettings(rank=4, alpha=8),
    batch_size=2,
    gradient_accumulation=1,
    sft_epochs=1,
    sft_learning_rate=1e-2,
    dpo_learning_rate=1e-2,
    gradient_checkpointing=False,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def sft(model: Path, tmp_path: Path) -> Checkpoint:
    return TRLTrainer(model, SETTINGS).sft(ROWS, start=None, output=tmp_path / "sft", seed=0)


@contextmanager
def broken_at(monkeypatch: pytest.MonkeyPatch, *attempts: int, last: bool = False) -> Iterator[list[float]]:
    """Inside, training breaks in these of its attempts (from 1): a loss that is no number at the second step, or
    weights that are none after the `last`. Gives each attempt's learning rate.
    """
    rates: list[float] = []
    begin, add = BaseTrainer.train, LossRecorder.add

    def train(self: BaseTrainer) -> object:
        rates.append(self.args.learning_rate)
        ended = begin(self)
        if last and len(rates) in attempts:
            next(each for each in self.model.parameters() if each.requires_grad).data[0] = torch.nan
        return ended

    def added(self: LossRecorder, loss: torch.Tensor) -> None:
        add(self, loss * torch.nan if not last and len(rates) in attempts and len(self.losses) == 1 else loss)

    with monkeypatch.context() as patched:
        patched.setattr(BaseTrainer, "train", train)
        patched.setattr(LossRecorder, "add", added)
        yield rates


@pytest.mark.parametrize("last", [False, True])
def test_a_loss_or_weights_that_are_no_numbers_start_the_round_again_from_its_adapter_at_half_the_learning_rate(
    model: Path, sft: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: bool
) -> None:
    with broken_at(monkeypatch, 1, last=last) as rates:
        again = TRLTrainer(model, SETTINGS).dpo(PAIRS, start=sft, output=tmp_path / "again", seed=1)
    slow = TRLTrainer(model, replace(SETTINGS, dpo_learning_rate=5e-3)).dpo(
        PAIRS, start=sft, output=tmp_path / "slow", seed=1
    )
    assert rates == [1e-2, 5e-3]
    assert again.fingerprint == slow.fingerprint
    assert (len(again.notes), len(slow.notes)) == (1, 0)
    assert "with learning rate 0.01. The stage started again" in again.notes[0]
    assert is_intact(sft.path, sft.fingerprint)


@pytest.mark.parametrize("last", [False, True])
def test_a_second_time_is_an_error_and_what_was_there_stays(
    model: Path, sft: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: bool
) -> None:
    with (
        broken_at(monkeypatch, 1, 2, last=last) as rates,
        pytest.raises(DivergedError, match=r"learning rate 0\.005\. Lower the learning rate"),
    ):
        TRLTrainer(model, SETTINGS).dpo(PAIRS, start=sft, output=tmp_path / "dpo1", seed=1)
    assert rates == [1e-2, 5e-3]
    assert [each.name for each in tmp_path.iterdir()] == ["sft"]


def test_other_errors_are_not_tried_again() -> None:
    tried: list[float] = []

    def fit(settings: TrainingSettings) -> None:
        tried.append(settings.dpo_learning_rate)
        raise TrainingError("no rows")

    with pytest.raises(TrainingError, match="no rows"):
        retry_with_lower_rate(SETTINGS, fit)
    assert tried == [1e-2]


@pytest.mark.parametrize(
    "full",
    [
        # made where it is raised: an error that is kept keeps by its traceback the model that was trained
        lambda: OSError(errno.ENOSPC, "No space left on device"),
        lambda: SafetensorError("I/O error: No space left (os error 28)"),
    ],
    ids=["OSError", "SafetensorError"],
)
def test_a_full_disk_is_named_and_leaves_nothing_half_written(
    model: Path, sft: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: Callable[[], Exception]
) -> None:
    def save(model: object, folder: str, **more: object) -> None:
        Path(folder).mkdir()
        (Path(folder) / "adapter_model.safetensors").write_bytes(b"half of it")
        raise full()

    with monkeypatch.context() as patched:
        patched.setattr("peft.PeftModel.save_pretrained", save)
        with pytest.raises(TrainingError, match=r"Expected space on the disk for .* 'dpo1'.*free some space"):
            TRLTrainer(model, SETTINGS).dpo(PAIRS, start=sft, output=tmp_path / "dpo1", seed=1)
    assert [each.name for each in tmp_path.iterdir()] == ["sft"]
    assert is_intact(sft.path, sft.fingerprint)


def test_another_trouble_with_the_disk_is_told_as_it_is() -> None:
    with pytest.raises(PermissionError), explain_full_disk(Path("dpo1")):
        raise PermissionError(errno.EACCES, "no")


KILLED = """
import sys
from pathlib import Path
from test_training_faults import PAIRS, SETTINGS
from optimizers.core.records import Checkpoint
from optimizers.training.trl_trainer import TRLTrainer
import time

def on_step(step, steps, loss):
    Path(sys.argv[1], "in-the-midst").touch()
    time.sleep(600)

room = Path(sys.argv[1])
start = Checkpoint("sft", room / "sft", sys.argv[3])
TRLTrainer(sys.argv[2], SETTINGS).dpo(PAIRS, start=start, output=room / "dpo1", seed=1, on_step=on_step)
"""


@pytest.mark.slow
def test_a_trainer_that_is_killed_leaves_no_checkpoint_and_the_round_starts_again_from_its_adapter(
    model: Path, sft: Checkpoint, tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": PATHS}
    arguments = [str(tmp_path), str(model), sft.fingerprint]
    with subprocess.Popen([sys.executable, "-c", KILLED, *arguments], env=environment) as process:
        until = time.monotonic() + 60
        while not (tmp_path / "in-the-midst").exists():
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    (tmp_path / "in-the-midst").unlink()
    assert not (tmp_path / "dpo1").exists()
    assert [each.name.partition("written")[0] for each in tmp_path.glob(".*")] == [".dpo1-"]
    again = TRLTrainer(model, SETTINGS).dpo(PAIRS, start=sft, output=tmp_path / "dpo1", seed=1)
    never = TRLTrainer(model, SETTINGS).dpo(PAIRS, start=sft, output=tmp_path / "never", seed=1)
    assert again.fingerprint == never.fingerprint
    assert sorted(each.name for each in tmp_path.iterdir()) == ["dpo1", "never", "sft"]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def changed(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *product(["adapter_model.safetensors", "adapter_config.json"], [Path.unlink, cut, changed]),
        ("trained_from.json", cut),
    ],
)
def test_a_damaged_checkpoint_is_known_and_never_gone_on_from(
    model: Path, sft: Checkpoint, tmp_path: Path, damage: Callable[[Path], None], name: str
) -> None:
    assert is_intact(sft.path, sft.fingerprint)
    damage(sft.path / name)
    assert not is_intact(sft.path, sft.fingerprint)
    with pytest.raises(TrainingError, match=r"an adapter's folder|as training wrote it"):
        TRLTrainer(model, SETTINGS).dpo(PAIRS, start=sft, output=tmp_path / "dpo1", seed=1)
    assert not (tmp_path / "dpo1").exists()


def test_a_checkpoint_of_other_weights_or_of_an_earlier_version_is_told_by_its_fingerprint(sft: Checkpoint) -> None:
    assert not is_intact(sft.path, "0" * 64)
    record = json.loads((sft.path / "trained_from.json").read_text())
    del record["files"]
    (sft.path / "trained_from.json").write_text(json.dumps(record))
    assert is_intact(sft.path, sft.fingerprint)


def test_a_whole_model_is_intact_with_all_of_its_files(model: Path, tmp_path: Path) -> None:
    whole = TRLTrainer(model, replace(SETTINGS, lora=None)).sft(ROWS, start=None, output=tmp_path / "sft", seed=0)
    assert is_intact(whole.path, whole.fingerprint)
    assert all(each.isfinite().all() for each in load_file(whole.path / "model.safetensors").values())
    (whole.path / "tokenizer.json").unlink()
    assert not is_intact(whole.path, whole.fingerprint)
