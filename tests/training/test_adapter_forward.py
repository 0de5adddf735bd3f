"""The shorter forward pass of an adapter's layers gives the bytes that PEFT's own gives, or is not installed."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from optimizers.training.trl_arguments import install_adapter_forward
from sgt_modules.embedded.models import embedded_folder

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11], [12, 13, 14, 15, 16, 17, 18]])


def build_model(**config: object) -> PeftModel:
    """A small adapted model whose second matrices are not zero, so that the adapter matters."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(embedded_folder("generator"), dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(**{"r": 16, "lora_alpha": 32, "target_modules": "all-linear"} | config))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight.data, std=0.1)
    return model


def run(model: PeftModel) -> dict[str, Tensor]:
    """The logits, and the gradient of each trained weight."""
    model.train()
    logits = model(input_ids=IDS).logits
    logits.log_softmax(-1)[:, :-1].gather(2, IDS[:, 1:, None]).sum().backward()
    gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    return {"logits": logits.detach(), **gradients}


def installed(model: PeftModel) -> int:
    """How many layers have the shorter forward pass."""
    install_adapter_forward(model)
    return sum("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("alpha", [8, 16, 32, 64])
def test_outputs_and_gradients_are_those_of_peft_to_the_byte(alpha: int) -> None:
    expected, model = run(build_model(lora_alpha=alpha)), build_model(lora_alpha=alpha)
    assert installed(model) == 28
    found = run(model)
    assert len(found) == 1 + 2 * 28
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_a_model_without_its_adapter_gives_the_base_models_logits() -> None:
    model = build_model()
    installed(model)
    with model.disable_adapter():
        found = model(input_ids=IDS).logits
    base = AutoModelForCausalLM.from_pretrained(embedded_folder("generator"), dtype=torch.float32)
    assert torch.equal(found, base(input_ids=IDS).logits)


@pytest.mark.parametrize("config", [{"lora_alpha": 24}, {"lora_dropout": 0.1}, {"use_dora": True}], ids=str)
def test_other_adapters_keep_the_forward_pass_of_peft(config: dict[str, object]) -> None:
    assert installed(build_model(**config)) == 0


def test_half_precision_keeps_the_forward_pass_of_peft() -> None:
    assert installed(build_model().to(torch.bfloat16)) == 0
