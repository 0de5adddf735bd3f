"""2,000 calls of an actor whose provider fails a tenth of its prompts in mixed ways: the rewards, compared with no
faults.

A hash of the prompt decides which prompts fail, how, and whether always or only at first. The same candidates then run
against a server without faults.
"""

from __future__ import annotations

import hashlib
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import dspy
from dspy.clients import execution
from figures import Figure, report
from rich.console import Console
from rich.table import Table

sys.path.append(str(Path(__file__).parents[1] / "tests" / "doubles"))
from misbehaving_server import FAULTS, Fault, Script, misbehaving
from scripted import ScriptedGenerator, reply

from optimizers.core.records import Candidate, Query, Rollout
from optimizers.core.reward import Scorer
from optimizers.rollouts.engine import RolloutEngine
from optimizers.rollouts.queries import query_id
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.kinds import Supplement
from sgt_modules.wrapping import supplement

CALLS = 2000
SHARE = 0.1
THREADS = 16
OUTAGES = (
    "429 with Retry-After",
    "500",
    "503",
    "cut before the body",
    "cut in the middle of the body",
    "no JSON",
    "JSON of the wrong shape",
    "no choices",
    "an error with status 200",
    "hang",
)
TIMEOUT = 0.3
"""Seconds after which the LM abandons a call."""


class Chaos(NamedTuple):
    """The result of a run on the failing server, compared with a run on a server without faults.

    `failing`: prompts with a fault; `failing_for_good`: with a fault at every attempt.
    """

    calls: int
    failing: int
    failing_for_good: int
    without_reward: int
    outages_scored: int
    rewards_changed: int
    seconds: float


def dealt(text: str, share: float) -> tuple[str | None, bool]:
    """Return the fault of a prompt, if any, and whether it stays: by the prompt's hash."""
    digest = hashlib.sha256(text.encode()).digest()
    if int.from_bytes(digest[:4], "big") >= share * 2**32:
        return None, False
    return OUTAGES[digest[4] % len(OUTAGES)], digest[5] % 2 == 0


def answered(prompt: str) -> str:
    """Right for half of the prompts, unreadable for some."""
    digest = hashlib.sha256(prompt.encode()).digest()
    return "I would rather not." if digest[6] < 16 else reply(answer="4" if digest[7] < 128 else "5")


def failing(share: float) -> Script:
    """Return the answers; a share of the prompts fails at the first attempt, or at every one."""

    def script(prompt: str, attempt: int) -> Fault | str:
        fault, stays = dealt(prompt, share)
        return FAULTS[fault] if fault is not None and (stays or attempt == 1) else answered(prompt)

    return script


def place(prompt: str) -> tuple[int, str]:
    """Return the example and the supplement in a prompt."""
    found = re.search(r"(\d+) \+ \1\?.*?(Think \d\.)", prompt, re.DOTALL)
    assert found is not None
    return int(found[1]), found[2]


def rollouts(script: Script, calls: int) -> tuple[list[Rollout], set[str]]:
    """Return a rollout of each candidate on a server with this script, and the server's prompts."""
    examples = [dspy.Example(question=f"{n} + {n}?", answer="4").with_inputs("question") for n in range(calls // 10)]
    candidates = [
        Candidate(Query(query_id(each, "self"), index, "self", f"{index}"), Supplement("cot", f"Think {n}."), "direct")
        for index, each in enumerate(examples)
        for n in range(10)
    ]
    program = supplement(
        dspy.Predict("question -> answer"), generator=ScriptedGenerator(lambda _: Supplement("cot", ""))
    )
    with (
        misbehaving(script) as server,
        tempfile.TemporaryDirectory() as folder,
        RolloutStore(Path(folder) / "rollouts.sqlite") as store,
    ):
        program.set_lm(server.lm(num_retries=2, timeout=TIMEOUT))
        scorer = Scorer(lambda example, prediction: example.answer == prediction.answer)
        acting = RolloutEngine(program, scorer, store, "benchmark", num_threads=THREADS)
        return acting.run(candidates, examples, "warm"), set(server.asked)


def chaos(calls: int, share: float = SHARE) -> Chaos:
    """Compare both runs rollout by rollout."""
    began = time.perf_counter()
    stormy, asked = rollouts(failing(share), calls)
    seconds = time.perf_counter() - began
    calm, _ = rollouts(lambda prompt, _: answered(prompt), calls)
    faults = {prompt: dealt(prompt, share) for prompt in asked}
    gone = {place(prompt) for prompt, (fault, stays) in faults.items() if fault is not None and stays}
    scored = [each for each in stormy if each.reward is not None]
    return Chaos(
        calls=calls,
        failing=sum(fault is not None for fault, _ in faults.values()),
        failing_for_good=len(gone),
        without_reward=calls - len(scored),
        outages_scored=sum((each.query.index, each.supplement.text) in gone for each in scored),
        rewards_changed=sum(
            one.reward is not None and one.reward != other.reward for one, other in zip(stormy, calm, strict=True)
        ),
        seconds=round(seconds, 2),
    )


def main() -> None:
    """Run both, and print the comparison."""
    execution._delay = lambda *_: 0.0  # no need to wait for a scripted server
    found = chaos(CALLS)
    table = Table("calls", "met a fault", "at every attempt", "without a reward", "outages scored", "rewards changed")
    table.add_row(*(f"{each:,}" for each in found[:-1]))
    Console().print(table)
    wrong = found.outages_scored + found.rewards_changed
    fault = "" if found.without_reward else "no outage happened"
    name = f"outages scored, or rewards changed by them, of {found.calls:,} calls"
    report(Figure(name, wrong, 0, at_most=True, fault=fault))


if __name__ == "__main__":
    main()
