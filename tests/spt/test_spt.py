"""Supervisory Prompt Training, step by step against a course worked out by hand.

The course (`PROMPTS`), four candidates a round, on a training set of four `small`, two `carry`, two `unit` questions
(positions 0-3, 4-5, 6-7):

Round 1. `Answer briefly.` is right on the small ones, 4/8; the mistakes are 4, 5, 6, 7. Candidates: `Be polite.` makes
0/4 of them right; `Carry the one. Guess.` 2/4; `Name the unit.` 2/4; the fourth repeats the first. The second wins, as
the earlier of two; on the whole training set it is right on 2/8, so it is refused.

Round 2, from the same prompt. `Name the unit.` makes 2/4 right (as is known); the second was refused before; the third
is empty; `Be polite. Name the unit.` makes 2/4 right too. The first wins; 6/8 on the training set, so it is accepted.
Validation has two of each kind: 4/6, before 2/6.

Round 3. The mistakes are 4, 5. `Name the unit. Carry the one.` makes both right, 8/8, 6/6; the others repeat it.

Round 4 finds no mistakes, and the rounds end.

The actor is called, beyond what is known: 6 for the student on validation; in round 1, 8 for the training set, 8 for
the empty prompt (the impact of the only sentence), 3 x 4 for the candidates, 4 for the winner on the rest of the
training set; in round 2, 4 for the fourth candidate, 4 and 6 for the winner; in round 3, nothing for the impact (both
of its prompts are known), 2, 6 and 6 for the winner: 66.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Literal

import dspy
import pytest
from dspy.lm15 import AuthError, RateLimitError
from prompted import FIRST, TRAIN, VAL, actor, corrector, exact, spt, student
from scripted import ScriptedEngine, ScriptedGenerator, reply

from optimizers.core.prices import Price
from optimizers.spt.meta_prompts import CORRECT
from optimizers.spt.recipe import SPTRecipe
from optimizers.spt.result import SPTResult
from sgt_modules.errors import NoPredictorError, ProviderRefusedError, RunFolderError, SetupError, SGTError
from sgt_modules.kinds import Supplement
from sgt_modules.wrapping import supplement, supplemented_predictors

PROMPTS = [
    *("Be polite.", "Carry the one. Guess.", "Name the unit.", " Be  polite. "),
    *("Name the unit.", "Carry the one. Guess.", "", "Be polite. Name the unit."),
    *["Name the unit. Carry the one."] * 4,
]
BRIEFS = ["Look at units.", "Look at sums."]


def compiled(
    log_dir: Path,
    engine: ScriptedEngine,
    writes: ScriptedEngine,
    program: dspy.Module | None = None,
    **changes: object,
) -> tuple[dspy.Module, SPTResult]:
    with dspy.context(lm=engine.lm()):
        better = spt(writes, log_dir, **changes).compile(program or student(), trainset=TRAIN, valset=VAL)
    return better, better.detailed_results


def shown(request: str) -> list[str]:
    """The questions that a request to the corrector shows as mistakes."""
    return [line.split(": ")[1] for line in request.splitlines() if line.startswith("  question: ")]


def test_every_step_is_as_worked_out_by_hand(tmp_path: Path) -> None:
    acting, writing, given = actor(), corrector(PROMPTS), student()
    better, found = compiled(tmp_path, acting, writing, given)
    first, second, third = found.rounds
    assert better.signature.instructions == "Name the unit. Carry the one."
    assert given.signature.instructions == FIRST
    assert [each.mistakes for each in found.rounds] == [[4, 5, 6, 7], [4, 5, 6, 7], [4, 5]]
    assert shown(writing.asked[0]) == ["carry 1", "carry 2", "unit 1", "unit 2"]
    assert shown(writing.asked[-1]) == ["carry 1", "carry 2"]
    assert [(each.score, each.dropped) for each in first.candidates] == [
        (0.0, ""),
        (0.5, ""),
        (0.5, ""),
        (None, "repeats another"),
    ]
    assert [(each.score, each.dropped) for each in second.candidates] == [
        (0.5, ""),
        (None, "repeats another"),
        (None, "no reply"),
        (0.5, ""),
    ]
    assert [(each.chosen, each.accepted, each.train) for each in found.rounds] == [
        (1, False, (0.5, 0.25)),
        (0, True, (0.5, 0.75)),
        (0, True, (0.75, 1.0)),
    ]
    assert {each.name: round(each.score, 3) for each in found.stages} == {
        "student": 0.333,
        "round2": 0.667,
        "round3": 1.0,
    }
    assert (found.selected, found.stopped, found.briefs) == ("round3", "", (CORRECT,))
    assert len(acting.asked) == found.spent.actor_calls == 66
    assert len(writing.asked) == found.corrector.calls == 12
    assert (first.diff, third.diff.splitlines()[2:]) == (
        "",
        ["@@ -1 +1 @@", "-Name the unit.", "+Name the unit. Carry the one."],
    )


def test_the_corrector_reads_each_sentences_impact_and_the_result_has_the_table(tmp_path: Path) -> None:
    """Round 3: `Name the unit.` is right on 6/8, the empty prompt on 4/8. Two differences of 1 among 8 have the
    standard error sqrt(.25 * .75 * 8/7 / 8) = .1637; the interval .2 +- 1.96 sqrt((.3 - .04) / 10) holds 0.
    """
    writing = corrector(PROMPTS)
    _, found = compiled(tmp_path, actor(), writing)
    assert f"{FIRST} [impact +0.00 ± 0.00, not distinguishable from 0]" in writing.asked[0]
    assert "Name the unit. [impact +0.25 ± 0.16, not distinguishable from 0]" in writing.asked[-1]
    table = [(row["round"], row["sentence"], row["impact"], row["examples"]) for row in found.impact_table()]
    assert table == [(1, FIRST, 0.0, 8), (2, FIRST, 0.0, 8), (3, "Name the unit.", 0.25, 8)]


def test_impact_may_be_measured_by_leaving_each_sentence_out(tmp_path: Path) -> None:
    """`Name the unit. Guess.` is right on two of eight, the unit ones, `Guess.` on none, `Name the unit.` on six."""
    writing = corrector(["Name the unit."])
    given = student("Name the unit. Guess.")
    _, found = compiled(tmp_path, actor(), writing, given, impact="leave-one-out", rounds=1, candidates=1)
    assert [(each.sentence.strip(), each.impact) for each in found.rounds[0].impact] == [
        ("Name the unit.", 0.25),
        ("Guess.", -0.5),
    ]


def test_impact_on_a_part_of_the_training_set_runs_that_part_only(tmp_path: Path) -> None:
    """It is the same part in every round, so the empty prompt is run on it once."""
    acting = actor()
    found = compiled(tmp_path, acting, corrector(PROMPTS), recipe=SPTRecipe(impact_examples=4))[1]
    assert len(acting.asked) == 66 - 8 + 4
    assert [row["examples"] for row in found.impact_table()] == [4, 4, 4]


def test_without_impact_no_prompt_is_run_for_it_and_none_is_read(tmp_path: Path) -> None:
    acting, writing = actor(), corrector(PROMPTS)
    _, found = compiled(tmp_path, acting, writing, impact=False)
    assert len(acting.asked) == 66 - 8
    assert "impact" not in "".join(writing.asked)
    assert found.impact_table() == []


def test_the_published_method_takes_whatever_is_best_on_the_mistakes(tmp_path: Path) -> None:
    """`Carry the one. Guess.` spoils the small ones: 2/8 and then 1/3 on validation. The last prompt is returned."""
    recipe = SPTRecipe(accept=False, choice="last", rounds=1, impact=None)
    better, found = compiled(tmp_path, actor(), corrector(PROMPTS), recipe=recipe)
    assert better.signature.instructions == "Carry the one. Guess."
    assert [(each.accepted, each.train) for each in found.rounds] == [(True, (0.5, None))]
    assert found.selected == "round1"


def test_what_is_returned_is_best_on_validation_and_the_earlier_on_a_tie(tmp_path: Path) -> None:
    """A prompt that is right on one kind in place of another is as good on validation as the one before."""
    recipe = SPTRecipe(accept=False, rounds=2, candidates=1, impact=None)
    writing = corrector(["Name the unit.", "Carry the one."])
    better, found = compiled(tmp_path, actor(), writing, recipe=recipe)
    assert [round(each.score, 3) for each in found.stages] == [0.333, 0.667, 0.667]
    assert (found.selected, better.signature.instructions) == ("round1", "Name the unit.")


def test_pc_rewrites_its_brief_from_what_the_first_and_the_best_prompt_both_fail(tmp_path: Path) -> None:
    """After round 1, refused, both prompts are the first one: 4 mistakes. After round 2 both fail the carry ones. After
    round 3 nothing is left to both.
    """
    writing = corrector(PROMPTS, BRIEFS)
    better, found = compiled(tmp_path, actor(), writing, variant="pc")
    assert better.signature.instructions == "Name the unit. Carry the one."
    assert list(found.briefs) == [CORRECT, *BRIEFS]
    assert [each.brief for each in found.rounds] == [CORRECT, *BRIEFS]
    rewriting = [text for text in writing.asked if "[[ ## new_meta_prompt ## ]]" in text]
    assert [shown(text) for text in rewriting] == [["carry 1", "carry 2", "unit 1", "unit 2"], ["carry 1", "carry 2"]]
    assert BRIEFS[0] in writing.asked[5]
    assert len(writing.asked) == 12 + 2


def test_a_brief_that_is_empty_or_the_old_one_leaves_it_as_it_is(tmp_path: Path) -> None:
    _, found = compiled(tmp_path, actor(), corrector(PROMPTS, ["", CORRECT]), variant="pc")
    assert list(found.briefs) == [CORRECT]


@pytest.mark.parametrize("calls", [3, 12, 40, 50, 65])
def test_a_run_that_a_budget_ends_goes_on_and_pays_nothing_twice(calls: int, tmp_path: Path) -> None:
    acting, writing = actor(), corrector(PROMPTS, BRIEFS)
    better, found = compiled(tmp_path, acting, writing, variant="pc", max_actor_calls=calls)
    assert len(acting.asked) == calls
    assert f"{calls} of at most {calls} actor calls are made" in found.stopped
    # the second validation is over after 6 + 32 + 14 calls
    assert better.signature.instructions == ("Name the unit." if calls >= 52 else FIRST)
    better, found = compiled(tmp_path, acting, writing, variant="pc")
    assert better.signature.instructions == "Name the unit. Carry the one."
    assert (len(acting.asked), len(writing.asked)) == (66, 14)
    assert (found.spent.actor_calls, found.corrector.calls, found.stopped) == (66, 14, "")
    again = compiled(tmp_path, acting, writing, variant="pc")[1]
    assert (again.rounds, again.selected) == (found.rounds, found.selected)
    assert (len(acting.asked), len(writing.asked)) == (66, 14)


def test_a_finished_run_is_taken_up_again_though_its_budget_is_used_up(tmp_path: Path) -> None:
    acting, writing = actor(), corrector(PROMPTS, BRIEFS)
    first = compiled(tmp_path, acting, writing, variant="pc", max_actor_calls=66)[1]
    again = compiled(tmp_path, acting, writing, variant="pc", max_actor_calls=66)[1]
    assert (again.selected, again.stopped) == (first.selected, "") == ("round3", "")
    assert (len(acting.asked), len(writing.asked)) == (66, 14)


def test_the_first_ctrl_c_ends_the_run_in_good_order_and_it_goes_on(tmp_path: Path) -> None:
    """It is pressed while the second candidate is written: that reply is kept, and no other is asked for."""
    acting, writing = actor(), corrector(PROMPTS)
    answer = writing._script

    def press(text: str) -> str:
        if len(writing.asked) == 2:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)  # until the main thread hears of it
        return answer(text)

    writing._script = press
    with pytest.raises(KeyboardInterrupt, match=r"Stopped in round 1, the corrector: Ctrl-C was pressed\."):
        compiled(tmp_path, acting, writing)
    assert (len(acting.asked), len(writing.asked)) == (22, 2)
    assert compiled(tmp_path, acting, writing)[1].selected == "round3"
    assert (len(acting.asked), len(writing.asked)) == (66, 12)


def test_more_rounds_go_on_from_a_finished_run(tmp_path: Path) -> None:
    acting, writing = actor(), corrector(PROMPTS)
    assert compiled(tmp_path, acting, writing, rounds=2)[1].selected == "round2"
    assert compiled(tmp_path, acting, writing, rounds=5)[1].selected == "round3"
    assert (len(acting.asked), len(writing.asked)) == (66, 12)


def test_other_settings_are_refused(tmp_path: Path) -> None:
    compiled(tmp_path, actor(), corrector(PROMPTS), rounds=1)
    with pytest.raises(RunFolderError, match=r'recipe.variant changed from "p" to "pc"'):
        compiled(tmp_path, actor(), corrector(PROMPTS), variant="pc")


def test_the_correctors_dollars_count_to_the_budget(tmp_path: Path) -> None:
    """Its first reply costs more than a dollar, so it is the last: 6 + 8 + 8 calls of the actor, for no candidate."""
    acting, writing = actor(), corrector(PROMPTS)
    acting.price = Price({"input_cost_per_token": 1e-9, "output_cost_per_token": 1e-9})
    writing.price = Price({"input_cost_per_token": 0.0, "output_cost_per_token": 1.0})
    _, found = compiled(tmp_path, acting, writing, max_cost_usd=1.0)
    assert len(acting.asked) == 22
    assert found.corrector.cost > 1 > found.spent.cost
    assert "of at most $1.00 are spent" in found.stopped
    _, again = compiled(tmp_path, acting, writing, max_cost_usd=1.0)
    assert "of at most $1.00 are spent" in again.stopped
    assert (len(acting.asked), len(writing.asked)) == (22, 1)


def test_a_price_that_nobody_knows_is_refused_before_anything_is_paid(tmp_path: Path) -> None:
    acting, writing = actor(), corrector(PROMPTS)
    acting.price = Price({"input_cost_per_token": 0.0, "output_cost_per_token": 0.0})
    with pytest.raises(SetupError, match="Expected a corrector with a known price"):
        compiled(tmp_path, acting, writing, max_cost_usd=1.0)
    assert not acting.asked


def test_mistakes_that_do_not_fit_are_dealt_out_to_the_candidates_by_the_seed(tmp_path: Path) -> None:
    """Each mistake takes 26 to 30 tokens, so two fit into 60, and the candidates read two parts in turn."""
    recipe = SPTRecipe(rounds=1, mistake_tokens=60, impact=None)
    found = compiled(tmp_path, actor(), corrector(PROMPTS), recipe=recipe)[1]
    parts = [tuple(each.shown) for each in found.rounds[0].candidates]
    assert parts[:2] == parts[2:]
    assert sorted([*parts[0], *parts[1]]) == [4, 5, 6, 7]


def test_a_candidate_that_is_too_long_loses_its_least_helpful_sentences(tmp_path: Path) -> None:
    """`Guess.` (6 bytes) was seen to harm; `Be polite.` is new. 48 bytes are 16 tokens, and 15 hold 45."""
    recipe = SPTRecipe(rounds=1, candidates=1, prompt_tokens=15)
    writing = corrector(["Be polite. Guess. Name the unit. Carry the one."])
    better, found = compiled(tmp_path, actor(), writing, student("Answer briefly. Guess."), recipe=recipe)
    assert [each.impact for each in found.rounds[0].impact] == [0.0, -0.5]
    assert better.signature.instructions == "Be polite. Name the unit. Carry the one."


class Steps(dspy.Module):
    """A hint, then an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.think = dspy.Predict(dspy.Signature("question -> hint", "Think."))
        self.steps = [dspy.Predict(dspy.Signature("question, hint -> answer", FIRST))]

    def forward(self, question: str) -> dspy.Prediction:
        return self.steps[0](question=question, hint=self.think(question=question).hint)


def in_steps(text: str) -> str:
    """The unit is named by the first step, if it is told to; the rest is up to the second."""
    kind, _, number = text.rpartition("[[ ## question ## ]]")[2].split("\n\n")[0].strip().partition(" ")
    told, asks = text.rpartition("your objective is:")[2].partition("[[ ##")[0], text.rpartition("Respond with")[2]
    if "hint" in asks:
        return reply(hint="a unit" if "Name the unit." in told else "none")
    known = {"small": True, "carry": "Carry the one." in told, "unit": "a unit" in text.rpartition("## hint ##")[2]}
    return reply(answer=f"{kind}-{number}" if known[kind] else "wrong")


def writes_by_step(text: str) -> str:
    return reply(new_prompt="Name the unit." if "It is the step 'think'" in text else "Carry the one.")


def test_predictors_take_turns(tmp_path: Path) -> None:
    given = Steps()
    writing = ScriptedEngine(writes_by_step)
    better, found = compiled(tmp_path, ScriptedEngine(in_steps, whole=True), writing, given)
    assert [(each.predictor, each.accepted) for each in found.rounds] == [("think", True), ("steps[0]", True)]
    assert found.best.prompts == {"think": "Name the unit.", "steps[0]": "Carry the one."}
    assert {name: each.signature.instructions for name, each in better.named_predictors()} == found.best.prompts
    assert [each.signature.instructions for each in given.predictors()] == ["Think.", FIRST]
    assert found.best.score == 1.0


def test_only_the_named_predictors_are_written(tmp_path: Path) -> None:
    engine, writing = ScriptedEngine(in_steps, whole=True), ScriptedEngine(writes_by_step)
    better, found = compiled(tmp_path, engine, writing, Steps(), only=["steps[0]"], rounds=2)
    assert {each.predictor for each in found.rounds} == {"steps[0]"}
    assert better.think.signature.instructions == "Think."
    with pytest.raises(NoPredictorError, match=r"got \['nobody'\]. The program has think, steps\[0\]"):
        compiled(tmp_path / "other", engine, writing, Steps(), only=["nobody"])


class Typed(dspy.Signature):
    """Answer briefly."""

    question: str = dspy.InputField(desc="A kind and a number.")
    answer: str = dspy.OutputField()
    sure: Literal["yes", "no"] = dspy.OutputField()


def fields(predictor: dspy.Predict) -> list[tuple[str, object, str]]:
    found = predictor.signature.fields.items()
    return [(name, each.annotation, each.json_schema_extra["desc"]) for name, each in found]


def test_fields_and_demos_of_a_typed_chain_of_thought_stay(tmp_path: Path) -> None:
    def thinks(text: str) -> str:
        said = {"reasoning": "Well.", "sure": "yes"}
        kind, _, number = text.rpartition("[[ ## question ## ]]")[2].split("\n\n")[0].strip().partition(" ")
        return reply(**said, answer=f"{kind}-{number}" if kind == "small" or "Carry the one." in text else "wrong")

    given = dspy.ChainOfThought(Typed)
    demo = dspy.Example(question="small 0", reasoning="Easy.", answer="small-0", sure="yes")
    given.predict.demos = [demo]
    writing = corrector(["Carry the one."] * 4)
    better, found = compiled(tmp_path, ScriptedEngine(thinks, whole=True), writing, given)
    assert better.predict.signature.instructions == "Carry the one."
    assert fields(better.predict) == fields(given.predict)
    assert better.predict.demos == [demo]
    assert "`question` (str: A kind and a number.)" in writing.asked[0]
    assert "`sure` (Literal['yes', 'no'])" in writing.asked[0]
    assert found.best.score == 1.0


def test_a_program_that_reads_supplements_goes_on_reading_its_own(tmp_path: Path) -> None:
    """The generator names the unit, so what is left to the instructions is to carry the one."""
    writer = ScriptedGenerator(lambda _: Supplement("background", "Name the unit."))

    def reads(text: str) -> str:
        kind, _, number = text.rpartition("[[ ## question ## ]]")[2].split("\n\n")[0].strip().partition(" ")
        known = {"small": True, "carry": "Carry the one." in text, "unit": "[background] Name the unit." in text}
        return reply(answer=f"{kind}-{number}" if known[kind] else "wrong")

    engine, writing = ScriptedEngine(reads, whole=True), corrector(["Carry the one."] * 4)
    better, found = compiled(tmp_path, engine, writing, supplement(student(), generator=writer))
    assert [each.mistakes for each in found.rounds] == [[4, 5]]
    assert [round(each.score, 3) for each in found.stages] == [0.667, 1.0]
    assert [each.generator for _, each in supplemented_predictors(better)] == [writer]
    paid = len(engine.asked)
    compiled(tmp_path, engine, writing, supplement(student(), generator=writer))
    assert len(engine.asked) == paid
    silent = ScriptedGenerator(lambda _: Supplement("background", "Hm."), model="scripted/another")
    with pytest.raises(RunFolderError, match=r"student\.self\.weights changed"):
        compiled(tmp_path, engine, corrector(["Hm."] * 20), supplement(student(), generator=silent))
    other = compiled(tmp_path / "b", engine, corrector(["Hm."] * 20), supplement(student(), generator=silent))[1]
    assert other.stages[0].score == pytest.approx(1 / 3)


def test_a_corrector_that_is_out_for_long_stops_the_run_and_it_goes_on_later(tmp_path: Path) -> None:
    def out(text: str) -> str:
        raise RateLimitError("later")

    acting = actor()
    with pytest.raises(SGTError, match=r"The corrector could not be asked\. 4 runs .* in a row gave no reward"):
        compiled(tmp_path, acting, ScriptedEngine(out), max_errors=4)
    _, found = compiled(tmp_path, acting, corrector(PROMPTS))
    assert (found.selected, len(acting.asked)) == ("round3", 66)


def test_a_corrector_whose_key_is_refused_stops_the_run_at_once(tmp_path: Path) -> None:
    def refuse(text: str) -> str:
        raise AuthError("wrong key")

    with pytest.raises(ProviderRefusedError, match=r"The corrector could not be asked\. The provider takes no call"):
        compiled(tmp_path, actor(), ScriptedEngine(refuse))


def test_graded_feedback_reaches_the_corrector(tmp_path: Path) -> None:
    def graded(example: dspy.Example, prediction: dspy.Prediction) -> dspy.Prediction:
        won = exact(example, prediction)
        return dspy.Prediction(score=1.0 if won else 0.4, feedback="" if won else "The rule is missing.")

    writing = corrector(PROMPTS)
    _, found = compiled(tmp_path, actor(), writing, metric=graded, rounds=1)
    assert writing.asked[0].count("Verdict: The rule is missing.") == 4
    assert found.rounds[0].train == (pytest.approx(0.7), pytest.approx(0.55))


def test_a_program_that_makes_no_mistakes_is_returned_as_it_is(tmp_path: Path) -> None:
    writing = corrector([])
    better, found = compiled(tmp_path, actor(), writing, student("Name the unit. Carry the one."))
    assert (found.selected, found.rounds, writing.asked) == ("student", (), [])
    assert better.signature.instructions == "Name the unit. Carry the one."
    note, said = found.notes
    assert note == "Round 1 found no mistakes on the training set, so the rounds end here."
    assert "won under the first instructions, so there is nothing to tell apart" in said


def test_without_a_validation_set_a_part_is_held_out(tmp_path: Path) -> None:
    acting, writing = actor(), corrector(PROMPTS)
    with dspy.context(lm=acting.lm()):
        better = spt(writing, tmp_path, rounds=1).compile(student(), trainset=TRAIN)
    known = json.loads((tmp_path / "run.json").read_text())["settings"]
    assert known["method"] == "spt"
    assert len(better.detailed_results.stages[0].rollouts) == 2  # 30 % of 8


def test_the_folder_tells_the_prompts_history(tmp_path: Path) -> None:
    _, found = compiled(tmp_path, actor(), corrector(PROMPTS))
    told = json.loads((tmp_path / "prompts.json").read_text())
    assert told["scores"] == {each.name: each.score for each in found.stages}
    assert [each["diff"] for each in told["rounds"]] == [each.diff for each in found.rounds]
    assert found.history == "\n".join(each.diff for each in found.rounds[1:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "Expected rounds of at least 1, got 0"),
        ({"candidates": 91}, "at most 90 candidates a round, got 91"),
        ({"variant": "pq"}, "Expected variant to be one of p, pc, got 'pq'"),
        ({"impact": "suffix"}, "Expected impact to be one of prefix, leave-one-out, got 'suffix'"),
        ({"recipe": None, "max_actor_calls": 0}, "Expected max_actor_calls above 0"),
    ],
)
def test_options_that_cannot_work_are_refused(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=message):
        spt(corrector([]), tmp_path, **changes)


def test_a_corrector_that_is_no_lm_is_refused(tmp_path: Path) -> None:
    from optimizers.spt.teleprompter import SupervisoryPromptTeleprompter

    with pytest.raises(SetupError, match=r"Expected a dspy\.LM as corrector, got 'gpt'"):
        SupervisoryPromptTeleprompter(exact, "gpt")  # pyright: ignore[reportArgumentType]


def test_a_corrector_without_a_key_is_refused_before_anything_is_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optimizers.spt.teleprompter import SupervisoryPromptTeleprompter

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    acting, keyless = actor(), dspy.LM("openai/gpt-4.1")
    found = SupervisoryPromptTeleprompter(exact, keyless, log_dir=tmp_path / "run", display_progress=False)
    with dspy.context(lm=acting.lm()), pytest.raises(SetupError, match=r"Expected a key for 'openai/gpt-4\.1'"):
        found.compile(student(), trainset=TRAIN, valset=VAL)
    assert (acting.asked, (tmp_path / "run").exists()) == ([], False)


def test_many_threads_find_the_same(tmp_path: Path) -> None:
    """Candidates that are the same whatever the order they are written in."""
    better, found = compiled(tmp_path, actor(), corrector(["Name the unit. Carry the one."] * 4), num_threads=8)
    assert better.signature.instructions == "Name the unit. Carry the one."
    assert [each.dropped for each in found.rounds[0].candidates] == ["", *["repeats another"] * 3]


def test_an_estimate_is_above_what_a_run_takes_and_costs_nothing(tmp_path: Path) -> None:
    """At most: 14 for the student; round 1: 8 for its only sentence, 4 x 8, 6; round 2: 250 sentences x 8, 32, 6."""
    acting, writing = actor(), corrector(PROMPTS, BRIEFS)
    with dspy.context(lm=acting.lm()):
        found = spt(writing, tmp_path / "run", rounds=2, variant="pc").estimate(student(), TRAIN, VAL)
    assert [stage.at_most for stage in found.stages] == [14, 46, 2038]
    assert [stage.samples for stage in found.stages] == [0, 5, 4]
    assert (acting.asked, writing.asked, (tmp_path / "run").exists()) == ([], [], False)


def test_what_a_probe_paid_is_not_paid_again(tmp_path: Path) -> None:
    """The first four training examples are the small ones, which the actor knows: no mistakes are expected."""
    acting, writing = actor(), corrector(PROMPTS)
    with dspy.context(lm=acting.lm()):
        found = spt(writing, tmp_path, rounds=1).estimate(student(), TRAIN, VAL, probe=4)
    assert (len(acting.asked), found.probe.won, found.probe.calls) == (4, 1.0, 1.0)
    assert [stage.actor_calls for stage in found.stages] == [14, 8 + 8 + 6]
    compiled(tmp_path, acting, writing)
    assert len(acting.asked) == 66
