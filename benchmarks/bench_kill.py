"""A run that is killed with SIGKILL at random moments and resumed each time, compared with an undisturbed run.

`--method sgt` (the default): the smallest world of house terms, the embedded generator, real training, and a scripted
actor that records each paid call before it answers. Compares the scores of every stage, the bytes of every adapter, the
run's own counts of calls, samples and tokens, and the number of calls paid twice: at most the calls in flight at the
kills.

`--method spt`: house rules, a scripted actor that follows its instructions, and the simulated corrector; both record
their calls. Compares scores, prompts and impacts.

`--kills` is the number of kills (20), `--seed` draws their times; if a run ends before the last kill, another one
starts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import random
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import dspy
from dspy.lm15 import Message, Request, Response, Usage
from figures import Figure, report, round_to
from rich.console import Console
from rich.table import Table

from optimizers import Recipe, SGTTeleprompter, SPTRecipe, SupervisoryPromptTeleprompter, TrainingSettings
from optimizers.core.result import result_of
from optimizers.core.usage import RunUsage
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules.embedded import HouseTermsWorld, Sizes, embedded_generator, program
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.embedded.rules import HouseRulesWorld, RulesCorrector, RuleSizes, list_program
from sgt_modules.embedded.rules.following import follow_instructions

THREADS = 8
LATENCY = 0.01
WORLD = HouseTermsWorld(0, sizes=Sizes(train=8, validation=4, test=4, shifted=4, terms=4, shifted_terms=4))
RECIPE = Recipe(rounds=2, warm_samples=2, pool_samples=1, ood_kinds=1, concat=1, direct_samples=4)
TRAINING = TrainingSettings(sft_epochs=2, sft_learning_rate=1e-3, dpo_learning_rate=1e-3, batch_size=8, max_length=512)


RULES = HouseRulesWorld(0, sizes=RuleSizes(train=24, validation=16, test=16))
PROMPTS = SPTRecipe(variant="pc", rounds=4, impact_examples=10)


def note(notes: Path, what: str) -> None:
    """Record a call before its answer."""
    with notes.open("a") as file:
        file.write(hashlib.sha256(what.encode()).hexdigest() + "\n")
    time.sleep(LATENCY)


def answered(request: Request, text: str, answer: str) -> Response:
    """Return a response of that many words."""
    usage = Usage(input_tokens=len(text.split()), output_tokens=1, total_tokens=len(text.split()) + 1)
    return Response(id=None, model=request.model, message=Message.assistant(answer), finish_reason="stop", usage=usage)


@dataclass(frozen=True)
class NotingActor:
    """Answers right if a supplement has an odd number of letters; records each call before it answers."""

    notes: Path

    def complete(self, request: Request) -> Response:
        text = request.messages[-1].text or ""
        note(self.notes, text)
        asked = next(each for split in WORLD.splits.values() for each in split if each.question in text)
        helped = len(text.partition("[[ ## supplement ## ]]")[2].partition("[[ ##")[0].strip()) % 2
        answer = f"[[ ## sql ## ]]\n{WORLD.gold_sql(asked) if helped else 'SELECT 1'}\n\n[[ ## completed ## ]]"
        return answered(request, text, answer)


@dataclass(frozen=True)
class NotingFollower:
    """Follows its instructions; records each call before it answers."""

    notes: Path

    def complete(self, request: Request) -> Response:
        system, text = str(request.system), request.messages[-1].text or ""
        note(self.notes, f"{system} {text}")
        instructions = system.rpartition("your objective is:")[2]
        fields = [part.partition(" ## ]]")[2].strip() for part in text.partition("\n\nRespond")[0].split("[[ ## ")[1:]]
        said = f"[[ ## reasoning ## ]]\nAs asked.\n\n[[ ## answer ## ]]\n{follow_instructions(instructions, *fields)}"
        answer = f"{said}\n\n[[ ## completed ## ]]"
        return answered(request, text, answer)


class NotingCorrector(RulesCorrector):
    """The simulated corrector; records each call before it answers."""

    notes: Path

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        note(self.notes, f"{kwargs['messages']} {kwargs['rollout_id']}")
        return super().__call__(*args, **kwargs)


def counted(spent: RunUsage) -> list[int]:
    """What a run tells of its calls, samples and tokens, which lie on disk: the same after a kill."""
    return [spent.actor_calls, spent.generator_calls, *spent.tokens.values()]


def session_of_prompts(folder: Path, telling: Connection) -> None:
    """As `session`, of Supervisory Prompt Training."""
    corrector = NotingCorrector(seed=0)
    corrector.notes = folder / "notes"
    lm = dspy.LM("noting/follower", engine=NotingFollower(folder / "notes"), cache=False, num_retries=0)
    teleprompter = SupervisoryPromptTeleprompter(
        RULES.metric, corrector, recipe=PROMPTS, num_threads=THREADS, log_dir=folder / "run", display_progress=False
    )
    telling.send("ready")
    with dspy.context(lm=lm):
        student = list_program(RULES.instructions)
        result = teleprompter.compile(student, trainset=RULES.train, valset=RULES.val).detailed_results
    stages = {stage.name: [stage.score, stage.prompts] for stage in result.stages}
    found = {"stages": stages, "briefs": result.briefs, "impacts": result.impact_table()}
    telling.send(json.dumps(found | {"spent": counted(result.spent)}))


def session(folder: Path, telling: Connection) -> None:
    """Compile in the folder until killed; print that the process is ready, and the result as JSON."""
    lm = dspy.LM("noting/actor", engine=NotingActor(folder / "notes"), cache=False, num_retries=0)
    teleprompter = SGTTeleprompter(
        WORLD.metric,
        embedded_generator(),
        recipe=RECIPE,
        trainer=TRLTrainer(embedded_folder("generator"), TRAINING),
        num_threads=THREADS,
        log_dir=folder / "run",
        display_progress=False,
    )
    telling.send("ready")
    with dspy.context(lm=lm):
        result = result_of(teleprompter.compile(program(), trainset=WORLD.train, valset=WORLD.val))
    weights = {stage.name: stage.checkpoint.fingerprint for stage in result.stages if stage.checkpoint}
    scores = {stage.name: stage.score for stage in result.stages}
    telling.send(json.dumps({"scores": scores, "weights": weights, "spent": counted(result.spent)}))


_FRESH = multiprocessing.get_context("forkserver")
"""New processes, forked from one that has only imported the slow modules."""

_FRESH.set_forkserver_preload(["optimizers.training.trl_trainer", "sgt_modules.local.decoding", "sgt_modules.embedded"])


def worked(folder: Path, method: str, seconds: float | None = None) -> tuple[str | None, float]:
    """Run a session in a new process and kill it that long after it is ready.

    Return its result (None if it was killed), and how long it worked.
    """
    hearing, telling = _FRESH.Pipe(duplex=False)
    child = _FRESH.Process(target=session if method == "sgt" else session_of_prompts, args=(folder, telling))
    child.start()
    telling.close()
    hearing.recv()
    began, said = time.monotonic(), None
    timer = threading.Timer(seconds or 3600.0, child.kill)
    timer.start()
    with suppress(EOFError):
        said = hearing.recv()
    child.join()
    timer.cancel()
    return (said if child.exitcode == 0 else None), time.monotonic() - began


def stage_of(folder: Path) -> str:
    """Return a run's finished stages."""
    stages = folder / "run" / "stages.json"
    return ", ".join(json.loads(stages.read_text())) if stages.exists() else "nothing"


def main() -> None:
    """Measure, print a table, and then the figure."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--kills", type=int, default=20)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--method", choices=("sgt", "spt"), default="sgt")
    options = asked.parse_args()
    rng, table = random.Random(options.seed), Table("kill", "run", "after seconds", "finished by then", "calls so far")
    kills, runs, twice, same = 0, 0, 0, True
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        whole.mkdir()
        expected, seconds = worked(whole, options.method)
        while kills < options.kills:  # compare a run that ends before the last kill, and start another
            runs += 1
            broken, said = Path(scratch) / str(runs), None
            broken.mkdir()
            while said is None:
                after = rng.uniform(0.0, seconds) if kills < options.kills else None
                said, took = worked(broken, options.method, after)
                if said is None:
                    kills += 1
                    table.add_row(*map(str, (kills, runs, round(took, 1), stage_of(broken), calls(broken).total())))
            twice += (calls(broken) - calls(whole)).total()
            same = same and said == expected and set(calls(broken)) == set(calls(whole))
    Console().print(table)
    report(
        Figure(
            f"calls paid twice by runs killed {kills} times, against calls in flight",
            round_to(twice / (kills * THREADS)),
            bar=1.0,
            at_most=True,
            ours=twice,
            theirs=kills * THREADS,
            fault="" if same else "a result differs from the undisturbed run's",
        )
    )


def calls(folder: Path) -> Counter[str]:
    """Return how often each call was paid."""
    notes = folder / "notes"
    return Counter(notes.read_text().split()) if notes.exists() else Counter()


if __name__ == "__main__":
    main()
