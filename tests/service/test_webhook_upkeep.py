"""What becomes of deliveries: of many in chunks, and no job waits for that; of those that tell of a deleted job."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event, select, update

from service import deletion, jobs
from service.bulk_models import Delivery, Webhook
from service.db import Database, now
from service.models import Job
from service.storage import LocalStorage
from service.webhooks import registry, sender
from tests.fixtures import inversion
from tests.service.test_api import assert_problem, post
from tests.service.test_jobs import do, submit
from tests.service.test_webhook_sender import hook, queued, sending
from tests.service.test_webhooks import made, types


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Database]:
    """Where rows are locked one by one."""
    database = Database(postgres_url)
    yield database
    database.close()


def left(db: Database) -> list[Delivery]:
    with db.reading() as session:
        return list(session.scalars(select(Delivery)))


def within(seconds: float, db: Database, done: Callable[[list[Delivery]], bool]) -> bool:
    """Whether what is left becomes so."""
    end = time.monotonic() + seconds
    while not (so := done(left(db))) and time.monotonic() < end:
        time.sleep(0.05)
    return so


def test_old_deliveries_are_removed_until_none_is_left(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "CHUNK", 2)
    monkeypatch.setattr(sender, "TICK", 0.05)
    webhook = hook(database)
    for _ in range(5):
        queued(database, webhook)
    with database.transaction() as session:
        session.execute(update(Delivery).values(created_at=now() - sender.KEPT - 1, delivered_at=1.0))
    with sending(database):
        assert within(60, database, lambda rows: rows == [])


def test_a_webhook_is_removed_a_chunk_of_deliveries_at_a_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "CHUNK", 2)
    webhook = hook(database)
    for _ in range(5):
        queued(database, webhook)
    changed: list[int] = []

    def note(_: Any, cursor: Any, statement: str, *__: Any) -> None:
        if "deliveries" in statement and statement.startswith(("UPDATE", "DELETE")):
            changed.append(cursor.rowcount)

    event.listen(database.engine, "after_cursor_execute", note)
    registry.remove(database, webhook.id)
    assert left(database) == []
    assert max(changed) <= 2


def test_what_waits_for_a_disabled_webhook_is_given_up_a_chunk_at_a_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "CHUNK", 2)
    monkeypatch.setattr(sender, "TICK", 0.05)
    webhook = hook(database)
    for _ in range(5):
        queued(database, webhook)
    do(database, registry.disable, webhook.id, "so")
    assert sum(row.failed_at is not None for row in left(database)) == 2
    with sending(database):
        assert within(60, database, lambda rows: all(row.failed_at for row in rows))


def test_no_job_waits_for_a_webhook_that_is_being_removed(postgres: Database) -> None:
    webhook = hook(postgres)
    job_id, _ = submit(postgres)
    with postgres.transaction() as session:
        session.execute(select(Delivery.id).with_for_update())  # as whoever sends it
        removing = threading.Thread(target=registry.remove, args=(postgres, webhook.id))
        removing.start()
        time.sleep(0.5)
        do(postgres, jobs.pause, job_id)  # if it waited for the lock, the database would refuse it
    removing.join(60)
    assert left(postgres) == []


def test_no_job_waits_for_a_webhook_that_is_not_told_of_it(postgres: Database) -> None:
    other, told = hook(postgres, events=["job.failed"]), hook(postgres)
    with postgres.transaction() as session:
        session.execute(select(Webhook.id).where(Webhook.id == other.id).with_for_update())
        submit(postgres)  # if it waited for the lock, the database would refuse it
    assert types(postgres, told.id) == ["job.queued"]


def test_what_was_told_of_a_deleted_job_is_gone_for_whoever_asks(api: TestClient) -> None:
    url = f"/v1/webhooks/{made(api)['id']}"
    test = api.post(f"{url}/test").json()
    kept, gone = (post(api, inversion(description="secret")).json() for _ in range(2))
    assert {told["body"]["data"].get("dataset") for told in api.get(f"{url}/deliveries").json()["deliveries"]} == {
        "cifar10-sample", None
    }  # fmt: skip
    [first, *_] = [t for t in api.get(f"{url}/deliveries").json()["deliveries"] if t["job"] == gone["id"]]
    assert api.delete(gone["links"]["self"], params={"cancel": True}).status_code == 204
    listed = api.get(f"{url}/deliveries").json()["deliveries"]
    assert [told["job"] for told in listed] == [kept["id"], test["job"]]
    assert_problem(api.post(f"/v1/deliveries/{first['id']}/retry"), 404)


def test_what_was_told_of_a_job_goes_with_its_rows_once_it_is_sent(database: Database, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    hook(database)
    (kept, _), (gone, _) = submit(database), submit(database)
    for job_id in (kept, gone):
        do(database, jobs.cancel, job_id)
    do(database, deletion.remove, gone)
    with database.transaction() as session:
        sent = Delivery.event == "job.queued"
        session.execute(update(Delivery).where(sent).values(delivered_at=1.0))
    deletion.sweep(database, storage)
    events = ["job.cancelled", "job.cancelling", "job.queued"]
    assert sorted((row.job_id, row.event) for row in left(database)) == sorted(
        [(kept, e) for e in events] + [(gone, e) for e in events[:2]]
    )
    with database.transaction() as session:
        session.execute(update(Delivery).values(delivered_at=1.0))
        session.execute(update(Job).values(purged_at=Job.purged_at - deletion.LATE - 1))
    deletion.sweep(database, storage)
    assert {row.job_id for row in left(database)} == {kept}
