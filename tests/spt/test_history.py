"""What SPT found so far: the prompts, those that were tried, the impacts and the best stage, of two predictors."""

from __future__ import annotations

from scripted import rollout

from optimizers.spt.history import History
from optimizers.spt.impact import SentenceImpact
from optimizers.spt.result import PromptCandidate, PromptRound, PromptStage

FIRST = {"think": "Think. ", "answer": "Answer."}


def found(
    number: int, predictor: str, before: str, chosen: str | None, *, accepted: bool, impact: float
) -> PromptRound:
    """A round that measured one sentence, and chose one of two candidates or none."""
    candidates = [PromptCandidate("Never.", [0]), PromptCandidate(chosen or "", [0])]
    measured = [SentenceImpact("Think. ", impact, 0.0, -1.0, 1.0, 4)]
    index = None if chosen is None else 1
    return PromptRound(number, predictor, before, [0], measured, candidates, index, (0.5, 0.5), accepted, "brief")


def history() -> History:
    rounds = [
        found(1, "think", "Think.", "Think twice.", accepted=True, impact=0.5),
        found(2, "think", "Think twice.", None, accepted=False, impact=-0.25),
    ]
    return History(FIRST, ["brief"], rounds=rounds)


def test_prompts_are_those_of_the_last_round_of_each_predictor() -> None:
    assert History(FIRST, ["brief"]).prompts == FIRST
    assert (history().prompts, history().round) == ({"think": "Think twice.", "answer": "Answer."}, 3)


def test_a_chosen_candidate_was_tried_also_if_it_was_refused() -> None:
    refused = History(FIRST, ["brief"], rounds=[found(1, "answer", "Answer.", "Guess.", accepted=False, impact=0.0)])
    assert refused.prompts_tried("answer") == ["Answer.", "Guess."]
    assert history().prompts_tried("think") == ["Think. ", "Think twice."]


def test_the_last_impact_of_a_sentence_counts_and_only_that_of_its_own_predictor() -> None:
    assert history().impacts("think") == {"Think.": -0.25}
    assert history().impacts("answer") == {}


def test_the_earlier_of_two_equal_stages_is_best() -> None:
    stages = [PromptStage(name, score, FIRST, [rollout(score)]) for name, score in (("student", 0.0), ("round1", 1.0))]
    equal = PromptStage("round2", 1.0, FIRST, [rollout(1.0)])
    best = History(FIRST, ["brief"], stages=[*stages, equal]).best
    assert best is not None
    assert best.name == "round1"


def test_what_was_tried_is_every_candidates_rollouts_in_order() -> None:
    one, two, three = rollout(0.0), rollout(1.0), rollout(0.5)
    assert History(FIRST, ["brief"], explored=[[one], [], [two, three]]).tried == [one, two, three]
