"""A program is saved as a small file and its adapter's folder; both move together, and what does not fit is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir
from contextvars import copy_context
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.predict.parameter import Parameter
from places import PATHS
from runtime_fixtures import scripted_lm, tiny_adapter, tiny_engine, tiny_generator, tiny_model
from sample_requests import requests

from sgt_modules import SupplementGenerator, load_program, save_program, supplement
from sgt_modules.embedded import HouseTermsWorld, embedded_actor, embedded_generator, program
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.errors import GeneratorNotFoundError, SavedStateError
from sgt_modules.generator_prompt import COMPACT
from sgt_modules.local.engine import LocalEngine
from sgt_modules.samples import SampleRequest
from sgt_modules.saving.shapes import find_misfit
from sgt_modules.saving.state_file import file_being_read, file_being_written
from sgt_modules.saving.weights import ADAPTER_WEIGHTS, TRAINED_FROM, fingerprint_of, record_base


def answers(module: dspy.Module, count: int) -> list[str]:
    """What the embedded actor answers to the first questions of the test split, many at once."""
    examples = HouseTermsWorld(seed=0).test[:count]
    assert len(examples) == count
    parallel = dspy.Parallel(num_threads=64, disable_progress_bar=True)
    with dspy.context(lm=embedded_actor(), adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
        return [each.sql if each else "no answer" for each in parallel([(module, each.inputs()) for each in examples])]


def from_state_file(path: str) -> dspy.Module:
    module = supplement(program(), generator=embedded_generator())
    module.load(path)
    return module


def from_folder(path: str) -> dspy.Module:
    return dspy.load(path, allow_pickle=True)


def in_a_fresh_process(code: str, *arguments: object, environment: dict[str, str] | None = None) -> Any:
    """What `code` leaves in `found`; it finds the arguments in `sys.argv`."""
    code = f"import json, sys\n{code}\nprint(json.dumps(found))"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": PATHS, **(environment or {})},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


TOOLS = "from test_saving import answers, from_folder, from_state_file"
HUB_TOOLS = "import dspy; from sgt_modules import SupplementGenerator, supplement"
LOADED = f"{TOOLS}; found = answers(from_state_file(sys.argv[1]), int(sys.argv[2]))"
LOADED_WHOLE = f"{TOOLS}; found = answers(from_folder(sys.argv[1]), int(sys.argv[2]))"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> dspy.Module:
    """The embedded program with a random adapter, which stands in a folder of its own."""
    adapter = tiny_adapter(embedded_folder("generator"), tmp_path_factory.mktemp("training") / "sft")
    return supplement(program(), generator=embedded_generator().with_checkpoint(adapter))


@pytest.fixture(scope="module")
def house_answers(house: dspy.Module) -> list[str]:
    return answers(house, 100)


@pytest.mark.slow
def test_a_loaded_program_answers_100_questions_the_same_in_a_fresh_process(
    house: dspy.Module, house_answers: list[str], tmp_path: Path
) -> None:
    house.save(tmp_path / "house.json")
    assert in_a_fresh_process(LOADED, tmp_path / "house.json", 100) == house_answers
    assert answers(supplement(program(), generator=embedded_generator()), 20) != house_answers[:20]


@pytest.mark.slow
def test_a_whole_program_loads_in_a_fresh_process(house: dspy.Module, house_answers: list[str], tmp_path: Path) -> None:
    house.save(tmp_path / "house", save_program=True)
    assert in_a_fresh_process(LOADED_WHOLE, tmp_path / "house", 16) == house_answers[:16]
    assert (tmp_path / "house" / "program.pkl").stat().st_size < 20_000


@pytest.mark.slow
def test_a_program_moves_by_copying_one_directory(tmp_path: Path, house_answers: list[str]) -> None:
    adapter = tiny_adapter(embedded_folder("generator"), tmp_path / "training" / "sft")
    module = supplement(program(), generator=embedded_generator().with_checkpoint(adapter))
    module.save(tmp_path / "here" / "house.json")
    module.save(tmp_path / "here", save_program=True)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    shutil.rmtree(tmp_path / "here")
    shutil.rmtree(tmp_path / "training")
    both = (
        f"{LOADED}; first = found; found = answers(from_folder(sys.argv[3]), int(sys.argv[2])); found = [first, found]"
    )
    found = in_a_fresh_process(both, tmp_path / "there" / "house.json", 16, tmp_path / "there")
    assert found == [house_answers[:16]] * 2


def test_the_state_is_a_reference_and_holds_no_weights(house: dspy.Module, tmp_path: Path) -> None:
    house.save(tmp_path / "house.json")
    state = json.loads((tmp_path / "house.json").read_text())["generator"]
    (adapter,) = tmp_path.glob("house-adapter-*")
    assert state == {
        "model": "sgt:generator",
        "revision": None,
        "adapter": f"./{adapter.name}",
        "sha256": fingerprint_of(embedded_folder("generator")),
        "adapter_sha256": fingerprint_of(adapter),
        "dtype": "float64",
        "temperature": 0.0,
        "max_new_tokens": 64,
        "prompt": COMPACT.dump_state(),
        "max_prompt_tokens": None,
    }
    assert (tmp_path / "house.json").stat().st_size < 5_000
    assert str(tmp_path) not in (tmp_path / "house.json").read_text()


# From here on the models are tiny.


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_adapter(base, tmp_path_factory.mktemp("training") / "sft")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where programs are saved to."""
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def asking(generator: SupplementGenerator) -> dspy.Module:
    return supplement(dspy.Predict("question -> answer"), generator=generator)


def saved(generator: SupplementGenerator, file: Path) -> dict[str, Any]:
    """The reference that a program with this generator leaves in its file."""
    asking(generator).save(file)
    return json.loads(file.read_text())["generator"]


def loaded(file: Path, **changes: object) -> SupplementGenerator:
    """The generator of a saved program, after somebody has changed its reference."""
    state = json.loads(file.read_text())
    state["generator"] |= changes
    file.write_text(json.dumps(state))
    module = asking(SupplementGenerator("some/model"))
    module.load(file)
    generator = module.generator
    assert isinstance(generator, SupplementGenerator)
    return generator


@pytest.fixture
def file(base: Path, adapter: Path, home: Path) -> Path:
    """A saved program with its adapter beside it."""
    saved(tiny_generator(base).with_checkpoint(adapter), home / "program.json")
    return home / "program.json"


def copied(file: Path) -> Path:
    (folder,) = file.parent.glob("program-adapter-*")
    return folder


def test_a_loaded_generator_writes_the_same(file: Path, base: Path, adapter: Path) -> None:
    assert loaded(file).write("a") == tiny_generator(base).with_checkpoint(adapter).write("a")


def test_only_what_an_adapter_needs_is_copied(base: Path, adapter: Path, home: Path, tmp_path: Path) -> None:
    trained = Path(shutil.copytree(adapter, tmp_path / "checkpoint"))
    (trained / "optimizer.pt").write_bytes(b"\x80")
    saved(tiny_generator(base).with_checkpoint(trained), home / "program.json")
    assert {each.name for each in copied(home / "program.json").iterdir()} == {"adapter_config.json", ADAPTER_WEIGHTS}
    assert {each.name for each in home.iterdir()} == {"program.json", copied(home / "program.json").name}


def test_an_adapter_is_copied_once_and_again_where_its_copy_is_damaged(file: Path, base: Path, adapter: Path) -> None:
    weights = copied(file) / ADAPTER_WEIGHTS
    written = weights.stat().st_mtime_ns
    saved(tiny_generator(base).with_checkpoint(adapter), file)
    assert weights.stat().st_mtime_ns == written
    weights.write_bytes(b"")
    saved(tiny_generator(base).with_checkpoint(adapter), file)
    assert fingerprint_of(copied(file)) == fingerprint_of(adapter)


def test_threads_that_save_at_once_leave_one_whole_copy(base: Path, adapter: Path, home: Path) -> None:
    generator = tiny_generator(base).with_checkpoint(adapter)
    files = [home / f"{number}" / "program.json" for number in (0, 0, 0, 0, 1, 1, 1, 1)]
    for each in files:
        each.parent.mkdir(exist_ok=True)
    with ThreadPoolExecutor(8) as pool:
        states = list(pool.map(saved_in_memory, [generator] * 8, files))
    assert len({json.dumps(state) for state in states}) == 1
    assert all(len(list((home / name).iterdir())) == 2 for name in "01")


def saved_in_memory(generator: SupplementGenerator, file: Path) -> dict[str, Any]:
    """As `saved`, where others may write the same file: what this thread's save asked for."""
    witness = Witness(generator)
    Holding(witness).save(file)
    return witness.states[0]


def test_an_adapter_below_the_file_stays_where_it_is(base: Path, adapter: Path, home: Path) -> None:
    inside = Path(shutil.copytree(adapter, home / "checkpoints" / "sft"))
    assert saved(tiny_generator(base).with_checkpoint(inside), home / "program.json")["adapter"] == "./checkpoints/sft"
    assert {each.name for each in home.iterdir()} == {"program.json", "checkpoints"}
    assert saved(tiny_generator(base).with_checkpoint(inside), inside / "program.json")["adapter"] == "./."
    assert loaded(inside / "program.json").engine.fingerprint == loaded(home / "program.json").engine.fingerprint


def test_an_adapter_that_only_seems_to_lie_below_the_file_is_copied(base: Path, adapter: Path, home: Path) -> None:
    (home / "link").symlink_to(adapter)
    reference = saved(tiny_generator(base).with_checkpoint(home / "link"), home / "program.json")["adapter"]
    assert reference == f"./{copied(home / 'program.json').name}"


def test_programs_with_other_adapters_share_a_folder(base: Path, adapter: Path, file: Path, tmp_path: Path) -> None:
    other = tiny_generator(base).with_checkpoint(tiny_adapter(base, tmp_path / "other", seed=1))
    two = Pair(tiny_generator(base).with_checkpoint(adapter), other)
    two.save(file)
    again = Pair(SupplementGenerator("some/model"), SupplementGenerator("some/model"))
    again.load(file)
    assert again.one.generator.write("a") == two.one.generator.write("a")
    assert again.other.generator.engine.fingerprint == other.engine.fingerprint
    assert again.other.generator.engine.fingerprint != again.one.generator.engine.fingerprint


class Pair(dspy.Module):
    """Two predictors, each with a generator of its own."""

    def __init__(self, one: SupplementGenerator, other: SupplementGenerator) -> None:
        super().__init__()
        self.one, self.other = asking(one), asking(other)


def test_a_trained_whole_model_moves_with_its_program(base: Path, home: Path, tmp_path: Path) -> None:
    trained = tiny_model(tmp_path / "dpo1", seed=3)
    record_base(trained, base)
    generator = tiny_generator(base).with_checkpoint(trained)
    reference = saved(generator, home / "program.json")
    expected = generator.write("a")
    shutil.rmtree(trained)
    moved = home.rename(tmp_path / "moved") / "program.json"
    assert reference["model"] == f"./program-model-{reference['sha256'][:12]}"
    assert loaded(moved).write("a") == expected


def test_a_base_model_stays_where_it_is_and_is_missed_with_what_to_do(tmp_path: Path, home: Path) -> None:
    own = tiny_model(tmp_path / "models" / "own", seed=4)
    assert saved(tiny_generator(own), home / "program.json")["model"] == str(own)
    shutil.rmtree(own)
    with pytest.raises(GeneratorNotFoundError, match="No such folder is on this machine"):
        loaded(home / "program.json").check()


def test_a_base_model_below_the_file_moves_with_it(tmp_path: Path, home: Path) -> None:
    own = tiny_model(home / "models" / "own", seed=4)
    assert saved(tiny_generator(own), home / "program.json")["model"] == "./models/own"
    loaded(home.rename(tmp_path / "moved") / "program.json").check()


def test_the_actors_engine_is_a_reference_too(base: Path, home: Path, tmp_path: Path) -> None:
    engine = tiny_engine(Path(shutil.copytree(base, home / "actor")))
    engine.ask(SampleRequest("one"))  # it is loaded, so that it still answers when its folder has moved
    module = dspy.Predict("question -> answer")
    module.lm = dspy.LM(engine.model_name, engine=engine, async_engine=engine.asynchronous(), cache=False, max_tokens=4)
    module.save(home / "program.json")
    again = dspy.Predict("question -> answer")
    again.load(home.rename(tmp_path / "moved") / "program.json", allow_unsafe_lm_state=True)
    assert again.lm is not None
    assert again.lm("one") == module.lm("one")


def test_another_adapter_in_its_place_is_refused(file: Path, base: Path, tmp_path: Path) -> None:
    other = tiny_adapter(base, tmp_path / "other", seed=1)
    shutil.copy(other / ADAPTER_WEIGHTS, copied(file) / ADAPTER_WEIGHTS)
    with pytest.raises(GeneratorNotFoundError, match=rf"{ADAPTER_WEIGHTS} in .*program-adapter.*Restore the files"):
        loaded(file).write("a")


def test_another_base_in_its_place_is_refused(home: Path) -> None:
    saved(tiny_generator(tiny_model(home / "own", seed=1)), home / "program.json")
    tiny_model(home / "own", seed=2)
    with pytest.raises(GeneratorNotFoundError, match=r"model\.safetensors in .*own.*Restore the files"):
        loaded(home / "program.json").check()


@pytest.mark.parametrize("key", ["sha256", "adapter_sha256"])
def test_a_wrong_hash_in_the_state_is_refused_when_the_weights_are_wanted(file: Path, key: str) -> None:
    generator = loaded(file, **{key: "0" * 64})
    for use in (generator.check, lambda: generator.write("a"), generator.dump_state):
        with pytest.raises(GeneratorNotFoundError, match=r"sha256 000000000000\.\.\., got"):
            use()


def test_files_that_are_put_right_again_are_accepted_by_the_same_generator(file: Path) -> None:
    weights = copied(file) / ADAPTER_WEIGHTS
    right = weights.read_bytes()
    weights.write_bytes(right[:-4] + b"\0\0\0\1")
    generator = loaded(file)
    with pytest.raises(GeneratorNotFoundError, match="Restore the files"):
        generator.check()
    weights.write_bytes(right)
    assert loaded(file) is generator
    generator.check()


@pytest.mark.parametrize("path", ["../training", "./../home/../training", "checkpoints/../../training", "..", "/etc"])
def test_an_adapter_outside_of_the_files_folder_is_refused_at_once(file: Path, adapter: Path, path: str) -> None:
    shutil.copytree(adapter, file.parent.parent / "training")
    with pytest.raises(SavedStateError, match=r"leads out of it\. Copy those weights"):
        loaded(file, adapter=path)


def test_an_absolute_adapter_is_refused_in_a_file(file: Path, adapter: Path) -> None:
    with pytest.raises(SavedStateError, match="leads out of it"):
        loaded(file, adapter=str(adapter))


def test_a_link_that_leads_out_of_the_files_folder_is_refused(file: Path, adapter: Path) -> None:
    (file.parent / "link").symlink_to(adapter)
    with pytest.raises(SavedStateError, match="leads out of it"):
        loaded(file, adapter="./link")
    weights = copied(file) / ADAPTER_WEIGHTS
    weights.unlink()
    weights.symlink_to(adapter / ADAPTER_WEIGHTS)
    with pytest.raises(SavedStateError, match="leads out of it"):
        loaded(file, adapter=f"./{copied(file).name}")


@pytest.mark.parametrize("model", ["./../models", "../models"])
def test_a_relative_base_outside_of_the_files_folder_is_refused(file: Path, model: str) -> None:
    with pytest.raises(SavedStateError, match="leads out of it"):
        loaded(file, model=model)


def test_a_refused_state_leaves_the_program_as_it_was(file: Path) -> None:
    state = json.loads(file.read_text())
    refused = {**state, "generator": {**state["generator"], "adapter": "/etc"}}
    file.write_text(json.dumps({"one": state, "other": refused, "metadata": state["metadata"]}))
    module = Pair(SupplementGenerator("some/model"), SupplementGenerator("some/model"))
    before = module.one.generator
    with pytest.raises(SavedStateError):
        module.load(file)
    assert module.one.generator is before


def test_a_missing_adapter_is_named_with_what_to_do(file: Path) -> None:
    shutil.rmtree(copied(file))
    with pytest.raises(GeneratorNotFoundError, match=r"program-adapter.*does not exist.*copy it along with a saved"):
        loaded(file).write("a")


def test_an_adapter_for_a_model_of_another_size_is_refused_before_any_weight_is_read(
    base: Path, tmp_path: Path
) -> None:
    wide = tiny_adapter(embedded_folder("generator"), tmp_path / "wide")
    with pytest.raises(GeneratorNotFoundError, match=r"another base model: .*in the adapter, .*in the model\. Use the"):
        tiny_generator(base).with_checkpoint(wide).check()


LAYER = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    "there", [LAYER, "layers.0.self_attn.q_proj", "model.language_model.layers.0.self_attn.q_proj"]
)
def test_a_layer_is_known_by_its_name_from_its_number_on(there: str) -> None:
    assert find_misfit(lora(LAYER, 4, 8), {f"{there}.weight": (8, 4)}) is None
    assert (
        find_misfit(lora(LAYER, 4, 8), {f"{there}.weight": (8, 5)})
        == f"{LAYER} is 4 to 8 in the adapter, 5 to 8 in the model"
    )


def test_a_layer_that_a_file_cannot_show_is_let_pass_beside_one_that_it_shows() -> None:
    adapter = {**lora(LAYER, 4, 8), **lora("lm_head", 4, 100)}
    assert find_misfit(adapter, {f"{LAYER}.weight": (8, 4), "model.embed_tokens.weight": (100, 4)}) is None
    assert (
        find_misfit(lora("h.0.c_attn", 4, 8), {f"{LAYER}.weight": (8, 4)})
        == "the model has none of its layers, such as h.0.c_attn"
    )


def test_a_transposed_layer_fits() -> None:
    assert find_misfit(lora("transformer.h.0.attn.c_attn", 4, 12), {"h.0.attn.c_attn.weight": (4, 12)}) is None


def lora(layer: str, reads: int, writes: int) -> dict[str, tuple[int, ...]]:
    name = f"base_model.model.{layer}.lora_{{}}.weight"
    return {name.format("A"): (2, reads), name.format("B"): (writes, 2)}


def test_an_adapter_that_was_trained_from_other_weights_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    trained = Path(shutil.copytree(adapter, tmp_path / "sft"))
    record_base(trained, base)
    record = json.loads((trained / TRAINED_FROM).read_text())
    assert record == {"base": "tiny", "revision": None, "sha256": fingerprint_of(base)}
    tiny_generator(base).with_checkpoint(trained).check()
    other = tiny_generator(tiny_model(tmp_path / "other", seed=5))
    with pytest.raises(GeneratorNotFoundError, match="is for another base model: it was trained over"):
        other.with_checkpoint(trained).write("a")


def test_a_saved_adapter_over_another_base_is_refused(file: Path, tmp_path: Path) -> None:
    other = tiny_model(tmp_path / "other", seed=5)
    with pytest.raises(GeneratorNotFoundError, match="Restore the files this program was saved with"):
        loaded(file, model=str(other)).check()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_a_model_that_has_only_pickled_weights_is_refused_by_name(base: Path, tmp_path: Path, name: str) -> None:
    pickled = Path(shutil.copytree(base, tmp_path / "pickled"))
    (pickled / "model.safetensors").rename(pickled / name)
    with pytest.raises(GeneratorNotFoundError, match=rf"{name}.*a pickle can run code.*safe_serialization"):
        tiny_generator(pickled).write("a")


def test_a_pickled_adapter_is_refused_by_name_and_never_opened(file: Path) -> None:
    (copied(file) / ADAPTER_WEIGHTS).rename(copied(file) / "adapter_model.bin")
    with pytest.raises(GeneratorNotFoundError, match=r"adapter_model\.bin.*a pickle can run code"):
        loaded(file).write("a")
    (copied(file) / "decoy.safetensors").write_bytes(b"")
    with pytest.raises(GeneratorNotFoundError, match=f"{ADAPTER_WEIGHTS}.*lacks them"):
        loaded(file).write("a")


def test_a_pickle_under_the_name_of_safetensors_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    fake = Path(shutil.copytree(adapter, tmp_path / "fake"))
    (fake / ADAPTER_WEIGHTS).write_bytes(b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00cos\nsystem\n.")
    with pytest.raises(GeneratorNotFoundError, match="damaged or in another format"):
        tiny_generator(base).with_checkpoint(fake).write("a")


def test_a_pickled_state_is_read_only_when_asked_for(base: Path, adapter: Path, home: Path, tmp_path: Path) -> None:
    asking(tiny_generator(base).with_checkpoint(adapter)).save(home / "program.pkl")
    module = asking(SupplementGenerator("some/model"))
    moved = home.rename(tmp_path / "moved") / "program.pkl"
    with pytest.raises(ValueError, match="allow_pickle"):
        module.load(moved)
    module.load(moved, allow_pickle=True)
    assert module.generator.engine.adapter == copied(moved)


def test_a_state_in_memory_has_absolute_paths_and_copies_nothing(base: Path, adapter: Path) -> None:
    state = asking(tiny_generator(base).with_checkpoint(adapter)).dump_state()["generator"]
    assert (state["model"], state["adapter"]) == (str(base), str(adapter))
    assert SupplementGenerator.from_state(state).engine.adapter == adapter


def test_a_state_without_its_file_finds_its_weights_from_the_files_folder_only(file: Path) -> None:
    state = json.loads(file.read_text())["generator"]
    with pytest.raises(SavedStateError, match=r"Use program\.load\(file\)"):
        SupplementGenerator.from_state(state)
    with chdir(file.parent):
        SupplementGenerator.from_state(state).check()


def test_a_state_of_an_earlier_form_is_refused_with_what_to_do(base: Path) -> None:
    old = {"model": str(base), "adapter": None, "dtype": "auto", "sha256": "0", "temperature": 0.0, "max_new_tokens": 9}
    with pytest.raises(SavedStateError, match=r"without .*'prompt', 'revision'\].*save the program again"):
        SupplementGenerator.from_state(old)


def hub(base: Path, cache: Path) -> dict[str, str]:
    """A hub's cache with two commits of org/tiny, and the environment in which it is used, offline."""
    for letter, name in (("a", "main"), ("b", "v2")):
        commit = letter * 40
        repository = cache / "models--org--tiny"
        shutil.copytree(
            base if letter == "a" else tiny_model(cache / "second", seed=2), repository / "snapshots" / commit
        )
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / name).write_text(commit)
    return {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}


@pytest.mark.slow
def test_a_hub_model_is_kept_as_its_id_and_commit(base: Path, tmp_path: Path, home: Path) -> None:
    environment = hub(base, tmp_path / "hub")
    code = f"""{HUB_TOOLS}
for name, revision in (("default", None), ("tagged", "v2"), ("fixed", "b" * 40)):
    generator = SupplementGenerator("org/tiny", revision=revision)
    supplement(dspy.Predict("question -> answer"), generator=generator).save(sys.argv[1] + "/" + name + ".json")
found = [SupplementGenerator("org/tiny", revision="v2").engine.with_adapter(None).dump_state()["revision"]]
"""
    assert in_a_fresh_process(code, home, environment=environment) == ["b" * 40]
    states = {each.stem: json.loads(each.read_text())["generator"] for each in home.iterdir()}
    assert {name: (state["model"], state["revision"]) for name, state in states.items()} == {
        "default": ("org/tiny", "a" * 40),
        "tagged": ("org/tiny", "b" * 40),
        "fixed": ("org/tiny", "b" * 40),
    }
    (tmp_path / "hub" / "models--org--tiny" / "refs" / "main").write_text("b" * 40)
    code = f"""{HUB_TOOLS}
program = supplement(dspy.Predict("question -> answer"), generator="some/model")
program.load(sys.argv[1])
program.generator.check()
found = str(program.generator.engine.weights.folders[0])
"""
    found = in_a_fresh_process(code, home / "default.json", environment=environment)
    assert Path(found).name == "a" * 40


def test_a_commit_that_is_not_to_be_had_is_refused_by_name(base: Path, tmp_path: Path) -> None:
    code = f"""{HUB_TOOLS}
try:
    SupplementGenerator("org/tiny", revision="c" * 40).check()
except ValueError as error:
    found = str(error)
"""
    found = in_a_fresh_process(code, environment=hub(base, tmp_path / "hub"))
    assert f"at revision '{'c' * 40}'" in found
    assert "hf download org/tiny" in found


class Witness(Parameter):
    """A parameter that notes which file DSPy is at, and what it is asked to keep of a generator."""

    def __init__(self, generator: SupplementGenerator | None = None) -> None:
        self.generator = generator
        self.seen: list[tuple[Path | None, Path | None]] = []
        self.states: list[dict[str, Any]] = []

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        self.seen.append((file_being_written(), file_being_read()))
        if self.generator is not None:
            self.states.append(dict(self.generator.dump_state()))
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        self.seen.append((file_being_written(), file_being_read()))

    def reset(self) -> None:
        pass

    def __deepcopy__(self, memo: dict[int, object]) -> Witness:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        PICKLED.append((file_being_written(), file_being_read()))
        return _unpickled, ()


PICKLED: list[tuple[Path | None, Path | None]] = []


def _unpickled() -> Witness:
    PICKLED.append((file_being_written(), file_being_read()))
    return Witness()


class Holding(dspy.Module):
    def __init__(self, witness: Witness) -> None:
        super().__init__()
        self.witness = witness


@pytest.mark.parametrize("name", ["program.json", "program.pkl"])
def test_dspy_saves_and_loads_a_state_within_the_functions_we_look_for(tmp_path: Path, name: str) -> None:
    witness, file = Witness(), tmp_path / name
    Holding(witness).save(str(file))
    Holding(witness).load(str(file), allow_pickle=True)
    witness.dump_state()
    assert witness.seen == [(file, None), (None, file), (None, file), (None, None)]


def test_dspy_saves_and_loads_a_whole_program_within_the_functions_we_look_for(tmp_path: Path) -> None:
    PICKLED.clear()
    Holding(Witness()).save(tmp_path / "whole", save_program=True)
    dspy.load(str(tmp_path / "whole"), allow_pickle=True)
    file = tmp_path / "whole" / "program.pkl"
    assert [*PICKLED] == [(file, None), (None, file)]


def test_a_save_in_one_thread_is_not_seen_in_another(tmp_path: Path) -> None:
    elsewhere: list[Path | None] = []

    class Asking(Witness):
        def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
            thread = threading.Thread(target=lambda: elsewhere.append(file_being_written()))
            thread.start()
            thread.join()
            return super().dump_state(json_mode)

    witness = Asking()
    Holding(witness).save(tmp_path / "program.json")
    assert elsewhere == [None]
    assert witness.seen == [(tmp_path / "program.json", None)]


class OwnFormat(dspy.Module):
    """A program that writes and reads its file itself, so none of DSPy's functions is on the call stack."""

    def __init__(self, generator: SupplementGenerator) -> None:
        super().__init__()
        self.part = asking(generator)

    def save(self, path: Any) -> None:
        Path(path).write_text(json.dumps(self.dump_state()))

    def load(self, path: Any, **_: object) -> None:
        self.load_state(json.loads(Path(path).read_text()))


def test_save_program_writes_the_same_file_as_a_plain_save(base: Path, adapter: Path, home: Path) -> None:
    module = asking(tiny_generator(base).with_checkpoint(adapter))
    module.save(home / "program.json")
    plain = (home / "program.json").read_text()
    save_program(module, str(home / "program.json"))
    assert (home / "program.json").read_text() == plain


def test_a_program_moves_though_it_writes_its_file_itself(base: Path, adapter: Path, home: Path) -> None:
    generator = tiny_generator(base).with_checkpoint(adapter)
    file = home / "program.json"
    OwnFormat(generator).save(file)
    assert json.loads(file.read_text())["part"]["generator"]["adapter"] == str(adapter)
    save_program(OwnFormat(generator), file)
    assert json.loads(file.read_text())["part"]["generator"]["adapter"] == f"./{copied(file).name}"
    moved = home.rename(home.with_name("moved")) / "program.json"
    module = OwnFormat(SupplementGenerator("some/model"))
    with pytest.raises(SavedStateError, match="load_program"):
        module.load(moved)
    load_program(module, moved)
    assert module.part.generator.write("a") == generator.write("a")


def test_the_named_file_holds_in_a_thread_with_a_copy_of_the_context(tmp_path: Path) -> None:
    class Threaded(Witness):
        def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(copy_context().run, super().dump_state, json_mode).result()

    witness = Threaded()
    Holding(witness).save(tmp_path / "program.json")
    save_program(Holding(witness), tmp_path / "program.json")
    assert witness.seen == [(None, None), (tmp_path / "program.json", None)]


def test_a_whole_program_is_saved_to_the_named_folder_and_its_file_is_forgotten_afterwards(tmp_path: Path) -> None:
    PICKLED.clear()
    save_program(Holding(Witness()), tmp_path / "whole", save_program=True, modules_to_serialize=[])
    assert [*PICKLED] == [(tmp_path / "whole" / "program.pkl", None)]
    assert (file_being_written(), file_being_read()) == (None, None)


def test_the_file_is_forgotten_where_saving_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end with"):
        save_program(Holding(Witness()), tmp_path / "program.txt")
    assert file_being_written() is None


def test_a_search_of_the_call_stack_is_logged_once_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="sgt_modules")
    file, witness = tmp_path / "program.json", Witness()
    save_program(Holding(witness), file)
    load_program(Holding(witness), file)
    assert not caplog.records
    for _ in range(2):
        Holding(witness).save(file)
    Holding(witness).load(file)
    assert [each.getMessage().partition(" by ")[0] for each in caplog.records] == [f"Found {file}"] * 2
    assert [each.getMessage().split()[-5] for each in caplog.records] == [
        "sgt_modules.save_program",
        "sgt_modules.load_program",
    ]


def test_a_relative_path_to_the_file_is_as_good_as_an_absolute_one(base: Path, adapter: Path, home: Path) -> None:
    module = asking(SupplementGenerator("some/model"))
    with chdir(home):
        asking(tiny_generator(base).with_checkpoint(adapter)).save("program.json")
        module.load("program.json")
    lm, _ = scripted_lm("answer")
    with dspy.context(lm=lm):
        assert module(question="2+2?").answer == "ok"


def test_a_lone_engine_resumes_from_its_state_with_both_hashes(base: Path, adapter: Path) -> None:
    engine = LocalEngine(base, adapter=adapter, dtype="float64", device="cpu", max_new_tokens=4)
    state = engine.dump_state()
    assert (state["sha256"], state["adapter_sha256"]) == (fingerprint_of(base), fingerprint_of(adapter))
    assert LocalEngine.load_state(state).sample(requests(["one"], seeds=[0])) == engine.sample(
        requests(["one"], seeds=[0])
    )
