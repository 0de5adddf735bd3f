"""Every rollout, durable as soon as it exists: SQLite in WAL mode, one file a run, or a PostgreSQL that runs share.

`rollouts` holds each run of the actor once (scope, query, supplement); `seen` lists which stage of which run met which
of them, from which source, and what it paid, so that a stage can be read again without paying again. `samples` is what
the generator wrote; `scopes` says what a scope's fingerprint stands for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import sqlalchemy as sa

from optimizers.core.records import Rollout
from optimizers.core.usage import Meter
from optimizers.store.database import Database
from optimizers.store.rows import (
    UnreadableRowError,
    calls_of,
    calls_text,
    key_of,
    met_by,
    rollout_of,
    row_of,
    sample_of,
    sample_row,
    storable,
)
from optimizers.store.scan import Scan, scanned
from optimizers.store.schema import PAID, ROLLOUTS, SAMPLES, SCOPES, SEEN
from optimizers.store.statements import KNOWN, LIVE, MET_ROLLOUTS, TRIED, Statements
from sgt_modules.episode import Call
from sgt_modules.kinds import Supplement
from sgt_modules.samples import Sample

_PAGE = 1000
_NOTES = 100
_Read = TypeVar("_Read")
_NOTHING = Meter()


class RolloutStore:
    """The rollouts of runs in a SQLite file or a PostgreSQL database; many threads and processes may write at once.

    `where` is a path or an SQLAlchemy URL (`sqlite:///...`, `postgresql+psycopg://user@host/database`). `run` names the
    run that uses it: runs that share a store answer each other's rollouts, and each lists its own stages and costs. A
    `scope` names what a reward depends on besides the query and the supplement: a fingerprint of program, actor and
    metric. A file of version 2 becomes one of this version. A damaged file is moved aside and its readable rows are
    kept (see `optimizers.store.salvage`); `notes` says so. Raises `RunFolderError` for what cannot be opened, is not
    ours, or is of another version.

    >>> from tempfile import TemporaryDirectory
    >>> from optimizers.core.records import Query, Reward
    >>> from sgt_modules.kinds import SILENCE
    >>> query = Query("a1", 0, "self", "2+2?")
    >>> with TemporaryDirectory() as folder, RolloutStore(Path(folder) / "rollouts.sqlite") as store:
    ...     store.add(Rollout(query, "none", "none", SILENCE, Reward(1.0)), scope="gpt", paid=Meter(runs=1, calls=1))
    ...     store.get("gpt", "a1", SILENCE).reward, store.get("other", "a1", SILENCE), store.spent().calls
    (Reward(score=1.0, feedback=''), None, 1)
    """

    def __init__(self, where: str | Path, *, run: str = "run", clock: Callable[[], float] = time.time) -> None:
        self.run = storable(run)
        self._database = Database(where, run=self.run)
        self._statements = Statements(self._database.dialect)
        self._clock = clock
        self.on_write: Callable[[], object] = lambda: None
        """Called after each rollout or sample that is saved."""
        self.where, self.notes = self._database.name, self._database.notes

    def add(
        self,
        rollout: Rollout,
        scope: str,
        *,
        live: str = "",
        asked: int = 1,
        paid: Meter = _NOTHING,
        calls: Sequence[Call] = (),
    ) -> None:
        """Save a rollout and that its stage met it; committed when this returns.

        A rollout that is known already gives way, except that one without a reward never replaces one with. `live`
        names a run whose supplements nobody chose beforehand, with its `calls`; it is listed with its stage and never
        answered by `get`. `asked`: how many supplements the program asked for in that run; `paid`: what it cost, which
        counts even where the rollout was known.
        """
        self.add_all([rollout], scope, live=live, asked=asked, paid=paid, calls=calls)

    def add_all(
        self,
        rollouts: Sequence[Rollout],
        scope: str,
        *,
        live: str = "",
        asked: int = 1,
        paid: Meter = _NOTHING,
        calls: Sequence[Call] = (),
    ) -> None:
        """Save the rollouts of one run together: all of them, or after a crash none."""
        now, traces = self._clock(), [calls_text(calls), *[""] * len(rollouts)]
        rows = [
            row_of(rollout, scope, run=self.run, live=live, asked=asked, created=now, trace=trace)
            for rollout, trace in zip(rollouts, traces, strict=False)
        ]
        met = [
            self._met(rollout, row["key"], paid if n == 0 else _NOTHING)
            for n, (rollout, row) in enumerate(zip(rollouts, rows, strict=True))
        ]
        rows.sort(key=lambda row: row["key"])  # in one order, so that processes wait for each other in one direction

        def write(connection: sa.Connection) -> None:
            self._statements.save.run_all(connection, rows)
            self._statements.see.run_all(connection, met)

        self._database.write(write)
        self.on_write()

    def meet(self, rollout: Rollout, scope: str) -> None:
        """Note that another stage met a stored rollout, as `rollout` says (its stage, source and log-probability)."""
        key = key_of(scope, rollout.query.id, rollout.supplement.render())
        met = self._met(rollout, key, _NOTHING)
        self._database.write(lambda connection: self._statements.see.run(connection, met))

    def _met(self, rollout: Rollout, key: str, paid: Meter) -> dict[str, object]:
        return {
            "key": key,
            **met_by(rollout),
            "met_run": self.run,
            "met_runs": paid.runs,
            "met_calls": paid.calls,
            "met_paid_in": paid.tokens_in,
            "met_paid_out": paid.tokens_out,
            "met_seconds": paid.seconds,
            "met_cost": paid.cost,
        }

    def get(self, scope: str, query_id: str, supplement: Supplement) -> Rollout | None:
        """A supplement's rewarded rollout on a query, as its first stage met it; None when it must be (re)tried."""
        key = {"key": key_of(scope, query_id, supplement.render())}
        if not self._database.has(self._statements.known, key):
            return None
        with self._database.transaction() as connection:
            row = connection.execute(KNOWN, key).mappings().first()
        return None if row is None else self._readable(rollout_of, row)

    def tried(self, scope: str, query_id: str, supplement: Supplement) -> tuple[Rollout, int] | None:
        """As `get`, with a reward or without, and how many supplements its run asked for."""
        with self._database.transaction() as connection:
            key = {"key": key_of(scope, query_id, supplement.render())}
            row = connection.execute(TRIED, key).mappings().first()
        found = None if row is None else self._readable(rollout_of, row)
        return None if row is None or found is None else (found, row["asked"])

    def described_scopes(self, begin: str) -> list[str]:
        """The scopes that somebody described and whose names begin so, in their order."""
        query = sa.select(SCOPES.c.scope).where(SCOPES.c.scope.startswith(storable(begin), autoescape=True))
        with self._database.transaction() as connection:
            return sorted(connection.execute(query).scalars())

    def _readable(self, read: Callable[[Mapping[str, Any]], _Read], row: sa.RowMapping) -> _Read | None:
        """What a row holds; None where it is not as it was written, which counts as not there."""
        try:
            return read(cast("Mapping[str, Any]", row))
        except UnreadableRowError as problem:
            if len(self.notes) < _NOTES and (note := f"{self.where}: {problem}") not in self.notes:
                self.notes.append(note)
            return None

    def rollouts(self, scope: str | None = None, stage: str | None = None, run: str | None = None) -> list[Rollout]:
        """What the stages met, in the order they met it; a supplement of several stages stands once in each."""
        return list(self.each_rollout(scope, stage, run))

    def each_rollout(
        self, scope: str | None = None, stage: str | None = None, run: str | None = None, *, judged_by: str = ""
    ) -> Iterator[Rollout]:
        """As `rollouts`, of `run` (this one by default), some at a time; what is added meanwhile comes too.

        With `judged_by`, the second half of a scope, only what that metric judged.
        """
        query = MET_ROLLOUTS.where(SEEN.c.run == (self.run if run is None else storable(run)))
        query = query if stage is None else query.where(SEEN.c.stage == storable(stage))
        query = query if scope is None else query.where(_in(scope))
        query = query if not judged_by else query.where(ROLLOUTS.c.scope.endswith(storable(judged_by), autoescape=True))
        query = query.where(SEEN.c.id > sa.bindparam("last")).order_by(SEEN.c.id).limit(_PAGE)
        last = 0
        while True:
            with self._database.transaction() as connection:
                rows = connection.execute(query, {"last": last}).mappings().all()
            if not rows:
                return
            yield from (rollout for row in rows if (rollout := self._readable(rollout_of, row)) is not None)
            last = rows[-1]["met"]

    def live_run(
        self, scope: str, live: str, query_id: str | None = None, *, rewarded: bool = True
    ) -> tuple[list[Rollout], list[Call]] | None:
        """The newest live run of this name that has a reward: its rollouts in the order they were saved, and its calls.

        `query_id` tells runs of one name apart by their first rollout's query. Live runs are never another run's.
        Without `rewarded`, one that has no reward counts too.
        """
        query = MET_ROLLOUTS.where(LIVE, ROLLOUTS.c.live == storable(live), ROLLOUTS.c.run == self.run)
        query = query.where(SEEN.c.run == self.run, _in(scope))
        query = query.where(ROLLOUTS.c.score.is_not(None)) if rewarded else query
        query = query if query_id is None else query.where(ROLLOUTS.c.query == storable(query_id))
        with self._database.transaction() as connection:
            rows = connection.execute(query.order_by(SEEN.c.id)).mappings().all()
        last = max((row["created"] for row in rows), default=0.0)
        newest = [row for row in rows if row["created"] == last]
        rollouts = [rollout for row in newest if (rollout := self._readable(rollout_of, row)) is not None]
        traces = [calls for row in newest if (calls := self._readable(calls_of, row)) is not None]
        if not rollouts or min(len(rollouts), len(traces)) < len(newest):
            return None
        return rollouts, [call for calls in traces for call in calls]

    def add_samples(self, stage: str, first: int, samples: Sequence[tuple[str, Sample]]) -> None:
        """Save a stage's samples with their keys, from number `first` on; replaces those of the same numbers."""
        rows = [
            sample_row(key, sample, run=self.run, stage=storable(stage), number=first + n)
            for n, (key, sample) in enumerate(samples)
        ]
        if rows:
            self._database.write(lambda connection: connection.execute(self._statements.keep_sample, rows))
            self.on_write()

    def sampled(self) -> tuple[int, int, int]:
        """How many samples this run keeps, and the tokens that were read and written for them."""
        sums = (sa.func.coalesce(sa.func.sum(SAMPLES.c[name]), 0) for name in ("prompt_tokens", "tokens"))
        query = sa.select(sa.func.count(), *sums).where(SAMPLES.c.run == self.run)
        with self._database.transaction() as connection:
            count, read, wrote = tuple(connection.execute(query).one())
        return int(count), int(read), int(wrote)

    def samples(self, stage: str) -> list[tuple[str, Sample]]:
        """A stage's samples of this run with their keys, from number 0 up to the first that is missing."""
        query = sa.select(SAMPLES).where(SAMPLES.c.run == self.run, SAMPLES.c.stage == storable(stage))
        with self._database.transaction() as connection:
            rows = connection.execute(query.order_by(SAMPLES.c.number)).mappings().all()
        kept: list[tuple[str, Sample]] = []
        for row in rows:
            sample = self._readable(sample_of, row)
            if sample is None or row["number"] != len(kept):
                break
            kept.append(sample)
        return kept

    def describe(self, scope: str, described: Mapping[str, object]) -> None:
        """Keep what a scope's fingerprint stands for, as JSON."""
        text = storable(json.dumps(dict(described), ensure_ascii=False, sort_keys=True, default=str))
        with self._database.transaction() as connection:
            connection.execute(self._statements.describe, {"scope": storable(scope), "described": text})

    def described(self, scope: str) -> dict[str, Any]:
        """What a scope stands for; empty where nobody said, or it cannot be read."""
        query = sa.select(SCOPES.c.described).where(SCOPES.c.scope == storable(scope))
        with self._database.transaction() as connection:
            found = connection.execute(query).scalar()
        try:
            return json.loads(found or "{}")
        except (ValueError, RecursionError):
            return {}

    def spent(self, run: str | None = None) -> Meter:
        """What `run` (this one by default) has paid for its rollouts, over all of its sessions."""
        sums = (sa.func.coalesce(sa.func.sum(SEEN.c[name]), 0) for name in PAID)
        query = sa.select(*sums).where(SEEN.c.run == (self.run if run is None else storable(run)))
        with self._database.transaction() as connection:
            *counts, seconds, cost = tuple(connection.execute(query).one())
        return Meter(*(int(count) for count in counts), seconds=float(seconds), cost=float(cost))

    def errors(self, beginning: str) -> tuple[list[str], int]:
        """The errors that begin so, of each distinct rollout that this run met, and how many it met in all."""
        ours = sa.select(SEEN.c.rollout).where(SEEN.c.run == self.run).distinct().subquery()
        joined = sa.select(ROLLOUTS.c.error).join(ours, ours.c.rollout == ROLLOUTS.c.id)
        found = joined.where(ROLLOUTS.c.error.startswith(storable(beginning), autoescape=True))
        with self._database.transaction() as connection:
            met = connection.execute(sa.select(sa.func.count()).select_from(ours)).scalar_one()
            return [str(error) for error in connection.execute(found).scalars()], int(met)

    def scan(self) -> Scan:
        """Read every row once, compare it with its checksum, and count; the stages are this run's."""
        return scanned(self._database.bare, self.run)

    def runs(self) -> list[str]:
        """The names of the runs that have met rollouts here."""
        with self._database.transaction() as connection:
            return sorted(connection.execute(sa.select(SEEN.c.run).distinct()).scalars())

    def count(self) -> int:
        """How many distinct runs of the actor are stored, failed ones included."""
        with self._database.transaction() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(ROLLOUTS)).scalar_one()

    def most_asked(self, scope: str) -> int:
        """The most supplements that one run in this scope asked for; 0 when nothing is stored."""
        query = sa.select(sa.func.max(ROLLOUTS.c.asked)).where(ROLLOUTS.c.scope == storable(scope))
        with self._database.transaction() as connection:
            return connection.execute(query).scalar_one() or 0

    def close(self) -> None:
        """Close the store; it cannot be used afterwards."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _in(scope: str) -> sa.ColumnElement[bool]:
    """Within a scope, told so that no index is used: most rollouts of a store may have the same one."""
    return ROLLOUTS.c.scope.concat("") == storable(scope)
