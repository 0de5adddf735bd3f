"""Meters a contender's LMs: keeps every answer on disk as it arrives, counts usage, and stops at the budget.

Each contender starts without answers, so it cannot use those of others; after a crash it gets its own for free.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import dspy
import sqlalchemy as sa
from dspy._vendor.lm15.serde import request_to_dict, response_from_dict, response_to_dict
from dspy.clients.call_result import usage_dict
from dspy.lm15 import Request, Response

from optimizers.core.budget import Budget, Limits
from optimizers.core.prices import Price, price_of
from optimizers.core.usage import Usage
from sgt_modules.errors import SetupError, StoppedError
from sgt_modules.sharing import SharedByCopies

Role = Literal["actor", "proposer"]
"""Which LM answers: the program's own, or the one that writes instructions."""

Purpose = Literal["actor", "proposer", "test"]
"""What an answer is for: the actor while a contender is compiled, the LM that proposes, or the actor on test."""

_PURPOSES: tuple[Purpose, ...] = ("actor", "proposer", "test")

_ANSWERS = sa.Table(
    "answers",
    sa.MetaData(),
    sa.Column("purpose", sa.String, primary_key=True),
    sa.Column("request", sa.String, primary_key=True),  # a hash
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("response", sa.String, nullable=False),  # JSON, without the provider's extra fields
    sa.Column("tokens_in", sa.Integer, nullable=False),
    sa.Column("tokens_out", sa.Integer, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("cost", sa.Double, nullable=False),
)
_CLIENT = ("api_key", "api_base", "base_url", "api_version", "timeout", "extra_headers", "headers")


class PaidAnswers:
    """The answers that one contender paid for, in a SQLite file. Thread-safe.

    A request without a temperature, or with temperature 0, is paid once and then answered from the file, as from DSPy's
    cache. Any other request is sampled each time; a later session gets the same answers in the same order. `limits`
    apply to the actor while a contender compiles: beyond them, calls fail with `StoppedError`. Errors are not kept.
    `on_actor_answer` is called serially with the number of actor answers that this session asked for.
    """

    def __init__(self, file: Path, limits: Limits | None = None) -> None:
        self._engine = sa.create_engine(f"sqlite:///{file}", poolclass=sa.StaticPool, connect_args=_ANY_THREAD)
        self._connection = self._engine.connect()
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL"):
            self._connection.exec_driver_sql(f"PRAGMA {pragma}")
        _ANSWERS.metadata.create_all(self._connection)
        self._connection.commit()
        self._lock = threading.Lock()
        self._one_at_a_time: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._asked: Counter[str] = Counter()
        self._failed: defaultdict[str, list[int]] = defaultdict(list)  # heaps of the numbers of failed calls
        self._numbers: Counter[Purpose] = Counter()
        self._usage: dict[str, Usage] = {purpose: self._read_usage(purpose) for purpose in _PURPOSES}
        self._budget = Budget(limits, self._usage["actor"])
        self.on_actor_answer: Callable[[int], None] = lambda _: None
        self._testing = False

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()
        self._engine.dispose()

    def usage(self, purpose: Purpose) -> Usage:
        """Returns the usage for one purpose, in all sessions."""
        with self._lock:
            return self._usage[purpose]

    @property
    def actor_answers(self) -> int:
        """Actor answers that this session asked for; a resumed session repeats, and counts, those of earlier ones."""
        with self._lock:
            return self._numbers["actor"]

    @property
    def is_used_up(self) -> bool:
        """Whether the actor's budget is used up."""
        try:
            self._budget.check()
        except StoppedError:
            return True
        return False

    def meter_lm(self, lm: object, role: Role) -> dspy.LM:
        """Returns a metered copy of the LM; raises `SetupError` for anything but a `dspy.LM`."""
        if not isinstance(lm, dspy.LM):
            raise SetupError(f"Expected a dspy.LM to compare with, got {lm!r}. Set one with dspy.context(lm=...).")
        if isinstance(lm.engine, _MeteredEngine):
            lm = lm.engine.original
        engine = _MeteredEngine(self, lm, role)
        outer = lm.copy(cache=False, num_retries=0)
        outer.kwargs = {name: value for name, value in lm.kwargs.items() if name not in _CLIENT}
        return outer.copy(engine=engine, async_engine=_AsyncMeteredEngine(engine))

    @contextmanager
    def meter_program(self, program: dspy.Module) -> Iterator[dspy.Module]:
        """Meters DSPy's LM, and the LMs of predictors; yields a copy of the program.

        Predictors of the copy keep their LMs when they are reset, as DSPy's few-shot optimizers do.
        """
        copy, metered = program.deepcopy(), dict[int, dspy.LM]()
        for own, predictor in zip(program.predictors(), copy.predictors(), strict=True):
            if own.lm is not None:
                if id(own.lm) not in metered:
                    metered[id(own.lm)] = self.meter_lm(own.lm, "actor")
                predictor.lm = metered[id(own.lm)]
                cast("Any", predictor).reset = partial(_reset_except_lm, predictor)
        lm = None if dspy.settings.lm is None else self.meter_lm(dspy.settings.lm, "actor")
        with dspy.context(lm=lm, track_usage=False):
            yield copy

    def begin_test(self) -> None:
        """Counts the actor's calls from now on for the test set, without a budget."""
        self._testing = True

    def _find_purpose(self, engine: _MeteredEngine) -> Purpose:
        return "proposer" if engine.role == "proposer" else "test" if self._testing else "actor"

    def answer(self, request: Request, engine: _MeteredEngine) -> Response:
        """Returns the next answer to a request: a stored one, or a new one."""
        key, purpose = _hash_request(request), self._find_purpose(engine)
        number = self._take_number(f"{purpose} {key}", purpose, sampled=_is_sampled(request))
        with self._lock:
            alone = self._one_at_a_time[f"{purpose} {key} {number}"]
        try:
            with alone:
                return self._read_answer(purpose, key, number) or self._pay(request, engine, purpose, key, number)
        except BaseException:
            with self._lock:
                heapq.heappush(self._failed[f"{purpose} {key}"], number)
            raise

    def _take_number(self, key: str, purpose: Purpose, *, sampled: bool) -> int:
        """Returns the number of the next answer to a request, from 0; the smallest of a failed call if there is one."""
        with self._lock:
            if sampled and (failed := self._failed.get(key)):
                return heapq.heappop(failed)
            number = self._asked[key] if sampled else 0
            if number == self._asked[key]:
                self._numbers[purpose] += 1
                if purpose == "actor":
                    self.on_actor_answer(self._numbers[purpose])
            self._asked[key] = number + 1
            return number

    def _read_answer(self, purpose: Purpose, key: str, number: int) -> Response | None:
        table = _ANSWERS.c
        query = sa.select(table.response).where(table.purpose == purpose, table.request == key, table.number == number)
        with self._lock:
            response = self._connection.execute(query).scalar()
        return None if response is None else response_from_dict(json.loads(response))

    def _pay(self, request: Request, engine: _MeteredEngine, purpose: Purpose, key: str, number: int) -> Response:
        if purpose != "actor":
            return self._ask(request, engine, purpose, key, number)[0]
        with self._budget.reserve_run() as charge:
            response, usage = self._ask(request, engine, purpose, key, number)
            charge(usage)
            return response

    def _ask(
        self, request: Request, engine: _MeteredEngine, purpose: Purpose, key: str, number: int
    ) -> tuple[Response, Usage]:
        began = time.perf_counter()
        with dspy.context(usage_tracker=None, callbacks=[], disable_history=True):  # the metered LM reports the call
            response = cast("Response", engine.lm(request))
        seconds = time.perf_counter() - began
        entry = cast("Mapping[str, Any]", usage_dict(response))
        tokens_in, tokens_out = (int(entry.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
        usage = Usage(1, 1, tokens_in, tokens_out, seconds, engine.price.cost(entry))
        row = {
            "purpose": purpose,
            "request": key,
            "number": number,
            "response": json.dumps(response_to_dict(response)),
            "tokens_in": tokens_in,
            "tokens_out": tokens_out,
            "seconds": seconds,
            "cost": usage.cost,
        }
        with self._lock:
            self._connection.execute(_ANSWERS.insert().values(row))
            self._connection.commit()
            self._usage[purpose] += usage
        return response, usage

    def _read_usage(self, purpose: str) -> Usage:
        table = _ANSWERS.c
        sums = (sa.func.sum(each) for each in (table.tokens_in, table.tokens_out, table.seconds, table.cost))
        query = sa.select(sa.func.count(), *sums).where(table.purpose == purpose)
        calls, tokens_in, tokens_out, seconds, cost = cast("Any", self._connection.execute(query).one())
        return Usage(calls, calls, tokens_in or 0, tokens_out or 0, seconds or 0.0, cost or 0.0)


_ANY_THREAD = {"check_same_thread": False}


class _MeteredEngine(SharedByCopies):
    """Meters an LM's calls, with the interface of DSPy's engines."""

    def __init__(self, answers: PaidAnswers, lm: dspy.LM, role: Role) -> None:
        self.answers, self.role = answers, role
        self.price: Price = price_of(lm)
        self.in_process = bool(getattr(lm.engine, "in_process", False))
        self.original, self.lm = lm, lm.copy(cache=False)

    def complete(self, request: Request) -> Response:
        """Answers as `dspy.LM`'s engines do."""
        return self.answers.answer(request, self)


class _AsyncMeteredEngine(SharedByCopies):
    """The same engine for programs that await their LM."""

    def __init__(self, engine: _MeteredEngine) -> None:
        self._engine = engine

    async def complete(self, request: Request) -> Response:
        """Answers as `dspy.LM`'s engines do."""
        return await asyncio.to_thread(self._engine.complete, request)


def unmeter(program: dspy.Module) -> dspy.Module:
    """Gives the program's predictors their own LMs back; returns the program."""
    for predictor in program.predictors():
        if isinstance(getattr(predictor.lm, "engine", None), _MeteredEngine):
            predictor.lm = cast("Any", predictor.lm).engine.original
        vars(predictor).pop("reset", None)
    return program


def _reset_except_lm(predictor: Any) -> None:
    lm = predictor.lm
    type(predictor).reset(predictor)
    predictor.lm = lm


def _hash_request(request: Request) -> str:
    return hashlib.sha256(json.dumps(request_to_dict(request), sort_keys=True).encode()).hexdigest()[:32]


def _is_sampled(request: Request) -> bool:
    return bool(request.config.temperature)
