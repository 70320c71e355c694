"""Deleted jobs are gone at once for whoever asks, and soon from the database and the storage."""

import os
import signal
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from service import collector, deletion, jobs, leases
from service.bulk_models import Label, LogLine, PlanError, Planning, ResultShard, Reuse
from service.db import Database, now
from service.errors import Conflict, NotFound
from service.keys import weights_key
from service.leases import Lease
from service.models import Artifact, Epoch, Item, Job, RegisteredModel, Shard, Transition
from service.objects import Storage
from service.settings import Settings
from service.states import JobState
from service.storage import LocalStorage, open_storage
from tests.fixtures import LiveService, inversion, workerless
from tests.service.bodies import figure, post_recipe
from tests.service.test_api import assert_problem, post
from tests.service.test_jobs import cancel, claimed, do, finish, save, state_of, submit
from tests.service.test_lifecycle import until
from tests.service.test_recipe_parts import submit_recipe

TABLES = (Artifact, Item, Shard, Transition, Label, PlanError, Planning, ResultShard, Epoch, LogLine)


def stored(storage: Storage) -> set[str]:
    return set(storage.keys(""))


def over(db: Database, storage: Storage, items: int = 2) -> str:
    """A job that has ended, with an object an item and rows wherever a job has some."""
    job_id, shards = submit(db, items=items)
    for shard in shards:
        lease = claimed(db, shard).lease
        for item in (i for i in range(items) if f"{job_id}.{i // 2}" == shard):
            put = storage.put(f"jobs/{job_id}/items/{item}/{lease.epoch}/a.png", b"x", "image/png")
            do(db, leases.save_item, lease, item, {}, {}, {"a.png": (put, "image/png")})
        finish(db, lease)
    with db.transaction() as session:
        session.add_all([
            Label(job_id=job_id, key="a", value="b"), Epoch(job_id=job_id, epoch=1, metrics={}, at=0),
            PlanError(job_id=job_id, entry=1, field="f", message="m"), Planning(job_id=job_id),
            ResultShard(key=f"jobs/{job_id}/x.tar", job_id=job_id, first_item=0, items=1, size=1, sha256="0"),
        ])  # fmt: skip
    storage.put(f"jobs/{job_id}/x.tar", b"x", "application/x-tar")
    return job_id


def rows(db: Database, job_id: str) -> int:
    with db.reading() as session:
        counts = [select(func.count()).select_from(table).where(table.job_id == job_id) for table in TABLES]
        return sum(session.scalar(count) or 0 for count in counts)


def known(db: Database) -> set[str]:
    with db.reading() as session:
        return set(session.scalars(select(Job.id)))


def later(db: Database, seconds: float) -> None:
    with db.transaction() as session:
        session.execute(update(Job).values(finished_at=Job.finished_at - seconds, purged_at=Job.purged_at - seconds))


def test_a_deleted_jobs_objects_and_rows_go_and_nobody_elses(database: Database, storage: Storage) -> None:
    gone, kept = over(database, storage), over(database, storage)
    storage.put("images/other", b"x", "image/png")
    do(database, deletion.remove, gone)
    before = rows(database, kept)
    deletion.sweep(database, storage)
    assert rows(database, gone) == 0
    assert not [key for key in stored(storage) if gone in key]
    assert (rows(database, kept), len([key for key in stored(storage) if kept in key])) == (before, 3)
    assert "images/other" in stored(storage)
    assert known(database) == {gone, kept}
    late = f"jobs/{gone}/items/0/1/late.png"
    storage.put(late, b"x", "image/png")  # of a worker that was thought dead
    later(database, deletion.LATE + 1)
    deletion.sweep(database, storage)
    assert known(database) == {kept}
    assert late not in stored(storage)


def test_a_deletion_of_many_items_is_many_transactions(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion, "ROWS", 3)
    storage = LocalStorage(tmp_path / "objects")
    job_id = over(database, storage, items=10)
    do(database, deletion.remove, job_id)
    left = []

    def going() -> bool:
        left.append(rows(database, job_id))
        return True

    deletion.sweep(database, storage, going)
    items = [before - after for before, after in pairwise(left)]
    assert all(0 <= taken <= 6 for taken in items), "an artifact and an item each"
    assert rows(database, job_id) == 0


@pytest.mark.parametrize("at", range(1, 9))
def test_a_deletion_that_was_stopped_is_gone_on_with(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(deletion, "ROWS", 3)
    monkeypatch.setattr(deletion, "AT_ONCE", 3)
    database, storage = Database(sqlite_url), LocalStorage(tmp_path / "objects")
    job_id = over(database, storage, items=10)
    do(database, deletion.remove, job_id)
    asked = iter(range(1, 1000))
    deletion.sweep(database, storage, lambda: next(asked) < at)
    assert rows(database, job_id) > 0
    with database.reading() as session:  # objects first: no row would tell of them otherwise
        assert not stored(storage) or session.scalar(select(func.count()).select_from(Artifact)) == 10
    deletion.sweep(database, storage)
    assert (rows(database, job_id), stored(storage)) == (0, set())
    database.close()


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from service import deletion
    from service.db import Database
    from service.storage import LocalStorage, open_storage

    class Deadly(LocalStorage):
        def delete(self, key):
            super().delete(key)
            if key.endswith("/5/1/a.png"):
                os.kill(os.getpid(), signal.SIGKILL)

    deletion.sweep(Database(sys.argv[1]), Deadly(Path(sys.argv[2])))
"""


@pytest.mark.e2e
def test_the_deletion_of_a_killed_process_is_gone_on_with(sqlite_url: str, tmp_path: Path) -> None:
    database, storage = Database(sqlite_url), LocalStorage(tmp_path / "objects")
    job_id = over(database, storage, items=40)
    do(database, deletion.remove, job_id)
    command = [sys.executable, "-c", textwrap.dedent(KILLED), sqlite_url, str(tmp_path / "objects")]
    assert subprocess.run(command, check=False, env=os.environ).returncode == -signal.SIGKILL
    assert 0 < len(stored(storage)) < 41
    deletion.sweep(database, storage)
    assert (rows(database, job_id), stored(storage)) == (0, set())
    database.close()


def test_a_job_that_is_going_on_is_deleted_only_if_it_is_to_be_cancelled(database: Database, storage: Storage) -> None:
    job_id, [shard] = submit(database)
    lease = claimed(database, shard).lease
    with pytest.raises(Conflict):
        do(database, deletion.remove, job_id)
    do(database, deletion.remove, job_id, True)
    deletion.sweep(database, storage)
    assert rows(database, job_id) > 0, "a worker is still at it"
    assert state_of(database, job_id) == JobState.CANCELLING
    finish(database, lease)
    deletion.sweep(database, storage)
    assert rows(database, job_id) == 0


def test_a_deleted_job_can_neither_be_retried_nor_changed(database: Database, storage: Storage) -> None:
    job_id = over(database, storage)
    do(database, deletion.remove, job_id)
    for change in (jobs.retry, jobs.cancel, jobs.pause, jobs.resume):
        with pytest.raises(NotFound):
            do(database, change, job_id)
    do(database, deletion.remove, job_id)
    with pytest.raises(NotFound):
        do(database, deletion.remove, "none")


def test_what_another_job_points_to_is_kept_until_that_is_gone_too(database: Database, storage: Storage) -> None:
    source, reuser = over(database, storage), over(database, storage)
    with database.transaction() as session:
        session.add(Reuse(job_id=reuser, source_id=source))
    do(database, deletion.remove, source)
    deletion.sweep(database, storage)
    assert [key for key in stored(storage) if source in key]
    do(database, deletion.remove, reuser)
    deletion.sweep(database, storage)
    deletion.sweep(database, storage)
    assert stored(storage) == set()
    later(database, deletion.LATE + 1)
    deletion.sweep(database, storage)
    assert known(database) == set()


def test_what_a_job_registered_stays(database: Database, storage: Storage) -> None:
    job_id = over(database, storage)
    key = storage.put(weights_key(job_id, 1), b"x", "application/octet-stream").key
    with database.transaction() as session:
        session.add(RegisteredModel(name="m", digest="d", key=key, card={}, job_id=job_id, created_at=0))
    do(database, deletion.remove, job_id)
    deletion.sweep(database, storage)
    later(database, deletion.LATE + 1)
    deletion.sweep(database, storage)
    collector.collect(database, storage)
    assert stored(storage) == {key}
    with database.reading() as session:
        assert session.get_one(RegisteredModel, "m").job_id is None


def test_a_job_is_deleted_so_long_after_its_end(database: Database, storage: Storage) -> None:
    going, kept, outlived = submit(database)[0], over(database, storage), over(database, storage)
    with database.transaction() as session:
        session.execute(update(Job).where(Job.id != kept).values(retention_seconds=60))
    later(database, 59)
    deletion.sweep(database, storage)
    assert rows(database, outlived) > 0
    later(database, 2)
    deletion.sweep(database, storage)
    assert rows(database, outlived) == 0
    assert rows(database, kept) > 0
    assert rows(database, going) > 0


def test_a_recipe_is_deleted_with_its_parts_and_no_part_alone(database: Database, storage: Storage) -> None:
    recipe = submit_recipe(database)
    with pytest.raises(Conflict, match="is going on"):
        do(database, deletion.remove, recipe.id)
    cancel(database, recipe.id)
    with pytest.raises(Conflict, match="is a part"):
        do(database, deletion.remove, recipe.parts["model"])
    do(database, deletion.remove, recipe.id)
    deletion.sweep(database, storage)
    assert sum(rows(database, job_id) for job_id in (recipe.id, *recipe.parts.values())) == 0
    for _ in range(2):
        later(database, deletion.LATE + 1)
        deletion.sweep(database, storage)
    assert known(database) == set()


def test_a_late_worker_of_a_deleted_job_commits_nothing(database: Database, storage: Storage) -> None:
    job_id = over(database, storage)
    do(database, deletion.remove, job_id)
    deletion.sweep(database, storage)
    with pytest.raises(leases.LeaseLost):
        save(database, Lease(f"{job_id}.0", job_id, 1), 0)
    assert do(database, leases.claim, f"{job_id}.0", "w", 60) is None


def test_deleted_jobs_are_gone_from_every_read(api: TestClient) -> None:
    job = post(api, inversion(labels={"a": "1"}), **{"Idempotency-Key": "k"}).json()
    links, url = job["links"], job["links"]["self"]
    assert_problem(api.delete(url), 409)
    assert_problem(api.delete(url, params={"cancel": "perhaps"}), 422, "cancel")
    answer = api.delete(url, params={"cancel": True})
    assert (answer.status_code, answer.content) == (204, b"")
    assert api.delete(url).status_code == 204
    paths = (url, links["items"], links["artifacts"], f"{url}/items/0", f"{url}/items/0/artifacts/result.png",
             f"{url}/epochs", f"{url}/items/0/checkpoint")  # fmt: skip
    for path in paths:
        assert_problem(api.get(path), 404)
    for verb in ("cancel", "pause", "resume", "retry", "clone"):
        assert_problem(api.post(links[verb]), 404)
    assert_problem(api.patch(url, json={}), 404)
    for query in ({}, {"label": "a"}, {"state": "cancelled"}, {"text": job["id"]}):
        assert api.get("/v1/jobs", params=query).json()["jobs"] == []
    assert api.get("/v1/dead-letters").json()["dead_letters"] == []
    assert post(api, inversion(), **{"Idempotency-Key": "k"}).json()["id"] != job["id"], "the key is free again"
    assert_problem(api.delete("/v1/jobs/none"), 404)


def test_dead_letters_of_a_deleted_job_are_gone(api: TestClient) -> None:
    context: Any = api.app.state.context  # type: ignore[attr-defined]
    job = post(api, inversion()).json()
    with context.db.transaction() as session:
        session.execute(update(Item).values(state="failed", error={"title": "t"}, finished_at=now()))
        session.execute(update(Job).values(state="failed"))
    assert len(api.get("/v1/dead-letters").json()["dead_letters"]) == 3
    api.delete(job["links"]["self"])
    assert api.get("/v1/dead-letters").json()["dead_letters"] == []


@pytest.mark.e2e
def test_a_part_of_a_recipe_is_not_deleted_by_the_api(api: TestClient) -> None:
    job = post_recipe(api, "figure-3", figure("figure-3")).json()
    assert_problem(api.delete(f"/v1/jobs/{job['parts']['model']}", params={"cancel": True}), 409)


@pytest.mark.slow
def test_a_running_service_removes_what_is_deleted(live_service: LiveService, settings: Settings) -> None:
    client, storage = live_service.client, open_storage(settings)
    first, running = live_service.submit(inversion()), live_service.submit(inversion(steps=20_000))
    live_service.wait(first["id"])
    until(lambda: client.job(running["id"])["progress"]["steps_done"] > 0)
    assert any(first["id"] in key for key in stored(storage))
    for job in (first, running):
        assert client.request("DELETE", job["links"]["self"], params={"cancel": True}).status_code == 204
    until(lambda: not [key for key in stored(storage) if key.startswith("jobs/")])
    assert client.request("GET", "/v1/jobs").json()["jobs"] == []


def test_a_job_that_does_not_say_how_long_it_is_kept_is_kept_as_the_service_is_set(settings: Settings) -> None:
    def kept_for(answer: Any) -> float | None:
        found: float | None = answer.json()["retention_seconds"]
        return found

    with workerless(settings.model_copy(update={"retention_seconds": 7200})) as api:
        assert kept_for(post(api, inversion())) == 7200
        assert kept_for(post(api, inversion(retention_seconds=60))) == 60
        assert kept_for(post(api, inversion(retention_seconds=None))) is None
        recipe = post_recipe(api, "figure-3", figure("figure-3"))
        assert kept_for(recipe) == 7200
        parts = [api.get(f"/v1/jobs/{part}") for part in recipe.json()["parts"].values()]
        assert {kept_for(part) for part in parts} == {None}, "a part goes with its recipe"
