"""What a contender pays: its LMs behind a meter that keeps every answer on disk as it comes, and stops at the budget.

Each begins with no answer, so none profits from what another asked; one that crashed asks again for free.
"""

from __future__ import annotations

import asyncio
import hashlib
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
from optimizers.core.usage import Meter
from sgt_modules.errors import SetupError, StoppedError

Role = Literal["actor", "proposer"]
"""Whose answer it is: the program's own LM's, or that of the LM which writes instructions."""

Purpose = Literal["actor", "proposer", "test"]
"""What an answer was paid for: the actor while a contender is compiled, the LM that proposes, or the actor on test."""

_PURPOSES: tuple[Purpose, ...] = ("actor", "proposer", "test")

_ANSWERS = sa.Table(
    "answers",
    sa.MetaData(),
    sa.Column("purpose", sa.String, primary_key=True),
    sa.Column("request", sa.String, primary_key=True),  # a hash
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("response", sa.String, nullable=False),  # JSON, without what the provider sent besides
    sa.Column("tokens_in", sa.Integer, nullable=False),
    sa.Column("tokens_out", sa.Integer, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("cost", sa.Double, nullable=False),
)
_CLIENT = ("api_key", "api_base", "base_url", "api_version", "timeout", "extra_headers", "headers")


class Metering:
    """The answers that one contender has paid for, in a SQLite file; safe from many threads.

    A request at temperature 0, or at none, is paid once and then answered from here, as DSPy's cache would; any other
    is sampled anew each time, and the n-th answer of one session is the n-th of the next. `limits` are for the actor
    while a contender is compiled: once one is reached, its calls fail with `StoppedError`. An answer that was an error
    is not kept. `on_asked` hears how many of its answers this session has asked for, one at a time.
    """

    def __init__(self, file: Path, limits: Limits | None = None) -> None:
        self._engine = sa.create_engine(f"sqlite:///{file}", poolclass=sa.StaticPool, connect_args=_SHARED)
        self._connection = self._engine.connect()
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL"):
            self._connection.exec_driver_sql(f"PRAGMA {pragma}")
        _ANSWERS.metadata.create_all(self._connection)
        self._connection.commit()
        self._lock = threading.Lock()
        self._one_at_a_time: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._asked: Counter[str] = Counter()
        self._answers: Counter[Purpose] = Counter()
        self._spent: dict[str, Meter] = {purpose: self._stored(purpose) for purpose in _PURPOSES}
        self._budget = Budget(limits, self._spent["actor"])
        self.on_asked: Callable[[int], None] = lambda _: None
        self._testing = False

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()
        self._engine.dispose()

    def spent(self, purpose: Purpose) -> Meter:
        """What was paid for one purpose, in all sessions."""
        with self._lock:
            return self._spent[purpose]

    @property
    def asked(self) -> int:
        """Answers of the actor that this session has asked for: in a session that goes on, as many as in the first."""
        with self._lock:
            return self._answers["actor"]

    @property
    def used_up(self) -> bool:
        """Whether nothing more may be spent on the actor."""
        try:
            self._budget.check()
        except StoppedError:
            return True
        return False

    def metered(self, lm: object, role: Role) -> dspy.LM:
        """The same LM, whose calls are paid for here; raises `SetupError` for what is no `dspy.LM`."""
        if not isinstance(lm, dspy.LM):
            raise SetupError(f"Expected a dspy.LM to compare with, got {lm!r}. Set one with dspy.context(lm=...).")
        if isinstance(lm.engine, _Paying):
            lm = lm.engine.original
        engine = _Paying(self, lm, role)
        kept = {name: value for name, value in lm.kwargs.items() if name not in _CLIENT}
        outer = lm.copy(cache=False, num_retries=0)
        outer.kwargs = kept
        return outer.copy(engine=engine, async_engine=_PayingAsync(engine))

    @contextmanager
    def acting(self, program: dspy.Module) -> Iterator[dspy.Module]:
        """Inside, DSPy's LM and those of the program's own predictors are metered; gives a copy of the program.

        Predictors of the copy keep their LMs when they are reset, as DSPy's few-shot optimizers do.
        """
        copy, metered = program.deepcopy(), dict[int, dspy.LM]()
        for own, predictor in zip(program.predictors(), copy.predictors(), strict=True):
            if own.lm is not None:
                if id(own.lm) not in metered:
                    metered[id(own.lm)] = self.metered(own.lm, "actor")
                predictor.lm = metered[id(own.lm)]
                cast("Any", predictor).reset = partial(_reset_but_lm, predictor)
        lm = None if dspy.settings.lm is None else self.metered(dspy.settings.lm, "actor")
        with dspy.context(lm=lm, track_usage=False):
            yield copy

    def test(self) -> None:
        """From now on the actor is paid for the test set, which no budget limits."""
        self._testing = True

    def _purpose(self, engine: _Paying) -> Purpose:
        return "proposer" if engine.role == "proposer" else "test" if self._testing else "actor"

    def answer(self, request: Request, engine: _Paying) -> Response:
        """The next answer to a request: one that was paid for before, or a new one."""
        key, purpose = _key(request), self._purpose(engine)
        number = self._next(f"{purpose} {key}", purpose, sampled=_sampled(request))
        with self._lock:
            alone = self._one_at_a_time[f"{purpose} {key} {number}"]
        with alone:
            return self._known(purpose, key, number) or self._paid(request, engine, purpose, key, number)

    def _next(self, key: str, purpose: Purpose, *, sampled: bool) -> int:
        """Which answer to a request is wanted, from 0."""
        with self._lock:
            number = self._asked[key] if sampled else 0
            if number == self._asked[key]:
                self._answers[purpose] += 1
                if purpose == "actor":
                    self.on_asked(self._answers[purpose])
            self._asked[key] = number + 1
            return number

    def _known(self, purpose: Purpose, key: str, number: int) -> Response | None:
        table = _ANSWERS.c
        query = sa.select(table.response).where(table.purpose == purpose, table.request == key, table.number == number)
        with self._lock:
            found = self._connection.execute(query).scalar()
        return None if found is None else response_from_dict(json.loads(found))

    def _paid(self, request: Request, engine: _Paying, purpose: Purpose, key: str, number: int) -> Response:
        if purpose != "actor":
            return self._bought(request, engine, purpose, key, number)[0]
        with self._budget.running() as cost:
            response, meter = self._bought(request, engine, purpose, key, number)
            cost(meter)
            return response

    def _bought(
        self, request: Request, engine: _Paying, purpose: Purpose, key: str, number: int
    ) -> tuple[Response, Meter]:
        began = time.perf_counter()
        with dspy.context(usage_tracker=None, callbacks=[], disable_history=True):  # the metered LM tells of the call
            response = cast("Response", engine.lm(request))
        seconds = time.perf_counter() - began
        usage = cast("Mapping[str, Any]", usage_dict(response))
        read, wrote = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
        meter = Meter(1, 1, read, wrote, seconds, engine.price.cost(usage))
        row = {
            "purpose": purpose,
            "request": key,
            "number": number,
            "response": json.dumps(response_to_dict(response)),
            "tokens_in": read,
            "tokens_out": wrote,
            "seconds": seconds,
            "cost": meter.cost,
        }
        with self._lock:
            self._connection.execute(_ANSWERS.insert().values(row))
            self._connection.commit()
            self._spent[purpose] += meter
        return response, meter

    def _stored(self, purpose: str) -> Meter:
        table = _ANSWERS.c
        sums = (sa.func.sum(each) for each in (table.tokens_in, table.tokens_out, table.seconds, table.cost))
        query = sa.select(sa.func.count(), *sums).where(table.purpose == purpose)
        calls, read, wrote, seconds, cost = cast("Any", self._connection.execute(query).one())
        return Meter(calls, calls, read or 0, wrote or 0, seconds or 0.0, cost or 0.0)


_SHARED = {"check_same_thread": False}


class _Paying:
    """An LM behind its meter, as DSPy's engine contract wants it."""

    def __init__(self, metering: Metering, lm: dspy.LM, role: Role) -> None:
        self.metering, self.role = metering, role
        self.price: Price = price_of(lm)
        self.in_process = bool(getattr(lm.engine, "in_process", False))
        self.original, self.lm = lm, lm.copy(cache=False)

    def complete(self, request: Request) -> Response:
        """As `dspy.LM`'s engines."""
        return self.metering.answer(request, self)

    def __deepcopy__(self, memo: dict[int, object]) -> _Paying:
        return self


class _PayingAsync:
    """The same for a program that awaits its LM."""

    def __init__(self, engine: _Paying) -> None:
        self._engine = engine

    async def complete(self, request: Request) -> Response:
        """As `dspy.LM`'s engines."""
        return await asyncio.to_thread(self._engine.complete, request)

    def __deepcopy__(self, memo: dict[int, object]) -> _PayingAsync:
        return self


def unmetered(program: dspy.Module) -> dspy.Module:
    """The program itself, its predictors with their own LMs again."""
    for predictor in program.predictors():
        if isinstance(getattr(predictor.lm, "engine", None), _Paying):
            predictor.lm = cast("Any", predictor.lm).engine.original
        vars(predictor).pop("reset", None)
    return program


def _reset_but_lm(predictor: Any) -> None:
    lm = predictor.lm
    type(predictor).reset(predictor)
    predictor.lm = lm


def _key(request: Request) -> str:
    return hashlib.sha256(json.dumps(request_to_dict(request), sort_keys=True).encode()).hexdigest()[:32]


def _sampled(request: Request) -> bool:
    return bool(request.config.temperature)
