"""Rewards of supplements that a model elsewhere writes: prompts go out, replies come back, the frozen actor is run.

examples -> `tasks` -> prompts -> a model elsewhere -> reply -> `read` -> `score` -> Rollout
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import dspy
from filelock import FileLock

from optimizers.core.budget import Budget, Limits
from optimizers.core.fingerprints import describe_scope, scope_of, split_scope
from optimizers.core.records import Candidate, Query, Rollout
from optimizers.core.reward import Metric, Scorer
from optimizers.core.usage import Usage
from optimizers.core.validation import check_examples, check_metric_on, check_program
from optimizers.rollouts.engine import RolloutEngine
from optimizers.rollouts.queries import query_id
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.errors import SetupError
from sgt_modules.generator import GeneratorLike, SupplementGenerator
from sgt_modules.kinds import KINDS, Kind, Supplement
from sgt_modules.replies import read_reply
from sgt_modules.wrapping import supplement

if TYPE_CHECKING:
    from sgt_modules.predictor import Scope
    from sgt_modules.prompts import Template

STORE = Path("runs") / "elsewhere" / "rollouts.sqlite"
"""Where rollouts are saved by default. Programs, actors and metrics do not mix there: each has a scope of its own."""

STAGE = "elsewhere"
"""The stage of these rollouts in a store."""


@dataclass(frozen=True, slots=True)
class SupplementTask:
    """One prompt for a model elsewhere: the query, the kind that is asked for (empty: none), and the text to send."""

    query: Query
    kind: str
    prompt: str


@dataclass
class _Turn:
    """A lock, and how many callers hold it or wait for it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    callers: int = 0


class SupplementRewards:
    """The frozen program and its metric, as a reward of supplements that a model elsewhere writes.

    Each run of the program is saved in `store` (a file, or a database's URL) before its reward is returned, and a
    supplement that the store knows is not paid again. A run without a reward is a rollout without a reward, as
    in a compile: an outage, a metric that raises.

    Args:
        program: The program whose predictors read supplements; the LM is the one that is set when this is made.
        metric: As for `SGTTeleprompter`.
        trainset: The examples, with `with_inputs`.
        generator: The generator, or its model, as it is trained and used: its prompt, its token limits and its menu
            are those of the prompts and replies. No weights are loaded. By default the default prompt at full length.
        store: Where rollouts are saved; `runs/elsewhere/rollouts.sqlite` by default.
        only: As for `SGTTeleprompter`, as the options below.

    Raises:
        SetupError: something passed in cannot work; nothing has been paid for.
    """

    def __init__(
        self,
        program: dspy.Module,
        metric: Metric,
        trainset: Sequence[dspy.Example],
        *,
        generator: GeneratorLike | None = None,
        store: str | Path | None = None,
        only: Sequence[str] | None = None,
        scope: Scope | None = None,
        template: Template | None = None,
        num_threads: int | None = None,
        max_errors: int = 10,
        max_actor_calls: int | None = None,
        max_cost_usd: float | None = None,
        max_run_seconds: float | None = None,
        version: str = "",
    ) -> None:
        check_examples(trainset)
        check_program(program, trainset)
        check_metric_on(program, metric, trainset[0])
        limits = Limits(max_actor_calls, max_cost_usd)
        self.generator = SupplementGenerator.of(_unnamed_model() if generator is None else generator)
        self.program = supplement(program, generator=self.generator, only=only, scope=scope, template=template)
        self.examples = list(trainset)
        self._lock_file = None if store is not None and "://" in str(store) else _place_of(store)
        actor = scope_of(self.program, metric, version=version)
        # A run of its own for each program and actor, as a limit counts what the store holds of this one.
        self.store = RolloutStore(self._lock_file or str(store), run=f"{STAGE} {split_scope(actor)[0]}")
        self.store.describe(actor, describe_scope(program, metric))
        self._engine = RolloutEngine(
            self.program,
            Scorer(metric),
            self.store,
            scope=actor,
            num_threads=num_threads,
            max_errors=max_errors,
            budget=Budget(limits, self.store.spent()),
            max_run_seconds=max_run_seconds,
            version=version,
        )
        self._context = contextvars.copy_context()  # DSPy's settings of now, for threads of any event loop
        self._pool = ThreadPoolExecutor(num_threads or dspy.settings.num_threads, thread_name_prefix="sgt-reward")
        self._unaided: dict[int, Rollout] = {}
        self._busy: dict[object, _Turn] = {}
        self._lock = threading.Lock()

    @property
    def usage(self) -> Usage:
        """Usage of the program: by this process, and what the store held of it when it was opened."""
        return self._engine.usage

    def tasks(self, kinds: Sequence[Kind | str] = ()) -> list[SupplementTask]:
        """The prompts: for each place where a program run asks for a supplement, the one that names no kind.

        With `kinds`, one for each kind instead, as in the warm start. The program is run once on each example without
        supplements, to find its places; those runs are saved and not paid again.
        """
        with self._alone():
            found = self._context.copy().run(self._engine.probe, self.examples, STAGE)
        self._unaided |= {n: each for n, each in enumerate(found.rollouts) if each.reward is not None}
        asked = list(kinds) or [None]
        return [
            SupplementTask(query, _name(kind), self.generator.prompt.asking(query.prompt, kind))
            for query in found.queries
            for kind in asked
        ]

    def read(self, reply: str, *, kind: str = "", cut: bool = False) -> Supplement:
        """Read the supplement in a reply, as a generator's replies are read; `cut`: a token limit ended the reply."""
        if self.generator.menu:
            return self.generator.menu.read(reply)
        return read_reply(reply, kind=kind, ended=not cut)

    async def ascore(self, query: Query, text: Supplement) -> Rollout:
        """As `score`, for an event loop: the program runs in a thread, `num_threads` of them at once."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self.score, query, text)

    def score(self, query: Query, text: Supplement) -> Rollout:
        """Run the program with this supplement at the query's place and none elsewhere; return the scored rollout.

        A supplement that the store knows is not run. The same supplement at the same place is run once, however many
        ask for it at the same time in this process.

        Raises:
            StoppedError: a limit is reached.
            SGTError: the provider refuses every call, or `max_errors` runs in a row had no reward.
            SetupError: the query is none of these examples.
        """
        self._check(query)
        with self._exclusive((query.id, text.render())):
            candidate = Candidate(query, text, "direct" if text else "none")
            return self._context.copy().run(self._run, candidate)

    def unaided(self, index: int) -> Rollout:
        """The rollout of the program without supplements on an example; run again until it has a reward."""
        with self._exclusive(index):
            if index in self._unaided:
                return self._unaided[index]
            found = self._context.copy().run(self._engine.probe, [self.examples[index]], STAGE)
            rollout = found.rollouts[0].with_index(index)
            if rollout.reward is not None:
                self._unaided[index] = rollout
            return rollout

    def gain(self, rollout: Rollout) -> float | None:
        """A rollout's score minus that of no supplement, without a new run; None if one of them is unknown."""
        before = self._unaided.get(rollout.query.index)
        if before is None or before.reward is None or rollout.reward is None:
            return None
        return rollout.reward.score - before.reward.score

    def close(self) -> None:
        """End the threads and close the store."""
        self._pool.shutdown()
        self.store.close()

    def _run(self, candidate: Candidate) -> Rollout:
        self.unaided(candidate.query.index)  # tells a refused prompt from a refused supplement
        return self._engine.run([candidate], self.examples, STAGE)[0]

    def _check(self, query: Query) -> None:
        known = query.index < len(self.examples)
        if not known or query_id(self.examples[query.index], query.predictor, query.turn) != query.id:
            raise SetupError(
                f"Expected a prompt made of these {len(self.examples)} examples, got one of other rows: number "
                f"{query.index} is not the same. Give every process the same rows in the same order."
            )

    @contextmanager
    def _exclusive(self, key: object) -> Iterator[None]:
        """One at a time of the callers with this key; the later ones find in the store what the first one paid."""
        with self._lock:
            turn = self._busy.setdefault(key, _Turn())
            turn.callers += 1
        try:
            with turn.lock:
                yield
        finally:
            with self._lock:
                turn.callers -= 1
                if not turn.callers:
                    del self._busy[key]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time on this machine, so that several do not pay for the same unaided runs."""
        if self._lock_file is None:
            yield
            return
        with FileLock(self._lock_file.with_suffix(".lock")):
            yield


def _place_of(store: str | Path | None) -> Path:
    file = Path(STORE if store is None else store)
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _unnamed_model() -> dspy.LM:
    """A model that is never asked: its prompts have no limit, as only its server knows the context."""
    return dspy.LM("openai/elsewhere")


def _name(kind: Kind | str | None) -> str:
    return "" if kind is None else kind.name if isinstance(kind, Kind) else kind


def kinds_named(names: Sequence[str]) -> list[Kind | str]:
    """Kinds of the table by their names, and other names as they are.

    >>> [getattr(each, "name", each) for each in kinds_named(["cot", "units"])]
    ['cot', 'units']
    """
    return [KINDS.get(name, name) for name in names]
