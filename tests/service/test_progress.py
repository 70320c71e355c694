"""How far a job is, as its workers come and go, on SQLite and on Postgres."""

from service import leases, queries
from service.db import Database
from service.states import JobState
from tests.service.test_jobs import PROGRESS, cancel, claim, claimed, do, expire, finish, save, state_of, submit
from tests.service.test_leases import checkpoint


def test_progress_falls_only_by_what_is_lost(database: Database) -> None:
    job_id, [shard] = submit(database, items=2)

    def done() -> int:
        with database.reading() as session:
            whole, [brief] = queries.job(session, job_id), queries.jobs(session, queries.Filter(), 1, None).jobs
        assert whole.progress.steps_done == brief.progress.steps_done
        return whole.progress.steps_done

    lease = claimed(database, shard).lease
    do(database, leases.heartbeat, lease, 60, PROGRESS | {"image_steps": 16})
    save(database, lease, 0)
    assert done() == 16, "the report has the item that is over"
    checkpoint(database, lease, 1)
    finish(database, lease)
    assert done() == 16
    work = claimed(database, shard)
    assert (done(), work.progress["image_steps"], work.done) == (16, 16, 10)
    do(database, leases.heartbeat, work.lease, 60, PROGRESS | {"image_steps": 17})
    assert done() == 17
    expire(database, shard)
    do(database, leases.expire_lease, shard, 3)
    assert done() == 17
    lease = claimed(database, shard).lease
    cancel(database, job_id)
    assert done() == 17
    finish(database, lease)
    assert (state_of(database, job_id), done()) == (JobState.CANCELLED, 17)


def test_without_a_checkpoint_what_is_over_is_left_of_the_progress(database: Database) -> None:
    job_id, [shard] = submit(database, items=2)
    lease = claimed(database, shard).lease
    do(database, leases.heartbeat, lease, 60, PROGRESS | {"image_steps": 16})
    save(database, lease, 0)
    finish(database, lease)
    for _ in range(2):
        with database.reading() as session:
            assert queries.job(session, job_id).progress.steps_done == 10
        claim(database, shard)
