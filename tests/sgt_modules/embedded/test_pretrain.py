"""Pretraining is seeded: the same command makes the same weights."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sgt_modules.embedded.pretrain import RECIPES, Recipe, learning_rate, pretrain

TINY = Recipe("tiny", "actor", hidden=64, layers=1, seed=7, steps=2, batch=4)


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_the_same_recipe_makes_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    made = []
    for place, recipe in (("a", TINY), ("b", TINY), ("c", replace(TINY, seed=8))):
        pretrain(recipe, tmp_path / place)
        made.append(weights(tmp_path / place / "tiny"))
    assert made[0] == made[1] != made[2]


def test_a_model_can_go_on_from_another_of_its_size(tmp_path: Path) -> None:
    pretrain(TINY, tmp_path)
    pretrain(replace(TINY, name="child", start="tiny", learning_rate=0.0), tmp_path)
    assert weights(tmp_path / "child") == weights(tmp_path / "tiny")


def test_the_learning_rate_warms_up_and_ends_at_a_twentieth() -> None:
    recipe = RECIPES[0]
    rates = [learning_rate(recipe, step) for step in range(recipe.steps + 1)]
    assert max(rates) == pytest.approx(recipe.learning_rate, rel=1e-3)
    assert rates[-1] == pytest.approx(recipe.learning_rate / 20)
    assert rates[0] < rates[50] < rates[99]


def test_the_shipped_models_are_those_of_the_recipes() -> None:
    from transformers import AutoConfig

    from sgt_modules.embedded.models import WEIGHTS

    for recipe in RECIPES:
        config = AutoConfig.from_pretrained(WEIGHTS / recipe.name)
        assert (config.model_type, config.hidden_size) == ("qwen3", recipe.hidden)
        assert config.num_hidden_layers == recipe.layers
    assert torch.get_default_dtype() == torch.float32
