"""The GPU's benchmark, run as it stands with a tiny shape, and the operations that it counts."""

from __future__ import annotations

import json
import random
from pathlib import Path

import gpu_round
import pytest
import torch
from gpu_bench import halvings_noted, simulated_rollouts
from gpu_round import Figure, largest
from operations import Read, Tokens, peak_tflops, tokens_of
from peft import LoraConfig, get_peft_model
from random_model import CHAT_TOKENS, SHAPES, random_text, word_tokenizer, write_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from optimizers.sgt.preference_pairs import preference_pairs
from sgt_modules.local.batching import TokenRequest, run_in_batches
from sgt_modules.local.chat_template import render_chat
from sgt_modules.samples import Sample

pytestmark = pytest.mark.slow

TINY = SHAPES["tiny"]
ROWS, LENGTH = 3, 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu_round")


@pytest.fixture(scope="module")
def figures(folder: Path) -> dict[str, Figure]:
    """All parts, once."""
    wanted = ["--shape", "tiny", "--repeats", "1", "--peak-tflops", "0.5"]
    found = gpu_round.main([*wanted, "--folder", str(folder), "--out", str(folder / "out.json")])
    return {each.figure: each for each in found}


def eager(folder: Path) -> PreTrainedModel:
    """The tiny model with attention as plain products, which torch's counter sees on every device."""
    return AutoModelForCausalLM.from_pretrained(
        write_model(TINY, folder / "model"), dtype=torch.float32, attn_implementation="eager"
    )


def test_every_part_gives_its_figures_and_they_are_on_disk(figures: dict[str, Figure], folder: Path) -> None:
    assert list(figures) == [
        "tokens sampled a second, batch 8",
        "DPO, ours: tokens of pairs a second",
        "DPO, ours: share of the peak",
        "DPO, TRL: tokens of pairs a second",
        "DPO, TRL: share of the peak",
        "seconds of a DPO round, 80 pairs",
        "peak memory of a round at 52 tokens",
        "largest batch sampled, prompts of 56 tokens in all",
        "largest micro-batch trained, 52 tokens",
    ]
    assert all(each.ours > 0 for each in figures.values())
    written = json.loads((folder / "out.json").read_text(encoding="utf-8"))
    assert [each["figure"] for each in written["figures"]] == list(figures)
    assert written["machine"]["torch"] == torch.__version__


def test_trl_reads_two_texts_a_pair_for_the_reference_and_two_in_training(
    figures: dict[str, Figure],
) -> None:
    details = figures["DPO, TRL: tokens of pairs a second"].details
    assert details["tokens_read"] == 2 * 80 * 2 * 52


def test_the_share_of_the_peak_counts_no_repeated_reading(figures: dict[str, Figure]) -> None:
    ours, trl = (figures[f"DPO, {trainer}: tokens of pairs a second"].details for trainer in ("ours", "TRL"))
    assert ours["tokens_read"] < 0.6 * trl["tokens_read"]
    assert ours["tflop_needed"] == ours["tflop_done"] == trl["tflop_needed"] < trl["tflop_done"]
    assert trl["pairs_a_second"] * ours["tflop_needed"] / 80 / 0.5 == pytest.approx(
        figures["DPO, TRL: share of the peak"].ours, rel=0.002
    )


def test_on_a_cpu_nothing_runs_out_so_the_search_ends_where_the_plan_does(figures: dict[str, Figure]) -> None:
    batch, pairs = (
        figures["largest batch sampled, prompts of 56 tokens in all"],
        figures["largest micro-batch trained, 52 tokens"],
    )
    assert (batch.ours, pairs.ours) == (16, 16)
    assert (batch.details["tried_up_to"], pairs.details["tried_up_to"]) == (16, 16)


def test_only_the_parts_that_were_named_are_measured(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--shape", "tiny", "--folder", str(folder), "--only"]
    assert [each.unit for each in gpu_round.main([*options, "largest-batch"])] == ["prompts"]
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["ours"], last["device"]) == (16, "cpu")
    assert gpu_round.main([*options, "sampling", "--seconds", "0"]) == []


def test_the_large_shape_has_the_weights_of_the_hubs_model() -> None:
    shape = SHAPES["qwen3-1.7b"]
    with torch.device("meta"):
        model = Qwen3ForCausalLM(
            Qwen3Config(**{name: getattr(shape, name) for name in shape.__slots__}, tie_word_embeddings=True)
        )
    matrices = sum(each.numel() for each in model.parameters() if each.dim() == 2)
    assert shape.body + shape.head == matrices
    assert round(matrices / 1e9, 2) == 1.72
    adapted = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert adapted.get_nb_trainable_parameters()[0] == shape.adapter(rank=16)


def test_a_text_has_as_many_tokens_as_were_asked_for() -> None:
    tokenizer = word_tokenizer(TINY.vocab_size)
    assert len(tokenizer) == TINY.vocab_size
    text = random_text(30, TINY, random.Random(0))
    ids = tokenizer(render_chat(tokenizer, [{"role": "user", "content": text}]), add_special_tokens=False)["input_ids"]
    assert len(ids) == 30 + CHAT_TOKENS
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == f"user {text} assistant"


def test_twenty_replies_make_forty_pairs() -> None:
    rollouts = simulated_rollouts(["a", "b"], [f"w{number}" for number in range(40)])
    pairs = preference_pairs(rollouts, rng=random.Random(0))
    assert [sum(pair.query == query for pair in pairs) for query in "01"] == [40, 40]


def whole_rows(rows: int, length: int) -> Tokens:
    """Rows in which every next token is wanted, as torch counts them: as if each token saw all others."""
    return Tokens(read=rows * length, predicted=rows * length, seen=rows * length**2)


def test_a_forward_pass_costs_what_torch_counts(folder: Path) -> None:
    model = eager(folder)
    ids = torch.randint(TINY.vocab_size, (ROWS, LENGTH))
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        model(input_ids=ids)
    assert whole_rows(ROWS, LENGTH).forward(TINY) == pytest.approx(counted.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("rank", [None, 4], ids=["all weights", "an adapter"])
def test_a_training_pass_costs_what_torch_counts(folder: Path, rank: int | None) -> None:
    trained = eager(folder)
    if rank is not None:
        trained = get_peft_model(trained, LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM"))
        trained.enable_input_require_grads()
    ids = torch.randint(TINY.vocab_size, (ROWS, LENGTH))
    with FlopCounterMode(display=False) as counted:
        trained(input_ids=ids).logits.sum().backward()
    ours = whole_rows(ROWS, LENGTH).forward_and_back(TINY, None if rank is None else TINY.adapter(rank))
    assert ours == pytest.approx(counted.get_total_flops(), rel=0.02)


def test_replies_of_one_prompt_are_read_with_it_once_and_do_not_see_each_other() -> None:
    alone = tokens_of([Read(rows=2, tokens=8, trained=True, began=0.0)], prompt=2, reply=2)
    shared = tokens_of([Read(rows=1, tokens=6, trained=True, began=0.0)], prompt=2, reply=2)
    assert alone == Tokens(read=8, predicted=4, seen=2 * (1 + 2 + 3 + 4))
    assert shared == Tokens(read=6, predicted=4, seen=(1 + 2) + 2 * (3 + 4))


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H200", 989.0),
        ("NVIDIA GH200 480GB", 989.0),
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A10G", 70.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA L4", 121.0),
        ("cpu", None),
    ],
)
def test_a_device_is_known_by_its_name_or_has_no_peak(device: str, peak: float | None) -> None:
    assert peak_tflops(device) == peak


def test_the_search_doubles_until_something_does_not_fit() -> None:
    tried: list[int] = []
    assert largest(2, 64, lambda number: tried.append(number) or number <= 20) == 16
    assert tried == [2, 4, 8, 16, 32]
    assert largest(2, 8, lambda _: True) == 8
    assert largest(2, 8, lambda _: False) == 0


def test_a_batch_that_did_not_fit_is_noted() -> None:
    def run(token_requests: list[TokenRequest]) -> list[Sample]:
        if len(token_requests) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return [Sample("")]

    token_requests = [TokenRequest((number,), 0, 0.0, 1) for number in range(2)]
    with halvings_noted() as halvings:
        run_in_batches(token_requests, 99, run)
    assert halvings == ["Out of memory on 2 rows; going on with 2 tokens a batch."]
