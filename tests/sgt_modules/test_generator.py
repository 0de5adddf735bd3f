from __future__ import annotations

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dspy
import pytest
from runtime_fixtures import tiny_adapter, tiny_generator, tiny_model
from sample_requests import requests

from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules import SupplementGenerator
from sgt_modules.errors import GeneratorNotFoundError
from sgt_modules.remote.local_models import find_model
from sgt_modules.replies import read_reply
from sgt_modules.samples import SampleRequest

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def generator(folder: Path) -> SupplementGenerator:
    return tiny_generator(folder)


def test_samples_are_parsed_replies_with_their_tokens(generator: SupplementGenerator) -> None:
    replies = generator.engine.sample(requests(["a", "b"], seeds=[1, 2], max_new_tokens=12))
    drawn = generator.sample(["a", "b"], seeds=[1, 2])
    assert [each.supplement for each in drawn] == [read_reply(reply.text, ended=not reply.cut) for reply in replies]
    assert [(each.tokens, each.logprob) for each in drawn] == [(reply.tokens, reply.logprob) for reply in replies]


def test_a_generator_and_its_trainer_may_be_named_as_an_actor_is(folder: Path) -> None:
    """`local:` is how an actor's hub id begins; it says nothing new of a generator."""
    assert SupplementGenerator(f"local:{folder}").fingerprint == SupplementGenerator(folder).fingerprint
    assert SupplementGenerator("local:Qwen/Qwen3-1.7B").name == "Qwen3-1.7B"
    assert TRLTrainer("local:Qwen/Qwen3-1.7B").model == "Qwen/Qwen3-1.7B"
    assert find_model(f"local:{folder}", download=False) == folder


def test_threads_that_write_at_once_get_what_each_would_get_alone(generator: SupplementGenerator) -> None:
    prompts = [f"prompt {place}" for place in range(16)]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(generator.write, prompts))
    assert together == [generator.write(prompt) for prompt in prompts]


def test_writing_is_counted_as_usage_under_the_generators_name(generator: SupplementGenerator) -> None:
    with dspy.track_usage() as tracker:
        generator.write("a")
    (usage,) = tracker.get_total_tokens().items()
    reply = generator.engine.ask(SampleRequest("a", max_new_tokens=12))
    assert usage == (
        "tiny",
        {
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.tokens,
            "total_tokens": reply.prompt_tokens + reply.tokens,
        },
    )


def test_a_checkpoint_is_an_adapter_or_a_whole_model(
    generator: SupplementGenerator, folder: Path, tmp_path: Path
) -> None:
    adapted = generator.with_checkpoint(tiny_adapter(folder, tmp_path / "sft"))
    whole = generator.with_checkpoint(tiny_model(tmp_path / "full", seed=3))
    assert (adapted.name, whole.name) == ("tiny+sft", "full")
    assert len({each.engine.fingerprint for each in (generator, adapted, whole)}) == 3
    assert (adapted.engine.model, adapted.max_new_tokens) == (generator.engine.model, 12)


def test_nothing_is_looked_for_before_the_first_use(tmp_path: Path) -> None:
    missing = SupplementGenerator(tmp_path / "nothing")
    with pytest.raises(GeneratorNotFoundError, match="hub id such as"):
        missing.check()
    with pytest.raises(GeneratorNotFoundError, match="nothing"):
        missing.write("a")


def test_a_saved_generator_is_a_small_reference_that_writes_the_same(generator: SupplementGenerator) -> None:
    state = json.loads(json.dumps(generator.dump_state()))
    restored = SupplementGenerator.from_state(state)
    assert set(state) == {
        *("model", "revision", "adapter", "sha256", "adapter_sha256"),
        *("dtype", "temperature", "max_new_tokens", "max_prompt_tokens", "prompt"),
    }
    assert restored.write("a") == generator.write("a")
    assert pickle.loads(pickle.dumps(generator)).write("a") == generator.write("a")


def test_the_predictors_of_a_loaded_program_share_one_generator(generator: SupplementGenerator) -> None:
    state = generator.dump_state()
    assert SupplementGenerator.from_state(state) is SupplementGenerator.from_state(state)


def test_weights_that_changed_after_saving_are_refused_at_first_use(tmp_path: Path) -> None:
    generator = tiny_generator(tiny_model(tmp_path / "tiny", seed=1))
    state = generator.dump_state()
    tiny_model(tmp_path / "tiny", seed=2)
    other = tiny_generator(tmp_path / "tiny")
    other.load_state(state)
    with pytest.raises(GeneratorNotFoundError, match="Restore the files this program was saved with"):
        other.write("a")


def test_copies_share_the_generator_and_resetting_one_changes_nothing(generator: SupplementGenerator) -> None:
    assert copy.deepcopy(generator) is generator
    before = generator.write("a")
    generator.reset()
    assert generator.write("a") == before
