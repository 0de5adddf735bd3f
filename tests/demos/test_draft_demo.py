"""Advice on a draft on the embedded world: plain questions, which the actor answers right alone, take one call."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from optimizers.demos.house_terms import QUICK_SCALE, demonstrate


@pytest.mark.slow
def test_a_trained_generator_keeps_the_drafts_of_plain_questions(tmp_path: Path) -> None:
    scale = replace(QUICK_SCALE, recipe=replace(QUICK_SCALE.recipe, draft=True))
    shown = demonstrate(1, scale=scale, log_dir=tmp_path, display=False)
    scored, test = shown.stage_rollouts, shown.world.test
    right = [
        not each.term and alone.reward.score == 1.0 for each, alone in zip(test, scored["none"]["test"], strict=True)
    ]
    kept = [not each.supplement for each in scored[shown.result.selected]["test"]]
    plain = [said for said, easy in zip(kept, right, strict=True) if easy]
    helped = [said for said, each in zip(kept, test, strict=True) if each.term]
    print(f"{sum(plain)} of {len(plain)} right drafts of plain questions kept, {sum(helped)} of {len(helped)} of terms")
    assert sum(plain) >= 0.9 * len(plain)
    assert sum(helped) <= 0.1 * len(helped)
