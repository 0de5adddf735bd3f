"""Going on from a trained adapter: training starts there, the run says so, and what it returns is never worse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import pytest
from peft import IA3Config, LoraConfig, get_peft_model
from real_models import GENERATOR, real_model
from safetensors.torch import load_file, save_file
from scripted import UNREADABLE, ScriptedEngine, ScriptedTrainer, reply, rollout
from small_compile import SMALL, WORLD, gold, helped, teleprompter
from torch import Tensor
from transformers import AutoModelForCausalLM

from optimizers import SGTTeleprompter, TrainingSettings
from optimizers.core.best_stage import select_best
from optimizers.core.records import Checkpoint, PreferencePair, SFTExample
from optimizers.core.result import SGTResult, result_of
from optimizers.sgt.going_on import compare_with_start, find_start
from optimizers.training.trainer import LoRASettings
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules import Endpoint, SupplementGenerator, errors, load_program, save_program, supplement
from sgt_modules.embedded import embedded_generator, program
from sgt_modules.embedded.models import DTYPE, embedded_folder
from sgt_modules.generator_prompt import COMPACT
from sgt_modules.saving.weights import ADAPTER_WEIGHTS, TRAINED_FROM, fingerprint_of

BASE = embedded_folder("generator")
STILL = TrainingSettings(sft_epochs=1, sft_learning_rate=1e-12, dpo_learning_rate=1e-12, batch_size=8)
"""Steps so small that the weights stay as they were at the start."""

FAST = TrainingSettings(sft_epochs=8, sft_learning_rate=3e-3, dpo_learning_rate=1e-3, batch_size=8)


def generator(adapter: Path) -> SupplementGenerator:
    base = embedded_generator()
    return SupplementGenerator(BASE, adapter=adapter, dtype=DTYPE, max_new_tokens=base.max_new_tokens, prompt=COMPACT)


def run(
    log_dir: Path,
    script: Callable[[str], str] = helped,
    *,
    train: Sequence[dspy.Example] = WORLD.train,
    student: dspy.Module | None = None,
    **changes: object,
) -> tuple[SGTResult, dspy.Module, ScriptedEngine]:
    engine = ScriptedEngine(script)
    with dspy.context(lm=engine.lm()):
        sgt = teleprompter(log_dir, **{"trainer": TRLTrainer(BASE, FAST)} | changes)
        better = sgt.compile(student or program(), trainset=train, valset=WORLD.val)
    return result_of(better), better, engine


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / ADAPTER_WEIGHTS)


def farthest(one: Path, other: Path) -> float:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / TRAINED_FROM).read_text())


def names(result: SGTResult) -> list[str]:
    return [stage.name for stage in result.stages]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> tuple[SGTResult, dspy.Module, Path]:
    """A run on two training questions, and its last adapter."""
    result, better, _ = run(tmp_path_factory.mktemp("before") / "run", train=WORLD.train[:2])
    checkpoint = result.stages[-1].checkpoint
    assert checkpoint is not None
    return result, better, checkpoint.path


@pytest.fixture(scope="module")
def after(
    before: tuple[SGTResult, dspy.Module, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[SGTResult, Path]:
    """Going on with all questions, with steps that change nothing."""
    folder = tmp_path_factory.mktemp("after") / "run"
    result, _, _ = run(folder, generator=generator(before[2]), trainer=TRLTrainer(BASE, STILL))
    return result, folder


def test_the_new_adapter_really_began_at_the_old_one(
    before: tuple[SGTResult, dspy.Module, Path], after: tuple[SGTResult, Path], tmp_path: Path
) -> None:
    old, sft = before[2], after[1] / "checkpoints" / "sft"
    from_base, _, _ = run(tmp_path / "base", trainer=TRLTrainer(BASE, STILL))
    assert from_base.start is None
    assert farthest(sft, old) < 1e-6
    assert farthest(tmp_path / "base" / "checkpoints" / "sft", old) > 1e-3


def test_lineage_says_where_the_weights_came_from(
    before: tuple[SGTResult, dspy.Module, Path], after: tuple[SGTResult, Path]
) -> None:
    old, (result, folder) = fingerprint_of(before[2]), after
    assert result.start == Checkpoint("adapter", before[2], old)
    assert record(folder / "checkpoints" / "sft")["parent"] == {"stage": "adapter", "sha256": old}
    assert json.loads((folder / "run.json").read_text())["settings"]["start"] == old
    said = f"Training goes on from {before[2].name} (sha256 {old[:12]}...), not from the base model."
    assert said in result.notes
    assert said in (folder / "report.html").read_text().replace("&#39;", "'")


def test_the_adapter_as_it_came_is_a_stage_next_to_no_supplement(after: tuple[SGTResult, Path]) -> None:
    result, _ = after
    assert names(result)[:3] == ["none", "adapter", "sft"]
    came = result.stage("adapter")
    assert came.checkpoint == result.start
    assert len(came.rollouts) == len(WORLD.val)
    assert result.best.score >= came.score


def test_the_first_loss_is_lower_than_from_the_base(
    before: tuple[SGTResult, dspy.Module, Path], tmp_path: Path
) -> None:
    lines = (before[0].log_dir / "training" / "sft.jsonl").read_text().splitlines()
    rows = [SFTExample(**json.loads(line)) for line in lines]
    losses: dict[str, float] = {}
    for name, start in (("base", None), ("adapter", find_start(generator(before[2])))):
        trainer = TRLTrainer(BASE, replace(STILL, batch_size=64))

        def note(step: int, total: int, loss: float, name: str = name) -> None:
            losses.setdefault(name, loss)

        trainer.sft(rows, start=start, output=tmp_path / name, seed=0, on_step=note)
    assert losses["adapter"] < losses["base"] - 0.1


def test_the_generator_of_a_loaded_program_goes_on_and_is_scored_once(
    before: tuple[SGTResult, dspy.Module, Path], tmp_path: Path
) -> None:
    given = supplement(program(), generator=generator(before[2]))
    save_program(given, tmp_path / "saved.json")
    loaded = supplement(program(), generator=embedded_generator())
    load_program(loaded, tmp_path / "saved.json")
    own = loaded.generator
    assert own.fingerprint == generator(before[2]).fingerprint
    result, _, _ = run(tmp_path / "run", student=loaded, generator=own, trainer=TRLTrainer(BASE, STILL))
    assert names(result)[:3] == ["none", "student", "sft"], "the student is the adapter as it came"
    assert farthest(tmp_path / "run" / "checkpoints" / "sft", before[2]) < 1e-6


def test_a_student_with_another_generator_is_a_stage_of_its_own(
    before: tuple[SGTResult, dspy.Module, Path], tmp_path: Path
) -> None:
    student = supplement(program(), generator=embedded_generator())
    own, recipe = generator(before[2]), replace(SMALL, rounds=0)
    expected = SGTTeleprompter(WORLD.metric, own, recipe=recipe).estimate(student, WORLD.train, WORLD.val)
    result, _, _ = run(tmp_path / "run", student=student, generator=own, recipe=recipe)
    assert names(result)[:3] == ["none", "student", "adapter"]
    assert [(each.name, each.at_most) for each in expected.stages if each.name in names(result)[:3]] == [
        ("none", len(WORLD.train) + len(WORLD.val)),
        ("student", len(WORLD.val)),
        ("adapter", len(WORLD.val)),
    ]


def test_without_sft_the_first_round_s_reference_is_the_adapter_as_it_came(
    before: tuple[SGTResult, dspy.Module, Path], tmp_path: Path
) -> None:
    result, _, _ = run(tmp_path / "run", generator=generator(before[2]), recipe=replace(SMALL, sft=False))
    assert names(result) == ["none", "adapter", "dpo1"]
    parent = record(tmp_path / "run" / "checkpoints" / "dpo1")["parent"]
    assert parent == {"stage": "adapter", "sha256": fingerprint_of(before[2])}


def test_a_folder_goes_on_only_with_the_same_adapter(
    before: tuple[SGTResult, dspy.Module, Path], after: tuple[SGTResult, Path], tmp_path: Path
) -> None:
    again, _, engine = run(after[1], generator=generator(before[2]), trainer=TRLTrainer(BASE, STILL))
    assert engine.asked == []
    assert [stage.score for stage in again.stages] == [stage.score for stage in after[0].stages]
    twin = tmp_path / before[2].name  # the same name, so that only the weights differ
    shutil.copytree(before[2], twin)
    save_file({name: each + 1 for name, each in weights(twin).items()}, twin / ADAPTER_WEIGHTS)
    with pytest.raises(errors.RunFolderError, match="start changed"):
        run(after[1], generator=generator(twin), trainer=TRLTrainer(BASE, STILL))


def test_an_adapter_keeps_its_own_rank_and_the_run_says_so(tmp_path: Path) -> None:
    small = TRLTrainer(BASE, replace(FAST, lora=LoRASettings(rank=4, alpha=8)))
    run(tmp_path / "small", trainer=small, recipe=replace(SMALL, rounds=0))
    adapter = tmp_path / "small" / "checkpoints" / "sft"
    result, _, _ = run(tmp_path / "run", generator=generator(adapter), recipe=replace(SMALL, rounds=0))
    assert any("keeps its own LoRA settings: rank 4, alpha 8, dropout 0." in note for note in result.notes)
    new = tmp_path / "run" / "checkpoints" / "sft"
    assert {name: each.shape for name, each in weights(new).items()} == {
        name: each.shape for name, each in weights(adapter).items()
    }
    assert record(new)["settings"]["lora"]["rank"] == 4


@pytest.mark.parametrize("script", [*UNREADABLE.values(), gold], ids=[*UNREADABLE, "always right"])
def test_where_there_is_nothing_to_learn_the_program_comes_back_as_it_came(
    before: tuple[SGTResult, dspy.Module, Path], script: Callable[[str], str], tmp_path: Path
) -> None:
    result, _, _ = run(tmp_path / "run", script, generator=generator(before[2]), recipe=replace(SMALL, rounds=0))
    assert names(result)[:2] == ["none", "adapter"]
    assert result.selected == "none", "a tie goes to the earlier stage"


def test_the_adapter_as_it_came_is_returned_where_no_stage_is_better(
    before: tuple[SGTResult, dspy.Module, Path], tmp_path: Path
) -> None:
    notes = [each.supplement.render() for each in before[0].stages[-1].rollouts if each.supplement]
    assert notes

    def only_the_old_notes(text: str) -> str:
        return gold(text) if any(note in text for note in notes) else reply(sql="SELECT 1")

    result, better, _ = run(tmp_path / "run", only_the_old_notes, generator=generator(before[2]))
    assert result.selected == "adapter"
    assert "no stage scores above the adapter as it came" in result.verdict
    assert better.generator.fingerprint == generator(before[2]).fingerprint


def test_a_generator_trained_in_full_starts_from_itself(tmp_path: Path) -> None:
    whole = TRLTrainer(BASE, replace(FAST, lora=None))
    run(tmp_path / "first", trainer=whole, recipe=replace(SMALL, rounds=0))
    folder = tmp_path / "first" / "checkpoints" / "sft"
    trained = SupplementGenerator(folder, dtype=DTYPE, max_new_tokens=64, prompt=COMPACT)
    assert find_start(trained) is None
    sgt = SGTTeleprompter(WORLD.metric, trained, recipe=SMALL, display_progress=False)
    assert sgt.settings.trainer_or_default().model == folder
    still = TRLTrainer(folder, replace(STILL, lora=None))
    result, _, _ = run(tmp_path / "second", generator=trained, trainer=still, recipe=replace(SMALL, rounds=0))
    assert "adapter" not in names(result)
    one, other = (load_file(each / "model.safetensors") for each in (folder, tmp_path / "second/checkpoints/sft"))
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 1e-6


def refused(log_dir: Path, said: str, **changes: object) -> None:
    engine = ScriptedEngine(helped)
    with dspy.context(lm=engine.lm()), pytest.raises(errors.SetupError, match=said):
        teleprompter(log_dir, **changes).compile(program(), trainset=WORLD.train, valset=WORLD.val)
    assert engine.asked == [], "nothing is paid for"
    assert not log_dir.exists()


def test_what_cannot_go_on_is_refused_before_anything_is_paid(
    before: tuple[SGTResult, dspy.Module, Path], tmp_path: Path
) -> None:
    adapter, log_dir = before[2], tmp_path / "run"
    whole = TRLTrainer(BASE, replace(FAST, lora=None))
    refused(log_dir, "Expected a trainer with LoRA", generator=generator(adapter), trainer=whole)
    elsewhere = TRLTrainer(embedded_folder("actor"), FAST)
    refused(log_dir, "for another base model", generator=generator(adapter), trainer=elsewhere)
    model = AutoModelForCausalLM.from_pretrained(BASE)
    ia3 = IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM")
    get_peft_model(model, ia3).save_pretrained(tmp_path / "ia3")
    refused(log_dir, "Expected a LoRA adapter", generator=generator(tmp_path / "ia3"), trainer=TRLTrainer(BASE, FAST))


def test_a_server_s_adapter_goes_on_from_its_folder_or_names_the_remedy(
    before: tuple[SGTResult, dspy.Module, Path], tmp_path: Path
) -> None:
    adapter = before[2]
    lm = ScriptedEngine(lambda _: "[cot] Look it up.").lm("scripted/small")
    known = SupplementGenerator(Endpoint(lm, adapter_sha256=fingerprint_of(adapter), publish=str))
    refused(tmp_path / "run", r"with_checkpoint\(Path\(FOLDER\)\)", generator=known, trainer=TRLTrainer(BASE, FAST))
    published = SupplementGenerator(Endpoint(lm, publish=str)).with_checkpoint(adapter)
    assert find_start(published) == Checkpoint("adapter", adapter, fingerprint_of(adapter))


class StartsNoted(ScriptedTrainer):
    """A scripted trainer that remembers where each stage started."""

    def __init__(self) -> None:
        super().__init__()
        self.starts: list[Checkpoint | None] = []

    def trained(
        self,
        rows: Sequence[SFTExample | PreferencePair],
        start: Checkpoint | None,
        output: Path,
        seed: int,
    ) -> Checkpoint:
        self.starts.append(start)
        return super().trained(rows, start, output, seed)


def test_a_trainer_of_your_own_gets_the_adapter_as_its_start(
    before: tuple[SGTResult, dspy.Module, Path], tmp_path: Path
) -> None:
    from optimizers.sgt.run import Run
    from optimizers.training.processes import join_team

    trainer = StartsNoted()
    with dspy.context(lm=ScriptedEngine(helped).lm()):
        settings = teleprompter(tmp_path / "run", generator=generator(before[2]), trainer=trainer).settings
        with Run.opened(program(), WORLD.train, WORLD.val, settings, team=join_team()) as opened:
            opened.train_sft([SFTExample("q", "cot", "2+2?", "[cot] Add.")])
            opened.train_preferences(1, [PreferencePair("q", "inter", "2+2?", "[cot] Add.", "[cot] No.")], None)
    assert trainer.starts == [Checkpoint("adapter", before[2], fingerprint_of(before[2]))] * 2


def test_a_stage_below_a_floor_is_never_best() -> None:
    def stage(*scores: float | None) -> list[Any]:
        return [rollout(score) for score in scores]

    none, adapter = stage(0, 0, 0, 0), stage(1, 1, 0, None)
    later = stage(0, 1, 1, 1)  # better than none, and than what was best on other questions, but not than the adapter
    assert select_best([none, adapter, later], 0, [1]) == 1
    assert select_best([none, adapter, stage(0, 0, 1, 1)], 0, [1]) == 1


def test_the_gain_over_the_adapter_is_said_with_its_interval() -> None:
    before = [rollout(score) for score in (0, 0, 1, None)]
    after = [rollout(score) for score in (1, 1, 1, 1)]
    said = compare_with_start(before, after, "dpo1")
    assert said.startswith(
        "Against the generator as it came, stage dpo1 takes the score on validation from 0.333 to 1."
    )
    assert said.endswith("n = 3.")
    assert compare_with_start([rollout(None)], [rollout(1)], "sft") == ""


@pytest.mark.slow
@pytest.mark.real_model
def test_a_real_generator_with_lora_goes_on_from_its_adapter(tmp_path: Path) -> None:
    base = real_model(GENERATOR)
    rows = [SFTExample(f"q{n}", "cot", f"What is {n} + {n}?", f"[cot] Double {n}.") for n in range(8)]
    quick = TrainingSettings(sft_epochs=4, sft_learning_rate=1e-3, batch_size=8, gradient_accumulation=1)
    first = TRLTrainer(base, quick).sft(rows[:4], start=None, output=tmp_path / "first", seed=0)
    own = SupplementGenerator(base, adapter=first.path)
    start = find_start(own)
    losses: dict[str, float] = {}
    for name, begin in (("base", None), ("adapter", start)):

        def note(step: int, total: int, loss: float, name: str = name) -> None:
            losses.setdefault(name, loss)

        still = TRLTrainer(base, replace(quick, sft_epochs=1, sft_learning_rate=1e-12))
        still.sft(rows, start=begin, output=tmp_path / name, seed=0, on_step=note)
    assert farthest(tmp_path / "adapter", first.path) < 1e-6
    assert losses["adapter"] < losses["base"] - 0.1
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2)).save_pretrained(tmp_path / "foreign")
    foreign = find_start(SupplementGenerator(base, adapter=tmp_path / "foreign"))
    assert foreign is not None
    made = TRLTrainer(base, replace(quick, sft_epochs=1)).sft(rows, start=foreign, output=tmp_path / "on", seed=0)
    assert record(made.path)["settings"]["lora"]["rank"] == 2
