"""What goes on inside a job: causes of failures, and who computes what."""

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from service import failures, leases, shard_lists
from service.db import Database
from service.errors import NotFound
from service.failures import Failure, FailureList
from service.models import Item
from service.shard_lists import ShardList
from service.states import ShardState
from tests.service.test_jobs import claimed, crash, do, fail_item, finish, heartbeat, save, submit, submit_with_summary


def causes(db: Database, job_id: str) -> list[Failure]:
    return do(db, failures.find, job_id).failures


def listed(db: Database, job_id: str, *states: ShardState, limit: int = 100, cursor: str | None = None) -> ShardList:
    return do(db, shard_lists.find, job_id, states, limit, cursor)


def test_failures_are_grouped_by_title_the_most_frequent_first(database: Database) -> None:
    job_id, [shard] = submit(database, 20, 20)
    lease = claimed(database, shard).lease
    save(database, lease, 0)
    for index in range(1, 20):
        title = "Rare" if index in (3, 4) else f"Odd {index}" if index in (5, 6) else "Frequent"
        do(database, leases.fail_item, lease, index, title, f"of {index}")
    found = causes(database, job_id)
    assert [(f.title, f.count, f.detail) for f in found] == [
        ("Frequent", 15, "of 1"), ("Rare", 2, "of 3"), ("Odd 5", 1, "of 5"), ("Odd 6", 1, "of 6"),
    ]  # fmt: skip
    assert (found[0].items, found[1].items) == ([1, 2, 7, 8, 9, 10, 11, 12, 13, 14], [3, 4])


def test_of_very_many_causes_the_most_frequent_are_told(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "MOST", 2)
    job_id, [shard] = submit(database, 6, 6)
    lease = claimed(database, shard).lease
    for index, title in enumerate("cbbcca"):
        do(database, leases.fail_item, lease, index, title, "")
    assert [(f.title, f.items) for f in causes(database, job_id)] == [("c", [0, 3, 4]), ("b", [1, 2])]


def test_a_cause_may_hold_what_postgres_finds_in_no_json(database: Database) -> None:
    job_id, [shard] = submit(database, 2, 2)
    lease = claimed(database, shard).lease
    do(database, leases.fail_item, lease, 0, "Ended\0", "the end of\0 a stderr")
    do(database, leases.give_up, lease, "Ended\0", "\0")
    assert causes(database, job_id) == [
        Failure(title="Ended\ufffd", detail="the end of\ufffd a stderr", count=2, items=[0, 1])
    ]


def test_a_job_without_failures_has_no_causes_and_an_unknown_one_is_not_found(database: Database) -> None:
    job_id, _ = submit(database)
    assert do(database, failures.find, job_id) == FailureList(failures=[])
    for find in (lambda: causes(database, "none"), lambda: listed(database, "none")):
        with pytest.raises(NotFound):
            find()


def test_an_error_of_any_form_has_its_place(database: Database) -> None:
    job_id, _ = submit(database)
    with database.transaction() as session:
        session.execute(update(Item).where(Item.job_id == job_id).values(state="failed", error={"detail": None}))
    assert causes(database, job_id) == [Failure(title=None, detail=None, count=2, items=[0, 1])]


def test_shards_say_who_holds_them_and_how_far_they_are(database: Database) -> None:
    job_id, shards = submit(database, 12 * 2, 2)
    lease = claimed(database, shards[10]).lease
    heartbeat(database, lease)
    found = listed(database, job_id).shards
    assert [(s.number, s.first_item, s.items) for s in found] == [(n, 2 * n, 2) for n in range(12)]
    held, free = found[10], found[11]
    assert (held.state, held.worker, held.epoch, held.steps_done, held.rate) == ("running", "worker", 1, 4, 2.0)
    assert held.heartbeat_at is not None
    assert held.lease_expires_at is not None
    assert (held.lease_expires_at - held.heartbeat_at).total_seconds() == pytest.approx(60, abs=0.1)
    assert (free.state, free.worker, free.epoch, free.heartbeat_at, free.rate) == ("queued", None, 0, None, None)
    assert [s.number for s in listed(database, job_id, ShardState.RUNNING).shards] == [10]
    finish(database, lease)
    let_go = listed(database, job_id).shards[10]
    assert (let_go.state, let_go.lease_expires_at, let_go.rate, let_go.steps_done) == ("queued", None, None, 4)


def test_shards_come_in_order_of_their_items_over_pages_and_a_split_one_is_many(database: Database) -> None:
    job_id, shards = submit(database, 6, 3)
    for _ in range(2):
        crash(database, shards[0])
    numbers, cursor = [], None
    for _ in range(2):
        found = listed(database, job_id, limit=2, cursor=cursor)
        numbers += [(s.number, s.first_item, s.crashes) for s in found.shards]
        cursor = found.next_cursor
    assert numbers == [(0, 0, 2), (2, 1, 2), (3, 2, 2), (1, 3, 0)]
    assert cursor is None


def test_what_waits_for_the_rest_and_what_pauses_say_so(database: Database) -> None:
    job_id, [shard], last = submit_with_summary(database, 1)
    lease = claimed(database, shard).lease
    do(database, leases.fail_attempt, lease, "Title", "detail", 3, 100.0)
    first, summary = listed(database, job_id).shards
    assert (first.attempts, first.not_before is not None, first.last) == (1, True, False)
    assert (summary.number, summary.state, summary.last) == (int(last.rpartition(".")[2]), "waiting", True)


def test_the_api_answers_both(api: TestClient) -> None:
    db = api.app.state.context.db  # type: ignore[attr-defined]
    job_id, [shard] = submit(db)
    fail_item(db, claimed(db, shard).lease, 1)
    links = api.get(f"/v1/jobs/{job_id}").json()["links"]
    assert api.get(links["failures"]).json() == {
        "failures": [{"title": "Title", "detail": "detail", "count": 1, "items": [1]}]
    }
    [held] = api.get(links["shards"], params={"state": "running"}).json()["shards"]
    assert (held["worker"], held["steps_done"]) == ("worker", 0)
    assert api.get(links["shards"], params={"state": ["queued", "done"]}).json()["shards"] == []
    assert api.get(links["shards"], params={"state": "over"}).status_code == 422
