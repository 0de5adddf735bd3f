"""A run of SGT that the budget ended is named under the table, with the phase: its score is not the method's."""

from __future__ import annotations

from pathlib import Path

from small_compile import compiled, helped

from optimizers.comparison.cells import write_legend
from optimizers.comparison.leaderboard import rank_rows
from optimizers.comparison.outcomes import TrialOutcome
from optimizers.comparison.result import Comparison
from optimizers.comparison.trial import _find_stop


def test_the_phase_comes_from_the_run_s_result(tmp_path: Path) -> None:
    whole, _ = compiled(helped, tmp_path / "whole")
    cut, _ = compiled(helped, tmp_path / "cut", max_actor_calls=10)
    assert (_find_stop(whole), _find_stop(cut)) == ("", "the warm start")


def test_it_is_kept_in_the_folder_and_said_under_the_table(tmp_path: Path) -> None:
    early = TrialOutcome("sgt_grpo", 0, {"x": 1.0}, stopped="the warm start")
    assert TrialOutcome.read(early.content(), tmp_path) == early
    whole = [TrialOutcome(name, 0, {"x": 0.0}) for name in ("none", "sgt")]
    rows = rank_rows([*whole, early, TrialOutcome("sgt_grpo", 1, {"x": 1.0}, stopped="round 1")])
    said = "The budget ended sgt_grpo in the warm start (1 of 2), round 1 (1 of 2)."
    assert write_legend(rows).endswith(said)
    assert "The budget" not in write_legend(rows[:2])
    comparison = Comparison("sums", "10 actor calls", (0, 1), rows)
    assert said in comparison.to_markdown()
    assert [row["stopped"] for row in comparison.content()["rows"]][:2] == ["", ""]
