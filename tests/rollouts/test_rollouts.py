"""The actor's runs: in order, durable, paid once, and a failure is a record."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import dspy
import pytest
from dspy.lm15 import RateLimitError
from scripted import Script, ScriptedEngine, ScriptedGenerator, reply

from optimizers.core.records import Candidate, Query, Reward, Rollout
from optimizers.core.reward import Metric, Scorer
from optimizers.core.usage import Usage
from optimizers.rollouts.engine import RolloutEngine
from optimizers.rollouts.queries import live_queries, query_id
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.episode import Call, Place
from sgt_modules.errors import SGTError
from sgt_modules.generator import SupplementGenerator
from sgt_modules.generator_prompt import COMPACT, GeneratorPrompt
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.wrapping import supplement, with_instructions

EXAMPLES = [dspy.Example(question=f"{n}+1?", answer=str(n + 1)).with_inputs("question") for n in range(6)]
HINT = Supplement("answer", "Add one.")


class Workbench:
    """A wrapped program, its scripted engine and a store in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.store = RolloutStore(folder / "rollouts.sqlite")

    def actor(
        self, script: Script, *, program: dspy.Module | None = None, metric: Metric | None = None, threads: int = 8
    ) -> tuple[RolloutEngine, ScriptedEngine]:
        engine = ScriptedEngine(script)
        wrapped = supplement(
            program or dspy.Predict("question -> answer"), generator=ScriptedGenerator(lambda prompt: HINT)
        )
        wrapped.set_lm(engine.lm())
        scorer = Scorer(metric or (lambda example, prediction: example.answer == prediction.answer))
        return RolloutEngine(wrapped, scorer, self.store, "scope", num_threads=threads, max_errors=5), engine


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Workbench]:
    workbench = Workbench(tmp_path)
    yield workbench
    workbench.store.close()


def needs_a_hint(text: str) -> str:
    """An actor that can add only when it is told to."""
    if "Add one." not in text:
        return reply(answer="?")
    number = text.split("+1?")[0].split()[-1]
    return reply(answer=str(int(number) + 1))


def hinted(actor: RolloutEngine, *texts: str) -> list[Candidate]:
    """A candidate for each text on each example; an empty one says what helps."""
    queries = actor.probe(EXAMPLES).queries
    return [
        Candidate(query, Supplement("answer", text or "Add one."), "free", logprob=-1.0)
        for query in queries
        for text in texts
    ]


def test_a_probe_runs_the_program_as_it_came_in_and_finds_its_queries(bench: Workbench) -> None:
    actor, engine = bench.actor(needs_a_hint)
    rollouts, queries = actor.probe(EXAMPLES)
    plain = ScriptedEngine(needs_a_hint)
    unwrapped = dspy.Predict("question -> answer")
    for example in EXAMPLES:
        unwrapped(**example.inputs(), lm=plain.lm())
    assert sorted(engine.asked) == sorted(plain.asked)
    assert [r.reward for r in rollouts] == [Reward(0.0)] * 6
    assert [(r.stage, r.source, r.supplement, r.output) for r in rollouts] == [
        ("none", "none", SILENCE, {"answer": "?"})
    ] * 6
    assert [(q.index, q.predictor) for q in queries] == [(n, "self") for n in range(6)]
    assert [q.id for q in queries] == [query_id(example, "self") for example in EXAMPLES]
    assert queries[2].prompt.endswith("question: 2+1?")


def test_rollouts_come_in_the_candidates_order_whichever_thread_is_first(bench: Workbench) -> None:
    def slow_at_first(text: str) -> str:
        time.sleep(0.05 if "0+1?" in text else 0.0)
        return needs_a_hint(text)

    actor, _ = bench.actor(slow_at_first)
    candidates = hinted(actor, "", "Guess.")
    rollouts = actor.run(candidates, EXAMPLES, "sft")
    assert [(r.query, r.supplement, r.source, r.logprob, r.stage) for r in rollouts] == [
        (c.query, c.supplement, "free", -1.0, "sft") for c in candidates
    ]
    assert [r.won() for r in rollouts] == [True, False] * 6


def test_the_same_supplement_on_the_same_query_is_paid_once(bench: Workbench) -> None:
    actor, engine = bench.actor(needs_a_hint)
    candidates = hinted(actor, "", "Guess.", "Guess.")
    first = actor.run(candidates, EXAMPLES, "sft")
    assert len(engine.asked) == 6 + 12
    again = actor.run([replace(c, source="direct") for c in candidates], EXAMPLES, "dpo1")
    assert len(engine.asked) == 6 + 12
    assert again == [replace(r, stage="dpo1", source="direct") for r in first]
    assert len(bench.store.rollouts(stage="dpo1")) == 12


def test_a_second_actor_on_the_same_store_pays_nothing_and_reads_the_same(bench: Workbench) -> None:
    first, _ = bench.actor(needs_a_hint)
    second, engine = bench.actor(needs_a_hint)
    candidates = hinted(first, "")
    assert first.run(candidates, EXAMPLES, "sft") == second.run(candidates, EXAMPLES, "sft")
    assert first.probe(EXAMPLES) == second.probe(EXAMPLES)
    assert engine.asked == []


class TwoSteps(dspy.Module):
    """Two predictors; the second one reads what the first one wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.plan, self.solve = dspy.Predict("question -> steps"), dspy.Predict("steps -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        return self.solve(steps=f"Steps of {question}: {self.plan(question=question).steps}")


LONG = [dspy.Example(question=f"{n}+1? {'word ' * 200}", answer="1").with_inputs("question") for n in range(3)]
GENERATORS = {
    "compact": {"prompt": COMPACT},
    "note": {"prompt": GeneratorPrompt()},
    "short": {"prompt": COMPACT, "max_prompt_tokens": 150},
    "shorter": {"prompt": COMPACT, "max_prompt_tokens": 140},
}


def sharing(
    store: RolloutStore, generator: str, metric: Metric = lambda example, prediction: True, scope: str = "a-1"
) -> tuple[RolloutEngine, ScriptedEngine]:
    """An engine of a program of two predictors on a store that generators share."""
    engine = ScriptedEngine(lambda text: reply(steps="add " * 200, answer="1"))
    endpoint = ScriptedEngine(lambda text: "[cot] Add.").lm()
    wrapped = supplement(TwoSteps(), generator=SupplementGenerator(endpoint, **GENERATORS[generator]))
    wrapped.set_lm(engine.lm())
    store.describe(scope, {})
    return RolloutEngine(wrapped, Scorer(metric), store, scope, num_threads=2), engine


def test_runs_that_share_a_store_have_the_prompts_of_their_own_generators(bench: Workbench, tmp_path: Path) -> None:
    own: dict[str, list[Query]] = {}
    for name in GENERATORS:
        with RolloutStore(tmp_path / f"{name}.sqlite") as alone:
            own[name] = sharing(alone, name)[0].probe(LONG).queries
    assert len({each[0].prompt for each in own.values()}) == len({each[1].prompt for each in own.values()}) == 4
    listed: dict[str, list[Rollout]] = {}
    for name in GENERATORS:
        store = bench.store.for_run(name)
        assert sharing(store, name)[0].probe(LONG).queries == own[name]
        listed[name] = store.rollouts()
    for name in GENERATORS:  # resumed: nothing is paid again, and no run replaced what another one reads
        store = bench.store.for_run(name)
        actor, engine = sharing(store, name)
        assert actor.probe(LONG).queries == own[name]
        assert (engine.asked, store.rollouts()) == ([], listed[name])
        other, engine = sharing(store, name, lambda example, prediction: False, "a-2")
        found = other.probe(LONG)
        assert (found.queries, engine.asked) == (own[name], [])  # scored again by another metric
        assert [each.won() for each in found.rollouts] == [False] * 3


def test_runs_that_share_a_store_share_what_supplements_cost_whatever_their_prompts(bench: Workbench) -> None:
    first, _ = sharing(bench.store, "compact")
    first.run([Candidate(each, HINT, "free") for each in first.probe(LONG).queries], LONG, "warm")
    second, engine = sharing(bench.store, "note")
    queries = second.probe(LONG).queries
    paid = len(engine.asked)
    tried = second.run([Candidate(each, said, "free") for each in queries for said in (HINT, SILENCE)], LONG, "warm")
    assert ([each.query for each in tried[::2]], len(engine.asked)) == (queries, paid)


def test_runs_of_an_earlier_version_are_found_where_the_generator_writes_such_prompts(tmp_path: Path) -> None:
    alone = RolloutStore(tmp_path / "alone.sqlite")
    for name in ("compact", "short"):
        queries = sharing(alone.for_run(name), name)[0].probe(LONG).queries
        with RolloutStore(tmp_path / f"old {name}.sqlite") as old:
            for each in alone.rollouts(run=name):
                old.add(each, "a-1", asked=2)  # without a key for its prompts
            same, engine = sharing(old, name)
            assert same.probe(LONG).queries == queries
            assert engine.asked == []
            other, engine = sharing(old, "note")
            assert other.probe(LONG).queries[0].prompt.startswith(GeneratorPrompt().introduction)
            assert len(engine.asked) == 6
    alone.close()


def test_the_same_example_twice_in_a_split_is_probed_once(bench: Workbench) -> None:
    actor, engine = bench.actor(needs_a_hint)
    rollouts, queries = actor.probe([EXAMPLES[0], EXAMPLES[0]])
    assert len(engine.asked) == 1
    assert [r.query.index for r in rollouts] == [q.index for q in queries] == [0, 1]


def test_each_rollout_is_stored_before_anyone_hears_of_it_and_heard_one_at_a_time(bench: Workbench) -> None:
    actor, _ = bench.actor(needs_a_hint)
    candidates = hinted(actor, "")
    busy = threading.Lock()
    heard: list[Rollout] = []

    def on_done(rollout: Rollout) -> None:
        assert busy.acquire(blocking=False)
        time.sleep(0.01)
        assert bench.store.get("scope", rollout.query.id, rollout.supplement) is not None
        heard.append(rollout)
        busy.release()

    rollouts = actor.run(candidates, EXAMPLES, "sft", on_done=on_done)
    assert sorted(heard, key=lambda r: r.query.index) == rollouts


def test_what_a_listener_raises_stops_the_rest_and_reaches_the_caller(bench: Workbench) -> None:
    def on_done(rollout: Rollout) -> None:
        raise RuntimeError("enough")

    actor, engine = bench.actor(needs_a_hint, threads=1)
    candidates = hinted(actor, "")
    with pytest.raises(RuntimeError, match="enough"):
        actor.run(candidates, EXAMPLES, "sft", on_done=on_done)
    assert len(engine.asked) == 6 + 1


def test_a_provider_s_error_is_no_reward_and_is_tried_again(bench: Workbench) -> None:
    down = True

    def flaky(text: str) -> str:
        if down and "3+1?" in text and "Add one." in text:
            raise RateLimitError("slow down")
        return needs_a_hint(text)

    actor, _ = bench.actor(flaky)
    candidates = hinted(actor, "")
    failed = actor.run(candidates, EXAMPLES, "sft")[3]
    assert failed.reward is None
    assert failed.error.startswith("LMRateLimitError: [scripted/actor] slow down")
    down = False
    assert actor.run(candidates, EXAMPLES, "sft")[3].reward == Reward(1.0)
    assert bench.store.count() == 12


@pytest.mark.parametrize("threads", [1, 8])
def test_too_many_failures_in_a_row_stop_the_run_before_everything_is_tried(bench: Workbench, threads: int) -> None:
    def down(text: str) -> str:
        if "Add one." in text:
            raise RateLimitError("quota")
        return needs_a_hint(text)

    actor, engine = bench.actor(down, threads=threads)
    candidates = hinted(actor, *(f"Add one. {n}" for n in range(20)))
    with pytest.raises(
        SGTError, match=r"5 runs of the actor in a row gave no reward; the last: .*quota.*Check the provider"
    ):
        actor.run(candidates, EXAMPLES, "sft")
    assert len(engine.asked) < 6 + 5 + 3 * threads
    assert sum(r.reward is None for r in bench.store.rollouts(stage="sft")) >= 5


def test_an_answer_that_cannot_be_read_is_the_actor_s_failure(bench: Workbench) -> None:
    actor, _ = bench.actor(lambda text: "I would rather not.")
    rollouts, queries = actor.probe(EXAMPLES[:1])
    assert rollouts[0].reward == Reward(0.0)
    assert rollouts[0].error.startswith("AdapterParseError")
    assert len(queries) == 1


class Doubling(dspy.Module):
    """A program that itself trips over what the actor answers."""

    def __init__(self) -> None:
        super().__init__()
        self.solve = dspy.Predict("question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        if question == "5+1?":
            raise LookupError("no such question")
        return dspy.Prediction(answer=str(2 * int(self.solve(question=question).answer)))


def test_a_program_that_trips_over_an_answer_lost_and_one_that_never_asked_says_nothing(bench: Workbench) -> None:
    actor, _ = bench.actor(needs_a_hint, program=Doubling())
    rollouts, queries = actor.probe(EXAMPLES)
    assert [r.reward for r in rollouts] == [Reward(0.0)] * 5 + [None]
    assert rollouts[0].error.startswith("ValueError")
    assert rollouts[5].error == "LookupError: no such question"
    assert [(q.index, q.predictor) for q in queries] == [(n, "solve") for n in range(5)]


def test_a_metric_that_raises_on_one_example_leaves_it_without_a_reward(bench: Workbench) -> None:
    def picky(example: dspy.Example, prediction: dspy.Prediction) -> bool:
        if example.question == "1+1?":
            raise LookupError("no gold rows")
        return True

    actor, _ = bench.actor(needs_a_hint, metric=picky)
    rollouts = actor.probe(EXAMPLES).rollouts
    assert [r.reward is None for r in rollouts] == [False, True, False, False, False, False]
    assert "picky raised LookupError: no gold rows" in rollouts[1].error
    assert rollouts[1].output == {"answer": "?"}


def test_tokens_are_the_actor_s_own_and_the_meter_counts_only_what_was_paid(bench: Workbench) -> None:
    actor, engine = bench.actor(needs_a_hint)
    candidates = hinted(actor, "")
    rollouts = actor.run(candidates, EXAMPLES, "sft")
    sent = {text: len(text.split()) for text in engine.asked if "Add one." in text}
    assert sorted(r.tokens_in for r in rollouts) == sorted(sent.values())
    assert {r.tokens_out for r in rollouts} == {len(reply(answer="1").split())}
    paid = actor.usage
    assert (paid.runs, paid.calls) == (12, 12)
    assert paid.tokens_in == sum(len(text.split()) for text in engine.asked)
    actor.run(candidates, EXAMPLES, "dpo1")
    assert actor.usage == paid
    assert Usage() + paid == paid


class PlanAndSolve(dspy.Module):
    """Two predictors, the first asked twice."""

    def __init__(self) -> None:
        super().__init__()
        self.plan = dspy.Predict("question -> plan")
        self.solve = dspy.Predict("question, plan -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        self.plan(question=question)
        return self.solve(question=question, plan=self.plan(question=f"Again: {question}").plan)


def both(text: str) -> str:
    """Answers either predictor; which supplements it was shown stands in the answer."""
    shown = "hinted" if "Add one." in text else "plain"
    return reply(plan=shown, answer=shown)


def places(calls: Iterable[Query | Call]) -> list[tuple[str, int]]:
    return [tuple(each.place) for each in calls]


PLACES = [("plan", 0), ("plan", 1), ("solve", 0)]


def test_a_program_of_several_predictors_has_a_query_for_each_call(bench: Workbench) -> None:
    actor, _ = bench.actor(both, program=PlanAndSolve())
    rollouts, queries = actor.probe(EXAMPLES[:2])
    assert [q.index for q in queries] == [0, 0, 0, 1, 1, 1]
    assert places(queries) == PLACES * 2
    assert ["Again" in q.prompt for q in queries[:3]] == [False, True, False]
    assert len({q.id for q in queries}) == 6
    assert [r.query.index for r in rollouts] == [0, 1]
    assert not actor.single_call
    assert actor.probe(EXAMPLES[:2]) == (rollouts, queries)


def test_the_generator_s_prompt_names_the_role_of_each_predictor(bench: Workbench) -> None:
    actor, _ = bench.actor(both, program=PlanAndSolve())
    queries = actor.probe(EXAMPLES[:1]).queries
    roles = [line for q in queries for line in q.prompt.splitlines() if line.startswith("Role: ")]
    assert roles == ["Role: plan (question -> plan)"] * 2 + ["Role: solve (question, plan -> answer)"]


def test_the_cost_of_a_run_of_many_calls_stands_in_its_first_rollout_only(bench: Workbench) -> None:
    actor, engine = bench.actor(both, program=PlanAndSolve())
    actor.probe(EXAMPLES[:1])
    first, *others = bench.store.rollouts(stage="none")
    assert first.tokens_in == sum(len(text.split()) for text in engine.asked)
    assert [(r.tokens_in, r.tokens_out, r.seconds) for r in others] == [(0, 0, 0.0)] * 2
    assert {r.reward for r in [first, *others]} == {first.reward}


@pytest.mark.parametrize("place", range(3), ids=["first call", "second call", "other predictor"])
def test_a_supplement_reaches_its_own_call_and_the_others_get_none(bench: Workbench, place: int) -> None:
    actor, engine = bench.actor(both, program=PlanAndSolve())
    queries = actor.probe(EXAMPLES[:1]).queries
    engine.asked.clear()
    [rollout] = actor.run([Candidate(queries[place], HINT, "free")], EXAMPLES, "sft")
    assert ["Add one." in text for text in engine.asked] == [n == place for n in range(3)]
    assert rollout.output == {"answer": "hinted" if place == 2 else "plain"}


def test_what_the_other_places_read_is_part_of_the_query(bench: Workbench) -> None:
    actor, engine = bench.actor(both, program=PlanAndSolve())
    plain = actor.probe(EXAMPLES[:1]).queries[0]
    others = ((Place("solve"), HINT), (Place("plan", 1), SILENCE))
    fixed = replace(plain, id=query_id(EXAMPLES[0], "plan", 0, others), others=others)
    engine.asked.clear()
    won, lost = (actor.run([Candidate(q, Supplement("cot", "?"), "free")], EXAMPLES, "sft")[0] for q in (fixed, plain))
    assert ["Add one." in text for text in engine.asked] == [False, False, True, False, False, False]
    assert (won.output, lost.output) == ({"answer": "hinted"}, {"answer": "plain"})
    assert won.query == fixed


def test_a_query_s_name_tells_turns_and_what_others_say_but_not_their_silence() -> None:
    [example] = EXAMPLES[:1]
    names = {
        query_id(example, "plan"),
        query_id(example, "plan", 1),
        query_id(example, "plan", 0, [(Place("solve"), HINT)]),
        query_id(example, "plan", 0, [(Place("solve", 1), HINT)]),
        query_id(example, "plan", 1, [(Place("solve"), HINT)]),
    }
    assert len(names) == 5
    assert query_id(example, "plan", 0, [(Place("solve"), SILENCE)]) == query_id(example, "plan")


def test_a_provider_that_fails_half_way_says_nothing_of_the_supplement(bench: Workbench) -> None:
    def down_at_the_end(text: str) -> str:
        if "[[ ## plan ## ]]\nplain" in text:
            raise RateLimitError("slow down")
        return both(text)

    actor, _ = bench.actor(down_at_the_end, program=PlanAndSolve())
    rollouts, queries = actor.probe(EXAMPLES[:1])
    assert rollouts[0].reward is None
    assert places(queries) == PLACES


def test_a_live_program_writes_its_own_supplements_and_is_paid_each_time(bench: Workbench) -> None:
    actor, engine = bench.actor(both, program=PlanAndSolve())
    first, second = (
        [run.rollout for run in actor.run_live(EXAMPLES[:2], actor.program, stage)] for stage in ("sft/val", "dpo1/val")
    )
    assert len(engine.asked) == 12
    assert [r.query.index for r in first] == [0, 1]
    assert [r.supplement.render() for r in first] == ["[answer] Add one.\n[answer] Add one.\n[answer] Add one."] * 2
    assert {r.output["answer"] for r in first} == {"hinted"}
    assert sum(r.tokens_in for r in [*first, *second]) == sum(len(text.split()) for text in engine.asked)
    stored = bench.store.rollouts(stage="dpo1/val")
    assert sorted(stored, key=lambda r: r.query.index) == second
    assert not actor.single_call


def test_a_live_run_tells_each_call_with_its_supplement(bench: Workbench) -> None:
    actor, _ = bench.actor(both, program=PlanAndSolve())
    [run] = actor.run_live(EXAMPLES[:1], actor.program, "sft/val")
    assert places(run.calls) == PLACES
    assert {call.supplement for call in run.calls} == {HINT}
    assert [call.prompt for call in run.calls][:2] == [q.prompt for q in actor.probe(EXAMPLES[:1]).queries][:2]


def test_a_live_run_s_calls_are_queries_with_what_the_others_read_in_that_run(bench: Workbench) -> None:
    actor, engine = bench.actor(both, program=PlanAndSolve())
    runs = actor.run_live(EXAMPLES[:2], actor.program, "sft/val")
    queries = live_queries(runs, EXAMPLES)
    assert places(queries) == PLACES * 2
    assert [q.index for q in queries] == [0, 0, 0, 1, 1, 1]
    for query in queries:
        assert {tuple(place) for place, _ in query.others} == set(PLACES) - {tuple(query.place)}
        assert {supplement for _, supplement in query.others} == {HINT}
        assert query.id == query_id(EXAMPLES[query.index], query.predictor, query.turn, query.others)
    engine.asked.clear()
    actor.run([Candidate(queries[2], SILENCE, "none")], EXAMPLES, "round 1")
    assert ["Add one." in text for text in engine.asked] == [True, True, False]


def test_runs_whose_every_supplement_is_chosen_give_a_rollout_a_call_with_the_run_s_reward(bench: Workbench) -> None:
    def solved(example: dspy.Example, prediction: dspy.Prediction) -> bool:
        return prediction.answer == "hinted"

    actor, engine = bench.actor(both, program=PlanAndSolve(), metric=solved)
    choosers = [
        (index, lambda place, _, at=at: HINT if place.role == at else SILENCE)
        for index in (1, 0)
        for at in ("plan", "solve")
    ]
    rollouts = actor.run_jointly(EXAMPLES, choosers, "warm")
    assert places(r.query for r in rollouts) == PLACES * 4
    assert [r.query.index for r in rollouts] == [1] * 6 + [0] * 6
    assert [bool(r.supplement) for r in rollouts] == [True, True, False, False, False, True] * 2
    assert [r.reward for r in rollouts] == ([Reward(0.0)] * 3 + [Reward(1.0)] * 3) * 2
    assert {(r.stage, r.source) for r in rollouts} == {("warm", "joint")}
    assert sum(r.tokens_in for r in rollouts) == sum(len(text.split()) for text in engine.asked)
    assert [r.tokens_in > 0 for r in rollouts] == [True, False, False] * 4
    assert sorted(bench.store.rollouts(stage="warm"), key=str) == sorted(rollouts, key=str)


def test_such_runs_share_a_query_only_where_the_generator_reads_the_same(bench: Workbench) -> None:
    """The plans differ, and `solve` reads them: its prompts do, while both calls of `plan` read the same."""
    actor, _ = bench.actor(both, program=PlanAndSolve())
    given = [(0, lambda place, _, said=said: said) for said in (HINT, SILENCE)]
    rollouts = actor.run_jointly(EXAMPLES, given, "warm")
    names = [r.query.id for r in rollouts]
    assert [one == other for one, other in zip(names[:3], names[3:], strict=True)] == [True, True, False]
    prompts = {name: {r.query.prompt for r in rollouts if r.query.id == name} for name in names}
    assert all(len(read) == 1 for read in prompts.values())


def test_a_failed_run_of_chosen_supplements_keeps_the_calls_it_made_and_has_no_reward(bench: Workbench) -> None:
    def down_at_the_end(text: str) -> str:
        if "[[ ## plan ## ]]\nplain" in text:
            raise RateLimitError("slow down")
        return both(text)

    actor, _ = bench.actor(down_at_the_end, program=PlanAndSolve())
    rollouts = actor.run_jointly(EXAMPLES, [(0, lambda place, prompt: SILENCE)], "warm")
    assert places(r.query for r in rollouts) == PLACES
    assert {r.reward for r in rollouts} == {None}


def test_a_program_that_asks_once_can_have_its_supplements_written_beforehand(bench: Workbench) -> None:
    actor, _ = bench.actor(needs_a_hint)
    actor.run(hinted(actor, ""), EXAMPLES, "sft")
    assert actor.single_call


def test_as_many_runs_are_under_way_as_there_are_threads(bench: Workbench) -> None:
    together = threading.Barrier(6, timeout=10)

    def wait_for_the_others(text: str) -> str:
        together.wait()
        return needs_a_hint(text)

    actor, _ = bench.actor(wait_for_the_others, threads=6)
    assert len(actor.probe(EXAMPLES).rollouts) == 6


def test_runs_leave_no_history_and_no_trace_behind(bench: Workbench) -> None:
    actor, _ = bench.actor(needs_a_hint)
    lm = actor.program.get_lm()
    with dspy.context(trace=[]):
        actor.probe(EXAMPLES)
        assert dspy.settings.trace == []
    assert lm.history == []


def test_the_threads_see_the_caller_s_settings(bench: Workbench) -> None:
    seen: Counter[object] = Counter()

    def metric(example: dspy.Example, prediction: dspy.Prediction) -> bool:
        seen[dspy.settings.get("provide_traceback")] += 1
        return True

    actor, _ = bench.actor(needs_a_hint, metric=metric)
    with dspy.context(provide_traceback="ours"):
        actor.probe(EXAMPLES)
    assert seen == {"ours": 6}


def test_another_program_is_run_in_a_scope_of_its_own_and_its_failures_count_together(bench: Workbench) -> None:
    """Of five failures in a row, three are the first program's."""

    def answers(text: str) -> str:
        if "0+1" in text:
            return reply(answer="1")
        raise RateLimitError("later")

    actor, engine = bench.actor(answers, threads=1)
    other = actor.for_program(with_instructions(actor.program, {"self": "Add."}))
    assert [each.won() for each in (*actor.probe(EXAMPLES[:1]).rollouts, *other.probe(EXAMPLES[:1]).rollouts)] == [
        True
    ] * 2
    assert (other.scope != actor.scope, len(engine.asked)) == (True, 2)
    assert actor.for_program(other.program).probe(EXAMPLES[:1]).rollouts[0].won()
    assert len(engine.asked) == 2
    actor.probe(EXAMPLES[1:4])
    with pytest.raises(SGTError, match="5 runs of the actor in a row"):
        other.probe(EXAMPLES[1:4])
