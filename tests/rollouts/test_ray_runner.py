"""Runs on a Ray cluster: the same rollouts as in threads, and a worker that dies costs little and loses nothing."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dspy
import pytest
import ray
from paid_calls import PayingEngine, right
from places import DOUBLES
from scripted import ScriptedGenerator, ScriptedTrainer

from optimizers import Recipe, SGTTeleprompter
from optimizers.core.records import Candidate, Rollout
from optimizers.core.reward import Metric, Scorer
from optimizers.rollouts.engine import RolloutEngine
from optimizers.rollouts.judging import ThreadRunner
from optimizers.rollouts.pickling import pickle_task
from optimizers.rollouts.ray_runner import RayRunner
from optimizers.rollouts.runners import Runner
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.embedded import HouseTermsWorld, embedded_actor, embedded_generator
from sgt_modules.embedded import program as house_terms_program
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.errors import SetupError, SGTError
from sgt_modules.kinds import Supplement
from sgt_modules.wrapping import supplement

EXAMPLES = [dspy.Example(question=f"{n}+1?", answer=str(n + 1)).with_inputs("question") for n in range(8)]
TEXTS = ("Add one.", "Guess.", "Think.", "Wait.", "Guess.")
THREADS = 4


def local(environment: pytest.MonkeyPatch) -> None:
    """A Ray that starts now is this machine's own, silent, and its workers find `paid_calls`."""
    environment.setenv("RAY_ADDRESS", "local")
    environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
    environment.setenv("PYTHONPATH", str(DOUBLES), prepend=os.pathsep)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of two CPUs on this machine."""
    with pytest.MonkeyPatch.context() as environment:
        local(environment)
        ray.init(num_cpus=2, object_store_memory=80 * 2**20, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def runner(cluster: None) -> Iterator[RayRunner]:
    with RayRunner() as opened:
        yield opened


class Bench:
    """A program over an engine that notes its calls, with a store of its own."""

    def __init__(self, folder: Path, runner: Runner, metric: Metric = right, **engine: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.engine = PayingEngine(folder / "paid.txt", **engine)
        self.store = RolloutStore(folder / "rollouts.sqlite")
        program = supplement(dspy.Predict("question -> answer"), generator=embedded_generator())
        program.set_lm(self.engine.lm())
        self.actor = RolloutEngine(
            program, Scorer(metric), self.store, "scope", num_threads=THREADS, max_errors=3, runner=runner
        )

    def candidates(self) -> list[Candidate]:
        queries = self.actor.probe(EXAMPLES).queries
        return [Candidate(query, Supplement("answer", text), "free") for query in queries for text in TEXTS]


def timeless(rollouts: list[Rollout]) -> list[Rollout]:
    return [replace(rollout, seconds=0.0) for rollout in rollouts]


@pytest.mark.slow
def test_a_runner_that_starts_ray_stops_it_and_loses_no_run_that_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This test comes first, as the others share a Ray. Closing is what an interrupted compile does."""
    local(monkeypatch)
    runner = RayRunner(workers=1)
    bench = Bench(tmp_path, runner, seconds=1.0)
    stopped: list[str] = []

    def probe() -> None:
        try:
            bench.actor.probe(EXAMPLES)
        except SGTError as problem:
            stopped.append(str(problem))

    probing = threading.Thread(target=probe)
    probing.start()
    while len(bench.engine.paid()) < THREADS and probing.is_alive():
        time.sleep(0.01)
    runner.close()
    probing.join()
    assert stopped == ["This RayRunner is closed and does no more runs. Make a new one."]
    assert bench.store.count() == len(bench.engine.paid()) == THREADS
    assert not ray.is_initialized()


def test_a_cluster_that_cannot_be_reached_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also before Ray is started for the rest."""
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")
    with RayRunner() as runner, pytest.raises(SetupError, match="Ray could not be reached at RAY_ADDRESS=nowhere"):
        Bench(tmp_path, runner).actor.probe(EXAMPLES)
    assert not ray.is_initialized()


@pytest.mark.slow
def test_a_cluster_gives_the_rollouts_that_threads_give_and_pays_as_often(tmp_path: Path, runner: RayRunner) -> None:
    here, there = Bench(tmp_path / "here", ThreadRunner()), Bench(tmp_path / "there", runner)
    ours, theirs = (bench.actor.run(bench.candidates(), EXAMPLES, "sft") for bench in (here, there))
    assert timeless(theirs) == timeless(ours)
    assert [rollout.won() for rollout in theirs] == [True, False, False, False, False] * 8
    assert sorted(call.asked for call in there.engine.paid()) == sorted(call.asked for call in here.engine.paid())
    assert sorted(map(str, timeless(there.store.rollouts()))) == sorted(map(str, timeless(here.store.rollouts())))
    assert replace(there.actor.usage, seconds=0.0) == replace(here.actor.usage, seconds=0.0)


def test_each_worker_takes_its_share_and_this_process_none(tmp_path: Path, runner: RayRunner) -> None:
    """The second worker may be long in starting, and the first does not wait for it."""
    bench = Bench(tmp_path, runner, seconds=0.01)
    queries = bench.actor.probe(EXAMPLES).queries
    processes: set[int] = set()
    for number in range(500):
        hint = Supplement("cot", f"Think {number} times.")
        bench.actor.run([Candidate(query, hint, "free") for query in queries], EXAMPLES, "sft")
        processes = {call.process for call in bench.engine.paid()}
        if len(processes) == 2:
            break
    assert len(processes) == 2
    assert os.getpid() not in processes


def test_what_the_store_knows_reaches_no_worker(tmp_path: Path) -> None:
    known = Bench(tmp_path, ThreadRunner())
    candidates = known.candidates()
    first = known.actor.run(candidates, EXAMPLES, "sft")
    with RayRunner() as unused:
        again = Bench(tmp_path, unused)
        assert timeless(again.actor.run(candidates, EXAMPLES, "sft")) == timeless(first)
        assert again.actor.usage.runs == 0
        assert unused._pool is None


def test_a_killed_worker_loses_no_rollout_and_at_most_its_runs_under_way_are_paid_again(
    tmp_path: Path, runner: RayRunner
) -> None:
    bench, calm = Bench(tmp_path / "killed", runner, seconds=0.02), Bench(tmp_path / "calm", ThreadRunner())
    candidates = bench.candidates()
    heard: list[Rollout] = []
    killed: list[int] = []

    def kill_in_the_middle(rollout: Rollout) -> None:
        assert bench.store.get("scope", rollout.query.id, rollout.supplement) is not None
        heard.append(rollout)
        if len(heard) == 15:
            killed.append(bench.engine.paid()[-1].process)
            os.kill(killed[0], signal.SIGKILL)

    rollouts = bench.actor.run(candidates, EXAMPLES, "sft", on_done=kill_in_the_middle)
    assert killed
    assert timeless(rollouts) == timeless(calm.actor.run(calm.candidates(), EXAMPLES, "sft"))
    assert bench.store.count() == len(EXAMPLES) * (1 + len(set(TEXTS)))
    paid = Counter(call.asked for call in bench.engine.paid())
    assert len(paid) == bench.store.count()
    assert paid.total() <= len(paid) + THREADS
    bench.actor.run(candidates, EXAMPLES, "dpo1")
    assert len(bench.engine.paid()) == paid.total()


@pytest.mark.slow
def test_a_run_that_kills_its_workers_is_given_up_and_its_neighbours_are_not(tmp_path: Path, runner: RayRunner) -> None:
    bench = Bench(tmp_path, runner, seconds=0.05, deadly="3+1?")
    rollouts = bench.actor.probe(EXAMPLES).rollouts
    assert [rollout.reward is None for rollout in rollouts] == [n == 3 for n in range(8)]
    assert rollouts[3].error.startswith("3 workers died in this run; the last: ActorDied")
    assert Counter(call.asked for call in bench.engine.paid())["[[ ## question ## ]] 3+1?"] == 3
    assert bench.store.count() == 8


def test_a_provider_s_error_in_a_worker_is_no_reward_and_too_many_stop_the_run(
    tmp_path: Path, runner: RayRunner
) -> None:
    bench = Bench(tmp_path, runner, down="Guess")
    failed = bench.actor.run(bench.candidates()[1:2], EXAMPLES, "sft")[0]
    assert failed.reward is None
    assert failed.error.startswith("LMRateLimitError: [scripted/actor] slow down")
    with pytest.raises(SGTError, match="3 runs of the actor in a row gave no reward; the last: LMRateLimitError"):
        bench.actor.run([each for each in bench.candidates() if each.supplement.text == "Guess."], EXAMPLES, "sft")


def test_the_workers_see_the_caller_s_settings_and_none_of_its_watchers(tmp_path: Path, runner: RayRunner) -> None:
    def metric(example: dspy.Example, prediction: dspy.Prediction) -> dspy.Prediction:
        watchers = [type(each).__name__ for each in dspy.settings.callbacks]
        settings = (dspy.settings.get("of_ours"), type(dspy.settings.adapter).__name__, watchers)
        return dspy.Prediction(score=1.0, feedback=str(settings))

    bench = Bench(tmp_path, runner, metric)
    lock = threading.Lock()
    with dspy.context(of_ours="here", adapter=dspy.ChatAdapter(), callbacks=[lock]):
        rollouts = bench.actor.probe(EXAMPLES).rollouts
    assert {rollout.reward.feedback for rollout in rollouts if rollout.reward} == {
        "('here', 'ChatAdapter', ['LMCalls'])"  # the run's own
    }


def test_what_cannot_travel_is_named_before_anything_is_paid(tmp_path: Path) -> None:
    lock = threading.Lock()

    def locked(example: dspy.Example, prediction: dspy.Prediction) -> bool:
        with lock:
            return True

    with RayRunner() as unused:
        bench = Bench(tmp_path, unused, locked)
        with pytest.raises(SetupError, match=r"The metric .*locked must be pickled .*'_thread.lock'"):
            bench.actor.probe(EXAMPLES)
        bench = Bench(tmp_path, unused)
        with dspy.context(rm=lock), pytest.raises(SetupError, match="DSPy's setting 'rm' must be pickled"):
            bench.actor.probe(EXAMPLES)
        bench.actor.program.lock = lock
        with pytest.raises(SetupError, match="The program SupplementedPredictor must be pickled"):
            bench.actor.probe(EXAMPLES)
        bench.actor.program.get_lm().lock = lock
        with pytest.raises(SetupError, match="The LM of predictor 'self' must be pickled"):
            bench.actor.probe(EXAMPLES)
        assert bench.engine.paid() == []
        assert unused._pool is None


def test_a_compile_stops_at_a_metric_that_cannot_travel_before_it_is_tried(tmp_path: Path) -> None:
    asked: list[str] = []
    lock = threading.Lock()

    def locked(example: dspy.Example, prediction: dspy.Prediction) -> bool:
        with lock:
            asked.append(example.question)
            return True

    sgt = SGTTeleprompter(locked, embedded_generator(), runner="ray", log_dir=tmp_path / "run", display_progress=False)
    engine = PayingEngine(tmp_path / "paid.txt")
    with dspy.context(lm=engine.lm()), pytest.raises(SetupError, match=r"The metric .*locked must be pickled"):
        sgt.compile(dspy.Predict("question -> answer"), trainset=EXAMPLES[:4], valset=EXAMPLES[4:])
    assert asked == engine.paid() == []
    assert not (tmp_path / "run").exists()


class StaysHere(ScriptedGenerator):
    """A generator by script; in the workers, which never ask it, the embedded one stands for it."""

    def __reduce__(self) -> tuple[object, ...]:
        return embedded_generator, ()


def test_a_whole_compile_meets_the_same_rollouts_on_a_cluster_as_in_threads(tmp_path: Path, runner: RayRunner) -> None:
    trained = StaysHere(lambda prompt: Supplement("cot", "Add one."))
    generator = StaysHere(lambda prompt: Supplement("cot", "Add one." if "cot" in prompt else "?"), trained=trained)
    met: dict[str, list[str]] = {}
    for name, chosen in (("here", "threads"), ("there", runner)):
        sgt = SGTTeleprompter(
            right,
            generator,
            recipe=Recipe(rounds=1, warm_samples=1),
            trainer=ScriptedTrainer(),
            runner=chosen,
            num_threads=THREADS,
            log_dir=tmp_path / name,
            display_progress=False,
        )
        engine = PayingEngine(tmp_path / f"{name}.txt")
        with dspy.context(lm=engine.lm()):
            better = sgt.compile(dspy.Predict("question -> answer"), trainset=EXAMPLES[:4], valset=EXAMPLES[4:])
        assert [(stage.name, stage.score) for stage in better.detailed_results.stages][:2] == [("none", 0), ("sft", 1)]
        assert (os.getpid() in {call.process for call in engine.paid()}) == (name == "here")
        with RolloutStore(tmp_path / name / "rollouts.sqlite") as store:
            met[name] = sorted(map(str, timeless(store.rollouts())))
    assert met["there"] == met["here"]


@pytest.mark.slow
def test_a_local_model_travels_as_a_reference_and_is_loaded_by_the_worker(tmp_path: Path, runner: RayRunner) -> None:
    world = HouseTermsWorld(seed=0)
    answers: list[list[Rollout]] = []
    for name, chosen in (("here", ThreadRunner()), ("there", runner)):
        program = supplement(house_terms_program(), generator=embedded_generator())
        program.set_lm(embedded_actor())
        weights = (embedded_folder("actor") / "model.safetensors").stat().st_size
        assert len(pickle_task(program, Scorer(world.metric), world.train[:1])) < weights / 2
        with RolloutStore(tmp_path / name / "rollouts.sqlite") as store:
            actor = RolloutEngine(program, Scorer(world.metric), store, "scope", num_threads=1, runner=chosen)
            answers.append(timeless(actor.probe(world.train[:1]).rollouts))
    assert answers[0][0].output["sql"].startswith("SELECT")
    assert answers[1] == answers[0]


def test_a_module_that_the_workers_lack_is_named(tmp_path: Path, runner: RayRunner) -> None:
    here = tmp_path / "only_here.py"
    here.write_text("def right(example, prediction):\n    return True\n")
    sys.path.insert(0, str(tmp_path))
    try:
        import only_here
    finally:
        sys.path.remove(str(tmp_path))
        here.unlink()
    bench = Bench(tmp_path, runner, only_here.right)
    with pytest.raises(SetupError, match=r"A Ray worker cannot unpickle .*No module named 'only_here'"):
        bench.actor.probe(EXAMPLES)
    del sys.modules["only_here"]


def test_an_lm_travels_without_its_history(tmp_path: Path, runner: RayRunner) -> None:
    bench = Bench(tmp_path, runner)
    lm = bench.actor.program.get_lm()
    lm.history.append({"too": threading.Lock()})
    assert all(rollout.reward for rollout in bench.actor.probe(EXAMPLES).rollouts)
    assert len(lm.history) == 1


def test_without_ray_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SetupError, match=r"pip install 'dspy-sgt\[ray\]'"):
        SGTTeleprompter(right, embedded_generator(), runner="ray")


def test_an_unknown_runner_is_refused() -> None:
    with pytest.raises(SetupError, match="Expected runner 'threads', 'ray' or an object such as RayRunner"):
        SGTTeleprompter(right, embedded_generator(), runner="slurm")
    with pytest.raises(SetupError, match="at least one worker"):
        RayRunner(workers=0)


def test_a_closed_runner_works_no_more_runs(tmp_path: Path, cluster: None) -> None:
    with RayRunner() as closed:
        pass
    with pytest.raises(SGTError, match="closed"):
        Bench(tmp_path, closed).actor.probe(EXAMPLES)
    assert ray.is_initialized()
