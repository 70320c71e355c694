"""What is told of jobs again is what is told for the first time, after a change by whichever process."""

import json
from collections.abc import Callable
from typing import Any

from sqlalchemy import event, update

from service import changes, deletion, drafts, fleet, jobs
from service.changes import Patch
from service.db import Database
from service.models import Job
from service.telling import Teller, Told
from tests.service import inserting
from tests.service.test_jobs import claimed, do, fail_item, finish, heartbeat, plan, save, submit
from tests.service.test_priorities import INFO
from tests.service.test_recipe_parts import submit_recipe


def told(db: Database, teller: Teller, job_id: str) -> Told | None:
    with db.reading() as session:
        return teller.tell(session, [job_id]).get(job_id)


def asked(db: Database, call: Callable[[], object]) -> int:
    """How many statements a call sends, but for those that begin a transaction."""
    sent: list[str] = []
    event.listen(db.engine, "before_cursor_execute", lambda *a: sent.append(a[2]))
    call()
    return sum(not each.startswith("BEGIN") for each in sent)


def followed(db: Database, job_id: str, *steps: Callable[[], object]) -> None:
    """After each step, one who has told of the job all along tells what one does who never has."""
    teller, seen = Teller(), []
    for step in (lambda: None, *steps):
        step()
        kept, new = (told(db, each, job_id) for each in (teller, Teller()))
        assert kept == new == told(db, teller, job_id)
        seen.append(kept)
    assert len({each.body if each else None for each in seen}) == len(seen)


def test_a_computed_job_is_told_as_it_is(database: Database) -> None:
    job_id, [shard] = submit(database)
    lease = claimed(database, shard).lease
    do(database, jobs.pause, job_id)
    steps = [
        lambda: do(database, jobs.resume, job_id), lambda: heartbeat(database, lease),
        lambda: fail_item(database, lease, 0), lambda: save(database, lease, 1), lambda: finish(database, lease),
        lambda: do(database, jobs.retry, job_id), lambda: do(database, jobs.cancel, job_id),
        lambda: do(database, deletion.remove, job_id),
    ]  # fmt: skip
    followed(database, job_id, *steps)


def test_a_job_that_waits_is_told_as_it_is(database: Database) -> None:
    job_id, [shard] = submit(database)

    def patch(**values: Any) -> Callable[[], object]:
        return lambda: do(database, changes.apply, job_id, Patch(**values))

    steps = [
        patch(labels={"a": "b"}), patch(labels={"a": "c"}), patch(description="note"), patch(metadata={"waiting": []}),
        patch(priority="high"), patch(retention_seconds=60), lambda: do(database, jobs.pause, job_id),
        lambda: do(database, jobs.resume, job_id), lambda: claimed(database, shard),
    ]  # fmt: skip
    followed(database, job_id, *steps)


def test_what_others_change_of_why_a_job_waits_is_told(database: Database) -> None:
    job_id, _ = submit(database)
    steps = [
        lambda: do(database, fleet.announce, "h:1", INFO),
        lambda: do(database, inserting.submit, plan(2), "d", None, 1, {"priority": 2}),
    ]
    followed(database, job_id, *steps)


def test_a_recipe_is_told_as_its_parts_are(database: Database) -> None:
    recipe = submit_recipe(database)
    part = recipe.sent[0]
    followed(database, recipe.id, lambda: heartbeat(database, claimed(database, part).lease))


def test_who_asks_again_costs_a_statement_and_the_queue(database: Database) -> None:
    (going, [shard]), (over, _) = submit(database), submit(database)
    do(database, jobs.cancel, over)
    claimed(database, shard)
    teller = Teller()
    for job_id in (going, over):
        told(database, teller, job_id)
    assert asked(database, lambda: told(database, teller, over)) == 1
    assert asked(database, lambda: told(database, teller, going)) > 1


def test_a_new_job_is_told_as_if_it_had_been_read(database: Database) -> None:
    beside = {"labels": {"b": "2", "a": "1"}, "metadata": {"x": [1.5, None]}, "deadline": 4e9, "priority": 2}
    draft = drafts.planned(plan(3), "digest", "key", 2, beside)
    do(database, drafts.insert, [draft])
    teller = Teller()
    with database.reading() as session:
        new = teller.tell_new(session, [draft])[draft.job["id"]]
    assert json.loads(new.body)["labels"] == {"a": "1", "b": "2"}
    assert new == told(database, Teller(), new.job_id) == told(database, teller, new.job_id)


def test_every_change_of_a_row_is_another_version(database: Database) -> None:
    job_id, _ = submit(database)
    stamps = set()
    for n in range(3):
        with database.transaction() as session:
            session.execute(update(Job).where(Job.id == job_id).values(client=f"{n}"))
            stamps.add(session.get_one(Job, job_id, populate_existing=True).stamp)
    with database.transaction() as session:
        session.get_one(Job, job_id).client = "by an object"
        session.flush()
        stamps.add(session.get_one(Job, job_id, populate_existing=True).stamp)
    assert len(stamps) == 4
