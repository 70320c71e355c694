"""What KEDA asks the database, as the chart has it, on a real one: how many of a worker's threads have work."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text, update

from service import jobs
from service.db import Database
from service.models import Job
from tests.deploy.chart import one, rendered
from tests.service.test_jobs import cancel, claim, claimed, do, finish, save, submit, submit_with_summary

THREADS = 6


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    """Postgres alone: KEDA asks no other."""
    db = Database(postgres_url)
    yield db
    db.close()


def trigger() -> dict[str, Any]:
    (found,) = one(rendered({"workers": {"threads": THREADS}}), "ScaledObject", "-worker")["spec"]["triggers"]
    metadata: dict[str, Any] = found["metadata"]
    return metadata


def demand(db: Database) -> int:
    with db.reading() as session:
        found = session.execute(text(trigger()["query"])).scalar_one()
    assert isinstance(found, int)
    return found


def test_a_worker_is_asked_for_when_all_its_threads_would_be_busy() -> None:
    assert (trigger()["targetQueryValue"], trigger()["activationTargetQueryValue"]) == (str(THREADS), "0")


def test_an_empty_queue_asks_for_nobody(database: Database) -> None:
    assert demand(database) == 0


def test_what_waits_and_what_runs_counts_until_it_is_done(database: Database) -> None:
    _, shards = submit(database, items=6, shard_items=2)
    assert demand(database) == 3
    lease = claimed(database, shards[0]).lease
    assert demand(database) == 3, "a list in Redis would have two by now"
    for index in (0, 1):
        save(database, lease, index)
    finish(database, lease)
    assert demand(database) == 2


def test_what_waits_for_the_rest_of_its_job_asks_for_nobody(database: Database) -> None:
    submit_with_summary(database)
    assert demand(database) == 2


def test_a_paused_job_asks_for_nobody_but_who_still_holds_it(database: Database) -> None:
    job_id, shards = submit(database, items=4, shard_items=2)
    claim(database, shards[0])
    do(database, jobs.pause, job_id)
    assert demand(database) == 1
    do(database, jobs.resume, job_id)
    assert demand(database) == 2


def test_a_cancelled_job_asks_for_nobody(database: Database) -> None:
    job_id, _ = submit(database)
    cancel(database, job_id)
    assert demand(database) == 0


def test_a_training_run_asks_for_a_worker_of_its_own(database: Database) -> None:
    job_id, _ = submit(database, items=1)
    with database.transaction() as session:
        session.execute(update(Job).where(Job.id == job_id).values(kind="training"))
    assert demand(database) == THREADS
