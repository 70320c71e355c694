"""What crashes and lost messages leave behind is put right."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from service import waiting
from service.broker import NORMAL, QUEUES, Broker, celery_app
from service.db import Database, migrate, now
from service.models import Job, Shard
from service.reconciler import AT_ONCE, Reconciler
from service.settings import Settings
from service.states import JobState, ShardState
from tests.service.test_jobs import cancel, claimed, expire, item_states, save, state_of, submit
from tests.service.test_recipe_parts import begin, complete, end, shard_state, submit_recipe, to_send

pytestmark = pytest.mark.e2e


@pytest.fixture
def broker(redis_url: str) -> Iterator[Broker]:
    # The broker needs no database; Settings only asks that a shared broker is not the embedded one.
    broker = Broker(celery_app(Settings(broker_url=redis_url)))
    yield broker
    broker.close()


@pytest.fixture
def reconciler(database: Database, broker: Broker) -> Reconciler:
    return Reconciler(database, broker, Settings(reconcile_seconds=1))


def messages(broker: Broker, priority: int = NORMAL) -> list[str]:
    """Take every waiting message off a queue."""
    found: list[str] = []
    broker.close()
    with broker.app.connection_for_read() as connection, connection.SimpleQueue(QUEUES[priority]) as queue:
        simple: Any = queue
        while True:
            try:
                message = simple.get(block=False)
            except simple.Empty:
                return found
            found.append(message.payload[0][0])
            message.ack()


def overdue(db: Database) -> None:
    with db.transaction() as session:
        session.execute(update(Shard).values(sent_at=now() - 60))


def burst(db: Database, jobs: int) -> None:
    """Insert so many jobs of one shard, more than Postgres expects by what it knows of the tables."""
    with db.transaction() as session:
        for table, columns, values in (
            ("jobs", "id, kind, state, parameters, warnings, items, created_at, request_digest",
             "'job_' || i, 'inversion', 'queued', '{}', '[]', 1, i, 'x'"),
            ("shards", "id, job_id, state, epoch, first_item, item_count, attempts, crashes, progress, sent_at",
             "'job_' || i || '.0', 'job_' || i, 'queued', 0, 0, 1, 0, 0, '{}', 1"),
        ):  # fmt: skip
            several = f"INSERT INTO {table} ({columns}) SELECT {values} FROM generate_series(1, {jobs}) i"
            session.connection().exec_driver_sql(several)


def test_a_burst_that_postgres_has_no_statistics_of_is_gone_through_once_and_not_for_each_of_it(
    postgres_url: str, broker: Broker
) -> None:
    migrate(postgres_url)
    db = Database(postgres_url)
    try:
        submit(db)
        with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ANALYZE")
        burst(db, 8000)  # each with each is 64 million comparisons: more than a statement has time for
        with db.reading() as session:
            assert len(waiting.queue(session).places) == 8001
        Reconciler(db, broker, Settings(reconcile_seconds=1)).reconcile()
        with db.reading() as session:
            sent = select(func.count()).select_from(Shard).where(Shard.sent_at > 1)
            assert session.scalar(sent) == 2 * AT_ONCE + 1, "as many as a pass takes for each queue, and the one before"
    finally:
        db.close()


def test_a_silent_workers_shard_is_queued_again_and_counts_a_crash(database: Database, reconciler: Reconciler) -> None:
    _, [shard] = submit(database)
    claimed(database, shard)
    reconciler.reconcile()
    with database.reading() as session:
        assert session.get_one(Shard, shard).state == ShardState.RUNNING
    expire(database, shard)
    reconciler.reconcile()
    with database.reading() as session:
        row = session.get_one(Shard, shard)
    assert (row.state, row.crashes) == (ShardState.QUEUED, 1)


def test_lost_messages_are_sent_again(database: Database, reconciler: Reconciler, broker: Broker) -> None:
    _, shards = submit(database, items=3, shard_items=1)
    overdue(database)
    reconciler.reconcile()
    assert sorted(messages(broker)) == sorted(shards)


def test_messages_that_wait_are_not_sent_twice(database: Database, reconciler: Reconciler, broker: Broker) -> None:
    _, shards = submit(database, items=3, shard_items=1)
    for shard in shards:
        broker.send((shard, NORMAL))
    overdue(database)
    reconciler.reconcile()
    assert sorted(messages(broker)) == sorted(shards)


def test_what_was_never_sent_goes_before_what_was(database: Database, reconciler: Reconciler, broker: Broker) -> None:
    submit(database)
    _, [never] = submit(database)
    overdue(database)
    with database.transaction() as session:
        session.execute(update(Shard).where(Shard.id == never).values(sent_at=None))
    broker.enqueue(["another"])
    reconciler.reconcile()
    assert sorted(messages(broker)) == sorted(["another", never])


def test_fresh_shards_are_left_to_their_first_message(
    database: Database, reconciler: Reconciler, broker: Broker
) -> None:
    submit(database)
    reconciler.reconcile()
    assert messages(broker) == []


def test_shards_of_a_cancelled_job_are_not_sent(database: Database, reconciler: Reconciler, broker: Broker) -> None:
    job_id, _ = submit(database)
    overdue(database)
    cancel(database, job_id)
    reconciler.reconcile()
    assert messages(broker) == []


def test_a_cancelled_job_whose_worker_died_ends(database: Database, reconciler: Reconciler) -> None:
    job_id, [shard] = submit(database)
    claimed(database, shard)
    cancel(database, job_id)
    reconciler.reconcile()
    assert state_of(database, job_id) == JobState.CANCELLING
    expire(database, shard)
    reconciler.reconcile()
    assert state_of(database, job_id) == JobState.CANCELLED
    assert item_states(database, job_id) == ["cancelled", "cancelled"]


def test_a_job_whose_items_are_all_over_is_ended(database: Database, reconciler: Reconciler) -> None:
    job_id, [shard] = submit(database, items=1)
    save(database, claimed(database, shard).lease, 0)
    with database.transaction() as session:  # as if its worker had died inside finish, between two statements
        session.execute(update(Shard).values(state=ShardState.DONE))
    reconciler.reconcile()
    assert state_of(database, job_id) == JobState.SUCCEEDED


def test_a_recipe_whose_drawing_waits_is_neither_ended_nor_sent(
    database: Database, reconciler: Reconciler, broker: Broker
) -> None:
    recipe = submit_recipe(database)
    complete(database, begin(database, recipe.parts["model"]))
    begin(database, recipe.parts["baseline"])
    overdue(database)
    reconciler.reconcile()
    assert (state_of(database, recipe.id), shard_state(database, recipe.drawing)) == ("running", ShardState.WAITING)
    assert messages(broker) == []


def test_a_released_drawing_whose_message_was_lost_is_sent_again(
    database: Database, reconciler: Reconciler, broker: Broker
) -> None:
    recipe = submit_recipe(database)
    overdue(database)
    end(database, recipe)
    assert to_send(database, recipe.parts["model"]) == [recipe.drawing]
    reconciler.reconcile()
    assert broker.depth() == 0  # just released: its first message may be on its way
    overdue(database)
    reconciler.reconcile()
    assert messages(broker) == [recipe.drawing]


def test_a_drawing_whose_releasing_worker_died_before_it_sent_is_sent_at_once(
    database: Database, reconciler: Reconciler, broker: Broker
) -> None:
    recipe = submit_recipe(database)
    end(database, recipe)
    reconciler.reconcile()
    assert messages(broker) == [recipe.drawing]
    reconciler.reconcile()
    assert broker.depth() == 0


def test_a_part_that_is_ended_here_releases_its_drawing(database: Database, reconciler: Reconciler) -> None:
    recipe = submit_recipe(database, labels=("model",))
    lease = begin(database, recipe.parts["model"])
    save(database, lease, 0)
    with database.transaction() as session:  # as if its worker had died inside finish, between two statements
        session.execute(update(Shard).where(Shard.id == lease.shard_id).values(state=ShardState.DONE))
    reconciler.reconcile()
    assert state_of(database, recipe.parts["model"]) == JobState.SUCCEEDED
    assert shard_state(database, recipe.drawing) == ShardState.QUEUED


def test_a_cancelled_recipe_whose_parts_worker_died_is_not_drawn(
    database: Database, reconciler: Reconciler, broker: Broker
) -> None:
    recipe = submit_recipe(database)
    lease = begin(database, recipe.parts["model"])
    cancel(database, recipe.id)
    expire(database, lease.shard_id)
    overdue(database)
    reconciler.reconcile()
    assert state_of(database, recipe.parts["model"]) == JobState.CANCELLED
    assert shard_state(database, recipe.drawing) == ShardState.CANCELLED
    assert messages(broker) == []


def test_a_pass_with_nothing_to_do_changes_nothing(database: Database, reconciler: Reconciler) -> None:
    reconciler.reconcile()
    with database.reading() as session:
        assert session.scalars(select(Job)).all() == []


def test_it_outlives_a_database_without_tables(tmp_path: Path, broker: Broker) -> None:
    url = f"sqlite:///{tmp_path / 'late.db'}"
    db = Database(url)
    reconciler = Reconciler(db, broker, Settings(reconcile_seconds=0.1))
    reconciler.start()
    time.sleep(0.5)
    migrate(url)
    _, [shard] = submit(db)
    claimed(db, shard)
    expire(db, shard)
    end = time.monotonic() + 60
    state = ""
    while state != ShardState.QUEUED and time.monotonic() < end:
        with db.reading() as session:
            state = session.get_one(Shard, shard).state
    reconciler.close()
    db.close()
    assert state == ShardState.QUEUED
