"""Real instruct models asked for kinds on real Spider rows: each reply carries the kind that was asked for."""

from __future__ import annotations

import pytest
from real_models import real_model
from real_rows import real_folder

from optimizers.tasks.spider import SPIDER, AnswerInSQLite
from sgt_modules import KINDS, SupplementGenerator
from sgt_modules.kinds import FREE, NONE

pytestmark = [pytest.mark.real_model, pytest.mark.slow]

QUESTIONS = 2


@pytest.fixture(scope="module", params=["smollm2-135m", "qwen2.5-coder-0.5b"])
def generator(request: pytest.FixtureRequest) -> SupplementGenerator:
    return SupplementGenerator(real_model(request.param), max_new_tokens=48)


@pytest.fixture(scope="module")
def prompts(generator: SupplementGenerator) -> list[str]:
    train = SPIDER.splits(real_folder("spider")).train[:QUESTIONS]
    return [generator.prompt_for(AnswerInSQLite, example.inputs().toDict()) for example in train]


def test_each_kind_that_is_asked_for_is_the_supplement_s_kind(
    generator: SupplementGenerator, prompts: list[str]
) -> None:
    kinds = [kind for _ in prompts for kind in KINDS.values()]
    asked = [prompt for prompt in prompts for _ in KINDS]
    drawn = generator.sample(asked, seeds=range(len(asked)), kinds=kinds, temperature=0.8, top_p=0.95)
    named = [(kind.name, each.supplement.kind) for kind, each in zip(kinds, drawn, strict=True) if each.supplement]
    assert len(named) > len(asked) / 2
    assert all(wanted == found for wanted, found in named)
    assert all(each.supplement.render().startswith(f"[{each.supplement.kind}]") for each in drawn if each.supplement)


def test_free_style_mostly_names_a_kind(generator: SupplementGenerator, prompts: list[str]) -> None:
    asked = prompts * 5
    drawn = generator.sample(asked, seeds=range(len(asked)), kinds=[FREE] * len(asked), temperature=0.8, top_p=0.95)
    written = [each.supplement.kind for each in drawn if each.supplement]
    assert sum(kind not in (FREE, NONE) for kind in written) >= 0.5 * len(asked)
