"""An adapter from elsewhere becomes a stage of a run: checked, scored and compared as the run's own are."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest
from runtime_fixtures import tiny_adapter
from safetensors.torch import load_file, save_file
from scripted import ScriptedEngine
from small_compile import WORLD, compiled, gold, helped, teleprompter

from optimizers.core.result import result_of
from optimizers.core.run_folder import RunFolder
from optimizers.integrations.adopting import ADOPTED_FILE, Adopted, adopt
from optimizers.observe.model_card import find_checkpoint
from optimizers.observe.report import read_run
from sgt_modules import LocalEngine, SupplementGenerator, errors, load_program, save_program, supplement
from sgt_modules.embedded import embedded_generator, program
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.saving.weights import ADAPTER, ADAPTER_WEIGHTS, TRAINED_FROM

BASE = embedded_folder("generator")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's folder."""
    folder = tmp_path_factory.mktemp("before") / "run"
    compiled(helped, folder)
    return folder


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "run")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return tiny_adapter(BASE, tmp_path / "from-a-cluster")


def adopted(run: Path, adapter: Path, script: Callable[[str], str] = helped, **changes: Any) -> tuple[Adopted, int]:
    """The adopted stage, and how many calls of the actor it took."""
    engine = ScriptedEngine(script)
    settings: dict[str, Any] = {
        "name": "grpo-cluster",
        "program": program(),
        "metric": WORLD.metric,
        "valset": WORLD.val,
        "generator": embedded_generator(),
        "num_threads": 4,
    }
    with dspy.context(lm=engine.lm()):
        return adopt(run, adapter, **settings | changes), len(engine.asked)


def files(folder: Path) -> dict[str, str]:
    """Every file of a run but its store and locks, by its sha256."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and "sqlite" not in file.name and file.name not in ("run.lock",)
    }


def test_it_is_scored_as_a_stage_and_nothing_that_the_run_recorded_changes(copied: Path, adapter: Path) -> None:
    before = files(copied)
    found, calls = adopted(copied, adapter)
    after = files(copied)
    assert {name: each for name, each in after.items() if name in before} == before
    added = {Path(name).parts[0] for name in after.keys() - before.keys()}
    assert added == {"checkpoints", ADOPTED_FILE}
    assert calls <= len(WORLD.val)
    names = [stage.name for stage in found.result.stages]
    assert names[0] == "none"
    assert names[-1] == "grpo-cluster"
    assert "sft" in names
    own = {stage.stage: stage.score for stage in read_run(copied).scores("val")}
    assert {stage.name: stage.score for stage in found.result.stages} == {name: own[name] for name in names}
    assert found.said.startswith(f"Stage grpo-cluster scores {found.stage.score:.3f} on validation. Against no supp")
    assert json.loads((copied / ADOPTED_FILE).read_text())["grpo-cluster"]["score"] == found.stage.score


def test_its_supplements_are_those_of_the_adapter_in_this_process(copied: Path, adapter: Path) -> None:
    found, _ = adopted(copied, adapter)
    base = embedded_generator()
    trained = SupplementGenerator(
        LocalEngine(BASE, dtype="float32", max_new_tokens=base.max_new_tokens, adapter=adapter),
        max_new_tokens=base.max_new_tokens,
        prompt=base.prompt,
    )
    for rollout in found.stage.rollouts:
        assert rollout.supplement == trained.write(rollout.query.prompt)


def test_again_it_costs_nothing_and_another_adapter_needs_another_name(
    copied: Path, adapter: Path, tmp_path: Path
) -> None:
    first, _ = adopted(copied, adapter)
    again, calls = adopted(copied, adapter)
    assert calls == 0
    assert again.stage.score == first.stage.score
    assert [each.name for each in again.result.stages] == [each.name for each in first.result.stages]
    other = tiny_adapter(BASE, tmp_path / "other", seed=1)
    with pytest.raises(errors.SetupError, match=r"a name that no stage of .* has, got 'grpo-cluster'"):
        adopted(copied, other)
    second, _ = adopted(copied, other, name="grpo-cluster-2")
    assert [each.name for each in second.result.stages][-1] == "grpo-cluster-2"


def test_the_program_is_saved_opened_and_exported_as_any_stage(copied: Path, adapter: Path, tmp_path: Path) -> None:
    found, _ = adopted(copied, adapter)
    assert result_of(found.program) is found.result
    save_program(found.program, tmp_path / "saved" / "program.json")
    opened = supplement(program(), generator=embedded_generator())
    load_program(opened, tmp_path / "saved" / "program.json")
    row = WORLD.val[0]
    with dspy.context(lm=ScriptedEngine(gold).lm()):
        assert opened(**row.inputs()).sql == found.program(**row.inputs()).sql
    generator = found.result.generator_of("grpo-cluster")
    assert generator is not None
    assert find_checkpoint(read_run(copied), "grpo-cluster") == ("grpo-cluster", copied / "checkpoints/grpo-cluster")


def test_the_run_goes_on_in_its_folder_as_before(copied: Path, adapter: Path) -> None:
    adopted(copied, adapter)
    engine = ScriptedEngine(helped)
    with dspy.context(lm=engine.lm()):
        better = teleprompter(copied).compile(program(), trainset=WORLD.train, valset=WORLD.val)
    assert engine.asked == []
    assert "grpo-cluster" not in [stage.name for stage in result_of(better).stages]


def spoil(adapter: Path, **changes: Any) -> None:
    config = json.loads((adapter / ADAPTER).read_text())
    (adapter / ADAPTER).write_text(json.dumps({**config, **changes}))


def no_weights(adapter: Path) -> None:
    (adapter / ADAPTER_WEIGHTS).unlink()


def no_config(adapter: Path) -> None:
    (adapter / ADAPTER).unlink()


def other_rank(adapter: Path) -> None:
    spoil(adapter, r=16)


def other_layers(adapter: Path) -> None:
    spoil(adapter, target_modules=["q_proj", "v_proj"])


def other_kind(adapter: Path) -> None:
    spoil(adapter, peft_type="IA3")


def no_json(adapter: Path) -> None:
    (adapter / ADAPTER).write_text("{")


def wider(adapter: Path) -> None:
    """An adapter of a base whose layers are wider."""
    import torch

    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    wide = {name: torch.cat([each, each], 1) if "lora_A" in name else each for name, each in tensors.items()}
    save_file(wide, adapter / ADAPTER_WEIGHTS)


def other_sha256(adapter: Path) -> None:
    """An adapter of ours that was trained over other weights of the same shapes."""
    (adapter / TRAINED_FROM).write_text(json.dumps({"base": "other", "sha256": "0" * 64}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (no_weights, "Expected a PEFT adapter's folder"),
        (no_config, "Expected a PEFT adapter's folder"),
        (other_rank, "Expected LoRA weights of rank 16 .* got 2"),
        (other_layers, "Expected weights for the layers q_proj, v_proj"),
        (other_kind, "Expected an adapter of PEFT's LoRA in .* got IA3"),
        (no_json, "Expected the config of a LoRA adapter"),
        (wider, "which is for another base model"),
        (other_sha256, "which is for another base model: it was trained over 000000000000"),
    ],
)
def test_a_wrong_adapter_is_refused_before_anything_is_paid_or_written(
    copied: Path, adapter: Path, damage: Callable[[Path], None], said: str
) -> None:
    damage(adapter)
    before = files(copied)
    with pytest.raises(errors.SetupError, match=said):
        adopted(copied, adapter)
    assert files(copied) == before


@pytest.mark.parametrize("name", ["sft", "dpo7", "none", "gated", "Über", "a/b", ""])
def test_a_name_of_the_method_or_of_no_folder_is_refused(copied: Path, adapter: Path, name: str) -> None:
    with pytest.raises(errors.SetupError, match="Expected a new stage's name"):
        adopted(copied, adapter, name=name)


def test_what_cannot_be_compared_with_the_run_is_refused(copied: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.RunFolderError, match="Expected the validation set of the run"):
        adopted(copied, adapter, valset=WORLD.val[:2])
    with pytest.raises(errors.RunFolderError, match="Expected the metric of the run"):
        adopted(copied, adapter, metric=lambda example, prediction: 1.0)
    with pytest.raises(
        errors.RunFolderError, match=r"Expected the generator of the run .* got another: max_new_tokens"
    ):
        adopted(copied, adapter, generator=SupplementGenerator(BASE, prompt=embedded_generator().prompt))
    with pytest.raises(errors.RunFolderError, match="Expected a run of SGTTeleprompter"):
        adopted(tmp_path / "nowhere", adapter)
    with RunFolder(copied).lock(), pytest.raises(errors.RunFolderError, match="is in use"):
        adopted(copied, adapter)


def test_a_run_of_several_actors_is_refused(copied: Path, adapter: Path) -> None:
    content = json.loads((copied / "run.json").read_text())
    content["settings"]["actors"] = {"scripted/a": "1f", "scripted/b": "2e"}
    (copied / "run.json").write_text(json.dumps(content))
    with pytest.raises(
        errors.RunFolderError, match=r"Expected a run of one actor in .*, got one of scripted/a, scripted/b"
    ):
        adopted(copied, adapter)


def test_a_base_of_another_name_is_noted(copied: Path, adapter: Path) -> None:
    spoil(adapter, base_model_name_or_path="somebody/else-1b")
    found, _ = adopted(copied, adapter)
    assert found.result.notes[0].startswith("The adapter's config names somebody/else-1b as its base model")
