"""What concerns very many items is done in several transactions, each short enough."""

from pathlib import Path

import pytest

from service import jobs, leases
from service.broker import Broker, celery_app
from service.db import Database
from service.reconciler import Reconciler
from service.settings import Settings
from tests.fixtures import inversion, workerless
from tests.service.test_api import post
from tests.service.test_jobs import cancel, claimed, do, fail_item, finish, item_states, state_of, submit


@pytest.fixture
def reconciler(database: Database, settings: Settings) -> Reconciler:
    return Reconciler(database, Broker(celery_app(settings)), settings)


@pytest.mark.parametrize("items", [6, 7])
def test_a_cancel_ends_the_items_some_at_a_time(
    database: Database, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch, items: int
) -> None:
    monkeypatch.setattr(jobs, "MANY", 3)
    job_id, shards = submit(database, items, 2)
    cancel(database, job_id)
    assert (state_of(database, job_id), item_states(database, job_id).count("cancelled")) == ("cancelling", 3)
    with database.transaction() as session:
        assert leases.claim(session, shards[-1], "worker", 60) is None
    reconciler.reconcile()
    assert (state_of(database, job_id), set(item_states(database, job_id))) == ("cancelled", {"cancelled"})


def test_a_retry_reopens_items_some_at_a_time(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MANY", 2)
    job_id, shards = submit(database, 5, 5)
    lease = claimed(database, shards[0]).lease
    for index in range(5):
        fail_item(database, lease, index)
    finish(database, lease)
    assert [do(database, jobs.retry, job_id) for _ in range(3)] == [2, 2, 1]
    assert set(item_states(database, job_id)) == {"queued"}


def test_a_client_asks_once_for_all_of_them(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "MANY", 3)
    with workerless(settings) as api:
        job = post(api, inversion()).json()
        database = Database(f"sqlite:///{tmp_path / 'data' / 'robustreps.db'}")
        lease = claimed(database, f"{job['id']}.0").lease
        for index in range(3):
            fail_item(database, lease, index)
        finish(database, lease)
        database.close()
        retried = api.post(f"/v1/jobs/{job['id']}/retry")
        assert (retried.status_code, retried.json()["items"]["queued"]) == (202, 3)
