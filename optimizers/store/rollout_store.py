"""Every rollout, durable as soon as it exists: SQLite in WAL mode, one file a run, or a PostgreSQL that runs share.

Table `rollouts` holds each rollout once (scope, query, supplement). Table `seen` lists which stage of which run uses
which rollout, from which source, and what it paid, so that a stage is read again without paying again. Table `samples`
holds the generator's samples, `drafts` the actor's drafts, `scopes` a description of each scope's fingerprint.
"""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast
from zlib import crc32

import sqlalchemy as sa

from optimizers.core.closing import Closing
from optimizers.core.records import Rollout
from optimizers.core.run_folder import RunFolder
from optimizers.core.usage import Usage
from optimizers.store.database import Database
from optimizers.store.rows import (
    UnreadableRowError,
    build_row,
    build_sample_row,
    build_stage_values,
    dump_calls,
    make_key,
    read_calls,
    read_rollout,
    read_sample,
)
from optimizers.store.scan import Scan, scan_rollouts
from optimizers.store.schema import DRAFTS, ROLLOUTS, SAMPLES, SCOPES, SEEN, USAGE_COLUMNS, create_drafts
from optimizers.store.statements import IS_LIVE, LISTED_ROLLOUTS, SELECT_ANY, SELECT_REWARDED, Statements
from sgt_modules.episode import Call
from sgt_modules.kinds import Supplement
from sgt_modules.safety import clean_text
from sgt_modules.samples import Sample

_PAGE = 1000
_NOTES = 100
_Decoded = TypeVar("_Decoded")
_NOTHING = Usage()


class RolloutStore(Closing):
    """The rollouts of runs in a SQLite file or a PostgreSQL database; many threads and processes may write at once.

    `where` is a path or an SQLAlchemy URL (`sqlite:///...`, `postgresql+psycopg://user@host/database`). `run` names the
    run that uses the store: runs that share a store reuse each other's rollouts, and each lists its own stages and
    costs. A `scope` is a fingerprint of program, actor and metric: what a reward depends on besides query and
    supplement. A damaged file is moved aside, its readable rows are kept (see `optimizers.store.recovery`), and `notes`
    says so. Raises `RunFolderError` for what cannot be opened, is another program's, or is of another version.

    >>> from tempfile import TemporaryDirectory
    >>> from optimizers.core.records import Query, Reward
    >>> from sgt_modules.kinds import SILENCE
    >>> query = Query("a1", 0, "self", "2+2?")
    >>> with TemporaryDirectory() as folder, RolloutStore(Path(folder) / "rollouts.sqlite") as store:
    ...     store.add(Rollout(query, "none", "none", SILENCE, Reward(1.0)), scope="gpt", paid=Usage(runs=1, calls=1))
    ...     store.get("gpt", "a1", SILENCE).reward, store.get("other", "a1", SILENCE), store.spent().calls
    (Reward(score=1.0, feedback=''), None, 1)
    """

    def __init__(self, where: str | Path, *, run: str = "run", clock: Callable[[], float] = time.time) -> None:
        self.run = clean_text(run)
        self._database = Database(where)
        self._statements = Statements(self._database.dialect)
        self._clock = clock
        self._with_drafts = threading.Event()
        self.on_write: Callable[[], object] = lambda: None
        """Called after each saved rollout or sample."""
        self.where, self.notes = self._database.name, self._database.notes

    def for_run(self, run: str) -> RolloutStore:
        """The same open store for another run, which lists its own stages and costs; only this one is closed."""
        other = copy.copy(self)
        other.run, other.on_write = clean_text(run), self._note_write
        return other

    def _note_write(self) -> None:
        self.on_write()

    def add(
        self,
        rollout: Rollout,
        scope: str,
        *,
        live: str = "",
        asked: int = 1,
        paid: Usage = _NOTHING,
        calls: Sequence[Call] = (),
        prompts: str = "",
    ) -> None:
        """Saves a rollout and lists it under its stage; committed when this returns.

        The new rollout replaces a stored one with the same key, but a failed one never replaces a rewarded one. `live`
        names a live run, whose supplements the generator writes as the program runs, with its `calls`; `get` never
        returns it. `asked` is how many supplements the program asked for in the run. `paid` is the run's cost, which
        counts in any case. `prompts` is the key of the program's prompts: a rollout without a supplement, which is no
        live one, is stored once for each of them.
        """
        self.add_all([rollout], scope, live=live, asked=asked, paid=paid, calls=calls, prompts=prompts)

    def add_all(
        self,
        rollouts: Sequence[Rollout],
        scope: str,
        *,
        live: str = "",
        asked: int = 1,
        paid: Usage = _NOTHING,
        calls: Sequence[Call] = (),
        prompts: str = "",
    ) -> None:
        """Saves the rollouts of one run in one transaction: after a crash, all of them or none is there."""
        now, traces = self._clock(), [dump_calls(calls) or prompts, *[prompts] * len(rollouts)]
        rows = [
            build_row(rollout, scope, run=self.run, live=live, asked=asked, created=now, trace=trace)
            for rollout, trace in zip(rollouts, traces, strict=False)
        ]
        listings = [
            self._build_seen_row(rollout, row["key"], paid if n == 0 else _NOTHING)
            for n, (rollout, row) in enumerate(zip(rollouts, rows, strict=True))
        ]
        rows.sort(key=lambda row: row["key"])  # in one order, so that processes wait for each other in one direction

        def write(connection: sa.Connection) -> None:
            self._statements.insert_rollout.run_all(connection, rows)
            self._statements.insert_seen.run_all(connection, listings)

        self._database.write(write)
        self.on_write()

    def reuse(self, rollout: Rollout, scope: str, *, prompts: str = "") -> None:
        """Lists a stored rollout under another stage: `rollout` gives stage, source and log-probability."""
        key = make_key(scope, rollout.query.id, rollout.supplement.render(), prompts=prompts)
        listing = self._build_seen_row(rollout, key, _NOTHING)
        self._database.write(lambda connection: self._statements.insert_seen.run(connection, listing))

    def _build_seen_row(self, rollout: Rollout, key: str, paid: Usage) -> dict[str, object]:
        return {
            "key": key,
            **build_stage_values(rollout),
            "seen_run": self.run,
            "seen_runs": paid.runs,
            "seen_calls": paid.calls,
            "seen_paid_in": paid.tokens_in,
            "seen_paid_out": paid.tokens_out,
            "seen_seconds": paid.seconds,
            "seen_cost": paid.cost,
        }

    def get(self, scope: str, query_id: str, supplement: Supplement, *, prompts: str = "") -> Rollout | None:
        """The rewarded rollout of a supplement on a query, listed as in its first stage; None if there is none."""
        key = {"key": make_key(scope, query_id, supplement.render(), prompts=prompts)}
        if not self._database.has_row(self._statements.find_rewarded, key):
            return None
        with self._database.transaction() as connection:
            row = connection.execute(SELECT_REWARDED, key).mappings().first()
        return None if row is None else self._read(read_rollout, row)

    def find_attempt(
        self, scope: str, query_id: str, supplement: Supplement, *, prompts: str = ""
    ) -> tuple[Rollout, int] | None:
        """As `get`, also for a failed rollout; with the number of supplements that its run asked for."""
        with self._database.transaction() as connection:
            key = {"key": make_key(scope, query_id, supplement.render(), prompts=prompts)}
            row = connection.execute(SELECT_ANY, key).mappings().first()
        rollout = None if row is None else self._read(read_rollout, row)
        return None if row is None or rollout is None else (rollout, row["asked"])

    def find_scopes(self, prefix: str) -> list[str]:
        """The described scopes with this prefix, sorted."""
        query = sa.select(SCOPES.c.scope).where(SCOPES.c.scope.startswith(clean_text(prefix), autoescape=True))
        with self._database.transaction() as connection:
            return sorted(connection.execute(query).scalars())

    def _read(self, read: Callable[[Mapping[str, Any]], _Decoded], row: sa.RowMapping) -> _Decoded | None:
        """Decodes a row; None, with a note, for a damaged row, which counts as not stored."""
        try:
            return read(cast("Mapping[str, Any]", row))
        except UnreadableRowError as problem:
            if len(self.notes) < _NOTES and (note := f"{self.where}: {problem}") not in self.notes:
                self.notes.append(note)
            return None

    def rollouts(self, scope: str | None = None, stage: str | None = None, run: str | None = None) -> list[Rollout]:
        """The rollouts of this run's stages, in order; a rollout of several stages is listed once under each."""
        return list(self.iter_rollouts(scope, stage, run))

    def iter_rollouts(
        self, scope: str | None = None, stage: str | None = None, run: str | None = None, *, judged_by: str = ""
    ) -> Iterator[Rollout]:
        """As `rollouts`, page by page, with what is added meanwhile; `run` is another run's name.

        `judged_by`, the second half of a scope, selects the rollouts that this metric judged.
        """
        query = LISTED_ROLLOUTS.where(SEEN.c.run == (self.run if run is None else clean_text(run)))
        query = query if stage is None else query.where(SEEN.c.stage == clean_text(stage))
        query = query if scope is None else query.where(_has_scope(scope))
        if judged_by:
            query = query.where(ROLLOUTS.c.scope.endswith(clean_text(judged_by), autoescape=True))
        query = query.where(SEEN.c.id > sa.bindparam("last")).order_by(SEEN.c.id).limit(_PAGE)
        last = 0
        while True:
            with self._database.transaction() as connection:
                rows = connection.execute(query, {"last": last}).mappings().all()
            if not rows:
                return
            yield from (rollout for row in rows if (rollout := self._read(read_rollout, row)) is not None)
            last = rows[-1]["seen_id"]

    def get_live_run(
        self, scope: str, live: str, query_id: str | None = None, *, rewarded: bool = True
    ) -> tuple[list[Rollout], list[Call]] | None:
        """The newest rewarded live run of this name: its rollouts in the order of saving, and its calls.

        `query_id`, that of the first rollout, selects among live runs of one name. Returns this run's own live runs
        only. `rewarded=False` includes failed ones.
        """
        query = LISTED_ROLLOUTS.where(IS_LIVE, ROLLOUTS.c.live == clean_text(live), ROLLOUTS.c.run == self.run)
        query = query.where(SEEN.c.run == self.run, _has_scope(scope))
        query = query.where(ROLLOUTS.c.score.is_not(None)) if rewarded else query
        query = query if query_id is None else query.where(ROLLOUTS.c.query == clean_text(query_id))
        with self._database.transaction() as connection:
            rows = connection.execute(query.order_by(SEEN.c.id)).mappings().all()
        last = max((row["created"] for row in rows), default=0.0)
        newest = [row for row in rows if row["created"] == last]
        rollouts = [rollout for row in newest if (rollout := self._read(read_rollout, row)) is not None]
        traces = [calls for row in newest if (calls := self._read(read_calls, row)) is not None]
        if not rollouts or min(len(rollouts), len(traces)) < len(newest):
            return None
        return rollouts, [call for calls in traces for call in calls]

    def add_samples(self, stage: str, first: int, samples: Sequence[tuple[str, Sample]]) -> None:
        """Saves a stage's samples with their keys, from number `first` on; replaces those of the same numbers."""
        rows = [
            build_sample_row(key, sample, run=self.run, stage=clean_text(stage), number=first + n)
            for n, (key, sample) in enumerate(samples)
        ]
        if rows:
            self._database.write(lambda connection: connection.execute(self._statements.upsert_sample, rows))
            self.on_write()

    def count_samples(self) -> tuple[int, int, int]:
        """This run's number of samples, and their prompt tokens and generated tokens."""
        sums = (sa.func.coalesce(sa.func.sum(SAMPLES.c[name]), 0) for name in ("prompt_tokens", "tokens"))
        query = sa.select(sa.func.count(), *sums).where(SAMPLES.c.run == self.run)
        with self._database.transaction() as connection:
            count, read, wrote = tuple(connection.execute(query).one())
        return int(count), int(read), int(wrote)

    def samples(self, stage: str) -> list[tuple[str, Sample]]:
        """A stage's samples of this run with their keys, from number 0 up to the first that is missing."""
        query = sa.select(SAMPLES).where(SAMPLES.c.run == self.run, SAMPLES.c.stage == clean_text(stage))
        with self._database.transaction() as connection:
            rows = connection.execute(query.order_by(SAMPLES.c.number)).mappings().all()
        kept: list[tuple[str, Sample]] = []
        for row in rows:
            sample = self._read(read_sample, row)
            if sample is None or row["number"] != len(kept):
                break
            kept.append(sample)
        return kept

    def add_draft(self, key: str, content: str) -> None:
        """Saves a draft, of all runs; the first one of a key stays. Committed when this returns."""
        self._open_drafts()
        row = {"key": key, "content": content, "checksum": crc32(content.encode())}
        self._database.write(lambda connection: connection.execute(self._statements.insert_draft, row))

    def find_draft(self, key: str) -> str | None:
        """The content of a draft; None where there is none, or it does not match its checksum."""
        self._open_drafts()
        with self._database.transaction() as connection:
            row = connection.execute(sa.select(DRAFTS).where(DRAFTS.c.key == key)).mappings().first()
        return None if row is None or row["checksum"] != crc32(row["content"].encode()) else row["content"]

    def _open_drafts(self) -> None:
        if not self._with_drafts.is_set():
            self._database.write(create_drafts)
            self._with_drafts.set()

    def describe(self, scope: str, description: Mapping[str, object]) -> None:
        """Saves a description of a scope's fingerprint, as JSON."""
        text = clean_text(json.dumps(dict(description), ensure_ascii=False, sort_keys=True, default=str))
        with self._database.transaction() as connection:
            connection.execute(self._statements.upsert_scope, {"scope": clean_text(scope), "described": text})

    def get_description(self, scope: str) -> dict[str, Any]:
        """The description of a scope; empty if there is none, or it cannot be read."""
        query = sa.select(SCOPES.c.described).where(SCOPES.c.scope == clean_text(scope))
        with self._database.transaction() as connection:
            text = connection.execute(query).scalar()
        try:
            return json.loads(text or "{}")
        except (ValueError, RecursionError):
            return {}

    def spent(self, run: str | None = None) -> Usage:
        """The cost of the rollouts of `run` (this run by default), over all of its sessions."""
        sums = (sa.func.coalesce(sa.func.sum(SEEN.c[name]), 0) for name in USAGE_COLUMNS)
        query = sa.select(*sums).where(SEEN.c.run == (self.run if run is None else clean_text(run)))
        with self._database.transaction() as connection:
            *counts, seconds, cost = tuple(connection.execute(query).one())
        return Usage(*(int(count) for count in counts), seconds=float(seconds), cost=float(cost))

    def find_errors(self, prefix: str) -> tuple[list[str], int]:
        """The errors with this prefix among this run's distinct rollouts, and the number of those rollouts."""
        ours = sa.select(SEEN.c.rollout).where(SEEN.c.run == self.run).distinct().subquery()
        joined = sa.select(ROLLOUTS.c.error).join(ours, ours.c.rollout == ROLLOUTS.c.id)
        matches = joined.where(ROLLOUTS.c.error.startswith(clean_text(prefix), autoescape=True))
        with self._database.transaction() as connection:
            total = connection.execute(sa.select(sa.func.count()).select_from(ours)).scalar_one()
            return [str(error) for error in connection.execute(matches).scalars()], int(total)

    def scan(self) -> Scan:
        """Reads every row once and compares it with its checksum; counts this run's stages."""
        return scan_rollouts(self._database.begin_raw, self.run)

    def runs(self) -> list[str]:
        """The names of the runs with rollouts in this store."""
        with self._database.transaction() as connection:
            return sorted(connection.execute(sa.select(SEEN.c.run).distinct()).scalars())

    def count(self) -> int:
        """The number of stored rollouts, of all runs, failed ones included."""
        with self._database.transaction() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(ROLLOUTS)).scalar_one()

    def max_supplements(self, scope: str) -> int:
        """The highest number of supplements that one run in this scope asked for; 0 without a run."""
        query = sa.select(sa.func.max(ROLLOUTS.c.asked)).where(ROLLOUTS.c.scope == clean_text(scope))
        with self._database.transaction() as connection:
            return connection.execute(query).scalar_one() or 0

    def close(self) -> None:
        """Closes the store; it cannot be used afterwards."""
        self._database.close()


def open_run_store(folder: RunFolder, shared: str | Path | None, *, run: str) -> RolloutStore:
    """Opens the store of a run: the file in its folder, or one that runs share, where `run` is its name."""
    return RolloutStore(folder.store) if shared is None else RolloutStore(shared, run=run)


def _has_scope(scope: str) -> sa.ColumnElement[bool]:
    """A condition on the scope that uses no index, as most rollouts of a store may share one scope."""
    return ROLLOUTS.c.scope.concat("") == clean_text(scope)
