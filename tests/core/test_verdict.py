"""The verdict of a run: what was gained, or why nothing was learned and what to change. Each cause by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from scripted import query, rollout

from optimizers.core.causes import ENOUGH_PAIRS, ENOUGH_ROWS
from optimizers.core.error_types import Failure, error_example, group_errors
from optimizers.core.evidence import Evidence
from optimizers.core.records import Rollout
from optimizers.core.statistics import gain_interval
from optimizers.core.verdict import write_verdict
from optimizers.sgt.preference_pairs import explain_no_pairs
from sgt_modules.kinds import NONE

UNREAD = (
    "AdapterParseError: LM response cannot be serialized to a JSON object.\n\nAdapter JSONAdapter failed to parse the "
    "LM response. \n\nLM Response: It is\nfour. \n\nExpected to find output fields in the LM response: [answer] \n\n"
)


def bare(*scores: float | None, of: str = "val", error: str = "") -> list[Rollout]:
    """A run of each question without a supplement."""
    found = [rollout(each, of=query(f"{of}{n}", n), kind=NONE, text="") for n, each in enumerate(scores)]
    return [replace(each, stage=f"none/{of}", error=error) for each in found]


def aided(*scores: float | None, of: str = "val", kind: str = "cot", error: str = "", tokens: int = 0) -> list[Rollout]:
    """A run of each question with a supplement."""
    found = [rollout(each, of=query(f"{of}{n}", n), kind=kind, text=f"think {n}") for n, each in enumerate(scores)]
    return [replace(each, stage="warm" if of != "val" else "sft/val", error=error, tokens_out=tokens) for each in found]


def mixed(count: int = 12, of: str = "train", kind: str = "") -> list[Rollout]:
    """Supplements of which every second one won, of two kinds where none is given."""
    return [
        rollout(float(n % 2), of=query(f"{of}{n}", n), kind=kind or ("cot" if n % 3 else "pairs"), text=f"think {n}")
        for n in range(count)
    ]


def test_a_gain_is_said_with_its_interval_the_number_of_questions_and_what_turned() -> None:
    before, after = [0.0] * 8 + [1.0] * 2, [1.0] * 7 + [0.0] * 1 + [1.0, 0.0]
    said = write_verdict(Evidence(bare(*before), {"sft": aided(*after)}, "sft", tried=mixed()))
    low, high = gain_interval(before, after)
    assert "Stage sft raises the score on validation from 0.200 to 0.800 against no supplement." in said
    assert f"The gain is +0.600, 95 % interval {low:+.3f} to {high:+.3f}, on 10 questions (n = 10);" in said
    assert "7 turned right, 1 wrong." in said
    assert "score it on a test set" in said


def test_a_gain_that_may_be_luck_is_called_so() -> None:
    said = write_verdict(Evidence(bare(0.0, 1.0, 0.0), {"sft": aided(1.0, 1.0, 0.0)}, "sft"))
    assert "The interval holds 0, so this may be luck: use more validation questions." in said


def test_a_question_without_a_reward_is_in_no_pair_of_the_gain() -> None:
    said = write_verdict(Evidence(bare(0.0, 0.0, None), {"sft": aided(1.0, None, 1.0)}, "sft"))
    assert "(n = 1); 1 turned right, 0 wrong." in said


def test_a_gain_does_not_hide_that_many_answers_could_not_be_read() -> None:
    tried = [*mixed(6), *aided(0.0, 0.0, 0.0, of="more", error=UNREAD)]
    said = write_verdict(Evidence(bare(*[0.0] * 6), {"sft": aided(*[1.0] * 6)}, "sft", tried=tried))
    assert said.startswith("Stage sft raises")
    assert "The adapter could not read the answer in 3 of 21 runs" in said


def test_answers_that_the_adapter_could_not_read_are_named_with_their_count_one_example_and_the_remedy() -> None:
    unread = aided(*[0.0] * 12, of="train", error=UNREAD)
    said = write_verdict(
        Evidence(bare(0.0, 0.0, error=UNREAD), tried=unread, unaided=bare(0.0, of="train", error=UNREAD))
    )
    assert "could not read the answer in 15 of 15 runs (AdapterParseError), and each counts as lost" in said
    assert "One such answer: 'It is four.'" in said
    assert "Use a signature with fewer and plainer outputs, or a stronger actor." in said
    assert "easier" not in said


def test_where_another_adapter_reads_the_answers_the_chat_adapter_is_the_first_remedy() -> None:
    unread = aided(0.0, 0.0, of="train", error=UNREAD)
    assert "Use dspy.ChatAdapter() in place of XMLAdapter, a sig" in write_verdict(
        Evidence(tried=unread, adapter="XMLAdapter")
    )


@pytest.mark.parametrize(("tokens", "cut"), [(64, True), (128, True), (65, False), (0, False)])
def test_unreadable_answers_that_end_at_the_actor_s_token_limit_ask_for_a_larger_one(tokens: int, cut: bool) -> None:
    unread = aided(0.0, 0.0, of="train", error=UNREAD, tokens=tokens)  # DSPy asks twice: 128 are two answers of 64
    said = write_verdict(Evidence(tried=unread, max_tokens=frozenset({64})))
    assert (
        "2 of them end at the actor's limit of 64 tokens: give the actor's dspy.LM a larger max_tokens" in said
    ) == cut


def test_what_could_be_read_is_judged_by_itself() -> None:
    tried = [*aided(*[0.0] * 6, of="train", error=UNREAD), *aided(*[0.0] * 2, of="more")]
    first, second = (
        "could not read the answer in 6 of 8 runs",
        "All 2 runs with a supplement whose answer could be read",
    )
    said = write_verdict(Evidence(tried=tried))
    assert 0 < said.index(first) < said.index(second)
    assert "(of 8) lost" in said


def test_where_every_run_failed_the_error_is_named_with_its_count_and_message() -> None:
    failed = aided(None, None, None, of="train", error="LMRateLimitError: slow down")
    said = write_verdict(Evidence(bare(None, error="LMRateLimitError: slow down"), tried=failed))
    assert "4 of 4 runs failed with LMRateLimitError: 'slow down', and have no reward" in said
    assert "compile again with the same log_dir" in said
    assert "without a reward on any question" in said


def test_an_error_of_the_program_itself_is_mended_in_the_program() -> None:
    said = write_verdict(Evidence(tried=aided(0.0, 0.0, of="train", error="ValueError: no number in 'four'")))
    assert "2 of 2 runs failed with ValueError: \"no number in 'four'\", raised after the actor had answered" in said
    assert "Mend the program or the signature" in said


def test_where_everything_won_there_is_nothing_to_learn() -> None:
    found = Evidence(bare(1.0, 1.0), tried=aided(1.0, 1.0, 1.0, of="train"), unaided=bare(1.0, 0.0, of="train"))
    said = write_verdict(found)
    assert "All 3 runs with a supplement won, and without a supplement 1 of 2 training questions did" in said
    assert "Use harder examples or a stricter threshold" in said
    assert "it needs no supplement" in said


def test_a_program_that_wins_every_validation_question_can_gain_nothing_there() -> None:
    said = write_verdict(Evidence(bare(1.0, 1.0), {"sft": aided(1.0, 0.0)}, tried=mixed(), rows={"sft": ENOUGH_ROWS}))
    assert "It wins all 2 validation questions without a supplement: use harder ones" in said


def test_where_everything_lost_the_metric_is_checked_first_and_the_unaided_runs_are_counted() -> None:
    said = write_verdict(
        Evidence(bare(0.0), tried=aided(0.0, 0.0, of="train"), unaided=bare(0.0, 0.0, 0.0, of="train"))
    )
    assert "All 2 runs with a supplement lost, and without a supplement 0 of 3 training questions won." in said
    assert "Check that the metric accepts a correct answer; then use a stronger actor, easier examples" in said


def test_supplements_that_only_break_what_works_are_said_to_harm() -> None:
    said = write_verdict(
        Evidence(bare(1.0, 0.0), tried=aided(0.0, 0.0, of="train"), unaided=bare(1.0, 0.0, of="train"))
    )
    assert "All 2 runs with a supplement lost, while without a supplement 1 of 2 training questions won" in said
    assert "use a stronger generator" in said


def test_too_few_rows_and_pairs_are_counted_beside_what_would_do() -> None:
    found = Evidence(bare(0.0, 1.0), {"sft": aided(1.0, 0.0)}, tried=mixed(), rows={"sft": 12, "dpo1": 3, "dpo2": 900})
    said = write_verdict(found)
    assert f"too little to learn from: sft had 12 rows (about {ENOUGH_ROWS} would do), dpo1 had 3 pairs" in said
    assert f"(about {ENOUGH_PAIRS} would do)." in said
    assert "dpo2" not in said
    assert "Use more training examples or more samples a query" in said


def test_supplements_that_the_token_limit_cut_ask_for_a_larger_one() -> None:
    def cut(count: int) -> Evidence:
        supplements = [replace(each.supplement, cut=n < count) for n, each in enumerate(mixed(12))]
        tried = [replace(each, supplement=own) for each, own in zip(mixed(12), supplements, strict=True)]
        return Evidence(bare(0.0, 1.0), {"sft": aided(0.0, 1.0)}, tried=tried, rows={"sft": ENOUGH_ROWS})

    assert "The token limit cut 6 of 12 supplements" in write_verdict(cut(6))
    assert "Give the generator a larger max_new_tokens" in write_verdict(cut(6))
    assert "token limit" not in write_verdict(cut(5))


def test_supplements_of_one_kind_only_are_said_to_be() -> None:
    tried = mixed(204, kind="free")
    found = Evidence(bare(0.0, 1.0), {"sft": aided(0.0, 1.0)}, tried=tried, rows={"sft": ENOUGH_ROWS}, kinds_asked=9)
    assert "All 204 of 204 supplements tried are of kind free, though 9 kinds were asked for" in write_verdict(found)
    assert "of kind free" not in write_verdict(replace(found, kinds_asked=1))
    assert "of kind" not in write_verdict(replace(found, tried=mixed(204)))


def test_a_stage_that_helps_on_some_questions_and_hurts_on_others_is_counted_in_both_directions() -> None:
    stages = {"sft": aided(1.0, 0.0, 0.0, 0.0), "dpo1": aided(1.0, 1.0, 0.0, 0.0)}
    found = Evidence(bare(0.0, 0.0, 1.0, 1.0), stages, tried=mixed(), rows={"sft": ENOUGH_ROWS})
    said = write_verdict(found)
    assert "no stage scores above no supplement on validation (0.500 on 4 questions)" in said
    assert "The best stage, dpo1, turned 2 of 4 questions right and 2 wrong: its supplements help on some" in said
    assert "Recipe(gate=True)" in said


def test_a_run_that_a_budget_stopped_says_what_there_is_so_far() -> None:
    stop = "Stopped in round 1: 30 of at most 30 actor calls are made."
    so_far = "The run was stopped before its end, so this is what there is so far."
    gained = Evidence(bare(0.0, 0.0, 0.0), {"sft": aided(1.0, 1.0, 1.0)}, "sft", tried=mixed(), stopped=stop)
    assert write_verdict(gained).startswith(f"{so_far} Stage sft raises")
    assert write_verdict(Evidence(stopped=stop)) == f"{so_far} Nothing has been validated yet."
    unread = bare(0.0, 0.0, error=UNREAD)
    assert "could not read the answer in 2 of 2 runs" in write_verdict(Evidence(unfinished=unread, stopped=stop))


def test_the_student_s_own_supplements_are_no_gain_of_the_run() -> None:
    stages = {"student": aided(1.0, 1.0), "sft": aided(0.0, 1.0)}
    said = write_verdict(Evidence(bare(0.0, 0.0), stages, "student", tried=mixed(), rows={"sft": ENOUGH_ROWS}))
    assert said.startswith("Nothing was gained")


def test_new_instructions_have_words_of_their_own() -> None:
    candidates = [replace(each, stage="round1/candidate1/train") for each in bare(0.0, 0.0, of="train")]
    refused = Evidence(bare(1.0, 0.0), unaided=bare(1.0, 0.0, 0.0, of="train"), tried=candidates, instructions=True)
    said = write_verdict(refused)
    assert "no new instructions were accepted, and validation is at 0.500 on 2 questions" in said
    assert "All 2 runs under new instructions lost on questions that the first ones fail" in said
    gained = Evidence(bare(0.0, 0.0), {"round1": bare(1.0, 1.0)}, "round1", instructions=True)
    assert "from 0.000 to 1.000 against the instructions that came in" in write_verdict(gained)
    perfect = Evidence(bare(1.0), unaided=bare(1.0, 1.0, of="train"), instructions=True)
    assert "All 2 runs on training questions won under the first instructions" in write_verdict(perfect)


NOTHING: Sequence[Evidence] = (
    Evidence(),
    Evidence(bare(None)),
    Evidence(bare(0.0, 1.0)),
    Evidence(bare(None), {"sft": aided(None)}, "sft"),
    Evidence(bare(0.5, 0.25), {"sft": aided(0.5, 0.25)}, instructions=True),
)


@pytest.mark.parametrize("found", NOTHING, ids=range(len(NOTHING)))
def test_a_verdict_is_whole_sentences_whatever_little_is_known(found: Evidence) -> None:
    assert write_verdict(found).endswith(".")
    assert "  " not in write_verdict(found)


def test_errors_are_counted_by_type_the_most_frequent_first_with_their_stages() -> None:
    failures = [
        Failure("warm", "LMRateLimitError: slow down", False),
        Failure("warm", UNREAD),
        Failure("sft/val", UNREAD),
        Failure("sft/val", ""),
    ]
    assert [(each.name, each.count, each.unrewarded, each.stages, each.example) for each in group_errors(failures)] == [
        ("AdapterParseError", 2, 0, ("warm", "sft/val"), "It is four."),
        ("LMRateLimitError", 1, 1, ("warm",), "slow down"),
    ]


def test_a_long_answer_is_shown_by_its_beginning_and_its_end() -> None:
    answer = error_example(UNREAD.replace("It is\nfour.", "begin " + "and on " * 500 + "\x1b[31mend"))
    assert len(answer) <= 160
    assert answer.startswith("begin and on")
    assert answer.endswith("[31mend")
    assert "\x1b" not in answer


def test_where_answers_could_not_be_read_no_easier_examples_are_asked_for() -> None:
    unread = [rollout(0.0, text=str(n)) for n in range(3)]
    said = explain_no_pairs([*(replace(each, error=UNREAD) for each in unread), rollout(1.0, text="good")])
    assert said.startswith("The adapter could not read the actor's answer to 3 of 4 supplements")
    assert "easier" not in said
