"""The migrations make what the models declare, from empty, and take it back."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import alembic.autogenerate
import pytest
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine, inspect, make_url, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from service import queries
from service.db import Database, downgrade, migrate
from service.models import Base, Item, Job, Shard
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
    assert migrate(empty_url)
    assert migrate(empty_url)
    assert tables(empty_url) == set(Base.metadata.tables)


def test_a_schema_of_a_newer_version_is_left_as_it_is(empty_url: str) -> None:
    migrate(empty_url)
    engine = create_engine(empty_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'newer'"))
    with capture_logs() as lines:
        assert not migrate(empty_url)
    assert [(line["log_level"], "newer" in line["event"]) for line in lines] == [("warning", True)]
    with engine.connect() as connection:
        assert MigrationContext.configure(connection).get_current_revision() == "newer"
    engine.dispose()


def test_a_downgrade_to_base_leaves_nothing(empty_url: str) -> None:
    migrate(empty_url)
    downgrade(empty_url, "base")
    assert tables(empty_url) == set()
    migrate(empty_url)
    assert tables(empty_url) == set(Base.metadata.tables)


OLD_ROWS: dict[str, list[dict[str, Any]]] = {
    "images": [{"id": "sha256:0", "key": "images/0", "media_type": "image/png", "width": 3, "height": 4, "size": 5,
                "created_at": 1.5}],
    "jobs": [{"id": f"job_{state}", "kind": "inversion", "state": state, "parameters": '{"steps": 7}',
              "warnings": '["w"]', "items": 2, "created_at": 1.25, "idempotency_key": f"key {state}",
              "request_digest": "d"} for state in ("queued", "running", "partially_succeeded", "cancelled")],
    "shards": [{"id": f"job_running.{n}", "job_id": "job_running", "state": state, "epoch": n, "first_item": n,
                "item_count": 1, "worker": "w", "attempts": 1, "crashes": 2, "progress": '{"image_steps": 4}'}
               for n, state in enumerate(("queued", "running", "done", "cancelled"))],
    "transitions": [{"id": 9, "job_id": "job_running", "state": "running", "at": 2.5}],
    "items": [{"job_id": "job_running", "index": n, "shard_id": "job_running.2", "state": state,
               "target": '{"index": 1}', "start": '{"source": "noise"}', "metrics": '{"ssim": 0.5}'}
              for n, state in enumerate(("queued", "succeeded"))],
    "artifacts": [{"job_id": "job_running", "item_index": 1, "name": "a.png", "key": "k", "media_type": "image/png",
                   "size": 6, "sha256": "0"}],
}  # fmt: skip


@pytest.fixture
def old(empty_url: str) -> Iterator[Engine]:
    """A database of revision 0001 that has been in use."""
    migrate(empty_url, "0001")
    database = Database(empty_url)
    with database.engine.begin() as connection:
        for table, rows in OLD_ROWS.items():
            for row in rows:
                _insert(connection, table, row)
    yield database.engine
    database.close()


def _insert(connection: Connection, table: str, row: dict[str, Any]) -> None:
    names = ", ".join(f'"{name}"' for name in row)
    connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({', '.join(f':{name}' for name in row)})"), row)


def _url(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


def _contents(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    """Every row, with the columns of revision 0001 only, JSON as text."""
    found = {}
    with engine.connect() as connection:
        for table, rows in OLD_ROWS.items():
            order = ", ".join(f'"{name}"' for name in list(rows[0])[:2])
            stored = connection.execute(text(f"SELECT * FROM {table} ORDER BY {order}")).mappings().all()
            found[table] = [{name: _plain(row[name]) for name in rows[0]} for row in stored]
    return found


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value


def _sorted(rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    return {table: sorted(each, key=lambda row: list(map(str, row.values()))[:2]) for table, each in rows.items()}


def _refuses(engine: Engine, table: str, state: str) -> bool:
    """Whether the database refuses a state, in a transaction that is rolled back."""
    with engine.connect() as connection:
        try:
            connection.execute(text(f"UPDATE {table} SET state = :state"), {"state": state})
        except IntegrityError:
            return True
        return False


def _refused(engine: Engine) -> set[tuple[str, str]]:
    tried = [("shards", "waiting"), ("shards", "queued"), *((table, "lost") for table in ("jobs", "shards", "items"))]
    return {(table, state) for table, state in tried if _refuses(engine, table, state)}


UNKNOWN = {("jobs", "lost"), ("shards", "lost"), ("items", "lost")}


def test_jobs_of_the_first_revision_survive_an_upgrade(old: Engine) -> None:
    migrate(_url(old))
    assert _contents(old) == _sorted(OLD_ROWS)
    assert _refused(old) == UNKNOWN
    with Session(old) as session:
        assert [item.settings for item in session.scalars(select(Item))] == [{}, {}]
        assert {(job.parent_id, job.part) for job in session.scalars(select(Job))} == {(None, None)}


def test_jobs_survive_a_downgrade_in_which_what_waited_is_cancelled(old: Engine) -> None:
    migrate(_url(old))
    with old.begin() as connection:
        part = {"id": "job_part", "parent_id": "job_queued", "part": "model"}
        _insert(connection, "jobs", OLD_ROWS["jobs"][0] | {"idempotency_key": None} | part)
        _insert(connection, "shards", OLD_ROWS["shards"][0] | {"id": "job_queued.0", "job_id": "job_queued"})
        connection.execute(text("UPDATE shards SET state = 'waiting' WHERE id = 'job_queued.0'"))
    downgrade(_url(old), "0001")
    contents = _contents(old)
    assert contents["jobs"].pop(1)["id"] == "job_part"
    waited = contents["shards"].pop(0)
    assert (waited["id"], waited["state"]) == ("job_queued.0", "cancelled")
    assert contents == _sorted(OLD_ROWS)
    assert _refused(old) == {*UNKNOWN, ("shards", "waiting")}
    migrate(_url(old))
    assert _refused(old) == UNKNOWN


def test_a_part_goes_with_its_recipe(old: Engine) -> None:
    migrate(_url(old))
    with old.begin() as connection:
        connection.execute(text("UPDATE jobs SET parent_id = 'job_queued' WHERE id = 'job_running'"))
        connection.execute(text("DELETE FROM jobs WHERE id = 'job_queued'"))
    contents = _contents(old)
    assert [job["id"] for job in contents["jobs"]] == ["job_cancelled", "job_partially_succeeded"]
    assert contents["items"] == contents["shards"] == contents["artifacts"] == contents["transitions"] == []


KINDS = {
    "job_eval": ("evaluation", "running"), "job_late": ("inversion", "expired"), "job_recipe": ("recipe", "succeeded"),
    "job_study": ("inversion", "queued"), "job_train": ("training", "running"),
}  # fmt: skip
STATES = {
    "job_eval": ("done", "cancelled", "waiting"), "job_late": ("cancelled",), "job_recipe": ("done",),
    "job_study": ("queued", "running"), "job_train": ("running",),
}  # fmt: skip
LAST = {"job_eval.2", "job_recipe.0"}
LATER = {
    "priority", "description", "metadata", "request", "text", "retention_seconds", "deleted_at", "cloned_from",
    "counts", "purged_at", "summary", "stamp", "trace", "digest", "tenant",
}  # fmt: skip
"""Columns of these tables that 0005 to 0007 add."""
POINTER = '{"key": "k", "sha256": "0", "size": 1, "step": 2}'


@pytest.fixture
def in_use(empty_url: str) -> Iterator[Engine]:
    """A database of revision 0003 that has been in use: jobs of each kind, an item a shard."""
    migrate(empty_url, "0003")
    database = Database(empty_url)
    with database.engine.begin() as connection:
        for job_id, (kind, state) in KINDS.items():
            job = {"id": job_id, "kind": kind, "state": state, "idempotency_key": job_id, "items": len(STATES[job_id])}
            _insert(connection, "jobs", OLD_ROWS["jobs"][0] | job)
            for n, at in enumerate(STATES[job_id]):
                shard = {"id": f"{job_id}.{n}", "job_id": job_id, "state": at, "first_item": n}
                item = {"job_id": job_id, "index": n, "shard_id": shard["id"], "settings": "{}", "checkpoint": POINTER}
                _insert(connection, "shards", OLD_ROWS["shards"][0] | shard)
                _insert(connection, "items", OLD_ROWS["items"][0] | item)
    yield database.engine
    database.close()


def _rows(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    """Every row of the tables that 0004 changes, with the columns of 0003, JSON as text."""
    order = {"jobs": "id", "shards": "id", "items": 'job_id, "index"'}
    new = {"deadline", "client", "not_before", "last", "epoch", *LATER}
    found = {}
    with engine.connect() as connection:
        for table, by in order.items():
            rows = connection.execute(text(f"SELECT * FROM {table} ORDER BY {by}")).mappings().all()
            drop = new - {"epoch"} | {"checkpoint"} if table == "shards" else new
            found[table] = [{k: _plain(v) for k, v in row.items() if k not in drop} for row in rows]
    return found


def _last(engine: Engine) -> set[str]:
    with Session(engine) as session:
        return set(session.scalars(select(Shard.id).where(Shard.last)))


def test_jobs_of_the_third_revision_survive_an_upgrade_and_their_last_shards_are_known(in_use: Engine) -> None:
    before = _rows(in_use)
    migrate(_url(in_use))
    assert _rows(in_use) == before
    assert _last(in_use) == LAST
    with Session(in_use) as session:
        assert set(session.execute(select(Job.deadline, Job.client))) == {(None, None)}
        assert set(session.execute(select(Shard.not_before, Shard.checkpoint))) == {(None, None)}
        assert set(session.scalars(select(Item.epoch))) == {None}


def test_a_downgrade_to_the_third_revision_lets_its_code_go_on_with_every_job(in_use: Engine) -> None:
    before = _rows(in_use)
    migrate(_url(in_use))
    with in_use.begin() as connection:
        connection.execute(text("UPDATE jobs SET state = 'paused', deadline = 5, client = 'c' WHERE id = 'job_eval'"))
        connection.execute(text(f"UPDATE shards SET not_before = 5, checkpoint = '{POINTER}'"))
        connection.execute(text("UPDATE items SET epoch = 3"))
    downgrade(_url(in_use), "0003")
    expected = json.loads(json.dumps(before))
    expected["jobs"][0]["state"] = "queued"  # it was paused
    expected["shards"][1]["state"] = "queued"  # a worker let go of it because of that
    assert _rows(in_use) == expected
    with in_use.connect() as connection:
        names = {
            column["name"] for table in ("jobs", "shards", "items") for column in inspect(connection).get_columns(table)
        }
    assert not names & {"deadline", "client", "not_before", "last"}
    migrate(_url(in_use))
    assert _last(in_use) == LAST


@pytest.fixture
def before_bulk(empty_url: str) -> Iterator[Engine]:
    """A database of revision 0004 with a study of each priority, and one that ended."""
    migrate(empty_url, "0004")
    database = Database(empty_url)
    with database.engine.begin() as connection:
        for n, priority in enumerate(("low", "normal", "high", None)):
            parameters = json.dumps({"steps": 7, "model": "M", **({"priority": priority} if priority else {})})
            job = {"id": f"job_{n}", "state": "succeeded", "parameters": parameters, "idempotency_key": str(n)}
            _insert(connection, "jobs", OLD_ROWS["jobs"][0] | job)
            shard, item = {"id": f"job_{n}.0", "job_id": f"job_{n}"}, {"job_id": f"job_{n}", "shard_id": f"job_{n}.0"}
            _insert(connection, "shards", OLD_ROWS["shards"][0] | shard | {"last": False})
            _insert(connection, "items", OLD_ROWS["items"][0] | item | {"settings": "{}"})
            of_item = {"job_id": f"job_{n}", "item_index": 0}
            _insert(connection, "artifacts", OLD_ROWS["artifacts"][0] | of_item)
    yield database.engine
    database.close()


def test_a_studys_priority_moves_out_of_its_parameters_and_it_is_found_by_text(before_bulk: Engine) -> None:
    migrate(_url(before_bulk))
    with Session(before_bulk) as session:
        jobs = session.scalars(select(Job).order_by(Job.id)).all()
        assert [job.priority for job in jobs] == [0, 1, 2, 1]
        assert [job.text for job in jobs] == [f"job_{n} inversion m" for n in range(4)]
        listed = queries.jobs(session, queries.Filter(text="inversion"), 50).jobs
        assert {(job.model, job.progress.steps_total, job.priority) for job in listed} >= {("M", 14, "low")}
        assert len(listed) == 4


def test_a_downgrade_forgets_what_was_deleted_and_keeps_the_rest(before_bulk: Engine) -> None:
    migrate(_url(before_bulk))
    with before_bulk.begin() as connection:
        connection.execute(text("UPDATE jobs SET deleted_at = 1, purged_at = 2 WHERE id = 'job_0'"))
        connection.execute(text("UPDATE jobs SET state = 'validating' WHERE id = 'job_1'"))
        connection.execute(text("UPDATE jobs SET counts = '{}', summary = '{}', retention_seconds = 5"))
        connection.execute(text("INSERT INTO labels (job_id, key, value) VALUES ('job_2', 'k', 'v')"))
        connection.execute(text("UPDATE artifacts SET \"offset\" = 5 WHERE job_id = 'job_3'"))
    downgrade(_url(before_bulk), "0004")
    with before_bulk.connect() as connection:
        jobs = connection.execute(text("SELECT id, state FROM jobs ORDER BY id")).all()
        assert [tuple(job) for job in jobs] == [("job_1", "failed"), ("job_2", "succeeded"), ("job_3", "succeeded")]
        kept = connection.execute(text("SELECT job_id FROM artifacts ORDER BY job_id")).scalars().all()
        assert kept == ["job_1", "job_2"], "a file within a tar would be read as the whole of it"
        assert "labels" not in inspect(connection).get_table_names()
    migrate(_url(before_bulk))


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
