"""Migrations beside a service that goes on: none keeps others from a table for long, or waits for them in their way."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import structlog
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from service import db as database
from service.db import downgrade, migrate
from tests import release
from tests.servers import new_database
from tests.service.test_migrations import tables

QUICK = (
    r"ALTER TABLE (\w+) ADD COLUMN .*",  # without a volatile default, which `volatile` looks for
    r"ALTER TABLE (\w+) DROP (COLUMN|CONSTRAINT) .*",
    r"ALTER TABLE (\w+) ALTER COLUMN \S+ (SET|DROP) DEFAULT.*",
    r"ALTER TABLE (\w+) ADD CONSTRAINT .* NOT VALID",
    r"ALTER TABLE (\w+) VALIDATE CONSTRAINT .*",
    r"CREATE (UNIQUE )?INDEX CONCURRENTLY .* ON (\w+) .*",
    r"DROP INDEX .*",
    r"INSERT INTO (\w+) .*",
    r"SELECT .*",
    r"SET LOCAL lock_timeout .*",
)
"""What may be done to a table that is in use, however many rows it has."""
VOLATILE = re.compile(r"DEFAULT .*\(")


@pytest.fixture
def before(postgres_server: str) -> Iterator[str]:
    """A database as the release before has it, with a few jobs."""
    with new_database(postgres_server, "template1") as url:
        migrate(url, release.revision())
        engine = create_engine(url)
        with engine.begin() as connection:
            for n in range(3):
                connection.execute(text(JOB), {"id": f"job-{n}"})
        engine.dispose()
        yield url


JOB = (
    "INSERT INTO jobs (id, kind, state, parameters, warnings, items, created_at, request_digest)"
    " VALUES (:id, 'inversion', 'queued', '{}', '[]', 1, 0, 'digest')"
)


@contextmanager
def statements() -> Iterator[list[str]]:
    found: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        found.append(" ".join(statement.split()))

    event.listen(Engine, "before_cursor_execute", note)
    yield found
    event.remove(Engine, "before_cursor_execute", note)


def test_no_migration_since_the_release_before_locks_a_table_for_as_long_as_it_has_rows(before: str) -> None:
    old = tables(before) - {"alembic_version"}
    with statements() as found:
        migrate(before)
    assert found
    for statement in found:
        named = set(re.findall(r"\w+", statement)) & old
        quick = any(re.fullmatch(form, statement, re.I) for form in QUICK) and not VOLATILE.search(statement)
        assert not named or quick, f"this holds {named} for as long as it has rows: {statement}"
    assert tables(before) >= old


@pytest.mark.slow
@pytest.mark.parametrize("back", [False, True], ids=["up", "down"])
def test_a_migration_that_finds_its_tables_in_use_lets_others_pass(
    before: str, back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "TRY_PAUSE", 0.1)
    if back:
        migrate(before)
    service = database.Database(before)  # with the bounds that the service itself has on locks
    written, stop = list[float](), threading.Event()

    def write() -> None:
        while not stop.wait(0.02):
            with service.transaction() as session:
                session.execute(text("UPDATE jobs SET items = items + 1 WHERE id = 'job-1'"))
            written.append(time.monotonic())

    def move() -> None:
        downgrade(before, release.revision()) if back else migrate(before)

    errors: list[BaseException] = []

    def kept(call: Any) -> None:
        try:
            call()
        except (SQLAlchemyError, AssertionError) as e:
            errors.append(e)

    writer, mover = (threading.Thread(target=kept, args=(call,), daemon=True) for call in (write, move))
    with structlog.testing.capture_logs() as logs:
        with create_engine(before, poolclass=NullPool).connect() as reader:
            reader.execute(text("SELECT count(*) FROM jobs, items, shards, webhooks, images")).scalar()
            writer.start()
            mover.start()
            wait(lambda: len(logs) >= 3 or errors)  # tries that were given up
            so_far = len(written)
            wait(lambda: len(written) > so_far + 10 or errors)
            assert mover.is_alive()
        mover.join(240)
        stop.set()
        writer.join(60)
    service.close()
    assert errors == []
    assert not mover.is_alive()
    assert {line["event"] for line in logs} == {"the schema waits for a table that is in use; trying again"}


def wait(condition: Any) -> None:
    end = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
