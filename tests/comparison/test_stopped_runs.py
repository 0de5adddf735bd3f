"""Under the table stand runs of SGT that the budget ended, with the phase, and answers that failed, with an error."""

from __future__ import annotations

from pathlib import Path

import dspy
from scripted import ScriptedEngine, reply
from small_compile import compiled, helped

from optimizers.comparison import compare
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


def test_answers_that_failed_are_counted_by_their_error_with_one_of_them(tmp_path: Path) -> None:
    """The actor answers even questions in a form that no adapter reads; an answer without its field scores 0."""
    questions = [dspy.Example(question=str(number), answer="1").with_inputs("question") for number in range(12)]

    def script(text: str) -> str:
        return "I\nramble." if int(text.split()[-1]) % 2 == 0 else reply(answer="1")

    with dspy.context(lm=ScriptedEngine(lambda text: script(text.rpartition("## question ## ]]")[2].split()[0])).lm()):
        found = compare(
            dspy.Predict("question -> answer"),
            *(questions[:2], questions[2:4], questions[4:]),
            lambda example, prediction, trace=None: example.answer == prediction.answer,
            ["none"],
            seeds=[0, 1],
            log_dir=tmp_path,
            display_progress=False,
        )
    row = Comparison.read(tmp_path).row("none")
    assert (row.test, row.unanswered, row.errors) == (0.5, 0, {"AdapterParseError": 8})
    assert row.error == found.row("none").error
    assert row.error.startswith("AdapterParseError: ")
    assert "Answers that failed: none AdapterParseError 8 ('AdapterParseError: " in found.to_markdown()
    assert "Answers that failed" in found.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
