"""What workers, clients and reconcilers do at the same time ends, without a deadlock, as if one had come first."""

from collections.abc import Callable
from functools import partial

from sqlalchemy import func, select

from service import jobs, leases
from service.db import Database
from service.errors import Conflict
from service.leases import Lease, LeaseLost
from service.models import Artifact, Job, Shard
from service.states import JobState, ShardState
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
    state_of,
    submit,
    submit_with_summary,
    together,
)
from tests.service.test_recipe_parts import begin, complete, submit_recipe

ROUNDS = 8
ALLOWED = (Conflict, LeaseLost)


def race(*calls: Callable[[], object]) -> None:
    """Make the calls at the same time; they may find that another came first, and nothing else may go wrong."""
    assert [error for error in together(*calls) if not isinstance(error, ALLOWED)] == []


def work(db: Database, shard_id: str) -> None:
    if (held := claim(db, shard_id)) is not None:
        for item in held.items:
            save(db, held.lease, item.index)
        finish(db, held.lease)


def work_off(db: Database, job_id: str) -> None:
    """Do what is left of a job, and of its parts, as workers would that hear of every message."""
    mine = (Job.id == job_id) | (Job.parent_id == job_id)
    queued = select(Shard.id).join(Job).where(mine, Shard.state == ShardState.QUEUED)
    while True:
        with db.reading() as session:
            ids = session.scalars(queued).all()
        if not ids:
            return
        for shard_id in ids:
            work(db, shard_id)


def test_a_shard_that_is_let_go_of_as_its_items_are_saved(database: Database) -> None:
    for _ in range(ROUNDS * 2):
        job_id, [shard] = submit(database, items=12, shard_items=12)
        lease = claimed(database, shard).lease

        def saves(first: int, lease: Lease = lease) -> None:
            for index in range(first, 12, 3):
                save(database, lease, index)

        race(*(partial(saves, n) for n in range(3)), partial(finish, database, lease))
        work_off(database, job_id)
        assert state_of(database, job_id) == JobState.SUCCEEDED


def test_pause_resume_cancel_and_workers_of_one_job(database: Database) -> None:
    for _ in range(ROUNDS):
        job_id, shards = submit(database, items=6, shard_items=1)
        clients = [partial(do, database, call, job_id) for call in (jobs.pause, jobs.resume) * 2]
        race(*clients, *(partial(work, database, shard) for shard in shards))
        if state_of(database, job_id) == JobState.PAUSED:
            do(database, jobs.resume, job_id)
        work_off(database, job_id)
        assert state_of(database, job_id) == JobState.SUCCEEDED


def test_retries_of_a_running_job_lose_nothing(database: Database) -> None:
    for _ in range(ROUNDS):
        job_id, shards = submit(database, items=6, shard_items=3)

        def fail_then_save(lease: Lease) -> None:
            first = int(lease.shard_id.rsplit(".", 1)[1]) * 3
            fail_item(database, lease, first)
            fail_item(database, lease, first)  # as if the answer had been lost
            for index in (first + 1, first + 2):
                save(database, lease, index)
            finish(database, lease)

        held = [claimed(database, shard).lease for shard in shards]
        retries = [partial(do, database, jobs.retry, job_id)] * 3
        race(*retries, *(partial(fail_then_save, lease) for lease in held))
        if "failed" in item_states(database, job_id):
            do(database, jobs.retry, job_id)
        work_off(database, job_id)
        assert (state_of(database, job_id), set(item_states(database, job_id))) == ("succeeded", {"succeeded"})


def test_a_retry_and_a_summary_that_is_being_saved_do_not_deadlock(database: Database) -> None:
    for _ in range(ROUNDS):
        job_id, shards, last = submit_with_summary(database, items=1)
        fail_item(database, (lease := claimed(database, shards[0]).lease), 0)
        finish(database, lease)
        saving = claimed(database, last).lease
        race(
            *[partial(complete, database, saving)] * 3,
            partial(do, database, jobs.retry, job_id),
        )
        if "failed" in item_states(database, job_id):
            do(database, jobs.retry, job_id)
        work_off(database, job_id)
        assert state_of(database, job_id) == JobState.SUCCEEDED


def test_a_recipe_that_is_paused_resumed_and_tried_again_as_its_parts_end_is_drawn(database: Database) -> None:
    for _ in range(ROUNDS):
        recipe = submit_recipe(database, labels=("a", "b", "c"))
        a, b = begin(database, recipe.parts["a"]), begin(database, recipe.parts["b"])
        race(
            partial(do, database, leases.give_up, a, "Title", "detail"),
            partial(complete, database, b),
            partial(work, database, f"{recipe.parts['c']}.0"),
            partial(do, database, jobs.pause, recipe.id),
            partial(do, database, jobs.resume, recipe.id),
            partial(do, database, jobs.retry, recipe.parts["a"]),
            partial(do, database, jobs.retry, recipe.id),
        )
        if state_of(database, recipe.id) == JobState.PAUSED:
            do(database, jobs.resume, recipe.id)
        if "failed" in item_states(database, recipe.parts["a"]):
            do(database, jobs.retry, recipe.id)
        work_off(database, recipe.id)
        assert {state_of(database, job) for job in (recipe.id, *recipe.parts.values())} == {JobState.SUCCEEDED}


def test_leases_that_expire_as_their_workers_save_and_the_client_cancels(database: Database) -> None:
    for cancelled in [False, True] * (ROUNDS // 2):
        job_id, shards = submit(database, items=6, shard_items=3)
        held = [claimed(database, shard) for shard in shards]
        for shard in shards:
            expire(database, shard)
        stop = [partial(cancel, database, job_id)] if cancelled else []
        expiries = [partial(do, database, leases.expire_lease, shard, 2) for shard in shards * 2]
        saves = [partial(save, database, w.lease, i.index) for w in held for i in w.items]
        race(*saves, *expiries, *stop)
        work_off(database, job_id)
        states = item_states(database, job_id)
        assert set(states) <= ({"succeeded", "cancelled"} if cancelled else {"succeeded"})
        assert state_of(database, job_id) in (JobState.CANCELLED if cancelled else "", JobState.SUCCEEDED)
        with database.reading() as session:
            saved = session.scalar(select(func.count()).select_from(Artifact).where(Artifact.job_id == job_id))
        assert saved == states.count("succeeded")
