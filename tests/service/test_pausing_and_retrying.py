"""Pause, resume, retry and deadlines, of jobs and of recipes, on SQLite and on Postgres."""

from collections.abc import Callable

import pytest
from sqlalchemy import select, update

from service import jobs, leases, queries
from service.db import Database, now
from service.errors import Conflict, NotFound
from service.leases import Directive, Lease, LeaseLost
from service.models import Artifact, Item, Job
from service.states import JobState, ShardState
from service.storage import Stored
from tests.service.test_jobs import (
    cancel,
    claim,
    claimed,
    crash,
    do,
    fail_attempt,
    fail_item,
    finish,
    heartbeat,
    item_states,
    save,
    shard_of,
    state_of,
    submit,
    submit_with_summary,
)
from tests.service.test_recipe_parts import begin, complete, submit_recipe, to_send


def set_deadline(db: Database, job_id: str, seconds: float) -> None:
    with db.transaction() as session:
        session.execute(update(Job).where(Job.id == job_id).values(deadline=now() + seconds))


def failed_job(db: Database) -> tuple[str, str, Lease]:
    """A job that is over, of whose two items the first has failed: its id, its shard, and the lease that it had."""
    job_id, [shard] = submit(db)
    lease = claimed(db, shard).lease
    fail_item(db, lease, 0)
    save(db, lease, 1)
    finish(db, lease)
    assert state_of(db, job_id) == JobState.PARTIALLY_SUCCEEDED
    return job_id, shard, lease


def transitions(db: Database, job_id: str) -> list[str]:
    with db.reading() as session:
        return [t.state for t in queries.job(session, job_id).transitions]


def test_a_paused_job_is_let_go_of_and_goes_on_where_it_stood(database: Database) -> None:
    job_id, [first, second] = submit(database, items=4)
    lease = claimed(database, first).lease
    do(database, jobs.pause, job_id)
    do(database, jobs.pause, job_id)  # again: nothing more to do, and no error
    assert claim(database, second) is None
    assert heartbeat(database, lease) is Directive.RELEASE
    assert save(database, lease, 0)
    do(database, leases.save_checkpoint, lease, Stored("k", 3, "0"))
    assert finish(database, lease) is ShardState.QUEUED
    assert (state_of(database, job_id), shard_of(database, first).attempts) == (JobState.PAUSED, 0)
    assert claim(database, first) is None
    do(database, jobs.resume, job_id)
    do(database, jobs.resume, job_id)
    assert sorted(to_send(database, job_id)) == [first, second]
    work = claimed(database, first)
    assert ([item.index for item in work.items], work.checkpoint) == ([1], {"key": "k", "size": 3, "sha256": "0"})
    assert transitions(database, job_id)[-4:] == ["running", "paused", "queued", "running"]


def test_a_job_resumed_before_its_worker_heard_of_the_pause_just_goes_on(database: Database) -> None:
    job_id, [shard] = submit(database)
    lease = claimed(database, shard).lease
    do(database, jobs.pause, job_id)
    do(database, jobs.resume, job_id)
    assert heartbeat(database, lease) is Directive.CONTINUE
    save(database, lease, 0)
    save(database, lease, 1)
    assert finish(database, lease) is ShardState.DONE
    assert state_of(database, job_id) == JobState.SUCCEEDED


def test_a_paused_job_that_has_nothing_left_to_do_ends(database: Database) -> None:
    job_id, [shard] = submit(database, items=1)
    lease = claimed(database, shard).lease
    do(database, jobs.pause, job_id)
    save(database, lease, 0)
    assert finish(database, lease) is ShardState.DONE
    assert state_of(database, job_id) == JobState.SUCCEEDED
    with pytest.raises(Conflict, match="succeeded"):
        do(database, jobs.resume, job_id)


def test_a_paused_job_can_be_cancelled_with_and_without_a_worker(database: Database) -> None:
    for at_work in (False, True):
        job_id, [shard] = submit(database)
        lease = claimed(database, shard).lease if at_work else None
        do(database, jobs.pause, job_id)
        cancel(database, job_id)
        if lease:
            assert heartbeat(database, lease) is Directive.STOP
            assert finish(database, lease) is ShardState.CANCELLED
        assert state_of(database, job_id) == JobState.CANCELLED


@pytest.mark.parametrize("call", [jobs.pause, jobs.resume, jobs.retry])
def test_what_a_job_that_is_over_does_not_allow_is_a_conflict(database: Database, call: Callable[..., object]) -> None:
    job_id, [shard] = submit(database, items=1)
    complete(database, claimed(database, shard).lease)
    with pytest.raises(Conflict):
        do(database, call, job_id)
    with pytest.raises(NotFound):
        do(database, call, "job_none")


def test_pausing_a_recipe_pauses_the_parts_that_go_on(database: Database) -> None:
    recipe = submit_recipe(database)
    complete(database, begin(database, recipe.parts["baseline"]))
    lease = begin(database, recipe.parts["model"])
    do(database, jobs.pause, recipe.id)
    assert state_of(database, recipe.parts["baseline"]) == JobState.SUCCEEDED
    assert heartbeat(database, lease) is Directive.RELEASE
    assert finish(database, lease) is ShardState.QUEUED
    assert claim(database, lease.shard_id) is None
    do(database, jobs.resume, recipe.id)
    assert to_send(database, recipe.id) == [lease.shard_id]
    complete(database, claimed(database, lease.shard_id).lease)
    assert claim(database, recipe.drawing) is not None


def test_a_recipe_that_is_paused_as_its_last_part_ends_is_drawn_once_it_is_resumed(database: Database) -> None:
    recipe = submit_recipe(database, labels=("model",))
    lease = begin(database, recipe.parts["model"])
    do(database, jobs.pause, recipe.id)
    complete(database, lease)
    assert claim(database, recipe.drawing) is None
    do(database, jobs.resume, recipe.id)
    assert to_send(database, recipe.id) == [recipe.drawing]
    complete(database, claimed(database, recipe.drawing).lease)
    assert state_of(database, recipe.id) == JobState.SUCCEEDED


def test_failed_items_are_tried_again_and_the_others_keep_their_results(database: Database) -> None:
    job_id, shard, old = failed_job(database)
    assert do(database, jobs.retry, job_id) == 1
    assert (state_of(database, job_id), item_states(database, job_id)) == (JobState.QUEUED, ["queued", "succeeded"])
    with database.reading() as session:
        job, item = session.get_one(Job, job_id), session.get_one(Item, (job_id, 0))
    assert (job.finished_at, item.finished_at, item.error, item.epoch) == (None, None, None, None)
    assert to_send(database, job_id) == [shard]
    lease = claimed(database, shard).lease
    assert lease.epoch == old.epoch + 1
    assert save(database, lease, 0)
    finish(database, lease)
    assert state_of(database, job_id) == JobState.SUCCEEDED
    with pytest.raises(Conflict, match="no failed items"):
        do(database, jobs.retry, job_id)


def test_a_retry_counts_attempts_and_crashes_anew(database: Database) -> None:
    job_id, [shard] = submit(database, items=1)
    crash(database, shard)
    fail_attempt(database, claimed(database, shard).lease, max_attempts=1, pause=60)
    assert state_of(database, job_id) == JobState.FAILED
    do(database, jobs.retry, job_id)
    row = shard_of(database, shard)
    assert (row.attempts, row.crashes, row.not_before) == (0, 0, None)


def test_a_running_jobs_failed_items_are_tried_again_beside_the_rest(database: Database) -> None:
    job_id, [done, running] = submit(database, items=4)
    first, second = claimed(database, done).lease, claimed(database, running).lease
    fail_item(database, first, 0)
    save(database, first, 1)
    finish(database, first)
    fail_item(database, second, 2)
    assert do(database, jobs.retry, job_id) == 2
    assert state_of(database, job_id) == JobState.RUNNING
    assert heartbeat(database, second) is Directive.CONTINUE
    save(database, second, 3)
    assert finish(database, second) is ShardState.QUEUED
    for shard, index in ((done, 0), (running, 2)):
        work = claimed(database, shard)
        assert [item.index for item in work.items] == [index]
        save(database, work.lease, index)
        finish(database, work.lease)
    assert state_of(database, job_id) == JobState.SUCCEEDED


def test_a_summary_is_made_again_after_a_retry(database: Database) -> None:
    job_id, shards, last = submit_with_summary(database)
    fail_item(database, (lease := claimed(database, shards[0]).lease), 0)
    finish(database, lease)
    complete(database, claimed(database, shards[1]).lease)
    complete(database, claimed(database, last).lease)
    assert state_of(database, job_id) == JobState.PARTIALLY_SUCCEEDED
    assert do(database, jobs.retry, job_id) == 1
    assert item_states(database, job_id) == ["queued", "succeeded", "queued"]
    with database.reading() as session:
        assert session.scalars(select(Artifact.item_index)).all() == [1]
    assert claim(database, last) is None
    complete(database, claimed(database, shards[0]).lease)
    assert to_send(database, job_id) == [last]
    complete(database, claimed(database, last).lease)
    assert state_of(database, job_id) == JobState.SUCCEEDED


def test_a_summary_that_is_being_made_when_items_are_tried_again_is_lost_to_its_worker(database: Database) -> None:
    job_id, shards, last = submit_with_summary(database)
    for index, shard in enumerate(shards):
        fail_item(database, (lease := claimed(database, shard).lease), index)
        finish(database, lease)
    old = claimed(database, last).lease
    assert do(database, jobs.retry, job_id) == 2
    with pytest.raises(LeaseLost):
        save(database, old, 2)
    for shard in shards:
        complete(database, claimed(database, shard).lease)
    assert claimed(database, last).lease.epoch == old.epoch + 1


def test_a_summary_that_failed_is_made_again_alone(database: Database) -> None:
    job_id, shards, last = submit_with_summary(database, items=1)
    complete(database, claimed(database, shards[0]).lease)
    fail_item(database, (lease := claimed(database, last).lease), 1)
    finish(database, lease)
    assert do(database, jobs.retry, job_id) == 1
    assert to_send(database, job_id) == [last]
    complete(database, claimed(database, last).lease)
    assert state_of(database, job_id) == JobState.SUCCEEDED


@pytest.mark.parametrize("through", ["recipe", "part"])
def test_a_recipes_failed_part_is_tried_again_and_its_figure_drawn_anew(database: Database, through: str) -> None:
    recipe = submit_recipe(database)
    do(database, leases.give_up, begin(database, recipe.parts["model"]), "Title", "detail")
    complete(database, begin(database, recipe.parts["baseline"]))
    complete(database, claimed(database, recipe.drawing).lease)
    tried = recipe.id if through == "recipe" else recipe.parts["model"]
    assert do(database, jobs.retry, tried) == 1
    assert state_of(database, recipe.parts["baseline"]) == JobState.SUCCEEDED
    assert (state_of(database, recipe.id), item_states(database, recipe.id)) == (JobState.QUEUED, ["queued"])
    assert claim(database, recipe.drawing) is None
    assert to_send(database, tried) == [f"{recipe.parts['model']}.0"]
    complete(database, begin(database, recipe.parts["model"]))
    assert to_send(database, recipe.parts["model"]) == [recipe.drawing]
    complete(database, claimed(database, recipe.drawing).lease)
    assert transitions(database, recipe.id).count("succeeded") == 2


def test_a_part_of_a_cancelled_recipe_is_tried_again_without_it(database: Database) -> None:
    recipe = submit_recipe(database)
    do(database, leases.give_up, begin(database, recipe.parts["model"]), "Title", "detail")
    cancel(database, recipe.id)
    with pytest.raises(Conflict, match="cancelled"):
        do(database, jobs.retry, recipe.id)
    assert do(database, jobs.retry, recipe.parts["model"]) == 1
    complete(database, begin(database, recipe.parts["model"]))
    assert state_of(database, recipe.parts["model"]) == JobState.SUCCEEDED
    assert state_of(database, recipe.id) == JobState.CANCELLED


@pytest.mark.parametrize("paused", [False, True])
def test_a_deadline_ends_what_waits_and_stops_what_runs(database: Database, paused: bool) -> None:
    job_id, [first, second] = submit(database, items=4)
    lease = claimed(database, first).lease
    save(database, lease, 0)
    set_deadline(database, job_id, 60)
    do(database, jobs.expire, job_id)
    assert heartbeat(database, lease) is Directive.CONTINUE
    if paused:
        do(database, jobs.pause, job_id)
    set_deadline(database, job_id, -1)
    assert claim(database, second) is None
    assert heartbeat(database, lease) is Directive.STOP
    do(database, jobs.expire, job_id)
    assert state_of(database, job_id) == JobState.CANCELLING
    assert finish(database, lease) is ShardState.CANCELLED
    do(database, jobs.expire, job_id)
    assert state_of(database, job_id) == JobState.EXPIRED
    assert item_states(database, job_id) == ["succeeded", "cancelled", "cancelled", "cancelled"]
    with database.reading() as session:
        assert session.get_one(Job, job_id).error == jobs.DEADLINE


def test_a_job_cancelled_before_its_deadline_passed_is_cancelled(database: Database) -> None:
    job_id, [shard] = submit(database)
    lease = claimed(database, shard).lease
    cancel(database, job_id)
    set_deadline(database, job_id, -1)
    do(database, jobs.expire, job_id)
    finish(database, lease)
    assert state_of(database, job_id) == JobState.CANCELLED


def test_a_job_whose_deadline_has_passed_is_not_tried_again(database: Database) -> None:
    job_id, _, _ = failed_job(database)
    set_deadline(database, job_id, -1)
    with pytest.raises(Conflict, match="deadline"):
        do(database, jobs.retry, job_id)
    assert item_states(database, job_id) == ["failed", "succeeded"]
