"""A metric of any form DSPy knows becomes one reward, or an error that names what to do."""

from __future__ import annotations

from collections.abc import Callable

import dspy
import numpy as np
import pytest
import torch
from dspy.teleprompt.gepa.gepa_utils import ScoreWithFeedback
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizers.core.records import Reward
from optimizers.core.reward import Scorer, as_reward, check_metric
from sgt_modules.errors import MetricError

EXAMPLE = dspy.Example(question="2+2?", answer="4").with_inputs("question")
RIGHT = dspy.Prediction(answer="4")


@pytest.mark.parametrize(
    ("returned", "reward"),
    [
        (True, Reward(1.0)),
        (False, Reward(0.0)),
        (1, Reward(1.0)),
        (0.25, Reward(0.25)),
        (np.float32(0.5), Reward(0.5)),
        (np.bool_(True), Reward(1.0)),
        (1.0 + 1e-12, Reward(1.0)),
        (np.float32(1.0000001), Reward(1.0)),
        (np.float32(-1e-7), Reward(0.0)),
        (torch.tensor(1.0000001, dtype=torch.float32), Reward(1.0)),
        (dspy.Prediction(score=True, feedback="good"), Reward(1.0, "good")),
        (dspy.Prediction(score=0.5), Reward(0.5)),
        (dspy.Prediction(score=0.5, feedback=None), Reward(0.5)),
        (ScoreWithFeedback(score=0.0, feedback="no rows"), Reward(0.0, "no rows")),
    ],
)
def test_every_form_of_score_that_dspy_knows_is_a_reward(returned: object, reward: Reward) -> None:
    assert as_reward(returned) == reward


@pytest.mark.parametrize(
    "returned",
    [
        None,
        float("nan"),
        float("inf"),
        2.0,
        1.00001,
        -0.1,
        -0.00001,
        "1.0",
        [1.0],
        dspy.Prediction(answer="4"),
        dspy.Prediction(score=2),
    ],
)
def test_anything_else_is_an_error_that_names_what_came(returned: object) -> None:
    with pytest.raises(MetricError, match=r"A metric must return a bool, a number in \[0, 1\]") as raised:
        as_reward(returned)
    assert repr(returned) in str(raised.value)


@settings(deadline=None)
@given(st.floats(min_value=0.0, max_value=1.0))
def test_a_score_between_nought_and_one_is_kept_as_it_is(score: float) -> None:
    assert as_reward(score) == Reward(score)


def two(example: dspy.Example, prediction: dspy.Prediction) -> bool:
    return example.answer == prediction.answer


def three(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    return trace is None and example.answer == prediction.answer


def three_required(gold: dspy.Example, pred: dspy.Prediction, _: object) -> bool:
    return gold.answer == pred.answer


def three_with_an_option_of_its_own(example: dspy.Example, prediction: dspy.Prediction, share: float = 1.0) -> float:
    return share * (example.answer == prediction.answer)


def gepa(
    gold: dspy.Example, pred: dspy.Prediction, trace: object, pred_name: str | None, pred_trace: object
) -> dspy.Prediction:
    assert (pred_name, pred_trace) == (None, None)
    return dspy.Prediction(score=gold.answer == pred.answer, feedback="compared")


def gepa_with_defaults(
    gold: dspy.Example,
    pred: dspy.Prediction,
    trace: object = None,
    pred_name: str | None = None,
    pred_trace: object = None,
) -> bool:
    return gold.answer == pred.answer


class Exactness(dspy.Module):
    def forward(self, example: dspy.Example, pred: dspy.Prediction, trace: object = None) -> bool:
        return example.answer == pred.answer


@pytest.mark.parametrize(
    ("metric", "arguments"),
    [
        (two, 2),
        (three, 3),
        (three_required, 3),
        (three_with_an_option_of_its_own, 2),
        (gepa, 5),
        (gepa_with_defaults, 5),
        (Exactness(), 3),
        (lambda *args: True, 3),
        (dspy.evaluate.answer_exact_match, 3),
    ],
)
def test_a_metric_is_called_with_as_many_arguments_as_it_takes(metric: Callable[..., object], arguments: int) -> None:
    scorer = Scorer(metric)
    assert scorer.arguments == arguments
    assert scorer(EXAMPLE, RIGHT).score == 1.0


def test_the_metric_is_told_of_no_trace_unless_one_is_given() -> None:
    assert Scorer(three)(EXAMPLE, RIGHT).score == 1.0
    assert Scorer(three)(EXAMPLE, RIGHT, trace=[]).score == 0.0


@pytest.mark.parametrize("metric", [lambda only: 1, lambda a, b, c, d: 1, lambda a, b, c, d, e, f: 1])
def test_a_metric_of_another_number_of_arguments_is_refused(metric: Callable[..., object]) -> None:
    with pytest.raises(MetricError, match="Give it one of these forms"):
        Scorer(metric)


def test_a_metric_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(MetricError, match="must be callable"):
        Scorer("exact_match")  # pyright: ignore[reportArgumentType]  # the mistake under test


def test_a_metric_that_raises_is_named_with_the_remedy() -> None:
    def broken(example: dspy.Example, prediction: dspy.Prediction) -> float:
        return 1 / len(prediction.answer)

    with pytest.raises(MetricError, match=r"broken raised ZeroDivisionError.*Return 0.0 for a prediction"):
        Scorer(broken)(EXAMPLE, dspy.Prediction(answer=""))


def test_a_coroutine_function_is_no_metric() -> None:
    async def later(example: dspy.Example, prediction: dspy.Prediction) -> float:
        return 1.0

    with pytest.raises(MetricError, match="coroutine function"):
        Scorer(later)(EXAMPLE, RIGHT)


def test_the_trial_prediction_holds_the_labels_and_leaves_other_outputs_empty() -> None:
    def reads_both(example: dspy.Example, prediction: dspy.Prediction) -> bool:
        return prediction.answer == "4" and prediction.reasoning == ""

    assert check_metric(reads_both, EXAMPLE, ["reasoning", "answer"]) == Reward(1.0)


def test_a_metric_that_would_not_do_is_found_before_anything_is_paid() -> None:
    with pytest.raises(MetricError, match="returned None"):
        check_metric(lambda example, prediction: None, EXAMPLE, ["answer"])
