"""Alembic's entry: runs the migrations on the URL that service.db.migrate passes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from alembic import context
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import NullPool

import service.access.models
import service.bulk_models  # noqa: F401 - and this one
from service.models import Base

LOCK = 7206137  # any constant: two processes that migrate one Postgres database take turns
# What waits for a table's lock has everybody else who wants the table wait behind it.
SHORTLY = "SET LOCAL lock_timeout = '2s'"


@contextmanager
def turn(engine: Engine) -> Iterator[None]:
    """Until it is this process's turn, and while it is. Who waits holds no snapshot: an index would wait for that."""
    if engine.dialect.name != "postgresql":
        yield
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while not connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": LOCK}):
            time.sleep(0.2)
        yield  # the lock is the connection's, which ends


def run() -> None:
    engine = create_engine(context.config.attributes["url"], poolclass=NullPool)
    with turn(engine), engine.connect() as connection:
        context.configure(
            connection=connection, target_metadata=Base.metadata, render_as_batch=engine.dialect.name == "sqlite"
        )
        with context.begin_transaction():
            if engine.dialect.name == "postgresql":
                connection.execute(text(SHORTLY))
            context.run_migrations()
    engine.dispose()


run()
