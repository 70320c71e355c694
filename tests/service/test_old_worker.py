"""A worker of the version before this one, at revision 0004, goes on beside the new API, workers and reconciler."""

import pytest
from sqlalchemy import inspect, update

from service import changes, deletion, jobs, leases, queries
from service.db import Database, now
from service.leases import LeaseLost
from service.models import Base, Job
from service.states import JobState
from tests.service.old_worker import (
    old_claim,
    old_claimed,
    old_end,
    old_finish,
    old_heartbeat,
    old_keep,
    old_tables,
)  # fmt: skip
from tests.service.test_jobs import (
    cancel,
    claim,
    claimed,
    do,
    expire,
    fail_item,
    finish,
    item_states,
    save,
    shard_of,
    state_of,
    submit,
    submit_with_summary,
)  # fmt: skip


def test_everything_that_is_new_may_be_left_out_by_who_does_not_know_it(database: Database) -> None:
    found = inspect(database.engine)
    for name, old in old_tables().items():
        columns = {column["name"]: column for column in found.get_columns(name)}
        assert set(old.columns.keys()) <= set(columns)
        added = [column for key, column in columns.items() if key not in old.columns]
        assert [c["name"] for c in added if not c["nullable"] and c["default"] is None] == []
        kept = {c.name: c.type.python_type for c in old.columns}
        assert {n: columns[n]["type"].python_type for n in kept} == kept
    assert set(old_tables()) <= set(Base.metadata.tables)


def test_an_old_worker_claims_reports_saves_and_finishes(database: Database) -> None:
    job_id, [shard] = submit(database)
    hold = old_claimed(database, shard)
    assert do(database, old_heartbeat, hold) == "continue"
    do(database, old_end, hold, 0, "succeeded", metrics={"ssim": 1.0}, provenance={})
    do(database, old_end, hold, 1, "failed", error={"title": "Title", "detail": "detail"})
    assert do(database, old_finish, hold) == "done"
    assert state_of(database, job_id) == JobState.PARTIALLY_SUCCEEDED
    assert do(database, jobs.retry, job_id) == 1
    hold = old_claimed(database, shard)
    do(database, old_end, hold, 1, "succeeded", metrics={}, provenance={})
    do(database, old_finish, hold)
    assert state_of(database, job_id) == JobState.SUCCEEDED


@pytest.mark.parametrize("old_last", [False, True])
def test_a_job_of_old_and_new_workers_ends_right(database: Database, old_last: bool) -> None:
    job_id, [first, second] = submit(database, items=4)
    hold, lease = old_claimed(database, first), claimed(database, second).lease
    assert claim(database, first) is None
    assert do(database, old_claim, second) is None

    def old() -> None:
        for index in (0, 1):
            do(database, old_end, hold, index, "succeeded", metrics={}, provenance={})
        do(database, old_finish, hold)

    if not old_last:
        old()
    for index in (2, 3):
        save(database, lease, index)
    finish(database, lease)
    if old_last:
        old()
    assert (state_of(database, job_id), item_states(database, job_id)) == ("succeeded", ["succeeded"] * 4)


def test_old_and_new_workers_fence_each_other_out(database: Database) -> None:
    _, [shard] = submit(database)
    hold = old_claimed(database, shard)
    expire(database, shard)
    do(database, leases.expire_lease, shard, 3)
    lease = claimed(database, shard).lease
    with pytest.raises(LeaseLost):
        do(database, old_end, hold, 0, "succeeded", metrics={}, provenance={})
    expire(database, shard)
    do(database, leases.expire_lease, shard, 9)
    again = old_claimed(database, shard)
    with pytest.raises(LeaseLost):
        save(database, lease, 0)
    assert again[2] == lease.epoch + 1


def test_an_old_worker_goes_on_with_what_a_new_one_let_go_of(database: Database) -> None:
    job_id, [shard] = submit(database)
    lease = claimed(database, shard).lease
    fail_item(database, lease, 0)
    do(database, leases.fail_attempt, lease, "Title", "detail", 5, 60.0)
    assert do(database, old_claim, shard) is None
    with database.transaction() as session:
        session.execute(update(old_tables()["shards"]).values(not_before=now() - 1))
    hold = old_claimed(database, shard)
    assert do(database, old_heartbeat, hold) == "continue"
    do(database, old_end, hold, 1, "succeeded", metrics={}, provenance={})
    do(database, old_finish, hold)
    assert state_of(database, job_id) == JobState.PARTIALLY_SUCCEEDED


@pytest.mark.parametrize("resumed_first", [False, True])
def test_an_old_worker_that_meets_a_paused_job_loses_nothing(database: Database, resumed_first: bool) -> None:
    job_id, [first, second] = submit(database, items=4)
    hold = old_claimed(database, first)
    do(database, old_end, hold, 0, "succeeded", metrics={}, provenance={})
    do(database, jobs.pause, job_id)
    assert do(database, old_claim, second) is None
    assert do(database, old_heartbeat, hold) == "release"
    do(database, old_keep, hold)
    if resumed_first:
        do(database, jobs.resume, job_id)
    do(database, old_finish, hold)
    do(database, jobs.settle, job_id)  # as the reconciler does for a job that nobody seems to work on
    do(database, jobs.resume, job_id)
    while state_of(database, job_id) not in ("succeeded", "failed", "partially_succeeded"):
        queued = [shard for shard in (first, second) if shard_of(database, shard).state == "queued"]
        assert queued, "nothing is left to do, and the job is not over"
        work = claimed(database, queued[0])
        for item in work.items:
            save(database, work.lease, item.index)
        finish(database, work.lease)
    assert (state_of(database, job_id), item_states(database, job_id)) == ("succeeded", ["succeeded"] * 4)


def test_an_old_worker_stops_for_a_cancel_and_for_a_deadline(database: Database) -> None:
    for late in (False, True):
        job_id, [shard] = submit(database)
        hold = old_claimed(database, shard)
        if late:
            with database.transaction() as session:
                session.execute(update(Job).where(Job.id == job_id).values(deadline=now() - 1))
            do(database, jobs.expire, job_id)
        else:
            cancel(database, job_id)
        assert do(database, old_heartbeat, hold) == "stop"
        assert do(database, old_finish, hold) == "cancelled"
        assert state_of(database, job_id) == (JobState.EXPIRED if late else JobState.CANCELLED)
        assert item_states(database, job_id) == ["cancelled", "cancelled"]
        with database.reading() as session:
            assert session.get_one(Job, job_id).error == (jobs.DEADLINE if late else None)


def test_a_job_that_an_old_worker_ended_is_counted_all_the_same(database: Database) -> None:
    job_id, [shard] = submit(database)
    lease = claimed(database, shard).lease
    fail_item(database, lease, 0)
    save(database, lease, 1)
    finish(database, lease)  # which keeps the counts, 1 of each
    do(database, jobs.retry, job_id)
    hold = old_claimed(database, shard)
    do(database, old_end, hold, 0, "succeeded", metrics={}, provenance={})
    do(database, old_finish, hold)
    with database.reading() as session:
        job = queries.job(session, job_id)
    assert (job.state, job.items.succeeded, job.items.failed) == ("succeeded", 2, 0)


def test_a_table_or_summary_that_an_old_worker_released_is_made_by_a_new_one(database: Database) -> None:
    job_id, shards, last = submit_with_summary(database)
    for index, shard in enumerate(shards):
        hold = old_claimed(database, shard)
        do(database, old_end, hold, index, "succeeded", metrics={}, provenance={})
        do(database, old_finish, hold)
    assert do(database, jobs.to_send, job_id) == [last]
    lease = claimed(database, last).lease
    save(database, lease, 2)
    finish(database, lease)
    assert state_of(database, job_id) == JobState.SUCCEEDED


def test_an_old_worker_lets_go_of_a_job_that_is_deleted(database: Database) -> None:
    job_id, [first, second] = submit(database, items=4)
    hold = old_claimed(database, first)
    do(database, deletion.remove, job_id, True)
    assert do(database, old_claim, second) is None
    assert do(database, old_heartbeat, hold) == "stop"
    assert do(database, old_finish, hold) == "cancelled"
    assert state_of(database, job_id) == JobState.CANCELLED, "and so it can be removed"


def test_what_is_changed_while_an_old_worker_computes_stays_changed(database: Database) -> None:
    job_id, [shard] = submit(database)
    hold = old_claimed(database, shard)
    do(database, changes.apply, job_id, changes.Patch(priority="high", labels={"a": "1"}, description="d"))
    for index in (0, 1):
        do(database, old_end, hold, index, "succeeded", metrics={}, provenance={})
    do(database, old_finish, hold)
    with database.reading() as session:
        job = queries.job(session, job_id)
    assert (job.state, job.priority, job.labels, job.description) == ("succeeded", "high", {"a": "1"}, "d")
