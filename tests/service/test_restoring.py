"""The drill: a database is dumped, lost and restored, and every job still ends with all that its rows point to."""

import hashlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import literal, make_url, select, update

from deploy.backup import BackupFailed, dump, restore
from service import jobs, leases, restoring
from service.collector import collect
from service.db import Database
from service.keys import checkpoint_key, shard_checkpoint_key, weights_key
from service.leases import Lease, LeaseLost
from service.models import Artifact, Image, Item, Job, RegisteredModel, Shard, Transition
from service.restoring import reconcile
from service.settings import Settings
from service.states import ItemState, JobState, ShardState
from service.storage import Storage, Stored, artifact_key, open_storage
from tests.fixtures import s3_settings
from tests.servers import postgres_execute
from tests.service.test_jobs import cancel, claimed, finish, item_states, state_of, submit
from tests.service.test_recipe_parts import shard_state, submit_recipe


@pytest.fixture(params=["sqlite-local", "postgres-s3"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    if request.param == "sqlite-local":
        request.getfixturevalue("sqlite_url")
        (tmp_path / "test.db").rename(tmp_path / "robustreps.db")
        return Settings(data_dir=tmp_path)
    url, bucket = request.getfixturevalue("postgres_url"), request.getfixturevalue("s3_bucket")
    return Settings(**s3_settings(bucket, database_url=url, broker_url="redis://nobody", data_dir=tmp_path))


@pytest.fixture
def db(settings: Settings) -> Iterator[Database]:
    db = Database(settings.database)
    yield db
    db.close()


@pytest.fixture
def storage(settings: Settings) -> Storage:
    return open_storage(settings)


@pytest.fixture
def fresh(settings: Settings, tmp_path: Path) -> Iterator[Settings]:
    """The same service with an empty database in place of its own."""
    if settings.embedded:
        (tmp_path / "fresh").mkdir()
        yield settings.model_copy(update={"data_dir": tmp_path / "fresh", "storage_url": settings.storage})
        return
    name, old = f"fresh_{uuid4().hex}", settings.database
    postgres_execute(old, f"CREATE DATABASE {name}")
    yield settings.model_copy(update={"database_url": make_url(old).set(database=name).render_as_string(False)})
    postgres_execute(old, f"DROP DATABASE {name} WITH (FORCE)")


def body(lease: Lease, index: int) -> bytes:
    return f"{lease.job_id} {index}".encode()


def save(db: Database, storage: Storage, lease: Lease, index: int) -> Stored:
    stored = storage.put(artifact_key(lease.job_id, index, lease.epoch, "a.txt"), body(lease, index), "text/plain")
    with db.transaction() as session:
        leases.save_item(session, lease, index, {"n": index}, {}, {"a.txt": (stored, "text/plain")})
    return stored


def work_off(db: Database, storage: Storage) -> None:
    """Do whatever is left to do, as workers would."""
    while True:
        with db.reading() as session:
            queued = session.scalars(
                select(Shard.id).join(Job).where(Shard.state == ShardState.QUEUED, Job.state.in_(jobs.CLAIMABLE))
            ).all()
        if not queued:
            return
        for shard in queued:
            work = claimed(db, shard)
            for item in work.items:
                save(db, storage, work.lease, item.index)
            finish(db, work.lease)


def assert_whole(db: Database, storage: Storage) -> None:
    """Every job is over, each of its items has its artifact, and that is what its row says."""
    with db.reading() as session:
        assert set(session.scalars(select(Job.state))) == {JobState.SUCCEEDED}
        items = set(session.execute(select(Item.job_id, Item.index, Item.epoch)).all())
        artifacts = session.scalars(select(Artifact)).all()
    assert {(a.job_id, a.item_index, int(a.key.split("/")[-2])) for a in artifacts} == items
    for a in artifacts:
        data = storage.get(a.key)
        assert (data, a.sha256) == (f"{a.job_id} {a.item_index}".encode(), hashlib.sha256(data).hexdigest())


def checkpoint(db: Database, storage: Storage, lease: Lease, number: int) -> str:
    """Keep a checkpoint as a worker does, which then removes the one before."""
    key = shard_checkpoint_key(lease.job_id, lease.shard_id, lease.epoch, number)
    with db.transaction() as session:
        before = leases.save_checkpoint(session, lease, storage.put(key, b"rows", "text/plain"))
    if before:
        storage.delete(before)
    return key


def test_after_a_restore_every_job_ends_with_all_its_artifacts(
    settings: Settings, fresh: Settings, db: Database, storage: Storage, tmp_path: Path
) -> None:
    done, [of_done] = submit(db)
    work_off(db, storage)
    going, [first, second] = submit(db, items=4)
    lease, other = claimed(db, first).lease, claimed(db, second).lease
    save(db, storage, lease, 0)
    checkpoint(db, storage, lease, 0)
    dump(settings, tmp_path / "dump")
    checkpoint(db, storage, lease, 1)  # which removes what the dump points to
    save(db, storage, lease, 1)
    finish(db, lease)
    save(db, storage, other, 2)
    finish(db, other)
    later = claimed(db, second).lease
    written_late = save(db, storage, later, 3)
    finish(db, later)
    submit(db)
    work_off(db, storage)
    collect(db, storage)
    assert_whole(db, storage)
    report = restore(fresh, tmp_path / "dump", verify=True)
    assert (report.shards, report.released, report.artifacts, report.lost) == (3, 2, 3, 0)
    assert (report.checkpoints, report.missing) == (1, [])
    restored = Database(fresh.database)
    assert item_states(restored, going) == ["succeeded", "queued", "queued", "queued"]
    for old in (lease, other, later):
        with pytest.raises(LeaseLost):
            save(restored, storage, old, 1)
    work_off(restored, storage)
    assert_whole(restored, storage)
    assert collect(restored, storage).orphans > 0
    assert written_late.key not in set(storage.keys(""))
    assert_whole(restored, storage)
    with restored.reading() as session:
        assert session.get_one(Shard, of_done).job_id == done
    restored.close()


def test_a_second_restore_of_the_same_dump_gives_no_epoch_twice(
    settings: Settings, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, [shard] = submit(db)
    storage = open_storage(settings)
    reconcile(db, storage)
    first = claimed(db, shard).lease
    with db.transaction() as session:
        session.execute(update(Shard).values(epoch=0))  # as the dump had it
    monkeypatch.setattr(restoring, "now", lambda: literal(first.epoch + 10.0))
    reconcile(db, storage)
    assert claimed(db, shard).lease.epoch > first.epoch


def lose(storage: Storage, stored: Stored, how: str) -> None:
    if how == "missing":
        storage.delete(stored.key)
    else:
        storage.put(stored.key, b"x" if how == "short" else b"x" * stored.size, "text/plain")


@pytest.mark.parametrize("how", ["missing", "short", "changed"])
def test_an_item_whose_object_is_not_what_was_stored_is_redone(db: Database, storage: Storage, how: str) -> None:
    job_id, [shard] = submit(db)
    lease = claimed(db, shard).lease
    stored = [save(db, storage, lease, i) for i in (0, 1)]
    finish(db, lease)
    lose(storage, stored[1], how)
    assert reconcile(db, storage).reopened == (0 if how == "changed" else 1)
    assert reconcile(db, storage, verify=True).reopened == (1 if how == "changed" else 0)
    assert (state_of(db, job_id), item_states(db, job_id)) == ("queued", ["succeeded", "queued"])
    work_off(db, storage)
    assert_whole(db, storage)
    with db.reading() as session:
        moves = list(session.scalars(select(Transition.state).order_by(Transition.id)))
    assert moves[-5:] == ["succeeded", "queued", "running", "finalizing", "succeeded"]


def test_what_is_made_of_all_items_waits_for_those_that_are_computed_again(db: Database, storage: Storage) -> None:
    recipe = submit_recipe(db)
    for _ in range(2):  # the parts, and then the drawing
        work_off(db, storage)
    assert_whole(db, storage)
    part = next(iter(recipe.parts.values()))
    for key in [key for key in storage.keys("") if part in key or recipe.id in key]:
        storage.delete(key)
    assert reconcile(db, storage).reopened == 2
    assert shard_state(db, recipe.drawing) == ShardState.WAITING
    work_off(db, storage)
    assert_whole(db, storage)


def test_items_of_a_cancelled_job_whose_objects_are_gone_are_cancelled(db: Database, storage: Storage) -> None:
    job_id, [shard] = submit(db)
    lease = claimed(db, shard).lease
    stored = save(db, storage, lease, 0)
    cancel(db, job_id)
    finish(db, lease)
    storage.delete(stored.key)
    assert reconcile(db, storage).dropped == 1
    assert item_states(db, job_id) == [ItemState.CANCELLED, ItemState.CANCELLED]


def test_a_job_that_was_being_cancelled_ends_so(db: Database, storage: Storage) -> None:
    job_id, [shard] = submit(db)
    claimed(db, shard)
    cancel(db, job_id)
    assert state_of(db, job_id) == JobState.CANCELLING
    reconcile(db, storage)
    assert state_of(db, job_id) == JobState.CANCELLED


def test_pointers_to_checkpoints_that_are_gone_are_dropped_and_others_kept(db: Database, storage: Storage) -> None:
    _, [shard] = submit(db)
    lease = claimed(db, shard).lease
    kept = checkpoint(db, storage, lease, 0)
    with db.transaction() as session:
        gone = Stored(checkpoint_key(lease.job_id, 1, lease.epoch, 5), 3, "0" * 64)
        leases.save_item_checkpoint(session, lease, 1, gone, 5)
    assert reconcile(db, storage, verify=True).checkpoints == 1
    work = claimed(db, shard)
    assert work.checkpoint is not None
    assert work.checkpoint["key"] == kept
    assert [item.checkpoint for item in work.items] == [None, None]


def test_what_nobody_can_compute_again_is_named_and_left(db: Database, storage: Storage) -> None:
    _, [shard] = submit(db, items=1)
    lease = claimed(db, shard).lease
    stored = save(db, storage, lease, 0)
    finish(db, lease)
    image: dict[str, Any] = {"media_type": "", "width": 1, "height": 1, "size": 1, "created_at": 0}
    with db.transaction() as session:
        model = {"digest": "d", "card": {}, "job_id": lease.job_id, "created_at": 0}
        session.add(RegisteredModel(name="net", key=weights_key(lease.job_id, 1), **model))
        session.add(Image(id="sha256:a", key="images/a", **image))
    storage.delete(stored.key)
    found = [f"artifacts of job {lease.job_id}, which made net", "model net", "image sha256:a"]
    assert reconcile(db, storage).missing == reconcile(db, storage).missing == found
    assert state_of(db, lease.job_id) == JobState.SUCCEEDED


def test_a_restore_replaces_nothing_unless_it_is_told_to(settings: Settings, db: Database, tmp_path: Path) -> None:
    job_id, _ = submit(db)
    dump(settings, tmp_path / "dump")
    cancel(db, job_id)
    with pytest.raises(BackupFailed, match="is not empty"):
        restore(settings, tmp_path / "dump")
    assert state_of(db, job_id) == JobState.CANCELLED
    restore(settings, tmp_path / "dump", replace=True)
    assert state_of(db, job_id) == JobState.QUEUED


def test_a_file_that_is_no_dump_restores_nothing(settings: Settings, db: Database, tmp_path: Path) -> None:
    job_id, _ = submit(db)
    (tmp_path / "dump").write_bytes(b"nothing of the kind" * 1000)
    for file in (tmp_path / "dump", tmp_path / "none"):
        with pytest.raises(BackupFailed):
            restore(settings, file, replace=True)
    assert state_of(db, job_id) == JobState.QUEUED


def test_the_command_dumps_and_restores(tmp_path: Path, sqlite_url: str) -> None:
    env = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    env |= {"ROBUSTREPS_DATABASE_URL": sqlite_url, "ROBUSTREPS_DATA_DIR": str(tmp_path / "data")}

    def call(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([sys.executable, "-m", "deploy.backup", *words], env=env, capture_output=True, text=True)

    dumped = tmp_path / "dump"
    assert call("dump", str(dumped)).returncode == 0
    with sqlite3.connect(dumped) as connection:
        assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (0,)
    connection.close()
    refused = call("restore", str(dumped))
    assert (refused.returncode, "is not empty" in refused.stderr) == (1, True)
    assert '"shards": 0' in call("restore", str(dumped), "--replace", "--verify").stdout
