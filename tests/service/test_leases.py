"""The contract of leases, on SQLite and on Postgres: claims, fences, attempts, crashes, checkpoints."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select, update

from service import jobs, leases, queries
from service.db import Database, now
from service.keys import checkpoint_key
from service.leases import Directive, Lease, LeaseLost
from service.models import Artifact, Item, Shard
from service.states import JobState, ShardState
from service.storage import Stored
from tests.service.test_jobs import (
    cancel,
    claim,
    claimed,
    crash,
    do,
    expire,
    fail_attempt,
    fail_item,
    finish,
    heartbeat,
    item_states,
    save,
    shard_of,
    state_of,
    submit,
)  # fmt: skip


def checkpoint(db: Database, lease: Lease, m: int) -> str | None:
    """Point to a checkpoint of the shard; answers the key that may be deleted."""
    return do(db, leases.save_checkpoint, lease, Stored(_key(lease, m), 3, "0" * 64))


def _key(lease: Lease, m: int) -> str:
    job, n = lease.shard_id.rsplit(".", 1)
    return f"jobs/{job}/shards/{n}/{lease.epoch}/checkpoint-{m}.safetensors"


def of_item(db: Database, job_id: str, index: int) -> Item:
    with db.reading() as session:
        return session.get_one(Item, (job_id, index))


def counters(db: Database, shard_id: str) -> tuple[int, int]:
    row = shard_of(db, shard_id)
    return row.attempts, row.crashes


def pause_left(db: Database, shard_id: str) -> float | None:
    """Seconds until the shard may be claimed."""
    with db.reading() as session:
        return session.scalar(select(Shard.not_before - now()).where(Shard.id == shard_id))


def no_pause(db: Database, shard_id: str) -> None:
    with db.transaction() as session:
        session.execute(update(Shard).where(Shard.id == shard_id).values(not_before=now() - 0.001))


def test_one_of_many_claims_wins(database: Database) -> None:
    _, [shard] = submit(database)
    with ThreadPoolExecutor(8) as pool:
        won = [work for work in pool.map(lambda _: claim(database, shard), range(16)) if work]
    assert len(won) == 1


def test_a_leases_time_is_that_of_its_last_heartbeat(database: Database) -> None:
    _, [shard] = submit(database)
    work = claimed(database, shard, lease_seconds=60)
    assert not do(database, leases.expire_lease, shard, 3)
    assert heartbeat(database, work.lease, 0.1) is Directive.CONTINUE
    time.sleep(0.2)
    assert claim(database, shard) is None, "an expired lease is released first"
    assert do(database, leases.expire_lease, shard, 3)
    assert not do(database, leases.expire_lease, shard, 3)
    assert claim(database, shard) is not None


def test_a_worker_whose_lease_expired_can_write_nothing(database: Database) -> None:
    job_id, [shard] = submit(database)
    old = crash(database, shard)
    writes: list[Callable[[], object]] = [
        lambda: save(database, old.lease, 0),
        lambda: finish(database, old.lease),
        lambda: heartbeat(database, old.lease),
        lambda: fail_item(database, old.lease, 0),
        lambda: fail_attempt(database, old.lease),
        lambda: checkpoint(database, old.lease, 1),
        lambda: do(database, leases.save_item_checkpoint, old.lease, 0, Stored("k", 3, "0"), 1),
        lambda: do(database, leases.record_epoch, old.lease, 1, {}),
        lambda: do(database, leases.give_up, old.lease, "Title", "detail"),
        lambda: do(database, leases.crashed, old.lease, 3),
        lambda: do(database, leases.held, old.lease),
    ]
    for state in ("queued", "running"):
        if state == "running":
            new = claimed(database, shard)
        for write in writes:
            with pytest.raises(LeaseLost):
                write()
        assert item_states(database, job_id) == [state, state]
        assert counters(database, shard) == (0, 1)
    assert (new.lease.epoch, new.crashes) == (old.lease.epoch + 1, 1)
    with database.reading() as session:
        assert session.scalars(select(Artifact)).all() == []


def test_a_heartbeat_is_the_progress_that_clients_see(database: Database) -> None:
    job_id, [shard] = submit(database, items=2)
    heartbeat(database, claimed(database, shard).lease)
    with database.reading() as session:
        progress = queries.job(session, job_id).progress
    assert (progress.steps_done, progress.steps_total, progress.eta_seconds) == (4, 20, 8)
    assert progress.curve == [(1, 0.5)]


def test_an_item_ends_once_and_its_lease_may_say_so_again(database: Database) -> None:
    job_id, [shard] = submit(database)
    lease = claimed(database, shard).lease
    assert save(database, lease, 0)
    assert not save(database, lease, 0), "as after a commit whose answer was lost"
    with pytest.raises(LeaseLost):
        fail_item(database, lease, 0)
    fail_item(database, lease, 1)
    fail_item(database, lease, 1)
    with pytest.raises(LeaseLost):
        save(database, lease, 1)
    assert item_states(database, job_id) == ["succeeded", "failed"]
    with database.reading() as session:
        assert [artifact.item_index for artifact in session.scalars(select(Artifact))] == [0]


def test_what_another_lease_saved_is_not_saved_again(database: Database) -> None:
    job_id, [shard] = submit(database)
    save(database, claimed(database, shard).lease, 0)
    expire(database, shard)
    do(database, leases.expire_lease, shard, 3)
    work = claimed(database, shard)
    assert [item.index for item in work.items] == [1]
    with pytest.raises(LeaseLost):
        save(database, work.lease, 0)
    assert of_item(database, job_id, 0).epoch == work.lease.epoch - 1


def test_a_worker_cannot_end_an_item_of_another_shard(database: Database) -> None:
    _, shards = submit(database, items=2, shard_items=1)
    lease = claimed(database, shards[0]).lease
    with pytest.raises(LeaseLost):
        save(database, lease, 1)


@pytest.mark.parametrize("write", ["fail_item", "save", "give_up"])
def test_an_item_that_was_reopened_is_not_ended_before_it_is_claimed_again(database: Database, write: str) -> None:
    job_id, [shard] = submit(database)
    lease = claimed(database, shard).lease
    fail_item(database, lease, 0)
    do(database, jobs.retry, job_id)
    if write == "give_up":
        do(database, leases.give_up, lease, "Title", "detail")
    else:  # the worker never heard of the first commit, or is very late
        {"fail_item": fail_item, "save": save}[write](database, lease, 0)
    assert item_states(database, job_id)[0] == "queued"
    if write != "give_up":
        save(database, lease, 1)
        assert finish(database, lease) is ShardState.QUEUED
    assert [item.index for item in claimed(database, shard).items] == [0]


def test_a_released_shard_is_queued_again_without_an_attempt(database: Database) -> None:
    _, [shard] = submit(database)
    assert finish(database, claimed(database, shard).lease) is ShardState.QUEUED
    assert counters(database, shard) == (0, 0)
    assert do(database, jobs.to_send, shard.rsplit(".", 1)[0]) == [shard]


def test_the_third_failed_attempt_fails_what_is_left(database: Database) -> None:
    job_id, [shard] = submit(database)
    for _ in range(2):
        assert fail_attempt(database, claimed(database, shard).lease) is ShardState.QUEUED
    last = claimed(database, shard).lease
    heartbeat(database, last)  # no progress that counts
    assert fail_attempt(database, last) is ShardState.DONE
    assert item_states(database, job_id) == ["failed", "failed"]
    assert of_item(database, job_id, 0).error == {"title": "Title", "detail": "detail"}
    assert state_of(database, job_id) == JobState.FAILED


def test_attempts_and_crashes_that_got_on_are_counted_anew(database: Database) -> None:
    for progress in (lambda lease: save(database, lease, 0), lambda lease: checkpoint(database, lease, 1)):
        _, [shard] = submit(database)
        fail_attempt(database, claimed(database, shard).lease)
        crash(database, shard)
        assert counters(database, shard) == (1, 1)
        lease = claimed(database, shard).lease
        fail_item(database, lease, 1)
        assert counters(database, shard) == (1, 1), "a failed item is no progress"
        progress(lease)
        assert counters(database, shard) == (0, 0)


def test_pauses_double_with_the_attempts_up_to_a_bound(database: Database) -> None:
    _, [shard] = submit(database)
    for expected in (10, 20, 40, 80, 160, 300, 300):
        fail_attempt(database, claimed(database, shard).lease, max_attempts=99, pause=10)
        left = pause_left(database, shard)
        assert left is not None
        assert expected - 5 < left <= expected
        assert claim(database, shard) is None
        assert do(database, jobs.to_send, shard.rsplit(".", 1)[0]) == []
        no_pause(database, shard)
    assert claimed(database, shard).lease.epoch == 8
    assert shard_of(database, shard).not_before is None


def test_thousands_of_attempts_are_no_error(database: Database) -> None:
    _, [shard] = submit(database)
    with database.transaction() as session:
        session.execute(update(Shard).values(attempts=5000))
    assert fail_attempt(database, claimed(database, shard).lease, 10_000, pause=1) is ShardState.QUEUED


def test_an_attempt_that_does_not_count_pauses_and_is_never_the_last(database: Database) -> None:
    _, [shard] = submit(database)
    fail_attempt(database, claimed(database, shard).lease)
    for _ in range(4):
        lease = claimed(database, shard).lease
        assert fail_attempt(database, lease, max_attempts=2, pause=10, counts=False) is ShardState.QUEUED
        assert claim(database, shard) is None
        no_pause(database, shard)
    assert counters(database, shard) == (1, 0)


def test_an_item_that_kills_workers_is_found_and_its_neighbours_are_not_blamed(database: Database) -> None:
    job_id, [shard] = submit(database, items=3, shard_items=3)
    crash(database, shard)
    assert shard_of(database, shard).state == ShardState.QUEUED
    crash(database, shard)
    alone = [shard, f"{job_id}.1", f"{job_id}.2"]
    assert sorted(do(database, jobs.to_send, job_id)) == alone
    works = [claimed(database, each) for each in alone]
    assert [([item.index for item in work.items], work.crashes) for work in works] == [([n], 2) for n in range(3)]
    expire(database, alone[1])
    do(database, leases.expire_lease, alone[1], 3)
    for n in (0, 2):
        assert save(database, works[n].lease, n)
        assert finish(database, works[n].lease) is ShardState.DONE
    assert item_states(database, job_id) == ["succeeded", "failed", "succeeded"]
    poison = of_item(database, job_id, 1)
    assert (poison.error or {})["title"] == "Quarantined"
    assert poison.epoch == works[1].lease.epoch
    assert state_of(database, job_id) == JobState.PARTIALLY_SUCCEEDED


def test_a_split_leaves_what_is_over_where_it_is(database: Database) -> None:
    job_id, [shard] = submit(database, items=3, shard_items=3)
    lease = claimed(database, shard).lease
    save(database, lease, 0)
    fail_item(database, lease, 1)
    for _ in range(2):
        expire(database, shard)
        do(database, leases.expire_lease, shard, 3)
        claim(database, shard)
    assert item_states(database, job_id) == ["succeeded", "failed", "running"]
    with database.reading() as session:
        assert set(session.scalars(select(Item.shard_id))) == {shard}


def test_a_shard_of_a_stopped_job_is_let_go_of_when_its_worker_dies(database: Database) -> None:
    job_id, [shard] = submit(database)
    crash(database, shard)
    claimed(database, shard)
    cancel(database, job_id)
    expire(database, shard)
    do(database, leases.expire_lease, shard, 3)
    assert state_of(database, job_id) == JobState.CANCELLED
    assert item_states(database, job_id) == ["cancelled", "cancelled"]


def test_the_epochs_of_an_item_only_grow_also_when_its_shard_is_split(database: Database) -> None:
    job_id, [shard] = submit(database)
    crash(database, shard)
    epoch = crash(database, shard).lease.epoch
    assert claimed(database, f"{job_id}.1").lease.epoch > epoch


def test_a_checkpoint_answers_the_one_that_it_replaced(database: Database) -> None:
    _, [shard] = submit(database)
    lease = claimed(database, shard).lease
    assert checkpoint(database, lease, 1) is None
    assert checkpoint(database, lease, 2) == _key(lease, 1)
    assert checkpoint(database, lease, 2) is None, "as after a commit whose answer was lost"
    finish(database, lease)
    assert claimed(database, shard).checkpoint == {"key": _key(lease, 2), "size": 3, "sha256": "0" * 64}


def test_a_checkpoint_that_other_shards_go_on_from_is_kept(database: Database) -> None:
    _, shards = submit(database, items=9, shard_items=3)
    for shard in shards:
        shared = claimed(database, shard).lease
        checkpoint(database, shared, 1)
        for _ in range(2):
            expire(database, shard)
            do(database, leases.expire_lease, shard, 3)
            claim(database, shard)
    with database.reading() as session:
        split = session.scalars(select(Shard.id).where(Shard.crashes == 2, Shard.state == ShardState.QUEUED)).all()
    assert len(split) == 6
    for shard in split:
        for _ in range(5):  # whatever numbers its epochs share with other shards
            work = claimed(database, shard)
            assert checkpoint(database, work.lease, 1) is None
            finish(database, work.lease)


def test_an_items_checkpoint_answers_any_that_it_replaced(database: Database) -> None:
    job_id, [shard] = submit(database)
    keys = []
    for step in (1, 2):
        lease = claimed(database, shard).lease
        keys.append(checkpoint_key(job_id, 0, lease.epoch, step))
        answer = do(database, leases.save_item_checkpoint, lease, 0, Stored(keys[-1], 3, "0"), step)
        assert answer == (keys[0] if step == 2 else None)
        finish(database, lease)
    assert of_item(database, job_id, 0).checkpoint == {"key": keys[1], "size": 3, "sha256": "0", "step": 2}
