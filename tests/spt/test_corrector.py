"""What the corrector reads, and what is made of its replies."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import dspy
import pytest
from dspy.lm15 import RateLimitError
from hypothesis import given
from hypothesis import strategies as st
from scripted import ScriptedEngine, reply

from optimizers.core.budget import Budget, Limits
from optimizers.core.prices import Price
from optimizers.core.records import Query, Reward, Rollout
from optimizers.spt.corrector import Corrector, Mistake, batch_mistakes, find_new, format_mistakes, make_mistake
from optimizers.spt.impact import count_tokens
from optimizers.spt.meta_prompts import MetaPrompts
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.errors import StoppedError
from sgt_modules.kinds import SILENCE

TWO = [Mistake(3, "Question:\n  question: 2+2?"), Mistake(5, "Question:\n  question: 3+3?")]


def rollout(output: dict[str, str], reward: Reward, error: str = "") -> Rollout:
    return Rollout(Query("a", 0, "", ""), "", "none", SILENCE, reward, output, error)


def asks(
    tmp_path: Path, script: Callable[[str], str], *, budget: Budget | None = None, seed: int = 0, **changes: object
) -> tuple[list[str], ScriptedEngine]:
    """Four candidates from the two mistakes, one at a time."""
    engine = ScriptedEngine(script, whole=True)
    engine.price = Price({"input_cost_per_token": 0.0, "output_cost_per_token": 0.25})
    with RolloutStore(tmp_path / "rollouts.sqlite", run="corrector") as store:
        corrector = Corrector(engine.lm(), store, budget or Budget(), seed=seed, num_threads=1)
        given: dict[str, object] = {
            "step": "From `question` it writes `answer`.",
            "prompt": "Add.",
            "shown": [TWO[:1], TWO[1:]] * 2,
            "number": 100,
            "impact": False,
            **changes,
        }
        return corrector.write_prompts(str(given.pop("brief", "Teach.")), **given), engine


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (
            rollout({"reasoning": "Hm.", "answer": "5"}, Reward(0.0, "X")),
            "Question:\n  question: 2+2?\nWritten:\n  reasoning: Hm.\n  answer: 5\nExpected:\n  answer: 4\nVerdict: X",
        ),
        (
            rollout({}, Reward(0.0), "AdapterParseError: no field answer"),
            "Question:\n  question: 2+2?\nExpected:\n  answer: 4\nVerdict: AdapterParseError: no field answer",
        ),
    ],
)
def test_a_mistake_tells_question_answer_and_verdict(wrong: Rollout, expected: str) -> None:
    example = dspy.Example(question="2+2?", answer="4").with_inputs("question")
    assert make_mistake(3, example, wrong) == Mistake(3, expected)


def test_mistakes_that_fit_stay_together_and_one_too_long_is_cut() -> None:
    long = Mistake(1, "é" * 100)  # 200 bytes
    assert batch_mistakes([TWO[0], long], 1000, random.Random(0)) == [[TWO[0], long]]
    [[cut]] = batch_mistakes([long], 10, random.Random(0))
    assert cut == Mistake(1, "é" * 15)


@given(st.lists(st.integers(0, 60), max_size=20), st.integers(1, 30), st.integers(0, 3))
def test_every_mistake_stands_in_one_part_and_each_part_fits(lengths: list[int], most: int, seed: int) -> None:
    mistakes = [Mistake(n, "x" * length) for n, length in enumerate(lengths)]
    found = batch_mistakes(mistakes, most, random.Random(seed))
    assert sorted(each.index for batch in found for each in batch) == list(range(len(lengths)))
    assert all(sum(count_tokens(each.text) for each in batch) <= most for batch in found)
    assert found == batch_mistakes(mistakes, most, random.Random(seed))


@pytest.mark.parametrize(
    ("written", "known", "expected"),
    [
        (["A.", "B."], [], [True, True]),
        (["A.", "A. "], [], [True, False]),
        (["A\nb."], ["A b."], [False]),
        (["", "  "], [], [False, False]),
        (["a."], ["A."], [True]),
    ],
)
def test_repeats_and_empty_texts_are_told(written: list[str], known: list[str], expected: list[bool]) -> None:
    assert find_new(written, known) == expected


def test_a_request_holds_the_brief_the_prompt_and_its_own_mistakes(tmp_path: Path) -> None:
    found, engine = asks(tmp_path, lambda text: reply(new_prompt="Carry. [impact +0.50 ± 0.10] Check."))
    assert found == ["Carry. Check."] * 4
    assert [format_mistakes(TWO[:1]) in text for text in engine.asked] == [True, False, True, False]
    assert [format_mistakes(TWO[1:]) in text for text in engine.asked] == [False, True, False, True]
    assert all("Teach." in text and "## prompt ## ]]\nAdd." in text for text in engine.asked)
    assert "impact" not in engine.asked[0]


def test_impacts_are_explained_where_there_are_some(tmp_path: Path) -> None:
    _, engine = asks(tmp_path, lambda text: reply(new_prompt="Carry."), impact=True)
    assert "Behind each sentence stands its impact" in engine.asked[0]


def test_each_candidate_is_a_sample_of_its_own_and_known_when_asked_again(tmp_path: Path) -> None:
    """The third has the first's request, and is asked all the same; another seed, number or brief asks anew."""
    said = iter(range(100))

    def writes(text: str) -> str:
        return reply(new_prompt=f"Prompt {next(said)}.")

    assert asks(tmp_path, writes)[0] == [f"Prompt {n}." for n in range(4)]
    known, engine = asks(tmp_path, writes)
    assert (known, engine.asked) == ([f"Prompt {n}." for n in range(4)], [])
    for change in ({"seed": 1}, {"number": 200}, {"brief": "Teach well."}):
        assert len(asks(tmp_path, writes, **change)[1].asked) == 4


def test_a_reply_that_cannot_be_read_is_kept_and_one_that_never_came_is_asked_again(tmp_path: Path) -> None:
    """DSPy asks once more, for JSON, where it cannot read a reply."""
    answers = iter(["Hm.", "Hm.", None, reply(new_prompt="Third."), reply(new_prompt="Fourth.")])

    def writes(text: str) -> str:
        said = next(answers)
        if said is None:
            raise RateLimitError("later")
        return said

    assert asks(tmp_path, writes)[0] == ["", "", "Third.", "Fourth."]
    found, engine = asks(tmp_path, lambda text: reply(new_prompt="Second."))
    assert found == ["", "Second.", "Third.", "Fourth."]
    assert len(engine.asked) == 1


def test_its_dollars_count_to_the_budget_in_every_session(tmp_path: Path) -> None:
    """`[[ ## new_prompt ## ]] Carry. [[ ## completed ## ]]` is eleven words at a quarter: $2.75, so four $11."""
    budget = Budget(Limits(cost_usd=11.0))
    asks(tmp_path, lambda text: reply(new_prompt="Carry."), budget=budget)
    with pytest.raises(StoppedError, match=r"\$11.00 of at most \$11.00"):
        budget.check()
    again = Budget(Limits(cost_usd=11.0))
    assert asks(tmp_path, lambda text: reply(new_prompt="Carry."), budget=again)[0] == ["Carry."] * 4  # known
    with pytest.raises(StoppedError, match=r"\$11.00 of at most \$11.00"):
        asks(tmp_path, lambda text: reply(new_prompt="Carry."), budget=Budget(Limits(cost_usd=11.0)), number=200)


def test_the_brief_is_written_anew_from_both_prompts(tmp_path: Path) -> None:
    engine = ScriptedEngine(lambda text: reply(new_meta_prompt=" Look at sums. "), whole=True)
    with RolloutStore(tmp_path / "rollouts.sqlite", run="corrector") as store:
        corrector = Corrector(engine.lm(), store, Budget())
        found = corrector.rewrite_brief(
            MetaPrompts().improve, brief="Teach.", first="Add.", best="Carry.", shown=TWO, number=199
        )
    assert found == "Look at sums."
    [asked] = engine.asked
    assert "You teach a teacher." in asked
    said = {"meta_prompt": "Teach.", "first_prompt": "Add.", "best_prompt": "Carry.", "mistakes": format_mistakes(TWO)}
    assert all(f"[[ ## {name} ## ]]\n{text}" in asked for name, text in said.items())
