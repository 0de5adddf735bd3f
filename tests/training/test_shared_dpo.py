"""Reading each completion once changes nothing but the time: against TRL's trainer, on a tiny random Qwen3."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from tiny_training import LORA, arguments, gradient, moved, of_step, tiny
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast, TrainingArguments
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from optimizers.training.forward_passes import build_inputs, can_share_prompts, install_completion_forward
from optimizers.training.shared_dpo import SharedDPOTrainer
from optimizers.training.shared_pairs import index_pairs
from optimizers.training.side_effects import silence
from optimizers.training.tokenisation import TokenRow
from optimizers.training.trainer import TrainingSettings


def sample(alike: bool = False) -> list[TokenRow]:
    """14 pairs of 3 prompts with 5 completions each, of several lengths; `alike`: each chosen one has three tokens."""
    rng, rows = random.Random(0), []
    for length in (4, 9, 6):
        prompt = [rng.randrange(2, 40) for _ in range(length)]
        winners = [[rng.randrange(2, 40) for _ in range(3 if alike else 1 + size * 2)] for size in range(2)]
        losers = [[rng.randrange(2, 40) for _ in range(2 + size)] for size in range(3)]
        rows += [TokenRow(prompt, (winner, loser)) for winner in winners for loser in losers]
    return rows[:14]


def rounded(lora: bool) -> float:
    """The relative error that bfloat16 may leave in a gradient of the tiny model: 2.9 %, with adapters 4.3 %.

    A result is rounded to 8 bits, so by at most u = 2**-8 of itself, and n independent roundings, one behind the other,
    add up to sqrt(n) u. A layer rounds 13 times in a row: normed states, projections, their norms, two products and a
    sum of the rotation, scores, what attention reads, its output; then normed states, gate and up, the gate's sigmoid,
    the product, down. An adapter adds four to each of the four linear layers that lie in a row: its two products, their
    scale and the sum. There are two layers, then normed states and the output head; the backward pass rounds as often.
    """
    layer = 13 + (4 * 4 if lora else 0)
    return math.sqrt(2 * (2 * layer + 2)) * 2.0**-8


def ours(folder: Path, rows: list[TokenRow], lora: bool, bf16: bool = False, **changes: object) -> SharedDPOTrainer:
    bare = tiny()
    model = get_peft_model(bare, LORA) if lora else bare
    settings = TrainingSettings(**{"batch_size": 14, "gradient_accumulation": 1, **changes})
    with silence():
        return SharedDPOTrainer(
            model,
            arguments(TrainingArguments, folder, bf16),
            bare=bare,
            pairs=index_pairs(rows),
            settings=settings,
            padding=0,
        )


def theirs(folder: Path, lora: bool, bf16: bool, types: list[str]) -> DPOTrainer:
    """TRL's trainer; it wants texts, and is given token ids later."""
    words = Tokenizer(WordLevel({"<pad>": 0, "<end>": 1}, unk_token="<pad>"))
    made = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>")
    config = arguments(
        DPOConfig, folder, bf16, loss_type=types, beta=0.1, max_length=None, activation_checkpointing=False
    )
    text = {"prompt": "a", "chosen": "b", "rejected": "c"}
    with silence():
        return DPOTrainer(
            tiny(), None if lora else tiny(), config, train_dataset=Dataset.from_list([text]), processing_class=made,
            peft_config=LORA if lora else None,
        )  # fmt: skip


@pytest.mark.parametrize("shared", [True, False], ids=["prompt shared", "prompt read again"])
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "all weights"])
@pytest.mark.parametrize(("alpha", "types"), [(0.0, ["sigmoid"]), (1.0, ["sigmoid", "sft"])], ids=["dpo", "dpo+nll"])
def test_loss_and_gradient_are_those_of_trls_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alpha: float, types: list[str], lora: bool, bf16: bool,
    shared: bool,
):  # fmt: skip
    """TRL's `sft` term is a mean over tokens: it is ours where all chosen completions have one length.

    In bfloat16 both gradients are rounded, each in its own order. On a CPU that multiplies in bfloat16 ours and TRL's
    were each 1.7 to 3.6 % off the exact gradient, and 0.9 to 1.2 % apart. So ours is held to TRL's in single precision,
    within `rounded`.
    """
    monkeypatch.setenv("CI", "1")  # TRL sends no telemetry then
    rows = sample(alike=alpha > 0)
    one = moved(ours(tmp_path, rows, lora, bf16, alpha=alpha, max_length=4096 if shared else 2))
    other = moved(theirs(tmp_path, lora, False, types))
    inputs = other.data_collator(
        [
            {"prompt_ids": row.prompt, "chosen_ids": row.completions[0], "rejected_ids": row.completions[1]}
            for row in rows
        ]
    )
    within = rounded(lora) if bf16 else 1e-5
    loss, slope = gradient(one, lambda: of_step(one))
    expected, wanted = gradient(other, lambda: of_trl(other, inputs))
    assert loss == pytest.approx(expected, rel=within)
    assert len(slope) == len(wanted)
    assert (slope - wanted).norm() <= within * wanted.norm()


def of_trl(trainer: DPOTrainer, inputs: dict[str, Tensor]) -> Tensor:
    return trainer.compute_loss(trainer.model, inputs)


def test_a_step_reads_each_distinct_completion_once_and_each_prompt_once(tmp_path: Path):
    (part,) = ours(tmp_path, sample(), lora=False).build_step(range(14))
    assert part["input_ids"].shape[0] == 3
    assert part["targets"].shape[0] == 5 + 5 + 3
    assert part["pairs"].shape == (14, 2)


def test_a_step_in_parts_has_the_loss_and_the_gradient_of_the_whole(tmp_path: Path):
    whole, cut = (moved(ours(tmp_path, sample(), lora=False, batch_size=size)) for size in (14, 2))
    assert len(cut.build_step(range(14))) > 3
    loss, slope = gradient(whole, lambda: of_step(whole))
    in_parts, slope_in_parts = gradient(cut, lambda: of_step(cut))
    assert in_parts == pytest.approx(loss, rel=1e-5)
    assert (slope - slope_in_parts).norm() <= 1e-5 * slope.norm()


def test_a_completion_has_one_log_probability_whatever_else_is_in_its_block():
    model = tiny()
    alone = [model(torch.tensor([[5, 6, 7, *ids]])).logits.log_softmax(-1)[0] for ids in ([8], [9, 10, 1])]
    expected = [alone[0][2, 8], alone[1][2, 9] + alone[1][3, 10] + alone[1][4, 1]]
    install_completion_forward(model)
    blocks = [TokenRow([5, 6, 7], ([8], [9, 10, 1])), TokenRow([5], ([6],))]
    found = model(**build_inputs(blocks, padding=0)).log_probs
    torch.testing.assert_close(found[:2], torch.stack(expected))


def test_a_prompt_is_shared_only_where_attention_takes_a_block_mask_in_every_layer():
    windows = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    assert can_share_prompts(tiny())
    assert not can_share_prompts(tiny("eager"))
    assert not can_share_prompts(tiny(**windows))


def test_a_base_model_under_an_adapter_is_scored_through_the_adapter(tmp_path: Path):
    trainer = ours(tmp_path, sample(), lora=True)
    assert isinstance(trainer.model, PeftModel)
    before = of_step(trainer).item()
    assert of_step(moved(trainer)).item() != pytest.approx(before, rel=1e-3)
