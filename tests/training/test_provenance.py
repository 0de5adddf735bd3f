"""A trained adapter as others read it: its lineage, PEFT's own loader, and what vLLM's looks at."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import peft
import pytest
import torch
import transformers
import trl
from peft import AutoPeftModelForCausalLM, PeftModel
from runtime_fixtures import tiny_model
from sample_requests import requests
from transformers import AutoModelForCausalLM

from optimizers.core.records import Checkpoint, PreferencePair, SFTExample
from optimizers.training.trainer import LoRASettings, TrainingSettings
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules.errors import GeneratorNotFoundError
from sgt_modules.generator import SupplementGenerator
from sgt_modules.local.chat_template import render_chat
from sgt_modules.local.engine import LocalEngine
from sgt_modules.saving.weights import ADAPTER, TRAINED_FROM, fingerprint_of, origin_of

# PEFT 0.21 asks transformers 5.23 by a deprecated name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

ROWS = [SFTExample("q", "cot", f"What is {n} + 1?", f"[cot] It is {n + 1}.") for n in range(4)]
PAIRS = [PreferencePair("q", "inter", row.prompt, f"yes {n}", "it is not so") for n, row in enumerate(ROWS)]
SETTINGS = TrainingSettings(
    lora=LoRASettings(rank=4, alpha=8), batch_size=2, gradient_accumulation=1, sft_epochs=2, sft_learning_rate=1e-2
)
COMMIT = "70d244cc86ccca08cf5af4e1e306ecf908b1ad5e"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def stages(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Checkpoint]:
    room, trainer = tmp_path_factory.mktemp("checkpoints"), TRLTrainer(folder, SETTINGS)
    sft = trainer.sft(ROWS, start=None, output=room / "sft", seed=3)
    return sft, trainer.dpo(PAIRS, start=sft, output=room / "dpo1", seed=4)


def record_of(checkpoint: Checkpoint) -> dict[str, object]:
    return json.loads((checkpoint.path / TRAINED_FROM).read_text(encoding="utf-8"))


def test_a_checkpoint_names_its_base_rows_settings_parent_and_libraries(
    folder: Path, stages: tuple[Checkpoint, Checkpoint]
) -> None:
    sft, dpo = map(record_of, stages)
    assert (sft["base"], sft["revision"], sft["sha256"]) == ("tiny", None, fingerprint_of(folder))
    assert (sft["stage"], sft["seed"], sft["rows"], sft["parent"]) == ("sft", 3, 4, None)
    assert (dpo["stage"], dpo["seed"]) == ("dpo1", 4)
    assert dpo["parent"] == {"stage": "sft", "sha256": stages[0].fingerprint}
    lines = "".join(f"{json.dumps([row.prompt, row.completion])}\n" for row in ROWS)
    assert sft["data_sha256"] == sha256(lines.encode()).hexdigest()
    assert sft["settings"]["lora"] == {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": "all-linear"}
    assert sft["settings"]["gradient_checkpointing"] is False, "what None came to"
    modules = {"torch": torch, "transformers": transformers, "peft": peft, "trl": trl}
    assert sft["versions"] == {name: str(module.__version__) for name, module in modules.items()}
    assert not {str(folder.parent), str(Path.home())} & set(json.dumps([sft, dpo]).split('"'))


@pytest.mark.slow
def test_other_rows_or_another_order_have_another_hash(folder: Path, tmp_path: Path) -> None:
    trainer = TRLTrainer(folder, replace(SETTINGS, sft_epochs=1))
    found = [
        record_of(trainer.sft(rows, start=None, output=tmp_path / str(n), seed=0))["data_sha256"]
        for n, rows in enumerate((ROWS, ROWS[::-1], ROWS[:3], ROWS))
    ]
    assert found[0] == found[3]
    assert len(set(found)) == 3


def test_a_record_of_an_earlier_version_is_still_read(
    folder: Path, stages: tuple[Checkpoint, Checkpoint], tmp_path: Path
) -> None:
    older = Path(shutil.copytree(stages[0].path, tmp_path / "sft"))
    (older / TRAINED_FROM).write_text(json.dumps({"base": "tiny", "sha256": fingerprint_of(folder)}))
    SupplementGenerator(folder).with_checkpoint(older).check()
    (older / TRAINED_FROM).write_text(json.dumps({"base": "tiny", "sha256": "0" * 64}))
    with pytest.raises(GeneratorNotFoundError, match="another base model"):
        SupplementGenerator(folder).with_checkpoint(older).check()


def test_peft_alone_loads_the_folder_and_computes_what_the_engine_computes(
    folder: Path, stages: tuple[Checkpoint, Checkpoint]
) -> None:
    engine = LocalEngine(folder, adapter=stages[1].path, dtype="float32", device="cpu")
    (reply,) = engine.sample(requests(["What is 2 + 1?"], seeds=[0], temperature=0.0, max_new_tokens=1))
    text = render_chat(engine.tokenizer, [{"role": "user", "content": "What is 2 + 1?"}])
    ids = torch.tensor([engine.tokenizer(text, add_special_tokens=False)["input_ids"]])
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    bare = plain(ids).logits[0, -1].log_softmax(-1).max().item()
    adapted = PeftModel.from_pretrained(plain, stages[1].path)
    found = adapted(ids).logits[0, -1].log_softmax(-1).max().item()
    assert found == pytest.approx(reply.logprob, abs=1e-5)
    assert found != pytest.approx(bare, abs=1e-3)
    assert AutoPeftModelForCausalLM.from_pretrained(stages[1].path)(ids).logits.shape == (1, ids.shape[1], 259)


def test_the_adapters_config_has_what_vllm_reads_and_nothing_it_refuses(
    stages: tuple[Checkpoint, Checkpoint],
) -> None:
    """vLLM takes LoRA's rank, alpha and targets from it; it refuses biases, extra modules and DoRA."""
    for stage in stages:
        config = json.loads((stage.path / ADAPTER).read_text(encoding="utf-8"))
        assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 8)
        projections = {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}
        assert isinstance(config["target_modules"], list)
        assert {name.rpartition(".")[2] for name in config["target_modules"]} == projections, "vLLM reads the last part"
        assert (config["bias"], config["modules_to_save"], config["use_dora"]) == ("none", None, False)
        assert config["inference_mode"] is True


def test_an_adapter_of_a_hubs_model_names_its_id_and_commit_and_no_path(folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--some--tiny-model" / "snapshots" / COMMIT
    shutil.copytree(folder, snapshot)
    assert origin_of(snapshot) == ("some/tiny-model", COMMIT)
    trainer = TRLTrainer(snapshot, replace(SETTINGS, sft_epochs=1))
    sft = trainer.sft(ROWS, start=None, output=tmp_path / "sft", seed=0)
    dpo = trainer.dpo(PAIRS, start=sft, output=tmp_path / "dpo", seed=0)
    for stage in (sft, dpo):
        config = json.loads((stage.path / ADAPTER).read_text(encoding="utf-8"))
        assert (config["base_model_name_or_path"], config["revision"]) == ("some/tiny-model", COMMIT)
        assert (record_of(stage)["base"], record_of(stage)["revision"]) == ("some/tiny-model", COMMIT)
        written = (stage.path / ADAPTER).read_text() + (stage.path / TRAINED_FROM).read_text()
        assert str(tmp_path) not in written


def test_a_whole_model_carries_its_lineage_too(folder: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, lora=None, sft_epochs=1)
    whole = TRLTrainer(folder, settings).sft(ROWS, start=None, output=tmp_path / "sft", seed=0)
    assert record_of(whole)["settings"]["lora"] is None
    assert record_of(whole)["sha256"] == fingerprint_of(folder)
