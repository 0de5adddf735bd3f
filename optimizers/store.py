"""Every rollout, durable as soon as it exists: SQLite in WAL mode, one file a run.

Two tables. `rollouts` holds each paid run once (scope, query, supplement); `seen` lists which stage met which of them,
from which source, so that a stage can be read again without paying again.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DatabaseError

from optimizers.records import Query, Reward, Rollout
from sgt_modules.episode import Place
from sgt_modules.errors import RunFolderError
from sgt_modules.kinds import Supplement

SCHEMA = 2
"""The version of the tables, kept in `PRAGMA user_version`."""

_APPLICATION = 0x53475431  # "SGT1", kept in `PRAGMA application_id`: tells our files from other people's
_METADATA = sa.MetaData()
_ROLLOUTS = sa.Table(
    "rollouts",
    _METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("scope", sa.String, nullable=False),
    sa.Column("query", sa.String, nullable=False),
    sa.Column("supplement", sa.String, nullable=False),  # as the actor reads it
    sa.Column("live", sa.String, nullable=False),  # the name of a live run, which is never answered from the store
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("predictor", sa.String, nullable=False),
    sa.Column("turn", sa.Integer, nullable=False),
    sa.Column("others", sa.String, nullable=False),  # JSON: what every other place read, as [role, turn, kind, text]
    sa.Column("prompt", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("text", sa.String, nullable=False),
    sa.Column("score", sa.Float),
    sa.Column("feedback", sa.String, nullable=False),
    sa.Column("output", sa.String, nullable=False),  # JSON
    sa.Column("error", sa.String, nullable=False),
    sa.Column("asked", sa.Integer, nullable=False),
    sa.Column("tokens_in", sa.Integer, nullable=False),
    sa.Column("tokens_out", sa.Integer, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.UniqueConstraint("scope", "query", "supplement", "live"),
)
_SEEN = sa.Table(
    "seen",
    _METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("rollout", sa.ForeignKey("rollouts.id"), nullable=False),
    sa.Column("stage", sa.String, nullable=False),
    sa.Column("source", sa.String, nullable=False),
    sa.Column("logprob", sa.Float, nullable=False),
    sa.UniqueConstraint("rollout", "stage"),
)

_KEY = ("scope", "query", "supplement", "live")
_SAVE = insert(_ROLLOUTS).values({each.name: sa.bindparam(each.name) for each in _ROLLOUTS.c if each.name != "id"})
_SAVE = _SAVE.on_conflict_do_update(
    index_elements=_KEY,
    set_={column.name: _SAVE.excluded[column.name] for column in _ROLLOUTS.c if column.name not in (*_KEY, "id")},
    where=sa.or_(_SAVE.excluded.score.is_not(None), _ROLLOUTS.c.score.is_(None)),  # a failure never hides a reward
)
_MET = ("stage", "source", "logprob")
_SEE = insert(_SEEN).from_select(
    ["rollout", *_MET],
    sa.select(_ROLLOUTS.c.id, *(sa.bindparam(name, type_=_SEEN.c[name].type) for name in _MET)).where(
        *(_ROLLOUTS.c[name] == sa.bindparam(name) for name in _KEY)
    ),
)
_SEE = _SEE.on_conflict_do_nothing()
_ALL = sa.select(_ROLLOUTS, _SEEN.c.stage, _SEEN.c.source, _SEEN.c.logprob).join_from(_SEEN, _ROLLOUTS)
_REWARDED = (
    *(_ROLLOUTS.c[name] == sa.bindparam(name) for name in ("scope", "query", "supplement")),
    _ROLLOUTS.c.live == "",
    _ROLLOUTS.c.score.is_not(None),
)
_KNOWN = sa.select(_ROLLOUTS.c.id).where(*_REWARDED)
_GET = _ALL.where(*_REWARDED).order_by(_SEEN.c.id).limit(1)


class _Spelled(NamedTuple):
    """A statement as SQLite reads it, with the values that it brings itself.

    What each rollout needs is spelled once: SQLAlchemy would take longer over it than SQLite over its execution.
    """

    text: str
    own: Mapping[str, object]

    @classmethod
    def of(cls, statement: sa.ClauseElement) -> _Spelled:
        compiled = statement.compile(dialect=sqlite.dialect(paramstyle="named"))
        return cls(str(compiled), {name: value for name, value in (compiled.params or {}).items() if value is not None})

    def run(self, connection: sa.Connection, values: Mapping[str, object]) -> sa.CursorResult[Any]:
        return connection.exec_driver_sql(self.text, {**self.own, **values})


_SPELLED_SAVE, _SPELLED_SEE, _SPELLED_KNOWN = (_Spelled.of(each) for each in (_SAVE, _SEE, _KNOWN))


class RolloutStore:
    """The rollouts of a run in one SQLite file; safe from many threads, and from several processes.

    A `scope` names what a reward depends on besides the query and the supplement: a fingerprint of program, actor and
    metric. Raises `RunFolderError` for a file that cannot be opened, is not ours, or is of a newer version.

    >>> from tempfile import TemporaryDirectory
    >>> from sgt_modules.kinds import SILENCE
    >>> query = Query("a1", 0, "self", "2+2?")
    >>> with TemporaryDirectory() as folder, RolloutStore(Path(folder) / "rollouts.sqlite") as store:
    ...     store.add(Rollout(query, "none", "none", SILENCE, Reward(1.0)), scope="gpt")
    ...     store.get("gpt", "a1", SILENCE).reward, store.get("other", "a1", SILENCE), store.count()
    (Reward(score=1.0, feedback=''), None, 1)
    """

    def __init__(self, path: str | Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = Path(path)
        self._clock = clock
        self._lock = threading.Lock()
        self._open = ExitStack()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            engine = _engine(self.path)
            self._open.callback(engine.dispose)
            self._connection = self._open.enter_context(engine.connect())
            _prepare(self._connection, self.path)
        except (DatabaseError, OSError) as problem:
            self.close()
            raise RunFolderError(
                f"{self.path} cannot be opened as a store of rollouts ({type(problem).__name__}: {problem}). "
                "Choose another run folder, or remove the file to start anew."
            ) from problem
        except RunFolderError:
            self.close()
            raise

    def add(self, rollout: Rollout, scope: str, *, live: str = "", asked: int = 1) -> None:
        """Save a rollout and that its stage met it; committed when this returns.

        A rollout that is known already gives way, except that one without a reward never replaces one with. `live`
        names a run whose supplements nobody chose beforehand; it is listed with its stage and never answered by `get`.
        `asked`: how many supplements the program asked for in that run.
        """
        self.add_all([rollout], scope, live=live, asked=asked)

    def add_all(self, rollouts: Sequence[Rollout], scope: str, *, live: str = "", asked: int = 1) -> None:
        """Save the rollouts of one run together: all of them, or after a crash none."""
        with self._lock, self._connection.begin():
            for rollout in rollouts:
                row = {**_row(rollout), **_key(rollout, scope, live), "asked": asked, "created": self._clock()}
                _SPELLED_SAVE.run(self._connection, row)
                self._meet(rollout, scope, live)

    def meet(self, rollout: Rollout, scope: str) -> None:
        """Note that another stage met a stored rollout, as `rollout` says (its stage, source and log-probability)."""
        with self._lock, self._connection.begin():
            self._meet(rollout, scope, live="")

    def _meet(self, rollout: Rollout, scope: str, live: str) -> None:
        met = {"stage": rollout.stage, "source": rollout.source, "logprob": rollout.logprob}
        _SPELLED_SEE.run(self._connection, {**_key(rollout, scope, live), **met})

    def get(self, scope: str, query_id: str, supplement: Supplement) -> Rollout | None:
        """A supplement's rewarded rollout on a query, as its first stage met it; None when it must be (re)tried."""
        key = {"scope": scope, "query": query_id, "supplement": supplement.render()}
        with self._lock, self._connection.begin():
            if _SPELLED_KNOWN.run(self._connection, key).first() is None:
                return None
            row = self._connection.execute(_GET, key).mappings().first()
        return None if row is None else _rollout(row)

    def rollouts(self, scope: str | None = None, stage: str | None = None) -> list[Rollout]:
        """What the stages met, in the order they met it; a supplement of several stages stands once in each."""
        query = _ALL.order_by(_SEEN.c.id)
        query = query if scope is None else query.where(_ROLLOUTS.c.scope == scope)
        query = query if stage is None else query.where(_SEEN.c.stage == stage)
        with self._lock, self._connection.begin():
            return [_rollout(row) for row in self._connection.execute(query).mappings()]

    def count(self) -> int:
        """How many distinct runs of the actor are stored, failed ones included."""
        with self._lock, self._connection.begin():
            return self._connection.execute(sa.select(sa.func.count()).select_from(_ROLLOUTS)).scalar_one()

    def most_asked(self, scope: str) -> int:
        """The most supplements that one run in this scope asked for; 0 when nothing is stored."""
        query = sa.select(sa.func.max(_ROLLOUTS.c.asked)).where(_ROLLOUTS.c.scope == scope)
        with self._lock, self._connection.begin():
            return self._connection.execute(query).scalar_one() or 0

    def close(self) -> None:
        """Close the file; the store cannot be used afterwards."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _engine(path: Path) -> sa.Engine:
    """One connection for all threads (the store's lock serves them in turn), fast and safe against a crash."""
    return sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        poolclass=sa.StaticPool,
        connect_args={"check_same_thread": False, "timeout": 30.0},
    )


def _prepare(connection: sa.Connection, path: Path) -> None:
    """Check that the file is ours and of our version, or make it so when it is new."""
    application, version, tables = (
        connection.exec_driver_sql(statement).scalar_one()
        for statement in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    )
    connection.rollback()
    if (application, version) != (_APPLICATION, SCHEMA) and (application, version, tables) != (0, 0, 0):
        ours = application == _APPLICATION
        raise RunFolderError(
            f"{path} is a store of rollouts of version {version}, and this package reads version {SCHEMA}. "
            "Use the package it was written with, or another run folder."
            if ours
            else f"{path} is not a store of rollouts, but another program's database. Choose another run folder."
        )
    connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    connection.exec_driver_sql("PRAGMA synchronous=NORMAL")
    connection.rollback()
    with connection.begin():
        _METADATA.create_all(connection)
        connection.exec_driver_sql(f"PRAGMA application_id={_APPLICATION}")
        connection.exec_driver_sql(f"PRAGMA user_version={SCHEMA}")


def _key(rollout: Rollout, scope: str, live: str) -> dict[str, str]:
    """What makes a run distinct; a live one by its name."""
    return {"scope": scope, "query": rollout.query.id, "supplement": rollout.supplement.render(), "live": live}


def _row(rollout: Rollout) -> dict[str, object]:
    query, supplement, reward = rollout.query, rollout.supplement, rollout.reward
    return {
        "position": query.index,
        "predictor": query.predictor,
        "turn": query.turn,
        "others": json.dumps([[*place, each.kind, each.text] for place, each in query.others], ensure_ascii=False),
        "prompt": query.prompt,
        "kind": supplement.kind,
        "text": supplement.text,
        "score": None if reward is None else reward.score,
        "feedback": "" if reward is None else reward.feedback,
        "output": json.dumps(dict(rollout.output), ensure_ascii=False),
        "error": rollout.error,
        "tokens_in": rollout.tokens_in,
        "tokens_out": rollout.tokens_out,
        "seconds": rollout.seconds,
    }


def _rollout(row: sa.RowMapping) -> Rollout:
    values: dict[str, Any] = dict(row)
    others = tuple(
        (Place(role, turn), Supplement(kind, text)) for role, turn, kind, text in json.loads(values["others"])
    )
    return Rollout(
        query=Query(values["query"], values["position"], values["predictor"], values["prompt"], values["turn"], others),
        stage=values["stage"],
        source=values["source"],
        supplement=Supplement(values["kind"], values["text"]),
        reward=None if values["score"] is None else Reward(values["score"], values["feedback"]),
        output=json.loads(values["output"]),
        error=values["error"],
        logprob=values["logprob"],
        tokens_in=values["tokens_in"],
        tokens_out=values["tokens_out"],
        seconds=values["seconds"],
    )
