"""One run of a program: which supplements its calls read, which are noted, and what is remembered until it ends."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import dspy
import pytest
from scripted import ScriptedEngine, ScriptedGenerator, reply

from sgt_modules import supplement
from sgt_modules.episode import (
    Call,
    Episode,
    Memory,
    Place,
    SupplementSource,
    episode,
    program_run,
    running_episode,
    running_memory,
)
from sgt_modules.kinds import SILENCE, Supplement

HINT, OTHER = Supplement("answer", "Add one."), Supplement("cot", "Count up.")


def call(role: str, turn: int, supplement: Supplement = HINT) -> Call:
    return Call(Place(role, turn), f"{role} {turn}", supplement)


class Twice(dspy.Module):
    """One predictor called twice, another once."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")
        self.close = dspy.Predict("draft -> verdict")

    def forward(self, question: str) -> dspy.Prediction:
        self.ask(question=question)
        draft = self.ask(question=f"Again: {question}").answer
        return self.close(draft=draft)


def run(given: SupplementSource, *, scope: str = "turn", wrote: Supplement = OTHER) -> tuple[Episode, list[str]]:
    """A run of `Twice`, and which supplement (its text, or nothing) each request of its actor held."""
    engine = ScriptedEngine(lambda _: reply(answer="2", verdict="fine"))
    program = supplement(Twice(), generator=ScriptedGenerator(lambda _: wrote), scope=scope)
    with dspy.context(lm=engine.lm()), episode(given) as noted:
        program(question="1+1?")
    return noted, [next((each.text for each in (HINT, OTHER) if each.text in text), "") for text in engine.asked]


def test_the_calls_of_each_role_are_counted_from_zero() -> None:
    noted = Episode(None)
    assert [noted.enter(role) for role in ("ask", "close", "ask")] == [("ask", 0), ("close", 0), ("ask", 1)]


def test_a_role_may_be_called_from_many_threads_and_each_call_has_a_place_of_its_own() -> None:
    noted = Episode(None)
    with ThreadPoolExecutor(16) as threads:
        places = list(threads.map(lambda _: noted.enter("ask"), range(200)))
    assert sorted(place.turn for place in places) == list(range(200))


def test_a_supplement_that_is_given_for_a_place_is_read_there_and_nowhere_else() -> None:
    noted, read = run({Place("ask", 1): HINT})
    assert read == ["", HINT.text, ""]
    assert noted.supplements == {"ask": [SILENCE, HINT], "close": [SILENCE]}


def test_a_supplement_that_is_given_for_a_role_is_read_at_its_every_turn_but_where_its_place_has_another() -> None:
    assert run({"ask": HINT})[1] == [HINT.text, HINT.text, ""]
    assert run({Place("ask", 0): OTHER, "ask": HINT})[1] == [OTHER.text, HINT.text, ""]


def test_an_empty_mapping_is_silence_and_no_mapping_is_the_generator_s_own() -> None:
    assert run({})[1] == ["", "", ""]
    assert run(None)[1] == [OTHER.text] * 3


def test_a_chooser_hears_the_place_and_the_prompt_and_may_leave_a_place_to_the_generator() -> None:
    heard: list[tuple[Place, str]] = []

    def choose(place: Place, prompt: str) -> Supplement | None:
        heard.append((place, prompt.rpartition("\n")[2]))
        return None if place.role == "close" else (HINT, SILENCE)[place.turn]

    noted, read = run(choose)
    assert read == [HINT.text, "", OTHER.text]
    assert heard == [
        (Place("ask", 0), "question: 1+1?"),
        (Place("ask", 1), "question: Again: 1+1?"),
        (Place("close", 0), "draft: 2"),
    ]
    assert [(each.place, each.supplement) for each in noted.calls] == [
        (Place("ask", 0), HINT),
        (Place("ask", 1), SILENCE),
        (Place("close", 0), OTHER),
    ]


def test_calls_are_told_by_role_in_the_order_of_first_calls_and_then_by_turn() -> None:
    noted = Episode(None)
    for each in (call("close", 1), call("ask", 1), call("close", 0), call("ask", 0, OTHER)):
        noted.record(each)
    assert [(each.place.role, each.place.turn) for each in noted.ordered] == [
        ("close", 0),
        ("close", 1),
        ("ask", 0),
        ("ask", 1),
    ]
    assert noted.prompts == {"close": ["close 0", "close 1"], "ask": ["ask 0", "ask 1"]}
    assert noted.supplements == {"close": [HINT, HINT], "ask": [OTHER, HINT]}


def test_the_innermost_episode_counts_and_none_is_left_behind() -> None:
    assert running_episode() is None
    with episode({}) as outer, episode(None) as inner:
        assert running_episode() is inner
        assert inner is not outer
    assert running_episode() is None


def test_under_scope_episode_a_predictor_has_one_place_and_is_noted_once() -> None:
    noted, read = run({Place("ask", 0): HINT, Place("ask", 1): OTHER}, scope="episode")
    assert read == [HINT.text, HINT.text, ""]
    assert [each.place for each in noted.calls] == [Place("ask", 0), Place("close", 0)]


def test_under_scope_episode_silence_holds_for_the_whole_run_as_well() -> None:
    noted, read = run({Place("ask", 1): HINT}, scope="episode")
    assert read == ["", "", ""]
    assert noted.supplements["ask"] == [SILENCE]


def test_a_run_remembers_the_latest_supplement_of_each_predictor_and_forgets_with_its_end() -> None:
    first, second = object(), object()
    with program_run() as memory:
        assert running_memory() is memory
        assert memory.recall(first) is None
        assert [memory.keep(first, each) for each in (HINT, OTHER)] == [HINT, OTHER]
        kept = memory.recall(first)
        assert kept is not None
        assert kept.supplement is OTHER
        assert memory.recall(second) is None
        with program_run() as inner:
            assert running_memory() is inner
            assert inner.recall(first) is None
    assert running_memory() is None


@pytest.mark.parametrize("threads", [2, 16])
def test_of_supplements_that_are_written_at_once_the_first_one_holds_for_all(threads: int) -> None:
    memory, predictor, together = Memory(), object(), threading.Barrier(threads)

    def keep(number: int) -> Supplement:
        together.wait()
        return memory.keep(predictor, Supplement("free", str(number)), first=True)

    with ThreadPoolExecutor(threads) as pool:
        held = set(pool.map(keep, range(threads)))
    assert len(held) == 1
    kept = memory.recall(predictor)
    assert kept is not None
    assert {kept.supplement} == held


def test_all_calls_of_a_predictor_may_share_the_place_that_the_first_one_entered() -> None:
    noted, memory, predictor = Episode(None), Memory(), object()
    assert [memory.place(predictor, lambda: noted.enter("ask")) for _ in range(3)] == [Place("ask", 0)] * 3
    assert memory.place(object(), lambda: noted.enter("ask")) == Place("ask", 1)
