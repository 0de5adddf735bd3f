"""What `sgt up` prints to use its servers makes the endpoint that it describes."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import dspy
import pytest
from runtime_fixtures import tiny_adapter, tiny_model

from optimizers import SGTTeleprompter
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules import Endpoint, ServedFolder, SGLangLoRA, VLLMLoRA
from sgt_modules.errors import GeneratorNotFoundError, SetupError
from sgt_modules.remote.engines import ENGINES, EngineName
from sgt_modules.remote.local_models import find_model
from sgt_modules.remote.publishing import sampling_folder
from sgt_modules.remote.server_use import ServedModel, can_think, options_for, python_for, served_generator
from sgt_modules.saving.weights import resolve

PUBLISH = {"vllm": VLLMLoRA, "sglang": SGLangLoRA, "transformers": ServedFolder}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("weights") / "base")


@pytest.mark.parametrize("thinks", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_printed_python_makes_the_endpoint_of_the_options(
    base: Path, tmp_path: Path, engine: EngineName, thinks: bool
) -> None:
    folder = tmp_path / 'a "model"'
    shutil.copytree(base, folder)
    if thinks:
        (folder / "chat_template.jinja").write_text("{% if enable_thinking %}<think>{% endif %}")
    served = ServedModel(engine, str(folder), "http://127.0.0.1:8000/v1")
    lm = ServedModel(engine, "Qwen/Qwen3-8B", "http://127.0.0.1:8001/v1")
    names: dict[str, object] = {"metric": lambda example, prediction, trace=None: True}
    alone = dict(names)
    with dspy.context():
        source = python_for(served, lm, thinks=can_think(folder)).replace("dspy.configure(lm=lm)", "")
        exec(source, names)
        exec(python_for(served, None, thinks=can_think(folder)), alone)
    made, actor, options = alone["generator"], names["lm"], shlex.split(shlex.join(options_for(served, lm)))
    assert isinstance(made, Endpoint)
    assert isinstance(names["generator"], Endpoint)
    assert names["generator"].lm.dump_state() == made.lm.dump_state()
    assert isinstance(made.publish, PUBLISH[engine])
    assert isinstance(names["sgt"], SGTTeleprompter)
    assert isinstance(names["sgt"].trainer, TRLTrainer)
    assert isinstance(actor, dspy.LM)
    assert (actor.model, actor.kwargs["api_base"]) == ("openai/Qwen/Qwen3-8B", lm.address)
    read = dict(zip(options[::2], options[1::2], strict=True))
    again = served_generator(ServedModel.parse(read["--generator"], read["--generator-at"]))
    assert again.lm.dump_state() == made.lm.dump_state()
    assert ("extra_body" in again.lm.kwargs) == thinks
    assert type(again.publish) is type(made.publish)
    assert (read["--lm"], read["--api-base"]) == ("openai/Qwen/Qwen3-8B", "http://127.0.0.1:8001/v1")


@pytest.mark.parametrize("place", ["", "vllm", "vllm@", "ollama@http://127.0.0.1:1/v1", "http://127.0.0.1:1/v1"])
def test_a_place_of_another_form_is_refused(place: str) -> None:
    with pytest.raises(SetupError, match="Expected a server as ENGINE@ADDRESS with one of vllm, sglang, transformers"):
        ServedModel.parse("model", place)


def test_a_folder_to_sample_from_differs_in_its_sampling_alone(base: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(base, source)
    own = {"eos_token_id": 2, "do_sample": False, "temperature": 0.6, "top_k": 20, "top_p": 0.9}
    (source / "generation_config.json").write_text(json.dumps(own))
    made = sampling_folder(source, tmp_path / "models", "tiny")
    config = json.loads((made / "generation_config.json").read_text())
    assert config == {"eos_token_id": 2, "do_sample": True, "top_k": 0}
    assert json.loads((source / "generation_config.json").read_text()) == own
    assert resolve(made) == made
    for file in source.iterdir():
        if file.name != "generation_config.json":
            assert (made / file.name).read_bytes() == file.read_bytes()
    assert sampling_folder(source, tmp_path / "models", "tiny") == made
    (source / "generation_config.json").unlink()
    bare = sampling_folder(source, tmp_path / "others", "tiny")
    assert json.loads((bare / "generation_config.json").read_text()) == {"do_sample": True, "top_k": 0}
    adapter = Path(ServedFolder(made)(tiny_adapter(base, tmp_path / "sft")))
    assert json.loads((adapter / "generation_config.json").read_text()) == config


def test_a_model_that_is_not_here_says_what_to_do(base: Path, tmp_path: Path) -> None:
    assert find_model(str(base), download=False) == base
    with pytest.raises(GeneratorNotFoundError, match=r"Run `hf download no/such`, add --download, or pass the folder"):
        find_model("no/such", download=False)
    with pytest.raises(GeneratorNotFoundError, match="No such folder is on this machine"):
        find_model(str(tmp_path / "gone"), download=False)
    with pytest.raises(GeneratorNotFoundError, match="Save the model with save_pretrained"):
        find_model(str(tmp_path), download=False)


def test_a_model_in_the_hubs_cache_that_is_pickled_alone_is_to_be_converted_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--some--model"
    files = cached / "snapshots" / "0123abc"
    files.mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(files.name)
    (files / "config.json").write_text("{}")
    (files / "training_args.bin").touch()  # a Trainer's settings, no weights
    with pytest.raises(GeneratorNotFoundError, match=r"nor complete in the hub's cache. Run `hf download some/model`"):
        find_model("some/model", download=False)
    (files / "pytorch_model.bin").touch()
    with pytest.raises(GeneratorNotFoundError, match=r"got only \['pytorch_model.bin'\].* Convert them") as refused:
        find_model("some/model", download=False)
    assert "hf download" not in str(refused.value)
