"""What a stage tries, and where credit goes: one place at a time, or all at once with the program's own outcome."""

from __future__ import annotations

import random
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import dspy
import pytest
from dspy.lm15 import RateLimitError, Request, Response
from scripted import ScriptedEngine, ScriptedGenerator, reply, rollout

from optimizers.core.events import EventBus
from optimizers.core.records import PreferencePair, Query, Rollout
from optimizers.core.reward import Metric, Scorer
from optimizers.core.work_clock import WorkClock
from optimizers.rollouts.engine import RolloutEngine
from optimizers.rollouts.evaluation import Evaluator
from optimizers.sgt.adaptive import deciding_predictors
from optimizers.sgt.exploration import Credit, ExplorationContext, Explorer, Isolated, Joint, explorer
from optimizers.sgt.preference_pairs import preference_pairs
from optimizers.sgt.recipe import Recipe
from optimizers.sgt.settings import check_credit
from optimizers.store.rollout_store import RolloutStore
from sgt_modules import supplement
from sgt_modules.episode import Place
from sgt_modules.errors import EndpointError, SetupError, SGTError
from sgt_modules.kinds import SILENCE, Kind, Supplement
from sgt_modules.local.engine import LocalEngine

EXAMPLES = [
    dspy.Example(question=f"{n}+1?", remark=f"Remark {n}.", answer=str(n + 1)).with_inputs("question", "remark")
    for n in range(3)
]
KINDS = {"answer": Kind("answer", "Say it."), "cot": Kind("cot", "Think.")}
RECIPE = Recipe(warm_samples=2, pool_samples=3, ood_kinds=1, concat=1, direct_samples=4, kinds=KINDS)
"""Three prompts a query in the warm start (`answer`, `cot` and a free one), so six samples."""

MAIN, SIDE = Place("main"), Place("side")


class Both(dspy.Module):
    """Two predictors; only the answer counts."""

    def __init__(self) -> None:
        super().__init__()
        self.main = dspy.Predict("question -> answer")
        self.side = dspy.Predict("remark -> note")

    def forward(self, question: str, remark: str) -> dspy.Prediction:
        return dspy.Prediction(answer=self.main(question=question).answer, note=self.side(remark=remark).note)


class Twice(dspy.Module):
    """One predictor called twice, the second time with what it said at first."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question, heard -> answer")

    def forward(self, question: str, remark: str) -> dspy.Prediction:
        first = self.ask(question=question, heard="nothing").answer
        return dspy.Prediction(answer=f"{first} {self.ask(question=question, heard=first).answer}")


class Once(dspy.Module):
    """One predictor called once."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    def forward(self, question: str, remark: str) -> dspy.Prediction:
        return self.ask(question=question)


def acting(text: str) -> str:
    """An actor that adds where it is told to, and notes that all is fine."""
    number = text.partition("+1?")[0].split()[-1] if "+1?" in text else ""
    return reply(answer=str(int(number) + 1) if number and "Add one." in text else "?", note="fine")


def exact(example: dspy.Example, prediction: dspy.Prediction) -> bool:
    return example.answer == prediction.answer


def by_half(example: dspy.Example, prediction: dspy.Prediction) -> float:
    """Each of the two answers of `Twice` counts a half."""
    return sum(said == example.answer for said in prediction.answer.split()) / 2


class Sampler(ScriptedGenerator):
    """Writes the kind that it is asked for, and a new kind where it may choose; `answer` and the new kind help.

    Where the prompt names no kind, the seed decides.
    """

    def __init__(self, model: str = "scripted/generator") -> None:
        super().__init__(lambda _: SILENCE, model=model)

    def said(self, prompt: str, seed: int) -> Supplement:
        named = prompt.rpartition("\nKind: ")[2] if "\nKind: " in prompt else ("answer.", "cot.")[seed % 2]
        kind = "rule" if named.startswith("a new one") else named.partition(".")[0]
        return Supplement(kind, f"{'Guess.' if kind == 'cot' else 'Add one.'} ({seed})")


@dataclass
class Bench:
    """An explorer over a wrapped program, with all that it works with."""

    engine: ScriptedEngine
    actor: RolloutEngine
    context: ExplorationContext
    explorer: Explorer
    generator: ScriptedGenerator

    def stages(self) -> list[list[Rollout]]:
        """The warm start, round 1 and round 2."""
        warm = self.explorer.warm_start(self.generator)
        return [warm, self.explorer.first_pool(warm, self.generator), self.explorer.direct(2, self.generator)]


Build = Callable[..., Bench]


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Makes benches, each with a store of its own."""
    with ExitStack() as opened:

        def made(
            program: type[dspy.Module],
            credit: Credit = "isolate",
            *,
            script: Callable[[str], str] = acting,
            metric: Metric = exact,
            generator: ScriptedGenerator | None = None,
            threads: int = 4,
            seed: int = 0,
            **recipe: object,
        ) -> Bench:
            engine = ScriptedEngine(script)
            wrapped = supplement(program(), generator=Sampler())
            wrapped.set_lm(engine.lm())
            folder = tmp_path / str(random.Random(f"{program}{credit}{threads}{seed}{recipe}").random())
            store = opened.enter_context(RolloutStore(folder / "rollouts.sqlite"))
            actor = RolloutEngine(wrapped, Scorer(metric), store, "scope", num_threads=threads)
            train = Evaluator(actor, "train", EXAMPLES, EventBus())
            train.score_unaided()
            engine.asked.clear()
            context = ExplorationContext(replace(RECIPE, **recipe), train, EventBus(), WorkClock(), seed)
            return Bench(engine, actor, context, explorer(credit, context), generator or Sampler())

        yield made


def pairs_of(rollouts: Sequence[Rollout], threshold: float = 1.0) -> list[PreferencePair]:
    return preference_pairs(rollouts, threshold=threshold, rng=random.Random(0))


def spoken(asked: Sequence[str]) -> list[bool]:
    """For each request, whether its actor was shown a supplement."""
    return ["[[ ## supplement ## ]]" in text for text in asked]


def in_runs(asked: Sequence[str]) -> list[tuple[str, str]]:
    """The requests of runs of two calls that followed each other in one thread."""
    return list(zip(asked[::2], asked[1::2], strict=True))


def in_one_context(rollouts: Sequence[Rollout]) -> bool:
    """Whether what shares a query's name shares all that the query says."""
    named: dict[str, set[Query]] = defaultdict(set)
    for each in rollouts:
        named[each.query.id].add(each.query)
    return all(len(queries) == 1 for queries in named.values())


def test_an_unknown_credit_is_refused() -> None:
    assert [check_credit(each) for each in ("isolate", "joint")] == ["isolate", "joint"]
    with pytest.raises(SetupError, match="Expected credit 'isolate' or 'joint', got 'shapley'"):
        check_credit("shapley")


def test_where_a_program_asks_once_an_example_joint_credit_is_isolated_credit(build: Build) -> None:
    assert isinstance(build(Once, "joint").explorer, Isolated)
    assert isinstance(build(Both, "joint").explorer, Joint)
    assert isinstance(build(Twice, "joint").explorer, Joint)
    assert isinstance(build(Both).explorer, Isolated)


def test_in_the_warm_start_one_place_speaks_and_the_others_are_silent(build: Build) -> None:
    bench = build(Both, threads=1)
    rollouts = bench.explorer.warm_start(bench.generator)
    assert {each.query.others for each in rollouts} == {()}
    assert [sum(spoken(run)) for run in in_runs(bench.engine.asked)] == [1] * len(rollouts)


def test_later_the_others_read_what_the_current_generator_writes_for_them(build: Build) -> None:
    bench = build(Both, threads=1)
    warm = bench.explorer.warm_start(bench.generator)
    before = len(bench.engine.asked)
    rollouts = bench.explorer.first_pool(warm, bench.generator)
    written = Supplement("answer", "Add one. (0)")
    other = {"main": SIDE, "side": MAIN}
    assert all(each.query.others == ((other[each.query.predictor], written),) for each in rollouts)
    asked = bench.engine.asked[before + 2 * len(EXAMPLES) :]  # after the runs in which the generator wrote
    assert len(asked) == 2 * len(rollouts)
    assert all("Add one. (0)" in first or "Add one. (0)" in second for first, second in in_runs(asked))


def test_pairs_differ_in_one_place(build: Build) -> None:
    for stage in build(Both).stages():
        assert in_one_context(stage)
        queries = {each.query.id: each.query for each in stage}
        pairs = pairs_of(stage)
        assert pairs
        assert all(pair.prompt == queries[pair.query].prompt for pair in pairs)
        assert {queries[pair.query].predictor for pair in pairs} == {"main"}


def test_a_predictor_whose_supplements_decide_nothing_is_left_after_the_first_pass(build: Build) -> None:
    """Six candidates a query in the warm start: a fifth of them is one, so the first pass takes two. They decide what
    `main` says, and nothing of what counts at `side`."""
    warm = build(Both).explorer.warm_start(Sampler())
    assert Counter((each.query.index, each.query.predictor) for each in warm) == {
        (index, predictor): count for index in range(3) for predictor, count in {"main": 6, "side": 2}.items()
    }


def test_the_first_pass_takes_other_kinds_from_query_to_query(build: Build) -> None:
    """Of two `answer`, two `cot` and two new ones, the first query takes the first and the fourth, the next one the
    second and the fifth, the last one the third and the sixth."""
    warm = build(Both).explorer.warm_start(Sampler())
    tried = [(each.query.index, each.supplement.kind) for each in warm if each.query.predictor == "side"]
    assert sorted(tried) == [(0, "answer"), (0, "cot"), (1, "answer"), (1, "rule"), (2, "cot"), (2, "rule")]


def test_a_program_of_one_predictor_has_no_first_pass(build: Build) -> None:
    assert len(build(Once).explorer.warm_start(Sampler())) == 6 * len(EXAMPLES)
    assert len(build(Twice).explorer.warm_start(Sampler())) == 2 * 6 * len(EXAMPLES)


@pytest.mark.parametrize(("mixed", "decides"), [(0, False), (1, False), (2, True), (20, True)])
def test_a_predictor_decides_where_a_tenth_of_its_queries_have_winners_and_losers(mixed: int, decides: bool) -> None:
    """Of twenty queries, two are a tenth; failed runs tell nothing."""
    queries = [Query(str(number), number, "main", "") for number in range(20)]
    rollouts = [
        rollout(score, of=query)
        for number, query in enumerate(queries)
        for score in ((1.0, 0.0, None) if number < mixed else (1.0, 1.0, None))
    ]
    other = [rollout(score, of=Query("other", 0, "side", "")) for score in (0.0, 0.0)]
    assert deciding_predictors([*rollouts, *other], 1.0) == ({"main"} if decides else set())


def test_where_pairs_are_made_by_a_margin_a_margin_decides(build: Build) -> None:
    def partial(example: dspy.Example, prediction: dspy.Prediction) -> float:
        return 0.8 if exact(example, prediction) else 0.2

    warm = build(Both, metric=partial, margin=0.5).explorer.warm_start(Sampler())
    assert Counter(each.query.predictor for each in warm) == {"main": 18, "side": 6}


def test_a_predictor_that_is_called_twice_has_a_query_and_pairs_for_each_call(build: Build) -> None:
    warm = build(Twice, metric=by_half).explorer.warm_start(Sampler())
    assert Counter((each.query.index, each.query.place) for each in warm) == {
        (index, Place("ask", turn)): 6 for index in range(3) for turn in (0, 1)
    }
    queries = {each.query.id: each.query for each in warm}
    assert len(queries) == 2 * len(EXAMPLES)
    pairs = pairs_of(warm, threshold=0.5)
    assert Counter(queries[pair.query].turn for pair in pairs) == {0: len(pairs) / 2, 1: len(pairs) / 2}


def test_of_a_predictor_that_is_called_twice_each_call_keeps_to_what_the_other_reads(build: Build) -> None:
    _, first, later = build(Twice, metric=by_half).stages()
    for each in [*first, *later]:
        ((place, _),) = each.query.others
        assert place == Place("ask", 1 - each.query.turn)
    assert in_one_context(first)


def test_silence_joins_the_pools_from_round_1_and_costs_no_call(build: Build) -> None:
    bench = build(Once)
    warm, first, later = bench.stages()
    assert not [each for each in warm if not each.supplement]
    for stage in (first, later):
        silent = [each for each in stage if not each.supplement]
        assert [(each.query.index, each.source, each.supplement) for each in silent] == [
            (index, "none", SILENCE) for index in range(len(EXAMPLES))
        ]
    assert all(spoken(bench.engine.asked))


def test_silence_stays_out_where_it_is_not_wanted(build: Build) -> None:
    assert all(each.supplement for stage in build(Once, silence=False).stages() for each in stage)


def test_silence_that_beats_a_supplement_is_preferred(build: Build) -> None:
    def misled(text: str) -> str:
        return acting(text if any(spoken([text])) else f"{text} Add one.")

    _, first, _ = build(Once, script=misled).stages()
    pairs = pairs_of(first)
    assert {pair.query for pair in pairs if pair.chosen == "[none]"} == {each.query.id for each in first}
    assert not [pair for pair in pairs if pair.rejected == "[none]"]


def test_the_generator_s_own_kinds_and_joins_of_winners_are_tried_in_round_1(build: Build) -> None:
    _, first, _ = build(Both).stages()
    assert {each.supplement.kind for each in first if each.source == "ood"} == {"rule"}
    joins = [each for each in first if each.source == "concat"]
    assert joins
    assert all(each.query.others and "\n[" in each.supplement.render() for each in joins)


def runs_of(rollouts: Sequence[Rollout]) -> list[tuple[Rollout, Rollout]]:
    """The rollouts of runs of two calls, run by run."""
    return list(zip(rollouts[::2], rollouts[1::2], strict=True))


def test_jointly_every_place_varies_and_all_get_the_run_s_reward(build: Build) -> None:
    bench = build(Both, "joint")
    runs = runs_of(bench.explorer.warm_start(bench.generator))
    assert len(runs) == 6 * len(EXAMPLES)
    for main, side in runs:
        assert (main.query.place, side.query.place) == (MAIN, SIDE)
        assert main.supplement
        assert side.supplement
        assert main.reward == side.reward
        assert main.won() == (main.supplement.kind != "cot")
    assert len(bench.engine.asked) == 2 * len(runs)
    assert all(spoken(bench.engine.asked))


def test_jointly_each_place_meets_each_kind_as_often_in_an_order_of_its_own(build: Build) -> None:
    runs = runs_of(build(Both, "joint", warm_samples=6).explorer.warm_start(Sampler()))
    met = Counter((each.query.index, each.query.predictor, each.supplement.kind) for run in runs for each in run)
    assert met == {(n, place, kind): 6 for n in range(3) for place in ("main", "side") for kind in [*KINDS, "rule"]}
    assert len({(main.supplement.kind, side.supplement.kind) for main, side in runs}) == 9


def test_jointly_the_cost_of_a_run_is_counted_once_and_the_generator_s_not_as_the_actor_s(build: Build) -> None:
    bench = build(Both, "joint", generator=Sampler("scripted/trained"))
    paid = bench.actor.usage
    rollouts = [each for stage in bench.stages() for each in stage]
    assert bench.actor.usage.calls - paid.calls == len(bench.engine.asked)
    words = sum(len(text.split()) for text in bench.engine.asked)
    assert bench.actor.usage.tokens_in - paid.tokens_in == words
    assert sum(each.tokens_in for each in rollouts) == words


def test_jointly_pairs_share_their_prompt_though_runs_may_show_a_place_another(build: Build) -> None:
    rollouts = build(Twice, "joint", metric=by_half).explorer.warm_start(Sampler())
    assert in_one_context(rollouts)
    second = {(each.query.index, each.query.prompt) for each in rollouts if each.query.turn == 1}
    assert len(second) == 2 * len(EXAMPLES)
    prompts = {each.query.id: each.query.prompt for each in rollouts}
    pairs = pairs_of(rollouts)
    assert pairs
    assert all(pair.prompt == prompts[pair.query] for pair in pairs)


def test_jointly_silence_is_a_kind_from_round_1(build: Build) -> None:
    """Round 1 has four asks of three samples each (two kinds, the new one, silence), and a join of two winners."""
    warm, first, later = build(Both, "joint").stages()
    silent = [Counter((r.query.index, r.query.predictor) for r in stage if not r.supplement) for stage in (warm, first)]
    assert silent[0] == {}
    assert silent[1] == {(index, place): 3 for index in range(3) for place in ("main", "side")}
    assert sum(not each.supplement for each in later) == 2 * len(EXAMPLES)


@pytest.mark.parametrize("credit", ["isolate", "joint"])
def test_of_given_texts_each_place_meets_each_and_the_generator_writes_none(build: Build, credit: Credit) -> None:
    texts = {"add": "Add one.", "guess": "Guess."}
    given = {name: Kind(name, text=text) for name, text in texts.items()}
    bench = build(Both, credit, kinds=given, closed=True)
    warm = bench.explorer.warm_start(bench.generator)
    assert (bench.generator.asked, bench.actor.store.count_samples()) == ([], (0, 0, 0))
    met = {(each.query.index, each.query.place, each.supplement.render()) for each in warm}
    said = [kind.given.render() for kind in given.values()]
    assert met == {(index, place, text) for index in range(3) for place in (MAIN, SIDE) for text in said}
    later = [*bench.explorer.first_pool(warm, bench.generator), *bench.explorer.direct(2, bench.generator)]
    assert {each.supplement.render() for each in later} == {*said, ""}
    assert {pair.category for pair in pairs_of(later)} == {"inter"}
    assert bench.actor.store.count_samples() == (0, 0, 0)


def test_jointly_nothing_is_silent_where_that_is_not_wanted(build: Build) -> None:
    assert all(each.supplement for stage in build(Both, "joint", silence=False).stages() for each in stage)


def test_jointly_nothing_is_paid_for_joins_where_nothing_won(build: Build) -> None:
    """Two kinds, the new one and silence, of three samples each: twelve runs an example, of two calls each."""
    bench = build(Both, "joint", script=lambda _: reply(answer="?", note="fine"))
    warm = bench.explorer.warm_start(bench.generator)
    bench.engine.asked.clear()
    bench.explorer.first_pool(warm, bench.generator)
    assert len(bench.engine.asked) == 12 * 2 * len(EXAMPLES)


def without_time(rollouts: Sequence[Rollout]) -> list[Rollout]:
    return [replace(each, seconds=0.0, effort=each.effort and replace(each.effort, seconds=0.0)) for each in rollouts]


@pytest.mark.parametrize("credit", ["isolate", "joint"])
@pytest.mark.parametrize("program", [Both, Twice, Once])
def test_the_same_seed_gives_the_same_rollouts_whatever_the_threads(
    build: Build, credit: Credit, program: type[dspy.Module]
) -> None:
    one, many, other = (
        [without_time(stage) for stage in build(program, credit, metric=by_half, threads=threads, seed=seed).stages()]
        for threads, seed in ((1, 0), (8, 0), (8, 1))
    )
    assert one == many
    assert other != many


@pytest.mark.parametrize("credit", ["isolate", "joint"])
def test_the_generator_s_samples_and_the_seconds_are_counted(build: Build, credit: Credit) -> None:
    bench = build(Both, credit)
    bench.explorer.warm_start(bench.generator)
    seconds = bench.context.clock.seconds
    samples, read, wrote = bench.context.train.actor.store.count_samples()
    assert samples == len(bench.generator.asked) == 2 * 6 * len(EXAMPLES)
    assert read == sum(len(prompt.split()) for prompt in bench.generator.asked)
    assert wrote > samples
    assert seconds.acting > 0
    assert (seconds.sampling > 0) == (credit == "isolate")
    assert seconds.training == 0.0


class InProcess(LocalEngine):
    """A scripted actor that counts as one on this machine."""

    def __init__(self, engine: ScriptedEngine) -> None:
        super().__init__("scripted/actor")
        self._scripted = engine

    def complete(self, request: Request) -> Response:
        return self._scripted.complete(request)


class Waiting(Sampler):
    """A generator that writes its last supplement only when the actor has been asked for an answer."""

    def __init__(self, asked: threading.Event) -> None:
        super().__init__()
        self._acted = asked

    def said(self, prompt: str, seed: int) -> Supplement:
        if len(self.asked) == 6 * len(EXAMPLES) and not self._acted.wait(20):
            raise TimeoutError("Nothing was acted on while samples were under way.")
        return super().said(prompt, seed)


def test_the_actor_runs_on_what_was_sampled_while_the_rest_is_sampled(build: Build) -> None:
    acted = threading.Event()

    def telling(text: str) -> str:
        if any(spoken([text])):
            acted.set()
        return acting(text)

    assert len(build(Once, script=telling).explorer.warm_start(Waiting(acted))) == 6 * len(EXAMPLES)


@pytest.mark.parametrize("program", [Once, Twice, Both])
def test_acting_beside_sampling_gives_the_rollouts_of_one_after_the_other(
    build: Build, program: type[dspy.Module]
) -> None:
    beside, after = build(program, metric=by_half), build(program, metric=by_half, warm_samples=2, seed=0, threads=3)
    after.actor.program.set_lm(dspy.LM("scripted/actor", engine=InProcess(after.engine), cache=False))
    assert (beside.actor.in_process, after.actor.in_process) == (False, True)
    stages = [[without_time(stage) for stage in bench.stages()] for bench in (beside, after)]
    assert stages[0] == stages[1]
    met = [sorted(map(repr, without_time(bench.actor.store.rollouts()))) for bench in (beside, after)]
    assert met[0] == met[1]


def test_a_generator_that_fails_stops_the_stage_and_what_was_acted_on_is_kept(build: Build) -> None:
    class Failing(Sampler):
        def said(self, prompt: str, seed: int) -> Supplement:
            if len(self.asked) > 4:
                raise EndpointError("The server is gone.")
            return super().said(prompt, seed)

    bench = build(Once)
    with pytest.raises(EndpointError, match="The server is gone"):
        bench.explorer.warm_start(Failing())
    assert len([each for each in bench.actor.store.rollouts() if each.supplement]) == 4


def test_an_actor_that_fails_too_often_stops_the_sampling(build: Build) -> None:
    def refusing(text: str) -> str:
        if any(spoken([text])):
            raise RateLimitError("Slow down.")
        return acting(text)

    bench = build(Once, script=refusing, threads=1, warm_samples=400)
    with pytest.raises(SGTError, match="10 runs of the actor in a row gave no reward"):
        bench.explorer.warm_start(bench.generator)
    assert len(bench.engine.asked) == 10
