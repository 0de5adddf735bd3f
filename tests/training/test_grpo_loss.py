"""GRPO: the loss by hand and against TRL's, and what a round of it does to a model's probabilities."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from runtime_fixtures import tiny_model
from tiny_training import LORA, arguments, gradient, moved, of_step, tiny
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast, TrainingArguments
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from optimizers.core.records import Checkpoint, ScoredSample
from optimizers.training.advantages import group_advantages
from optimizers.training.losses import grpo_loss
from optimizers.training.shared_grpo import SharedGRPOTrainer
from optimizers.training.shared_pairs import index_pairs
from optimizers.training.side_effects import silence
from optimizers.training.tokenisation import TokenRow
from optimizers.training.trainer import LoRASettings, TrainingSettings
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules.errors import SetupError, TrainingError

# PEFT 0.21 asks transformers 5.23 by a deprecated name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

LOG = math.log
START = torch.tensor([[LOG(0.5), LOG(0.4), LOG(0.5)], [LOG(0.5), 0.0, 0.0]])
NOW = [[LOG(0.75), LOG(0.44), LOG(0.25)], [LOG(0.55), 0.0, 0.0]]
MASK = torch.tensor([[True, True, True], [True, False, False]])
ADVANTAGES = torch.tensor([1.0, -0.5])


def by_hand(length: float | None, kl_weight: float = 0.0) -> tuple[float, list[list[float]]]:
    now = torch.tensor(NOW, requires_grad=True)
    loss = grpo_loss(now, START, MASK, ADVANTAGES, clip_range=0.2, kl_weight=kl_weight, length=length)
    loss.backward()
    assert now.grad is not None
    return loss.item(), now.grad.tolist()


def test_the_loss_and_its_gradient_are_those_derived_by_hand():
    """Two samples of 3 tokens and 1, A = 1 and -0.5, clipped to 0.8 .. 1.2.

    Ratios of the first: 1.5, 1.1, 0.5. A > 0: min(r, clip r) = 1.2 (clipped, no gradient), 1.1 and 0.5 (the clipped 0.8
    is larger). Ratio of the second: 1.1, times -0.5 on both sides: -0.55. Sums over tokens of -min: -2.8 and 0.55.

    Each divided by its own length: -2.8 / 3 and 0.55; the mean is (-0.933333 + 0.55) / 2 = -0.191667.
    Each divided by 2, the mean length: -1.4 and 0.275; the mean is -0.5625.

    d(-r A) / d log p = -r A: of the first -1.1 and -0.5, of the second 0.55; each over its length and the 2 samples.
    """
    loss, slope = by_hand(None)
    assert loss == pytest.approx(-0.191667, abs=1e-6)
    assert slope[0] == pytest.approx([0.0, -1.1 / 6, -0.5 / 6])
    assert slope[1] == pytest.approx([0.55 / 2, 0.0, 0.0])
    loss, slope = by_hand(2.0)
    assert loss == pytest.approx(-0.5625, abs=1e-6)
    assert slope[0] == pytest.approx([0.0, -1.1 / 4, -0.5 / 4])
    assert slope[1] == pytest.approx([0.55 / 4, 0.0, 0.0])


def test_the_kl_to_the_start_is_the_one_derived_by_hand():
    """r log r - r + 1 at r = 1.5, 1.1, 0.5, 1.1: 0.108198, 0.004841, 0.153426, 0.004841.

    Sums 0.266465 and 0.004841; each over 2, the mean 0.067827; times 0.1. Its derivative by log p is r log r: 0.608198,
    0.104841, -0.346574 and 0.104841, times 0.1 / 4. A clipped token still has the KL's gradient.
    """
    plain, slope = by_hand(2.0)
    loss, with_kl = by_hand(2.0, kl_weight=0.1)
    assert loss - plain == pytest.approx(0.1 * 0.067827, abs=1e-6)
    found = [one - other for rows in zip(with_kl, slope, strict=True) for one, other in zip(*rows, strict=True)]
    expected = [each * 0.1 / 4 for each in (0.608198, 0.104841, -0.346574, 0.104841, 0, 0)]
    assert found == pytest.approx(expected, abs=1e-7)


def test_padding_has_no_part_in_the_loss_whatever_stands_there():
    now = torch.tensor(NOW)
    wide = torch.cat([now, torch.tensor([[3.0], [-7.0]])], 1)
    start = torch.cat([START, torch.zeros(2, 1)], 1)
    mask = torch.cat([MASK, torch.zeros(2, 1, dtype=torch.bool)], 1)
    found = [
        grpo_loss(*each, ADVANTAGES, clip_range=0.2, kl_weight=0.04, length=None)
        for each in ((now, START, MASK), (wide, start, mask))
    ]
    assert found[0].item() == pytest.approx(found[1].item())


def sample_rows() -> list[TokenRow]:
    """14 samples of 3 prompts, of several lengths, with repeats, and advantages of several sizes.

    They do not add up to 0 within a group, so that a loss is a number of some size.
    """
    rng, rows = random.Random(0), []
    for size, length in zip((5, 5, 4), (4, 9, 6), strict=True):
        prompt = [rng.randrange(2, 40) for _ in range(length)]
        own = [[rng.randrange(2, 40) for _ in range(rng.randrange(1, 6))] for _ in range(size - 1)]
        own.append(own[0])
        advantages = [rng.choice([-0.4, 0.3, 0.9]) for _ in own]
        rows += [TokenRow(prompt, (ids,), advantage) for ids, advantage in zip(own, advantages, strict=True)]
    assert len(rows) == 14
    assert {row.advantage for row in rows} == {-0.4, 0.3, 0.9}
    return rows


def ours(folder: Path, rows: list[TokenRow], lora: bool, **changes: object) -> SharedGRPOTrainer:
    bare = tiny()
    model = get_peft_model(bare, LORA) if lora else bare
    settings = TrainingSettings(**{"batch_size": 14, "gradient_accumulation": 1, **changes})
    with silence():
        return SharedGRPOTrainer(
            model,
            arguments(TrainingArguments, folder, False),
            bare=bare,
            pairs=index_pairs(rows),
            settings=settings,
            padding=0,
        )


def theirs(folder: Path, lora: bool, **options: object) -> GRPOTrainer:
    """TRL's trainer; it wants prompts and a reward, and is given tensors later."""
    words = Tokenizer(WordLevel({"<pad>": 0, "<end>": 1}, unk_token="<pad>"))
    made = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>")
    config = arguments(
        GRPOConfig, folder, False, epsilon=0.2, num_generations=14, activation_checkpointing=False, **options
    )  # fmt: skip
    with silence():
        return GRPOTrainer(
            tiny(), lambda completions, **_: [0.0] * len(completions), config,
            train_dataset=Dataset.from_list([{"prompt": "a"}]), processing_class=made,
            peft_config=LORA if lora else None,
        )  # fmt: skip


def padded(rows: list[list[int]], left: bool = False) -> tuple[Tensor, Tensor]:
    """Token ids in one tensor, and a mask of which are real."""
    width = max(map(len, rows))
    ids, masks = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for at, own in enumerate(rows):
        place = slice(width - len(own), width) if left else slice(len(own))
        ids[at, place], masks[at, place] = torch.tensor(own), 1
    return ids, masks


def tensors_of(trainer: GRPOTrainer, rows: list[TokenRow]) -> dict[str, Tensor]:
    """What TRL's loss reads, with the log-probabilities of the model as it is now as those of the start."""
    prompts, prompt_mask = padded([row.prompt for row in rows], left=True)
    completions, completion_mask = padded([row.completions[0] for row in rows])
    with torch.no_grad():
        start, *_ = trainer._get_per_token_logps_and_entropies(
            trainer.model,
            torch.cat([prompts, completions], 1),
            torch.cat([prompt_mask, completion_mask], 1),
            completions.shape[1],
        )
    return {
        "prompt_ids": prompts,
        "prompt_mask": prompt_mask,
        "completion_ids": completions,
        "completion_mask": completion_mask,
        "advantages": torch.tensor([row.advantage for row in rows]),
        "old_per_token_logps": start,
        "ref_per_token_logps": start,
    }


@pytest.mark.parametrize("shared", [True, False], ids=["prompt shared", "prompt read again"])
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "all weights"])
@pytest.mark.parametrize("kl_weight", [0.0, 0.04])
@pytest.mark.parametrize(("average", "loss_type"), [("round", "dr_grpo"), ("sample", "grpo")])
def test_loss_and_gradient_are_those_of_trls_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, average: str, loss_type: str, kl_weight: float, lora: bool,
    shared: bool,
):  # fmt: skip
    """After a while of training, so that ratios are clipped and the KL is not 0.

    TRL's `dr_grpo` divides by `max_completion_length`, a whole number, which is put to our mean length here.
    """
    monkeypatch.setenv("CI", "1")  # TRL sends no telemetry then
    rows = sample_rows()
    one = ours(
        tmp_path, rows, lora, kl_weight=kl_weight, length_average=average, max_length=4096 if shared else 2
    )  # fmt: skip
    other = theirs(tmp_path, lora, loss_type=loss_type)
    # Set later, as TRL would add a second adapter for a reference, which is the start of the round here.
    other.beta, other.max_completion_length = kl_weight, one.constant_length
    other.current_gradient_accumulation_steps = 1
    inputs = tensors_of(other, rows)
    moved(one)
    moved(other)
    loss, slope = gradient(one, lambda: of_step(one))
    expected, wanted = gradient(other, lambda: other._compute_loss(other.model, inputs))
    ratios = (one._reference[:, :1] - one._compute_reference()[:, :1]).exp()
    assert ((ratios < 0.8) | (ratios > 1.2)).any(), "no ratio is clipped, so the test would not see it"
    assert loss == pytest.approx(expected, rel=1e-5)
    assert len(slope) == len(wanted)
    assert (slope - wanted).norm() <= 1e-5 * wanted.norm()


def test_a_step_in_parts_has_the_loss_and_the_gradient_of_the_whole(tmp_path: Path):
    whole, cut = (moved(ours(tmp_path, sample_rows(), False, batch_size=size)) for size in (14, 2))
    assert len(cut.build_step(range(14))) > 2
    loss, slope = gradient(whole, lambda: of_step(whole))
    in_parts, slope_in_parts = gradient(cut, lambda: of_step(cut))
    assert in_parts == pytest.approx(loss, rel=1e-5)
    assert (slope - slope_in_parts).norm() <= 1e-5 * slope.norm()


def test_a_step_reads_a_repeated_sample_once_and_counts_it_each_time(tmp_path: Path):
    (part,) = ours(tmp_path, sample_rows(), lora=False).build_step(range(14))
    assert part["targets"].shape[0] == 4 + 4 + 3
    assert part["pairs"].shape == (14, 1)


def test_advantages_are_those_of_trls_groups():
    """Rewards 1, 0, 0.5 and 0.5: mean 0.5, standard deviation sqrt(0.5 / 3) = 0.408248."""
    rewards = [1.0, 0.0, 0.5, 0.5]
    rows = [ScoredSample("q", "cot", "?", str(n), reward) for n, reward in enumerate(rewards)]
    rows += [ScoredSample("other", "cot", "?", "x", 0.9)] * 3
    assert group_advantages(rows) == pytest.approx([0.5, -0.5, 0.0, 0.0, 0.0, 0.0, 0.0])
    divided = group_advantages(rows, divide_by_std=True)
    assert divided == pytest.approx([0.5 / 0.408348, -0.5 / 0.408348, *[0.0] * 5], rel=1e-5)


ROWS = [
    ScoredSample(f"q{n}", "cot", f"What is {n} + 1?", text, reward)
    for n in range(3)
    for text, reward in [("yes", 1.0), ("yes", 1.0), ("it is not so", 0.0), ("no", 0.0), ("[none]", 0.0)]
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def settings(**changes: object) -> TrainingSettings:
    small = {
        "lora": LoRASettings(rank=4, alpha=8, dropout=0.1), "batch_size": 15, "gradient_accumulation": 1,
        "grpo_epochs": 6, "grpo_learning_rate": 1e-2, "warmup": 0.0, "schedule": "constant",
    }  # fmt: skip
    return TrainingSettings(**{**small, **changes})


class Losses(list[float]):
    """The loss of each step."""

    def __call__(self, step: int, steps: int, loss: float) -> None:
        self.append(loss)


def test_a_round_begins_at_minus_the_mean_advantage_and_lowers_the_loss(model: Path, tmp_path: Path):
    """At the start every ratio is 1, so a sample's loss is -A x length / mean length, or -A with its own length.

    Advantages of a group add up to 0, so the mean of -A over whole groups is 0.
    """
    losses = Losses()
    trainer = TRLTrainer(model, settings(length_average="sample"))
    found = trainer.grpo(ROWS, start=None, output=tmp_path / "grpo1", seed=0, on_step=losses)
    assert losses[0] == pytest.approx(0.0, abs=1e-5)
    assert all(later < earlier for earlier, later in pairwise(losses[:4]))
    assert found.metrics["rows"] == len(ROWS)
    assert found.stage == "grpo1"


def test_a_large_kl_weight_holds_the_model_at_the_start_of_the_round(model: Path, tmp_path: Path):
    ends: list[float] = []
    for weight in (0.0, 10.0):
        losses = Losses()
        trainer = TRLTrainer(model, settings(kl_weight=weight, length_average="sample"))
        trainer.grpo(ROWS, start=None, output=tmp_path / f"grpo{weight}", seed=0, on_step=losses)
        ends.append(losses[-1])
    assert ends[0] < ends[1] - 0.01


def test_rounds_go_on_from_each_other_and_repeat_to_the_byte(model: Path, tmp_path: Path):
    trainer = TRLTrainer(model, settings())

    def two(room: Path) -> list[Checkpoint]:
        first = trainer.grpo(ROWS, start=None, output=room / "grpo1", seed=0)
        return [first, trainer.grpo(ROWS, start=first, output=room / "grpo2", seed=0)]

    one, other = two(tmp_path / "a"), two(tmp_path / "b")
    assert [each.fingerprint for each in one] == [each.fingerprint for each in other]
    assert one[0].fingerprint != one[1].fingerprint


def test_a_cut_sample_is_trained_on_without_an_end_token(model: Path, tmp_path: Path):
    found = [
        TRLTrainer(model, settings(grpo_epochs=1)).grpo(
            [replace(row, cut=cut) for row in ROWS], start=None, output=tmp_path / f"{cut}", seed=0
        )
        for cut in (False, True)
    ]
    assert found[0].metrics["tokens"] - found[1].metrics["tokens"] == len(ROWS)


def test_samples_of_equal_rewards_are_refused_and_left_out_beside_others(model: Path, tmp_path: Path):
    trainer = TRLTrainer(model, settings(grpo_epochs=1))
    equal = [replace(row, query="equal", reward=1.0) for row in ROWS]
    with pytest.raises(TrainingError, match="different rewards, got none in 15"):
        trainer.grpo(equal, start=None, output=tmp_path / "a", seed=0)
    assert not (tmp_path / "a").exists()
    found = trainer.grpo([*ROWS, *equal], start=None, output=tmp_path / "b", seed=0)
    assert found.metrics["rows"] == len(ROWS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grpo_epochs": 0}, "Expected grpo_epochs of at least 1"),
        ({"grpo_learning_rate": 0.0}, "Expected grpo_learning_rate above 0"),
        ({"clip_range": 1.0}, "Expected clip_range below 1"),
        ({"kl_weight": -0.1}, "kl_weight of at least 0"),
        ({"length_average": "batch"}, "length_average of round or sample"),
    ],
)
def test_settings_that_cannot_work_are_refused(options: dict[str, object], message: str):
    with pytest.raises(SetupError, match=message):
        settings(**options)


def test_settings_of_grpo_are_not_in_the_text_that_a_folder_of_dpo_keeps():
    assert "grpo" not in str(TrainingSettings(grpo_epochs=4))
    assert str(TrainingSettings(clip_range=0.3)) == str(TrainingSettings())
    assert TrainingSettings(clip_range=0.3).grpo["clip_range"] == 0.3
