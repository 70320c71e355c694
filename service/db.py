"""The database: engine, transactions, and its clock. Postgres in production, SQLite (WAL) in the embedded mode."""

import json
import random
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import alembic.command
import structlog
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.script.revision import ResolutionError
from alembic.util import CommandError
from sqlalchemy import (
    ARRAY,
    Boolean,
    ColumnDefault,
    Dialect,
    Double,
    Engine,
    String,
    Table,
    TypeDecorator,
    bindparam,
    create_engine,
    event,
    insert,
    make_url,
    text,
)
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

import migrations
from service import metrics
from service.access.isolation import EVERYBODY, TENANT, TenantSession

T = TypeVar("T")
KEPT = "kept"
POOL, OVERFLOW = 10, 20
"""Connections that a process keeps, and more that it opens under load."""
READER: dict[str, dict[str, Any]] = {"sqlite": {"read_only": True}, "postgresql": {"isolation_level": "AUTOCOMMIT"}}
"""Options of reading connections; on Postgres, they need no BEGIN and no ROLLBACK."""
MOST_KEPT, MOST_SHARE = 10_000, 0.05
MOST_TRIES, TRY_PAUSE = 100, 1.0
"""Of a revision that finds its tables in use, and the seconds between two of them, at least."""
IN_USE = ("55P03", "40P01")
"""Postgres: a lock was not had in time, or never would have been."""
log = structlog.get_logger()


class now(FunctionElement[float]):  # noqa: N801 - reads as SQL
    """Seconds since the epoch on the database's clock, which is the only one that leases know."""

    type = Double()
    inherit_cache = True


@compiles(now, "postgresql")
def _now_postgresql(*_: Any, **__: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


@compiles(now, "sqlite")
def _now_sqlite(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


def iso(seconds: float | None) -> str | None:
    """A time of that clock as RFC 3339, as in answers."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


class Strings(TypeDecorator[list[str]]):
    """A list of strings as one parameter: an array for Postgres, JSON for SQLite."""

    impl, cache_ok = String, True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(ARRAY(String) if dialect.name == "postgresql" else String())

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return list(value) if dialect.name == "postgresql" else json.dumps(list(value))


class among(FunctionElement[bool]):  # noqa: N801 - reads as SQL
    """Whether a column is one of some strings. It is prepared once for lists of any length; IN is another for each."""

    type, inherit_cache = Boolean(), True

    def __init__(self, column: Any, values: Collection[str] | str) -> None:
        """`values` are the strings, or the name of a parameter that will have them."""
        named = bindparam(values, type_=Strings()) if isinstance(values, str) else bindparam(None, values, Strings())
        super().__init__(column, named)


@compiles(among, "postgresql")
def _among_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    column, values = (compiler.process(each, **options) for each in element.clauses)
    return f"{column} = ANY({values})"


@compiles(among, "sqlite")
def _among_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    column, values = (compiler.process(each, **options) for each in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({values}))"


def insert_all(session: Session, rows: Mapping[Any, Sequence[Mapping[str, Any]]]) -> None:
    """Insert rows by table, all of a table with the same columns: for Postgres in one statement, however many.

    It checks foreign keys once all rows are there.
    """
    tables: dict[Table, Sequence[Mapping[str, Any]]] = {of.__table__: each for of, each in rows.items() if each}
    if session.get_bind().dialect.name == "sqlite":
        for table, each in tables.items():
            session.execute(insert(table), each)
    elif tables:
        filled = {table.name: [{**_defaults(table), **row} for row in each] for table, each in tables.items()}
        if any(row.keys() != each[0].keys() for each in filled.values() for row in each):
            raise ValueError("rows of a table with different columns")
        *others, last = (_inserting(name, each[0]) for name, each in filled.items())
        named = ", ".join(f"of_{n} AS ({other})" for n, other in enumerate(others))
        sent = {name: json.dumps(each) for name, each in filled.items()}
        session.execute(text(f"WITH {named} {last}" if named else last), sent, execution_options=EVERYBODY)


def _inserting(table: str, columns: Collection[str]) -> str:
    names = ", ".join(f'"{name}"' for name in columns)
    rows = f"json_populate_recordset(CAST(NULL AS {table}), CAST(:{table} AS json))"
    return f"INSERT INTO {table} ({names}) SELECT {names} FROM {rows}"


@cache
def _defaults(table: Table) -> dict[str, Any]:
    """What the columns of a table have where a row does not say."""
    defaults = {column.name: column.default for column in table.columns if isinstance(column.default, ColumnDefault)}
    return {name: each.arg(None) if each.is_callable else each.arg for name, each in defaults.items()}


class Database:
    """Short transactions over one engine. Raises sqlalchemy.exc.OperationalError when the server cannot be reached."""

    def __init__(self, url: str) -> None:
        self.url = make_url(url)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self.engine = _sqlite(url) if self.sqlite else _postgres(url)
        metrics.watch_pool(self.engine, POOL + OVERFLOW)
        self._reader = self.engine.execution_options(**READER[self.url.get_backend_name()])
        self._info: dict[Any, Any] = {KEPT: {}}
        self._of: dict[str, Database] = {}
        self._session: type[Session] = Session

    @property
    def tenant(self) -> str | None:
        """Whose rows its sessions see; None for everybody's."""
        found: str | None = self._info.get(TENANT)
        return found

    def of(self, tenant: str) -> "Database":
        """The same, whose sessions see a tenant's rows alone."""
        if tenant not in self._of:
            narrowed = copy(self)
            narrowed._info, narrowed._session = {**self._info, TENANT: tenant}, TenantSession
            self._of[tenant] = narrowed
        return self._of[tenant]

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One transaction, committed at the end of the block or rolled back by an exception."""
        with self._session(self.engine, expire_on_commit=False, info=self._info) as session, session.begin():
            yield session
        for count in session.info.get(metrics.COUNTS, ()):
            count()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """No writer's lock is taken. Postgres would show each statement what is there by then in a transaction too."""
        with self._session(self._reader, expire_on_commit=False, info=self._info) as session, session.begin():
            yield session

    def close(self) -> None:
        self.engine.dispose()
        metrics.CONNECTIONS_LIMIT.dec(POOL + OVERFLOW)


def kept(session: Session, key: Hashable, read: Callable[[], T], seconds: Callable[[T], float]) -> T:
    """What `read` answers, or answered so many seconds ago at most, which depend on the answer.

    For numbers that are dear to count and may be a little old; each process keeps its own. One that takes long to count
    is kept for longer, so that no more than a part of a process's time goes there.
    """
    known: dict[Hashable, tuple[float, T]] = session.info.get(KEPT, {})
    until, value = known.get(key, (0.0, None))
    if value is None or until < time.monotonic():
        began = time.monotonic()
        value = read()
        if (lasts := seconds(value)) > 0:
            lasts = max(lasts, (time.monotonic() - began) / MOST_SHARE)
            if len(known) >= MOST_KEPT:
                known.clear()
            known[key] = (time.monotonic() + lasts, value)
    return value


def _postgres(url: str) -> Engine:
    return create_engine(
        url,
        pool_pre_ping=True,
        pool_use_lifo=True,  # the one that was used last has the statements prepared
        pool_size=POOL,
        max_overflow=OVERFLOW,
        # A host that vanishes sends no reset: the kernel would wait for two hours.
        connect_args={
            "connect_timeout": 5,
            "options": "-c statement_timeout=30000 -c lock_timeout=10000",
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
        },
    )


def _sqlite(url: str) -> Engine:
    engine = create_engine(
        url, pool_size=POOL, max_overflow=OVERFLOW, connect_args={"timeout": 30, "isolation_level": None}
    )

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _: Any) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=30000"):
            connection.execute(f"PRAGMA {pragma}")

    # Python's sqlite3 module opens transactions late and only for some statements; a writer that
    # upgrades from a read lock can then fail at once instead of waiting. So transactions are ours.
    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        read_only = connection.get_execution_options().get("read_only", False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def alembic_config(url: str) -> Config:
    """Where the migrations are."""
    folder = Path(migrations.__file__).parent
    config = Config()
    config.set_main_option("script_location", str(folder))
    config.attributes["url"] = url
    return config


def migrate(url: str, revision: str = "head") -> bool:
    """Bring the schema to `revision`, from empty or from any earlier one. A second process waits for the first.

    Each revision is a transaction. Where one would have to wait for a table that others use, it lets go and tries
    again, so that these do not wait for it. Raises OperationalError if that is in vain for some minutes. False if the
    schema is one that only a newer version knows: it stays as it is, and this version goes on with it.
    """
    parsed, config = make_url(url), alembic_config(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    scripts = ScriptDirectory.from_config(config)
    for script in reversed(list(scripts.iterate_revisions(revision, "base"))):  # nothing is done where one is there
        try:
            _patiently(alembic.command.upgrade, config, script.revision)
        except CommandError as e:
            if not isinstance(e.__cause__, ResolutionError):
                raise
            log.warning("the schema is newer than this version, and stays as it is", reason=str(e))
            return False
    return True


def downgrade(url: str, revision: str) -> None:
    """Take the schema back to `revision`; `base` is the empty database."""
    _patiently(alembic.command.downgrade, alembic_config(url), revision)


def _patiently(move: Callable[[Config, str], None], config: Config, revision: str) -> None:
    for attempt in range(1, MOST_TRIES + 1):
        try:
            move(config, revision)
            return
        except OperationalError as e:
            if attempt == MOST_TRIES or getattr(e.orig, "sqlstate", None) not in IN_USE:
                raise
            log.warning("the schema waits for a table that is in use; trying again", revision=revision, attempt=attempt)
            time.sleep(random.uniform(1, 2) * TRY_PAUSE)
