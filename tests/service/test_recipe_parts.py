"""The contract between a recipe's job and its parts, on SQLite and on Postgres."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from sqlalchemy import select

from service import jobs, leases, queries
from service.db import Database
from service.errors import Conflict
from service.leases import Directive, Lease
from service.models import Job, Shard
from service.queries import Filter
from service.responses import Progress
from service.states import JobState, ShardState
from tests.service import inserting
from tests.service.test_jobs import cancel, claim, claimed, do, finish, item_states, plan, save, state_of, together

LABELS = ("baseline", "model")
ROUNDS = 8


class Recipe(NamedTuple):
    """A submitted recipe: its job, the shard that draws it, and its parts by label."""

    id: str
    drawing: str
    parts: dict[str, str]
    sent: list[str]


def submit_recipe(db: Database, items: int = 1, shard_items: int = 1, labels: tuple[str, ...] = LABELS) -> Recipe:
    parameters = {"recipe": "figure-3", "title": "Title"}
    plans = {label: plan(items) for label in labels}
    job_id, sent = do(db, inserting.submit_recipe, parameters, plans, "digest", None, shard_items)
    with db.reading() as session:
        parts = queries.job(session, job_id).parts
    return Recipe(job_id, f"{job_id}.0", parts, sent)


def begin(db: Database, part: str, shard: int = 0) -> Lease:
    return claimed(db, f"{part}.{shard}").lease


def complete(db: Database, lease: Lease) -> None:
    """Save a shard's one item, and let go of it."""
    save(db, lease, int(lease.shard_id.rsplit(".", 1)[1]))
    finish(db, lease)


def end(db: Database, recipe: Recipe) -> None:
    for part in recipe.parts.values():
        complete(db, begin(db, part))


def shard_state(db: Database, shard_id: str) -> str:
    with db.reading() as session:
        return session.get_one(Shard, shard_id).state


def to_send(db: Database, job_id: str) -> list[str]:
    return list(do(db, jobs.to_send, job_id))


def progress(db: Database, job_id: str) -> Progress:
    with db.reading() as session:
        return queries.job(session, job_id).progress


def test_a_recipe_sends_for_its_parts_and_not_yet_for_its_drawing(database: Database) -> None:
    recipe = submit_recipe(database, items=3, shard_items=2)
    assert recipe.sent == [f"{recipe.parts[label]}.{n}" for label in LABELS for n in (0, 1)]
    assert shard_state(database, recipe.drawing) == ShardState.WAITING
    assert state_of(database, recipe.id) == JobState.QUEUED


def test_a_drawing_cannot_be_claimed_before_the_last_part_ends(database: Database) -> None:
    recipe = submit_recipe(database)
    assert claim(database, recipe.drawing) is None
    for part in recipe.parts.values():
        assert to_send(database, part) == []
        lease = begin(database, part)
        assert claim(database, recipe.drawing) is None
        complete(database, lease)
    assert shard_state(database, recipe.drawing) == ShardState.QUEUED
    assert to_send(database, recipe.parts["baseline"]) == [recipe.drawing]
    assert to_send(database, part) == [], "it is sent for once"


def test_a_recipe_with_a_drawing_that_waits_is_not_settled(database: Database) -> None:
    recipe = submit_recipe(database)
    begin(database, recipe.parts["model"])
    do(database, jobs.settle, recipe.id)
    assert (state_of(database, recipe.id), item_states(database, recipe.id)) == (JobState.RUNNING, ["queued"])


def test_a_part_of_several_shards_ends_with_its_last(database: Database) -> None:
    recipe = submit_recipe(database, items=2, labels=("model",))
    part = recipe.parts["model"]
    first, second = begin(database, part, 0), begin(database, part, 1)
    complete(database, first)
    assert shard_state(database, recipe.drawing) == ShardState.WAITING
    complete(database, second)
    assert shard_state(database, recipe.drawing) == ShardState.QUEUED


def test_a_recipe_ends_once_it_is_drawn(database: Database) -> None:
    recipe = submit_recipe(database)
    assert to_send(database, recipe.id) == []
    end(database, recipe)
    work = claimed(database, recipe.drawing)
    assert (work.kind, work.parameters["recipe"], [item.index for item in work.items]) == ("recipe", "figure-3", [0])
    assert to_send(database, recipe.parts["model"]) == []
    complete(database, work.lease)
    with database.reading() as session:
        transitions = [t.state for t in queries.job(session, recipe.id).transitions]
    assert transitions == ["validating", "queued", "running", "finalizing", "succeeded"]
    assert claim(database, recipe.drawing) is None


def test_a_recipe_runs_from_the_first_claim_of_a_part(database: Database) -> None:
    recipe = submit_recipe(database)
    begin(database, recipe.parts["model"])
    assert state_of(database, recipe.id) == JobState.RUNNING
    assert state_of(database, recipe.parts["baseline"]) == JobState.QUEUED
    begin(database, recipe.parts["baseline"])
    with database.reading() as session:
        assert [t.state for t in queries.job(session, recipe.id).transitions].count("running") == 1


def test_parts_that_end_together_release_their_drawing(database: Database) -> None:
    for _ in range(ROUNDS):
        recipe = submit_recipe(database, labels=("a", "b", "c", "d"))
        held = [begin(database, part) for part in recipe.parts.values()]
        assert together(*(lambda lease=lease: complete(database, lease) for lease in held)) == []
        assert shard_state(database, recipe.drawing) == ShardState.QUEUED
        assert claim(database, recipe.drawing) is not None


def _fail(db: Database, part: str) -> None:
    do(db, leases.give_up, begin(db, part), "Cannot be computed", "detail")
    assert state_of(db, part) == JobState.FAILED


def _cancel_running(db: Database, part: str) -> None:
    lease = begin(db, part)
    cancel(db, part)
    assert finish(db, lease) is ShardState.CANCELLED


WAYS: dict[str, Callable[[Database, str], None]] = {
    "failed": _fail, "cancelled in the queue": cancel, "cancelled as it ran": _cancel_running,
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("last", [False, True])
def test_a_part_without_a_result_does_not_keep_the_others_from_being_drawn(
    database: Database, way: str, last: bool
) -> None:
    recipe = submit_recipe(database)
    ends = [lambda: WAYS[way](database, recipe.parts["model"])]
    ends.insert(0 if last else 1, lambda: complete(database, begin(database, recipe.parts["baseline"])))
    ends[0]()
    assert claim(database, recipe.drawing) is None
    ends[1]()
    assert to_send(database, recipe.parts["model"]) == [recipe.drawing]
    assert claim(database, recipe.drawing) is not None


def test_cancelling_a_recipe_ends_what_waits_and_stops_what_runs(database: Database) -> None:
    recipe = submit_recipe(database, items=2)
    lease = begin(database, recipe.parts["model"])
    cancel(database, recipe.id)
    assert state_of(database, recipe.id) == state_of(database, recipe.parts["baseline"]) == JobState.CANCELLED
    assert item_states(database, recipe.id) == ["cancelled"]
    assert state_of(database, recipe.parts["model"]) == JobState.CANCELLING
    assert claim(database, f"{recipe.parts['model']}.1") is None
    assert do(database, leases.heartbeat, lease, 60, {}) is Directive.STOP
    assert finish(database, lease) is ShardState.CANCELLED
    assert state_of(database, recipe.parts["model"]) == JobState.CANCELLED
    cancel(database, recipe.id)  # again: nothing more to do, and no error


def test_a_cancelled_recipe_is_never_drawn(database: Database) -> None:
    recipe = submit_recipe(database)
    lease = begin(database, recipe.parts["model"])
    cancel(database, recipe.id)
    finish(database, lease)
    assert shard_state(database, recipe.drawing) == ShardState.CANCELLED
    assert to_send(database, recipe.parts["model"]) == []
    assert claim(database, recipe.drawing) is None


def test_cancelling_a_recipe_keeps_the_parts_that_are_over(database: Database) -> None:
    recipe = submit_recipe(database)
    complete(database, begin(database, recipe.parts["model"]))
    cancel(database, recipe.id)
    assert state_of(database, recipe.parts["model"]) == JobState.SUCCEEDED
    assert item_states(database, recipe.parts["model"]) == ["succeeded"]


def test_cancelling_a_recipe_that_is_being_drawn_waits_for_its_worker(database: Database) -> None:
    recipe = submit_recipe(database)
    end(database, recipe)
    lease = claimed(database, recipe.drawing).lease
    cancel(database, recipe.id)
    assert state_of(database, recipe.id) == JobState.CANCELLING
    assert finish(database, lease) is ShardState.CANCELLED
    assert state_of(database, recipe.id) == JobState.CANCELLED


def test_a_drawn_recipe_cannot_be_cancelled_and_keeps_its_parts(database: Database) -> None:
    recipe = submit_recipe(database)
    end(database, recipe)
    complete(database, claimed(database, recipe.drawing).lease)
    with pytest.raises(Conflict, match="succeeded"):
        cancel(database, recipe.id)
    assert {state_of(database, part) for part in recipe.parts.values()} == {JobState.SUCCEEDED}


def test_a_recipe_cancelled_as_its_parts_begin_and_end_is_over_with_all_of_them(database: Database) -> None:
    def work(part: str) -> None:
        if (held := claim(database, f"{part}.0")) is not None:
            save(database, held.lease, 0)
            finish(database, held.lease)

    for _ in range(ROUNDS):
        recipe = submit_recipe(database, labels=("a", "b", "c"))
        held = begin(database, recipe.parts["a"])
        calls = [lambda lease=held: complete(database, lease), lambda job=recipe.id: cancel(database, job)]
        calls += [lambda part=recipe.parts[label]: work(part) for label in ("b", "c")]
        assert together(*calls) == []
        assert state_of(database, recipe.id) == JobState.CANCELLED
        assert {state_of(database, p) for p in recipe.parts.values()} <= {JobState.CANCELLED, JobState.SUCCEEDED}
        assert shard_state(database, recipe.drawing) == ShardState.CANCELLED
        assert claim(database, recipe.drawing) is None


def test_a_part_cancelled_as_the_other_ends_releases_the_drawing(database: Database) -> None:
    for _ in range(ROUNDS):
        recipe = submit_recipe(database)
        held = begin(database, recipe.parts["model"])
        calls = [lambda lease=held: complete(database, lease), lambda r=recipe: cancel(database, r.parts["baseline"])]
        assert together(*calls) == []
        assert state_of(database, recipe.parts["baseline"]) == JobState.CANCELLED
        assert shard_state(database, recipe.drawing) == ShardState.QUEUED
        assert claim(database, recipe.drawing) is not None


def _report(db: Database, lease: Lease, image_steps: int, rate: float) -> None:
    do(db, leases.heartbeat, lease, 60, {"image_steps": image_steps, "rate": rate, "curve": [[1, 0.5]]})


def test_a_recipes_progress_is_the_sum_of_its_parts(database: Database) -> None:
    recipe = submit_recipe(database, items=2, shard_items=2)  # 2 parts of 2 items of 10 steps
    assert progress(database, recipe.id).model_dump() == {
        "steps_done": 0, "steps_total": 40, "fraction": 0, "curve": [], "curve_of": "", "rate": None,
        "eta_seconds": None,
    }  # fmt: skip
    first, second = (begin(database, part) for part in recipe.parts.values())
    _report(database, first, 12, 3.0)
    _report(database, second, 4, 1.0)
    seen = progress(database, recipe.id)
    assert (seen.steps_done, seen.fraction, seen.rate, seen.eta_seconds) == (16, 0.4, 4.0, 6.0)


def test_a_recipe_is_not_whole_before_it_is_drawn(database: Database) -> None:
    recipe = submit_recipe(database)
    end(database, recipe)
    assert (progress(database, recipe.id).steps_done, progress(database, recipe.id).fraction) == (20, 0.99)
    complete(database, claimed(database, recipe.drawing).lease)
    assert progress(database, recipe.id).fraction == 1


def test_lists_name_a_recipes_parts_and_can_be_narrowed_to_them(database: Database) -> None:
    recipe, other = submit_recipe(database), submit_recipe(database)
    begin(database, recipe.parts["model"])

    def listed(*states: JobState, **narrowed: Any) -> list[str]:
        with database.reading() as session:
            return [job.id for job in queries.jobs(session, Filter(states, **narrowed), 50).jobs]

    assert set(listed(parent=recipe.id)) == set(recipe.parts.values())
    assert listed(top_level=True) == [other.id, recipe.id]
    assert listed(JobState.RUNNING, top_level=True) == [recipe.id]
    assert listed(JobState.RUNNING, parent=recipe.id) == [recipe.parts["model"]]
    with database.reading() as session:
        page = queries.jobs(session, Filter(), 50)
        assert {job.id: job.parts for job in page.jobs if job.parts} == {r.id: r.parts for r in (recipe, other)}
        assert set(session.scalars(select(Job.part).where(Job.parent_id == other.id))) == set(LABELS)
