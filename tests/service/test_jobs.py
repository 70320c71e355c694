"""The contract of the job record, on SQLite and on Postgres."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Concatenate, ParamSpec, TypeVar

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service import jobs, leases, queries, submissions
from service.db import Database, now
from service.errors import Conflict, IdempotencyKeyReused, NotFound
from service.kinds.planning import ItemPlan, Plan
from service.leases import Directive, Lease, Work
from service.models import Item, Job, Shard
from service.queries import Filter
from service.states import JobState, ShardState
from service.storage import Stored
from service.studies import StudyParameters
from tests.service import inserting

P = ParamSpec("P")
T = TypeVar("T")
PARAMETERS = StudyParameters(
    kind="inversion", model="m", model_digest="d", judge=None, judge_digest=None, preset="cifar", eps=1, step_size=0.1,
    steps=10, loss="distance", best=False, identity_relu=True, resize="refuse", seed=0,
)  # fmt: skip
TARGET = {"source": "dataset", "dataset": "s", "index": 0, "label": "cat"}
SUMMARY = ItemPlan({"source": "summary"}, {"source": "summary"})
PROGRESS = {"image_steps": 4, "rate": 2.0, "curve": [[1, 0.5]]}


def do(db: Database, call: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Make a call in a transaction of its own."""
    with db.transaction() as session:
        return call(session, *args, **kwargs)


def plan(items: int, last: ItemPlan | None = None) -> Plan:
    return Plan(PARAMETERS, [ItemPlan(TARGET, {"source": "noise"}) for _ in range(items)], [], last=last)


def submit(db: Database, items: int = 2, shard_items: int = 2, key: str | None = None) -> tuple[str, list[str]]:
    return do(db, inserting.submit, plan(items), "digest", key, shard_items)


def submit_with_summary(db: Database, items: int = 2) -> tuple[str, list[str], str]:
    """A job of a shard an item and a last one, which waits for them: its id, theirs, and that of the last."""
    job_id, shards = do(db, inserting.submit, plan(items, SUMMARY), "digest", None, 1)
    return job_id, shards, f"{job_id}.{items}"


def claim(db: Database, shard_id: str, lease_seconds: float = 60) -> Work | None:
    return do(db, leases.claim, shard_id, "worker", lease_seconds)


def claimed(db: Database, shard_id: str, lease_seconds: float = 60) -> Work:
    work = claim(db, shard_id, lease_seconds)
    assert work is not None
    return work


def save(db: Database, lease: Lease, index: int) -> bool:
    stored = Stored(f"k/{lease.epoch}/{index}", 3, "0" * 64)
    artifacts = {"a.png": (stored, "image/png")}
    return do(db, leases.save_item, lease, index, {"ssim": 1.0}, {"epoch": lease.epoch}, artifacts)


def finish(db: Database, lease: Lease) -> ShardState:
    return do(db, leases.finish, lease)


def heartbeat(db: Database, lease: Lease, seconds: float = 60) -> Directive:
    return do(db, leases.heartbeat, lease, seconds, PROGRESS)


def fail_item(db: Database, lease: Lease, index: int) -> None:
    do(db, leases.fail_item, lease, index, "Title", "detail")


def fail_attempt(
    db: Database, lease: Lease, max_attempts: int = 3, pause: float = 0, counts: bool = True
) -> ShardState:
    return do(db, leases.fail_attempt, lease, "Title", "detail", max_attempts, pause, counts)


def cancel(db: Database, job_id: str) -> None:
    do(db, jobs.cancel, job_id)


def state_of(db: Database, job_id: str) -> str:
    with db.reading() as session:
        return session.get_one(Job, job_id).state


def shard_of(db: Database, shard_id: str) -> Shard:
    with db.reading() as session:
        return session.get_one(Shard, shard_id)


def item_states(db: Database, job_id: str) -> list[str]:
    with db.reading() as session:
        return list(session.scalars(select(Item.state).where(Item.job_id == job_id).order_by(Item.index)))


def expire(db: Database, shard_id: str) -> None:
    """Let a lease's time pass."""
    with db.transaction() as session:
        session.execute(update(Shard).where(Shard.id == shard_id).values(lease_expires_at=now() - 1))


def crash(db: Database, shard_id: str, max_crashes: int = 3) -> Work:
    """Claim a shard, and let the worker die; answers what it had."""
    work = claimed(db, shard_id)
    expire(db, shard_id)
    assert do(db, leases.expire_lease, shard_id, max_crashes)
    return work


def together(*calls: Callable[[], object]) -> list[BaseException]:
    """Make the calls at the same time; answers what they raised."""
    barrier = threading.Barrier(len(calls))

    def wait_and(call: Callable[[], object]) -> None:
        barrier.wait()
        call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [error for f in [pool.submit(wait_and, call) for call in calls] if (error := f.exception())]


def test_a_job_goes_from_queued_to_succeeded(database: Database) -> None:
    job_id, [shard] = submit(database)
    assert state_of(database, job_id) == JobState.QUEUED
    work = claimed(database, shard)
    assert [item.index for item in work.items] == [0, 1]
    assert state_of(database, job_id) == JobState.RUNNING
    save(database, work.lease, 0)
    save(database, work.lease, 1)
    assert finish(database, work.lease) is ShardState.DONE
    with database.reading() as session:
        job = queries.job(session, job_id)
    assert [t.state for t in job.transitions] == ["validating", "queued", "running", "finalizing", "succeeded"]
    assert [t.at for t in job.transitions] == sorted(t.at for t in job.transitions)
    assert job.items.succeeded == job.items.total == 2
    assert job.progress.fraction == 1
    assert job.finished_at is not None


def test_a_job_is_planned_into_shards_that_cover_it(database: Database) -> None:
    _, shards = submit(database, items=5, shard_items=2)
    assert [[item.index for item in claimed(database, s).items] for s in shards] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(("failed", "state"), [(1, "partially_succeeded"), (2, "failed")])
def test_a_job_with_failed_items_says_so(database: Database, failed: int, state: str) -> None:
    job_id, [shard] = submit(database)
    lease = claimed(database, shard).lease
    for index in range(2):
        fail_item(database, lease, index) if index < failed else save(database, lease, index)
    finish(database, lease)
    assert state_of(database, job_id) == state


def test_cancelling_a_queued_job_ends_it_at_once(database: Database) -> None:
    job_id, [shard] = submit(database)
    cancel(database, job_id)
    assert state_of(database, job_id) == JobState.CANCELLED
    assert item_states(database, job_id) == ["cancelled", "cancelled"]
    assert claim(database, shard) is None


def test_cancelling_a_running_job_waits_for_its_worker_and_keeps_what_finished(database: Database) -> None:
    job_id, [first, second] = submit(database, items=4)
    lease = claimed(database, first).lease
    save(database, lease, 0)
    cancel(database, job_id)
    assert state_of(database, job_id) == JobState.CANCELLING
    assert claim(database, second) is None
    assert heartbeat(database, lease) is Directive.STOP
    assert finish(database, lease) is ShardState.CANCELLED
    assert state_of(database, job_id) == JobState.CANCELLED
    assert item_states(database, job_id) == ["succeeded", "cancelled", "cancelled", "cancelled"]
    cancel(database, job_id)  # again: nothing more to do, and no error


def test_a_finished_job_cannot_be_cancelled(database: Database) -> None:
    job_id, [shard] = submit(database, items=1)
    lease = claimed(database, shard).lease
    save(database, lease, 0)
    finish(database, lease)
    with pytest.raises(Conflict, match="succeeded"):
        cancel(database, job_id)


def test_cancelling_an_unknown_job_is_not_found(database: Database) -> None:
    with pytest.raises(NotFound):
        cancel(database, "job_none")


def test_shards_that_finish_together_end_the_job_exactly_once(database: Database) -> None:
    def end(lease: Lease) -> None:
        save(database, lease, int(lease.shard_id.rsplit(".", 1)[1]))
        finish(database, lease)

    for _ in range(5):
        job_id, shards = submit(database, items=6, shard_items=1)
        held = [claimed(database, shard).lease for shard in shards]
        assert together(*(lambda lease=lease: end(lease) for lease in held)) == []
        assert state_of(database, job_id) == JobState.SUCCEEDED
        with database.reading() as session:
            assert [t.state for t in queries.job(session, job_id).transitions].count("succeeded") == 1


def test_claims_saves_and_cancels_of_one_job_do_not_deadlock(database: Database) -> None:
    job_id, shards = submit(database, items=12, shard_items=1)

    def work(shard: str) -> None:
        if (held := claim(database, shard)) is not None:
            save(database, held.lease, held.items[0].index)
            finish(database, held.lease)

    with ThreadPoolExecutor(13) as pool:
        futures = [pool.submit(work, shard) for shard in shards] + [pool.submit(cancel, database, job_id)]
        outcomes = [f.exception() for f in futures]
    assert [e for e in outcomes if e is not None and not isinstance(e, Conflict)] == []
    assert state_of(database, job_id) in (JobState.CANCELLED, JobState.SUCCEEDED)
    assert set(item_states(database, job_id)) <= {"succeeded", "cancelled"}


def test_an_idempotency_key_finds_its_job_and_refuses_another_request(database: Database) -> None:
    job_id, _ = submit(database, key="k")
    with database.transaction() as session:
        made = submissions.by_keys(session, ["k", "other"])
    assert made.keys() == {"k"}
    assert made["k"].made_by("digest") == job_id
    with pytest.raises(IdempotencyKeyReused):
        made["k"].made_by("another digest")
    with pytest.raises(IntegrityError):
        submit(database, key="k")


def test_the_database_itself_refuses_an_unknown_state(database: Database) -> None:
    submit(database)
    with pytest.raises(IntegrityError), database.transaction() as session:
        session.execute(update(Job).values(state="lost"))


def test_the_clock_is_the_databases_and_counts_seconds(database: Database) -> None:
    with database.reading() as session:
        first = session.scalar(select(now()))
        time.sleep(0.2)
        second = session.scalar(select(now()))
    assert first is not None
    assert second is not None
    assert 0.1 < second - first < 60
    assert abs(first - time.time()) < 5


def test_jobs_are_listed_newest_first_page_by_page(database: Database) -> None:
    ids: list[str] = []
    for _ in range(5):
        ids.append(submit(database)[0])
        time.sleep(0.002)  # SQLite's clock counts milliseconds
    cancel(database, ids[2])
    seen: list[str] = []
    cursor = None
    while True:
        with database.reading() as session:
            page = queries.jobs(session, Filter(), 2, cursor)
        seen += [job.id for job in page.jobs]
        if (cursor := page.next_cursor) is None:
            break
    assert seen == ids[::-1]
    with database.reading() as session:
        assert [job.id for job in queries.jobs(session, Filter([JobState.CANCELLED]), 10).jobs] == [ids[2]]
