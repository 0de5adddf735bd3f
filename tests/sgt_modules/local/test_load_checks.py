"""What is checked of a model before anything is paid for: its files, its architecture, and what its weights need."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import dspy
import pytest
from families import FAMILIES, family_model, pictures_model
from paid_calls import PayingEngine, right
from runtime_fixtures import tiny_model
from safetensors.torch import load_file
from sample_requests import requests
from scripted import ScriptedEngine, reply
from transformers import AutoModelForCausalLM

from optimizers import Recipe, SGTTeleprompter, TrainingSettings
from optimizers.core.records import PreferencePair, SFTExample
from optimizers.store.rollout_store import RolloutStore
from optimizers.training.trainer import LoRASettings
from optimizers.training.trl_arguments import build_non_text_pattern
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules import SupplementGenerator
from sgt_modules.errors import GeneratorNotFoundError, SetupError
from sgt_modules.generator_prompt import COMPACT, SHORTENED
from sgt_modules.local.engine import LocalEngine

# PEFT 0.21 asks transformers 5.23 by a deprecated name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("whole") / "tiny")


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    """A copy of a model that can be loaded, to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "tiny"))


def configured(folder: Path, **changes: object) -> Path:
    """The folder with another config.json; None takes a setting out."""
    file = folder / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
    return folder


PICTURES: dict[str, object] = {
    "model_type": "qwen2_5_vl", "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "vision_config": {"depth": 1, "hidden_size": 32, "num_heads": 2},
}  # fmt: skip
"""What makes a checkpoint's config that of a model of pictures and text."""

SPOILT: dict[str, tuple[dict[str, object], str]] = {
    "vision-language": (
        PICTURES,
        r"causal language model, got .*Qwen2_5_VLForCond.*no AutoModelForCausalLM.* use the text model of its family",
    ),
    "encoder and decoder": (
        {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]},
        r"T5ForConditionalGeneration.*Use a model made for chat",
    ),
    "another head": (
        {"architectures": ["Qwen3ForSequenceClassification"]},
        r"head that writes text, as Qwen3ForCausalLM has, got .* saved as Qwen3ForSequenceClassification",
    ),
    "newer than transformers": ({"model_type": "qwen99"}, r"qwen99.*pip install --upgrade transformers"),
    "settings that contradict": ({"num_hidden_layers": "many"}, r"Expected a config.json that transformers .* can"),
    "bitsandbytes": (
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        r"quantised by bitsandbytes and cannot be: .*pip install -U bitsandbytes.*without quantisation",
    ),
    "GPTQ": (
        {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}},
        r"quantised by gptq and cannot be: .*pip install optimum",
    ),
    "AWQ": (
        {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}},
        r"quantised by awq and cannot be: .*pip install gptqmodel",
    ),
    "a quantisation of nobody": (
        {"quantization_config": {"quant_method": "exl2", "bits": 4}},
        r"quantised by exl2 and cannot be: Unknown quantization type",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", SPOILT)
def test_a_checkpoint_that_cannot_be_loaded_fails_its_check_with_what_is_missing_and_what_to_do(
    model: Path, kind: str
) -> None:
    LocalEngine(model).check()
    changes, message = SPOILT[kind]
    configured(model, **changes)
    with pytest.raises(GeneratorNotFoundError, match=message):
        LocalEngine(model).check()
    with pytest.raises(GeneratorNotFoundError, match=message):
        TRLTrainer(model).check()


def examples(*numbers: int) -> list[dspy.Example]:
    return [dspy.Example(question=f"{n}+1?", answer=str(n + 1)).with_inputs("question") for n in numbers]


def teleprompter(
    generator: SupplementGenerator | Path, metric: Callable[..., object] = right, **changes: object
) -> SGTTeleprompter:
    recipe = Recipe(rounds=1, warm_samples=1, pool_samples=1, ood_kinds=0, concat=0)
    return SGTTeleprompter(metric, generator, recipe=recipe, num_threads=1, display_progress=False, **changes)


@pytest.mark.parametrize("kind", ["vision-language", "bitsandbytes", "GPTQ", "AWQ"])
def test_a_compile_with_such_a_checkpoint_pays_for_no_call(model: Path, tmp_path: Path, kind: str) -> None:
    actor = PayingEngine(tmp_path / "paid")
    configured(model, **SPOILT[kind][0])
    with dspy.context(lm=actor.lm()), pytest.raises(GeneratorNotFoundError, match=SPOILT[kind][1]):
        teleprompter(model).compile(dspy.Predict("question -> answer"), trainset=examples(1, 2), valset=examples(3))
    assert actor.paid() == []


def test_a_trainer_of_another_model_is_checked_before_anything_is_paid_too(model: Path, tmp_path: Path) -> None:
    actor, other = PayingEngine(tmp_path / "paid"), tmp_path / "nothing-here"
    with dspy.context(lm=actor.lm()), pytest.raises(GeneratorNotFoundError, match="nothing-here"):
        teleprompter(model, trainer=TRLTrainer(other)).compile(
            dspy.Predict("question -> answer"), trainset=examples(1, 2), valset=examples(3)
        )
    assert actor.paid() == []


def test_all_weights_of_a_quantised_model_cannot_be_trained(model: Path) -> None:
    """FP8 is widened where no GPU computes it, so it can be loaded anywhere."""
    configured(model, quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})
    TRLTrainer(model).check()
    with pytest.raises(SetupError, match=r"Expected whole weights to train, got .* quantised by fp8"):
        TRLTrainer(model, TrainingSettings(lora=None)).check()


def sharded(model: Path) -> list[str]:
    """The model's weights in several files with their index, and their names."""
    AutoModelForCausalLM.from_pretrained(model).save_pretrained(model, max_shard_size="20KB")
    (model / "model.safetensors").unlink(missing_ok=True)
    return sorted(each.name for each in model.glob("*.safetensors"))


def lost(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def a_pointer(file: Path) -> None:
    """What a clone without Git LFS holds in place of a large file."""
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lost, r"Expected the \d+ shards that model\.safetensors\.index\.json names .* 1 of them .*missing: {}\. "),
        (cut, r"bytes of weights in .*{}.* as its header says"),
        (a_pointer, r"Expected weights in safetensors, got .*{}.* damaged or in another format"),
    ],
)  # fmt: skip
def test_a_shard_that_is_lost_cut_or_a_pointer_is_named(
    model: Path, spoil: Callable[[Path], None], message: str
) -> None:
    names = sharded(model)
    assert len(names) > 2
    LocalEngine(model).check()
    spoil(model / names[1])
    with pytest.raises(GeneratorNotFoundError, match=message.format(names[1].replace(".", r"\."))):
        LocalEngine(model).check()


def test_shards_without_their_index_and_shards_of_another_model_are_named(model: Path) -> None:
    names = sharded(model)
    index = model / "model.safetensors.index.json"
    said = json.loads(index.read_text())
    index.write_text(json.dumps(said | {"weight_map": said["weight_map"] | {"model.more.weight": names[0]}}))
    with pytest.raises(GeneratorNotFoundError, match=rf"{names[0]} of .*1 of them are not there, such as model\.more"):
        LocalEngine(model).check()
    index.write_text("{")
    with pytest.raises(GeneratorNotFoundError, match=r"with a weight_map in .*cut or no JSON"):
        LocalEngine(model).check()
    index.unlink()
    with pytest.raises(GeneratorNotFoundError, match=r"Expected model\.safetensors, or shards with"):
        LocalEngine(model).check()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_that_runs_passes_its_check(name: str, tmp_path: Path) -> None:
    LocalEngine(family_model(FAMILIES[name], tmp_path / "model")).check()


def test_lora_leaves_the_vision_tower_of_a_multimodal_model_alone(tmp_path: Path) -> None:
    """Gemma 3 with a tower for pictures: SFT and then DPO train the language model's layers, and no other."""
    folder = pictures_model(tmp_path / "pictures")
    LocalEngine(folder).check()
    tower = {name for name, _ in AutoModelForCausalLM.from_pretrained(folder).named_modules() if "vision_tower" in name}
    assert any(name.endswith("q_proj") for name in tower)
    settings = TrainingSettings(
        lora=LoRASettings(rank=2), batch_size=2, gradient_accumulation=1, sft_epochs=1, dpo_epochs=1
    )
    trainer = TRLTrainer(folder, settings)
    sft = trainer.sft([SFTExample("q", "free", "Say it.", "ok")] * 2, start=None, output=tmp_path / "sft", seed=0)
    pairs = [PreferencePair("q", "free", "Say it.", "ok", "no")] * 2
    dpo = trainer.dpo(pairs, start=sft, output=tmp_path / "dpo", seed=0)
    for checkpoint in (sft, dpo):
        trained = set(load_file(checkpoint.path / "adapter_model.safetensors"))
        assert trained
        assert all(".language_model.layers." in name for name in trained)
    plain, adapted = (LocalEngine(folder, adapter=each, device="cpu") for each in (None, dpo.path))
    adapted.check()
    assert [
        each.sample(requests(["Say it."], seeds=[0], max_new_tokens=4))[0].tokens > 0 for each in (plain, adapted)
    ] == [True] * 2


def test_a_model_of_text_alone_has_only_a_language_part(whole: Path) -> None:
    assert build_non_text_pattern(AutoModelForCausalLM.from_pretrained(whole)) is None


def tasks(*fields: str) -> list[dspy.Example]:
    """Examples that are long in each of these fields, and differ in the first."""
    return [
        dspy.Example(**dict.fromkeys(fields, f"{n}+1? {'Please. ' * 400}"), answer=str(n + 1)).with_inputs(*fields)
        for n in range(4)
    ]


@pytest.mark.parametrize(
    ("fields", "settings", "message"),
    [
        (tuple(f"part{number}" for number in range(8)), TrainingSettings(), "context of 512 tokens"),
        (("question",), TrainingSettings(max_length=300), r"the 300 that training takes \(max_length\)"),
    ],
    ids=["longer than the context", "longer than training takes"],
)
def test_examples_that_are_all_too_long_for_the_generator_end_a_compile_before_anything_is_paid(
    model: Path, tmp_path: Path, fields: tuple[str, ...], settings: TrainingSettings, message: str
) -> None:
    """Eight fields of which 160 characters and a mark stay each are 1,400 tokens of this model, a token a byte."""
    actor, long = PayingEngine(tmp_path / "paid"), tasks(*fields)
    generator = SupplementGenerator(model, prompt=COMPACT, max_new_tokens=16)
    with dspy.context(lm=actor.lm()), pytest.raises(SetupError, match=message):
        teleprompter(generator, trainer=TRLTrainer(model, settings)).compile(
            dspy.Predict(f"{', '.join(fields)} -> answer"), trainset=long[:3], valset=long[3:]
        )
    assert actor.paid() == []


def odd(example: dspy.Example, prediction: dspy.Prediction) -> bool:
    """Whether the answer is 1, which by a checksum of what it reads a half of a scripted actor's answers are."""
    return prediction.answer == "1"


def test_a_compile_goes_to_its_end_where_inputs_are_longer_than_the_generators_context(
    tmp_path: Path, model: Path
) -> None:
    """Real training on rows of inputs that were shortened: 3,200 characters in a context of 512 bytes, a token each."""
    actor = ScriptedEngine(lambda text: reply(answer=str(crc32(text.encode()) % 2)))
    generator, long = SupplementGenerator(model, prompt=COMPACT, max_new_tokens=16), tasks("question")
    settings = TrainingSettings(lora=LoRASettings(rank=2), batch_size=8, sft_epochs=1, dpo_epochs=1)
    log = tmp_path / "run"
    with dspy.context(lm=actor.lm()):
        better = teleprompter(generator, odd, trainer=TRLTrainer(model, settings), log_dir=log).compile(
            dspy.Predict("question -> answer"), trainset=long[:3], valset=long[3:]
        )
    result = better.detailed_results
    with RolloutStore(log / "rollouts.sqlite") as store:
        prompts = {rollout.query.prompt for rollout in store.rollouts()}
    assert all(SHORTENED in prompt and generator.engine.count(prompt) < 512 for prompt in prompts)
    assert [stage.name for stage in result.stages][:2] == ["none", "sft"]
    assert any("were too long for" in note for note in result.notes)
