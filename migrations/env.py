"""Alembic's entry: runs the migrations on the URL that service.db.migrate passes."""

from alembic import context
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

import service.access.models
import service.bulk_models  # noqa: F401 - and this one
from service.models import Base

LOCK = 7206137  # any constant: two processes that migrate one Postgres database take turns
# What waits for a table's lock has everybody else who wants the table wait behind it.
SHORTLY = "SET LOCAL lock_timeout = '2s'"


def run() -> None:
    engine = create_engine(context.config.attributes["url"], poolclass=NullPool)
    with engine.connect() as connection:
        context.configure(
            connection=connection, target_metadata=Base.metadata, render_as_batch=engine.dialect.name == "sqlite"
        )
        with context.begin_transaction():
            if engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
                connection.execute(text(SHORTLY))
            context.run_migrations()
    engine.dispose()


run()
