"""The migrations make what the models declare, from empty, and take it back."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import alembic.autogenerate
import pytest
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, make_url

from service.db import downgrade, migrate
from service.models import Base
from tests.servers import postgres_execute


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without a table."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    server: str = request.getfixturevalue("postgres_server")
    name = f"empty_{tmp_path.name}".lower().replace("[", "_").replace("]", "")
    postgres_execute(server, f'CREATE DATABASE "{name}"')
    return make_url(server).set(database=name).render_as_string(hide_password=False)


def tables(url: str) -> set[str]:
    engine = create_engine(url)
    names = set(inspect(engine).get_table_names())
    engine.dispose()
    return names - {"alembic_version"}


def test_migrating_an_empty_database_gives_exactly_the_models(empty_url: str) -> None:
    migrate(empty_url)
    engine = create_engine(empty_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert alembic.autogenerate.compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_migrating_twice_is_migrating_once(empty_url: str) -> None:
    migrate(empty_url)
    migrate(empty_url)
    assert tables(empty_url) == set(Base.metadata.tables)


def test_a_downgrade_to_base_leaves_nothing(empty_url: str) -> None:
    migrate(empty_url)
    downgrade(empty_url, "base")
    assert tables(empty_url) == set()
    migrate(empty_url)
    assert tables(empty_url) == set(Base.metadata.tables)


@pytest.mark.e2e
def test_processes_that_migrate_together_take_turns(postgres_server: str, tmp_path: Path) -> None:
    name = f"together_{tmp_path.name}".lower()
    postgres_execute(postgres_server, f'CREATE DATABASE "{name}"')
    url = make_url(postgres_server).set(database=name).render_as_string(hide_password=False)
    # Alembic's context is one a process, so the takers of turns are processes.
    command = [sys.executable, "-c", f"from service.db import migrate; migrate({url!r})"]
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: subprocess.run(command, capture_output=True, check=False), range(3)))
    assert [(d.returncode, d.stderr) for d in done] == [(0, b"")] * 3
    assert tables(url) == set(Base.metadata.tables)
