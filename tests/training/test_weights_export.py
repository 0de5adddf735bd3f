"""Exported weights: another engine writes the same greedy text, and a card says where they come from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from real_models import ACTOR, real_model
from runtime_fixtures import tiny_adapter, tiny_model
from safetensors.torch import load_file, save_file
from small_compile import compiled, helped
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from optimizers.cli import app
from optimizers.observe.model_card import find_checkpoint
from optimizers.observe.report import read_run
from optimizers.training.provenance import hash_files
from optimizers.training.weights_export import write_weights
from sgt_modules.embedded import HouseTermsWorld, Sizes
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.errors import GeneratorNotFoundError, RunFolderError, SetupError
from sgt_modules.local.engine import LocalEngine
from sgt_modules.samples import SampleRequest
from sgt_modules.saving.weights import record_base

PROMPTS = [f"How many orders are {word}?" for word in ("large", "late", "kelo", "new", "open")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the embedded generator, with weights of `sft` and `dpo1`."""
    folder = tmp_path_factory.mktemp("run")
    compiled(helped, folder)
    return folder


def greedy(engine: LocalEngine, prompts: Sequence[str]) -> list[str]:
    return [each.text for each in engine.samples([SampleRequest(prompt, temperature=0.0) for prompt in prompts])]


def test_a_merged_model_of_the_embedded_generator_writes_the_same_text_on_a_hundred_prompts(
    run: Path, tmp_path: Path
) -> None:
    world = HouseTermsWorld(7, sizes=Sizes(train=60, validation=20, test=20, shifted=4, terms=8, shifted_terms=4))
    prompts = [each.question for split in world.splits.values() for each in split][:100]
    assert len(prompts) == 100
    to = ["--to", "merged", "--output", str(tmp_path / "m"), "--stage", "dpo1"]
    result = CliRunner().invoke(app, ["export", str(run), *to])
    assert result.exit_code == 0, result.output
    base = embedded_folder("generator")
    noise = tiny_adapter(base, tmp_path / "noise")
    write_weights(noise, "merged", tmp_path / "noisy", base=base)
    bare = greedy(LocalEngine(base, max_new_tokens=24), prompts)
    for adapter, merged in ((run / "checkpoints" / "dpo1", tmp_path / "m"), (noise, tmp_path / "noisy")):
        said = greedy(LocalEngine(base, adapter=adapter, max_new_tokens=24), prompts)
        assert greedy(LocalEngine(merged, max_new_tokens=24), prompts) == said
    assert said != bare


def test_transformers_loads_a_merged_model_with_its_tokenizer_template_and_tied_weights(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    write_weights(tiny_adapter(base, tmp_path / "sft"), "merged", tmp_path / "merged")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(base).chat_template
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert not list((tmp_path / "merged").glob("adapter*"))
    merged, trained = LocalEngine(tmp_path / "merged"), LocalEngine(base, adapter=tmp_path / "sft")
    assert greedy(merged, PROMPTS) == greedy(trained, PROMPTS)


def test_half_precision_is_asked_for_by_name_and_another_word_is_refused(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    adapter = tiny_adapter(base, tmp_path / "sft")
    write_weights(adapter, "merged", tmp_path / "half", dtype="bfloat16")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype="auto").dtype == torch.bfloat16
    with pytest.raises(SetupError, match="Expected dtype 'auto' or one of float32, bfloat16, float16, got 'int4'"):
        write_weights(adapter, "merged", tmp_path / "other", dtype="int4")


def test_an_adapter_is_exported_as_it_is_and_opens_over_its_base(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "adapter"
    result = CliRunner().invoke(
        app, ["export", str(run), "--to", "adapter", "--output", str(output), "--stage", "sft", "--licence", "mit"]
    )
    assert result.exit_code == 0, result.output
    theirs = LocalEngine(embedded_folder("generator"), adapter=run / "checkpoints" / "sft", max_new_tokens=24)
    ours = LocalEngine(embedded_folder("generator"), adapter=output, max_new_tokens=24)
    assert greedy(ours, PROMPTS) == greedy(theirs, PROMPTS)
    card = (output / "README.md").read_text(encoding="utf-8")
    trained = json.loads((output / "trained_from.json").read_text(encoding="utf-8"))
    assert card.startswith("---\nlibrary_name: peft\n"), "the hub takes no base_model that is not on a hub"
    assert (
        json.loads((output / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
        == trained["base"]
    )
    assert trained["files"]["adapter_config.json"] == hash_files(output)["adapter_config.json"]
    assert "\nlicense: mit\n" in card
    assert f"| data_sha256 | {trained['data_sha256']} |" in card
    assert "| sft | val | " in card or "| **sft** | val | " in card
    assert "| warm_samples | 1 |" in card


def test_what_cannot_be_exported_is_named(run: Path, tmp_path: Path) -> None:
    base, other = tiny_model(tmp_path / "base"), tiny_model(tmp_path / "other", seed=1)
    adapter = tiny_adapter(base, tmp_path / "sft")
    record_base(adapter, base)
    with pytest.raises(SetupError, match="Expected the base that the adapter was trained from"):
        write_weights(adapter, "merged", tmp_path / "merged", base=other)
    with pytest.raises(SetupError, match="got a whole model"):
        write_weights(base, "adapter", tmp_path / "merged")
    with pytest.raises(GeneratorNotFoundError):
        write_weights(adapter, "merged", tmp_path / "merged", base=tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match="holds something already"):
        write_weights(adapter, "merged", base)
    assert not (tmp_path / "merged").exists()
    for stage in ("dpo9", "none"):
        with pytest.raises(RunFolderError, match=f"Expected weights of the stage '{stage}' in .*, got dpo1, sft"):
            find_checkpoint(read_run(run), stage)


def test_a_whole_model_is_copied_as_it_is(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    write_weights(base, "merged", tmp_path / "merged")
    assert (tmp_path / "merged" / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.real_model
def test_a_merged_real_model_writes_the_same_text_on_a_hundred_prompts(tmp_path: Path) -> None:
    base = real_model(ACTOR)
    adapter = tiny_adapter(base, tmp_path / "sft", seed=3)
    weights = adapter / "adapter_model.safetensors"  # noise of a trained adapter's size: more leaves no text
    save_file({name: each * (0.02 if "lora_B" in name else 1) for name, each in load_file(weights).items()}, weights)
    write_weights(adapter, "merged", tmp_path / "merged", base=base, dtype="float32")
    prompts = [f"{left} times {right} is" for left in range(2, 12) for right in range(3, 13)]
    settings = {"dtype": "float32", "max_new_tokens": 8}
    merged, trained = LocalEngine(tmp_path / "merged", **settings), LocalEngine(base, adapter=adapter, **settings)
    said = greedy(trained, prompts)
    assert greedy(merged, prompts) == said
    assert said != greedy(LocalEngine(base, **settings), prompts)
