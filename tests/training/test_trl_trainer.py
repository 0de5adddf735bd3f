"""Training, on a random Qwen3 of about 30,000 parameters."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors import safe_open
from sample_requests import requests
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from optimizers.core.records import Checkpoint, PreferencePair, SFTExample
from optimizers.training.side_effects import silence
from optimizers.training.tokenisation import Target, encode, find_end_token
from optimizers.training.trainer import LoRASettings, TrainingSettings
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules.errors import NoPreferencePairsError, TrainingError
from sgt_modules.local.chat_template import render_chat
from sgt_modules.local.engine import LocalEngine

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ADAPTER_FILES = ["adapter_config.json", "adapter_model.safetensors", "trained_from.json"]


def tokenizer() -> PreTrainedTokenizerFast:
    """A token a byte, a merge across the end of every prompt, and a token put in front unless one asks for none."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merged = "Ċ["  # byte level's line feed, and a bracket
    model = Tokenizer(BPE({piece: place for place, piece in enumerate([*letters, merged])}, [("Ċ", "[")]))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    model.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    pad = ("<|endoftext|>", made.pad_token_id)
    made.backend_tokenizer.post_processor = TemplateProcessing(single="<|endoftext|> $A", special_tokens=[pad])
    made.chat_template = CHAT
    return made


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "tiny"
    made = tokenizer()
    config = Qwen3Config(
        vocab_size=len(made),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=made.eos_token_id,
        pad_token_id=made.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Qwen3ForCausalLM(config).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def settings(**changes: object) -> TrainingSettings:
    small = {
        "lora": LoRASettings(rank=4, alpha=8),
        "batch_size": 4,
        "gradient_accumulation": 1,
        "sft_epochs": 2,
        "sft_learning_rate": 1e-2,
        "dpo_epochs": 2,
        "dpo_learning_rate": 1e-2,
        "schedule": "constant",
        "warmup": 0.0,
        "gradient_checkpointing": False,
    }
    return TrainingSettings(**{**small, **changes})


ROWS = [SFTExample("q", "cot", f"What is {n} + 1?", f"[cot] It is {n + 1}, as {n} and one more.") for n in range(6)]
PAIRS = [PreferencePair("q", "inter", row.prompt, f"yes {n % 10}", "it is not so") for n, row in enumerate(ROWS)]


class Losses(list[float]):
    """Collects the losses that `on_step` gets."""

    def __call__(self, step: int, steps: int, loss: float) -> None:
        assert 1 <= step <= steps
        self.append(loss)


def test_supervised_training_lowers_the_loss_and_leaves_the_adapter_alone_in_its_folder(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    steps_seen: list[tuple[int, int, float]] = []
    checkpoint = TRLTrainer(model, settings(sft_epochs=8)).sft(
        ROWS, start=None, output=tmp_path / "sft", seed=0, on_step=lambda *each: steps_seen.append(each)
    )
    assert [step for step, _, _ in steps_seen] == list(range(1, 17))
    assert {steps for _, steps, _ in steps_seen} == {16}
    assert steps_seen[-1][2] < steps_seen[0][2] - 0.2
    assert sorted(each.name for each in checkpoint.path.iterdir()) == ADAPTER_FILES
    assert [each.name for each in tmp_path.iterdir()] == ["sft"]
    assert checkpoint.fingerprint == sha256((checkpoint.path / ADAPTER_FILES[1]).read_bytes()).hexdigest()
    assert checkpoint.stage == "sft"
    assert checkpoint.metrics["rows"] == 6
    assert checkpoint.metrics["steps"] == 16
    assert checkpoint.metrics["loss"] == pytest.approx(sum(loss for _, _, loss in steps_seen) / 16)
    assert "".join(capfd.readouterr()) == ""


def test_a_training_of_one_step_does_not_end_in_its_warm_up(model: Path, tmp_path: Path):
    trainer = TRLTrainer(model, settings(sft_epochs=1, dpo_epochs=1, batch_size=8, warmup=0.05, schedule="cosine"))
    sft = trainer.sft(ROWS, start=None, output=tmp_path / "sft", seed=0)
    assert sft.metrics["steps"] == 1
    with safe_open(sft.path / "adapter_model.safetensors", "pt") as file:
        assert any(file.get_tensor(name).abs().max() > 0 for name in file.keys() if "lora_B" in name)  # noqa: SIM118  (not a dict)
    assert trainer.dpo(PAIRS, start=sft, output=tmp_path / "dpo1", seed=0).fingerprint != sft.fingerprint


def test_the_first_supervised_loss_is_the_cross_entropy_of_the_supplement_and_its_end_alone(
    model: Path, tmp_path: Path
):
    losses = Losses()
    TRLTrainer(model, settings(sft_epochs=1, batch_size=8)).sft(
        ROWS, start=None, output=tmp_path / "sft", seed=0, on_step=losses
    )
    made, base = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    total, count = 0.0, 0
    for row in encode([(row.prompt, (Target(row.completion),)) for row in ROWS], made, made.eos_token_id):
        ids = torch.tensor([row.prompt + row.completions[0]])
        scores = base(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[len(row.prompt) - 1 :]
        total, count = total - scores.sum().item(), count + len(scores)
    assert losses == [pytest.approx(total / count, rel=1e-4)]


def test_steps_of_accumulated_batches_have_the_loss_of_the_whole(model: Path, tmp_path: Path):
    whole, parts = Losses(), Losses()
    for losses, batch in ((whole, 6), (parts, 2)):
        chosen = settings(sft_epochs=1, batch_size=batch, gradient_accumulation=6 // batch)
        TRLTrainer(model, chosen).sft(ROWS, start=None, output=tmp_path / "sft", seed=0, on_step=losses)
    assert parts == [pytest.approx(whole[0], rel=1e-5)]


def test_a_prompt_has_the_same_tokens_in_training_as_at_inference(model: Path):
    made = AutoTokenizer.from_pretrained(model)
    prompt, reply = "What is 2 + 2?", "[answer] 4"
    text = render_chat(made, [{"role": "user", "content": prompt}])
    joined = made(text + reply, add_special_tokens=False)["input_ids"]
    (row,) = encode([(prompt, (Target(reply),))], made, made.eos_token_id)
    assert tuple(row.prompt) == LocalEngine(model).encoder.encode([{"role": "user", "content": prompt}])
    assert joined[: len(row.prompt)] != row.prompt, "the tokenizer of this test merges across the border"
    assert made.decode(row.completions[0]) == f"{reply}<|im_end|>"


def test_no_token_is_put_in_front_of_the_chat_template(model: Path):
    made = AutoTokenizer.from_pretrained(model)
    assert made("a")["input_ids"][0] == made.pad_token_id, "the tokenizer of this test would put one there"
    (row,) = encode([("a", (Target("b"),))], made, made.eos_token_id)
    assert made.convert_ids_to_tokens(row.prompt)[0] == "<|im_start|>"
    assert len(row.completions[0]) == 2


def test_no_end_is_taught_behind_a_reply_that_the_model_did_not_end(model: Path):
    made = AutoTokenizer.from_pretrained(model)
    (row,) = encode([("a", (Target("bcd"), Target("bcd", cut=True)))], made, made.eos_token_id)
    ended, cut = row.completions
    assert made.decode(cut) == "bcd"
    assert ended == [*cut, made.eos_token_id]


def test_a_cut_supplement_s_loss_is_the_cross_entropy_of_its_text_alone(model: Path, tmp_path: Path):
    losses, rows = Losses(), [replace(row, cut=True) for row in ROWS]
    TRLTrainer(model, settings(sft_epochs=1, batch_size=8)).sft(
        rows, start=None, output=tmp_path / "sft", seed=0, on_step=losses
    )
    made, base = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    total, count = 0.0, 0
    for row in ROWS:
        prompt = made(render_chat(made, [{"role": "user", "content": row.prompt}]), add_special_tokens=False).input_ids
        reply = made(row.completion, add_special_tokens=False).input_ids
        ids = torch.tensor([prompt + reply])
        scores = base(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[len(prompt) - 1 :]
        total, count = total - scores.sum().item(), count + len(reply)
    assert losses == [pytest.approx(total / count, rel=1e-4)]


def test_a_cut_pair_s_first_loss_is_log_2_and_the_mean_nll_of_the_chosen_text_alone(model: Path, tmp_path: Path):
    losses, pairs = Losses(), [replace(pair, chosen_cut=True, rejected_cut=n == 0) for n, pair in enumerate(PAIRS)]
    chosen = settings(dpo_epochs=1, batch_size=8)
    TRLTrainer(model, chosen).dpo(pairs, start=None, output=tmp_path / "dpo1", seed=0, on_step=losses)
    made, base = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    nll: list[float] = []
    for pair in PAIRS:
        prompt = made(render_chat(made, [{"role": "user", "content": pair.prompt}]), add_special_tokens=False).input_ids
        ids = torch.tensor([prompt + made(pair.chosen, add_special_tokens=False).input_ids])
        scores = base(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[len(prompt) - 1 :]
        nll.append(-scores.mean().item())
    assert losses[0] == pytest.approx(math.log(2) + sum(nll) / len(nll), rel=1e-4)


def test_a_reply_ends_with_the_token_that_stops_generation():
    made = tokenizer()
    assert find_end_token(None, made) == made.eos_token_id
    assert find_end_token([7, made.eos_token_id], made) == made.eos_token_id
    assert find_end_token(7, made) == 7
    made.eos_token = None
    with pytest.raises(TrainingError, match="eos_token"):
        find_end_token(None, made)


@pytest.mark.parametrize(("alpha", "types"), [(0.0, ["sigmoid"]), (1.0, ["sigmoid", "sft"])])
def test_the_loss_is_trls_where_both_mean_the_same(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alpha: float, types: list[str]
):
    """All pairs in each step, and all chosen of one length, where a mean over tokens is one over sequences."""
    losses = Losses()
    TRLTrainer(model, settings(batch_size=6, dpo_epochs=3, alpha=alpha)).dpo(
        PAIRS, start=None, output=tmp_path / "dpo", seed=3, on_step=losses
    )
    monkeypatch.setenv("CI", "1")  # TRL sends no telemetry then
    arguments = DPOConfig(
        output_dir=str(tmp_path / "trl"), loss_type=types, beta=0.1, per_device_train_batch_size=6, num_train_epochs=3,
        learning_rate=1e-2, lr_scheduler_type="constant", logging_steps=1, save_strategy="no", report_to="none", seed=3,
        use_cpu=True, bf16=False, activation_checkpointing=False, dataloader_pin_memory=False, disable_tqdm=True,
    )  # fmt: skip
    made = AutoTokenizer.from_pretrained(model)
    made.backend_tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    rows = [
        {
            "prompt": render_chat(made, [{"role": "user", "content": pair.prompt}]),
            "chosen": pair.chosen,
            "rejected": pair.rejected,
        }
        for pair in PAIRS
    ]
    with silence():
        trl = DPOTrainer(
            AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=made,
            peft_config=LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        seen: list[float] = []
        compute = trl.compute_loss

        def keeping(*given: object, **named: object) -> torch.Tensor:
            loss = compute(*given, **named)
            seen.append(loss.item())
            return loss

        trl.compute_loss = keeping
        trl.train()
    assert losses[0] != pytest.approx(losses[-1], rel=1e-2)
    assert losses == [pytest.approx(each, rel=1e-5) for each in seen]


def test_the_reference_of_every_round_is_the_model_at_its_start(model: Path, tmp_path: Path):
    """With alpha = 0 the first loss of a round is log 2, and the last is not: so the base is not the reference."""
    chosen = settings(alpha=0.0, batch_size=6, dpo_epochs=6, dpo_learning_rate=3e-3)
    trainer, start = TRLTrainer(model, chosen), None
    for round_ in (1, 2, 3):
        losses = Losses()
        start = trainer.dpo(PAIRS, start=start, output=tmp_path / f"dpo{round_}", seed=round_, on_step=losses)
        assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
        assert losses[-1] < math.log(2) - 0.05
        assert sorted(each.name for each in start.path.iterdir()) == ADAPTER_FILES


def test_a_round_goes_on_from_the_weights_of_its_start(model: Path, tmp_path: Path):
    """With a learning rate that changes nothing, what comes out is what went in."""
    sft = TRLTrainer(model, settings()).sft(ROWS, start=None, output=tmp_path / "sft", seed=0)
    still = TRLTrainer(model, settings(dpo_learning_rate=1e-30, dpo_epochs=1))
    dpo = still.dpo(PAIRS, start=sft, output=tmp_path / "dpo", seed=1)
    assert dpo.fingerprint == sft.fingerprint


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(model: Path, tmp_path: Path):
    trainer = TRLTrainer(model, settings(dpo_epochs=1))
    found = []
    for run, seed in enumerate((0, 0, 1)):
        random.random()
        torch.rand(1)
        sft = trainer.sft(ROWS, start=None, output=tmp_path / f"sft{run}", seed=seed)
        found.append((sft, trainer.dpo(PAIRS, start=sft, output=tmp_path / f"dpo{run}", seed=seed)))
    first, again, other = [[each.fingerprint for each in pair] for pair in found]
    assert first == again
    assert not set(first) & set(other)


def test_the_callers_random_states_are_left_as_they_were(model: Path, tmp_path: Path):
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    TRLTrainer(model, settings(dpo_epochs=1)).dpo(PAIRS, start=None, output=tmp_path / "dpo", seed=0)
    after = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    assert after == (random.random(), np.random.rand(), torch.rand(1).item())


def test_all_weights_can_be_trained_and_the_folder_is_a_model_to_go_on_from(model: Path, tmp_path: Path):
    losses = Losses()
    trainer = TRLTrainer(model, settings(lora=None, alpha=0.0, batch_size=6, sft_learning_rate=1e-3))
    sft = trainer.sft(ROWS, start=None, output=tmp_path / "sft", seed=0)
    dpo = trainer.dpo(PAIRS, start=sft, output=tmp_path / "dpo", seed=0, on_step=losses)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert dpo.fingerprint == sha256((dpo.path / "model.safetensors").read_bytes()).hexdigest()
    assert dpo.fingerprint != sft.fingerprint
    assert LocalEngine(dpo.path).sample(requests(["hello"], seeds=[0], temperature=0.0, max_new_tokens=2))[0].tokens > 0


def test_an_adapter_loads_into_the_engine_and_changes_what_it_writes(model: Path, tmp_path: Path):
    rows = [SFTExample("q", "free", "Say it.", "ok")] * 8
    checkpoint = TRLTrainer(model, settings(sft_epochs=40, sft_learning_rate=2e-2)).sft(
        rows, start=None, output=tmp_path / "sft", seed=0
    )
    (reply,) = LocalEngine(model, adapter=checkpoint.path).sample(requests(["Say it."], seeds=[0], temperature=0.0))
    assert reply.text == "ok"
    assert reply.tokens == 3


def test_checkpointing_and_mixed_precision_train_too(model: Path, tmp_path: Path):
    losses = Losses()
    trainer = TRLTrainer(model, settings(gradient_checkpointing=True, bf16=True))
    sft = trainer.sft(ROWS, start=None, output=tmp_path / "sft", seed=0)
    trainer.dpo(PAIRS, start=sft, output=tmp_path / "dpo", seed=0, on_step=losses)
    assert all(math.isfinite(each) for each in losses)


@pytest.mark.parametrize("lora", [LoRASettings(rank=4, alpha=8), None], ids=["lora", "all weights"])
def test_checkpointing_computes_layers_twice_and_changes_no_preference_loss(
    model: Path, tmp_path: Path, lora: LoRASettings | None
):
    passes, losses = [0, 0], (Losses(), Losses())

    def count(module: torch.nn.Module, inputs: object) -> None:
        if type(module).__name__ == "Qwen3MLP" and torch.is_grad_enabled():
            passes[checkpointing] += 1

    for checkpointing in (False, True):
        chosen = settings(lora=lora, dpo_epochs=2, dpo_learning_rate=1e-3, gradient_checkpointing=checkpointing)
        hook = register_module_forward_pre_hook(count)
        try:
            TRLTrainer(model, chosen).dpo(
                PAIRS, start=None, output=tmp_path / "dpo", seed=0, on_step=losses[checkpointing]
            )
        finally:
            hook.remove()
    assert passes[True] == 2 * passes[False]
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)


def test_rows_that_are_too_long_are_counted_and_left_out(model: Path, tmp_path: Path):
    trainer = TRLTrainer(model, settings(max_length=100, sft_epochs=1))
    long = SFTExample("q", "cot", "Short.", "x" * 100)
    checkpoint = trainer.sft([*ROWS, long, long], start=None, output=tmp_path / "sft", seed=0)
    assert (checkpoint.metrics["rows"], checkpoint.metrics["dropped"]) == (6, 2)
    (note,) = checkpoint.notes
    longest = int(checkpoint.metrics["longest"])
    assert longest > 100
    assert note.startswith(f"2 of 8 rows had more than max_length=100 tokens (the longest {longest})")
    assert not trainer.sft(ROWS, start=None, output=tmp_path / "sft", seed=0).notes
    with pytest.raises(TrainingError, match=r"at most max_length=100 tokens, got 1 .* the shortest \d+\. Raise"):
        trainer.sft([long], start=None, output=tmp_path / "none", seed=0)
    assert [each.name for each in tmp_path.iterdir()] == ["sft"]


def test_a_loss_that_is_no_number_stops_and_leaves_what_was_there(model: Path, tmp_path: Path):
    output = tmp_path / "dpo"
    output.mkdir()
    (output / "before").touch()
    with pytest.raises(TrainingError, match="Lower the learning rate"):
        TRLTrainer(model, settings(dpo_learning_rate=1e30, dpo_epochs=5)).dpo(PAIRS, start=None, output=output, seed=0)
    assert [each.name for each in tmp_path.rglob("*")] == ["dpo", "before"]


def test_what_was_in_the_output_folder_is_replaced(model: Path, tmp_path: Path):
    output = tmp_path / "sft"
    output.mkdir()
    (output / "before").touch()
    TRLTrainer(model, settings(sft_epochs=1)).sft(ROWS, start=None, output=output, seed=0)
    assert sorted(each.name for each in output.iterdir()) == ADAPTER_FILES


def test_nothing_to_learn_from_is_an_error_that_says_what_to_do(model: Path, tmp_path: Path):
    trainer = TRLTrainer(model, settings())
    with pytest.raises(TrainingError, match="lower the threshold"):
        trainer.sft([], start=None, output=tmp_path / "sft", seed=0)
    with pytest.raises(NoPreferencePairsError, match="harder"):
        trainer.dpo([], start=None, output=tmp_path / "dpo", seed=0)


def test_a_checkpoint_of_the_other_sort_is_refused(model: Path, tmp_path: Path):
    whole = Checkpoint("sft", model, "")
    with pytest.raises(TrainingError, match="an adapter's folder"):
        TRLTrainer(model, settings()).sft(ROWS, start=whole, output=tmp_path / "a", seed=0)
    missing = Checkpoint("sft", tmp_path / "nowhere", "")
    with pytest.raises(TrainingError, match="whole model's folder"):
        TRLTrainer(model, settings(lora=None)).dpo(PAIRS, start=missing, output=tmp_path / "b", seed=0)


def test_an_adapter_holds_only_the_lora_matrices(model: Path, tmp_path: Path):
    checkpoint = TRLTrainer(model, settings(sft_epochs=1)).sft(ROWS, start=None, output=tmp_path / "sft", seed=0)
    with safe_open(checkpoint.path / ADAPTER_FILES[1], framework="pt") as weights:
        names = set(weights.keys())
    assert len(names) == 2 * 2 * 7, "A and B of 7 linear layers in each of 2 blocks"
    assert all(name.endswith(("lora_A.weight", "lora_B.weight")) for name in names)
    assert not [name for name in names if "lm_head" in name or ".ref." in name]
