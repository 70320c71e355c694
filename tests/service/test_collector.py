"""Orphans are removed, and nothing that a row points to or may yet point to, whatever happens at the same time."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import event, select

from service import collector, leases
from service.collector import Collected, collect
from service.db import Database
from service.keys import checkpoint_key, dataset_key, weights_key
from service.leases import Lease
from service.models import Artifact, Image, Item, Job, RegisteredDataset, RegisteredModel
from service.objects import Entry, Storage, Stored
from service.storage import LocalStorage, S3Storage, artifact_key, image_key
from tests.service.test_jobs import claimed, expire, finish, submit

IMAGE, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64


class Place(NamedTuple):
    db: Database
    storage: Storage

    def keys(self) -> set[str]:
        return set(self.storage.keys(""))

    def put(self, key: str) -> Stored:
        return self.storage.put(key, b"x" * 10, "text/plain")

    def artifact(self, lease: Lease, index: int) -> Stored:
        return self.put(artifact_key(lease.job_id, index, lease.epoch, "result.png"))

    def commit(self, lease: Lease, index: int, *stored: Stored) -> None:
        files = {s.key.rpartition("/")[2]: (s, "image/png") for s in stored}
        with self.db.transaction() as session:
            leases.save_item(session, lease, index, {}, {}, files)

    def pointers(self) -> set[str]:
        with self.db.reading() as session:
            return set(session.scalars(select(Artifact.key)))


@pytest.fixture
def place(stores: tuple[Database, Storage]) -> Place:
    return Place(*stores)


class Interrupted:
    """A storage during one of whose calls, or right after it, something else happens."""

    def __init__(self, storage: Storage, method: str, act: Callable[[], object]) -> None:
        self.storage, self.method, self.act = storage, method, act

    def __getattr__(self, name: str) -> Any:
        return getattr(self.storage, name)

    def dated(self, prefix: str) -> Iterator[Entry]:
        listed = list(self.storage.dated(prefix))
        if listed and self.method == "dated":
            self.act()
        yield from listed

    def delete(self, key: str) -> None:
        if self.method == "delete":
            self.act()
        self.storage.delete(key)


def test_what_rows_point_to_stays_and_the_rest_of_a_finished_job_goes(place: Place) -> None:
    _, [shard] = submit(place.db)
    lease = claimed(place.db, shard).lease
    kept = {place.artifact(lease, i).key for i in (0, 1)}
    for i in (0, 1):
        place.commit(lease, i, place.artifact(lease, i))
    place.put(artifact_key(lease.job_id, 1, lease.epoch, "never-committed.png"))
    finish(place.db, lease)
    assert collect(place.db, place.storage) == Collected(seen=3, orphans=1, size=10, unfinished=0)
    assert place.keys() == kept


def test_only_counting_finds_the_same_and_removes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "PAGE", 2)
    _, [shard] = submit(place.db)
    old = claimed(place.db, shard).lease
    before = {place.put(artifact_key(old.job_id, 0, old.epoch, f"{n}.png")).key for n in range(5)}
    assert collect(place.db, place.storage, dry_run=True).orphans == 0
    finish(place.db, old)
    assert collect(place.db, place.storage, dry_run=True) == Collected(5, 5, 50, 0)
    assert place.keys() == before
    assert collect(place.db, place.storage) == Collected(5, 5, 50, 0)
    assert collect(place.db, place.storage) == Collected(0, 0, 0, 0)


def test_only_the_epoch_that_runs_and_those_to_come_may_still_be_written(place: Place) -> None:
    job_id, [shard] = submit(place.db)
    finish(place.db, claimed(place.db, shard).lease)
    assert claimed(place.db, shard).lease.epoch == 2
    keys = {epoch: place.put(artifact_key(job_id, 0, epoch, "a.png")).key for epoch in (1, 2, 3)}
    collect(place.db, place.storage)
    assert place.keys() == {keys[2], keys[3]}


def test_checkpoints_stay_while_an_item_or_any_shard_points_to_them(place: Place) -> None:
    job_id, [shard] = submit(place.db)
    lease = claimed(place.db, shard).lease
    files = [place.put(f"jobs/{job_id}/shards/0/{lease.epoch}/checkpoint-{n}.safetensors") for n in (0, 1)]
    training = [place.put(checkpoint_key(job_id, 1, lease.epoch, step)) for step in (10, 20)]
    for of_shard, of_item in zip(files, training, strict=True):
        with place.db.transaction() as session:
            leases.save_checkpoint(session, lease, of_shard)
            leases.save_item_checkpoint(session, lease, 1, of_item, 10)
    for _ in range(2):  # the second crash splits the shard: both parts then go on from its checkpoint
        expire(place.db, shard)
        with place.db.transaction() as session:
            assert leases.expire_lease(session, shard, max_crashes=3)
        lease = claimed(place.db, shard).lease
    collect(place.db, place.storage)
    assert place.keys() == {files[1].key, training[1].key}
    own = place.put(f"jobs/{job_id}/shards/0/{lease.epoch}/checkpoint-0.safetensors")
    with place.db.transaction() as session:
        leases.save_checkpoint(session, lease, own)
    collect(place.db, place.storage)
    assert place.keys() == {files[1].key, training[1].key, own.key}


def _register(place: Place, lease: Lease) -> tuple[Stored, Stored]:
    weights = place.put(weights_key(lease.job_id, lease.epoch))
    index = place.put(dataset_key(lease.job_id, lease.epoch, "index.npz"))
    about: dict[str, Any] = {"name": "n", "digest": "d", "card": {}, "job_id": lease.job_id, "created_at": 0}
    with place.db.transaction() as session:
        session.add(RegisteredModel(key=weights.key, **about))
        session.add(RegisteredDataset(location={"root": "folder", "index": index.key}, **about))
    return weights, index


def test_networks_and_data_sets_stay_while_they_are_registered(place: Place) -> None:
    _, [shard] = submit(place.db, items=1)
    finish(place.db, claimed(place.db, shard).lease)
    lease = claimed(place.db, shard).lease
    late = [place.put(weights_key(lease.job_id, 1)), place.put(dataset_key(lease.job_id, 1, "index.npz"))]
    kept = {stored.key for stored in _register(place, lease)}
    unsaved = place.put(dataset_key(lease.job_id, lease.epoch, "arrays.npz"))
    assert collect(place.db, place.storage).orphans == len(late)
    assert place.keys() == kept | {unsaved.key}
    with place.db.transaction() as session:
        session.delete(session.get_one(Job, lease.job_id))
    collect(place.db, place.storage)
    assert place.keys() == kept


def test_weights_that_are_only_an_artifact_stay(place: Place) -> None:
    _, [shard] = submit(place.db, items=1)
    lease = claimed(place.db, shard).lease
    weights = place.put(weights_key(lease.job_id, lease.epoch))
    place.commit(lease, 0, weights)
    finish(place.db, lease)
    collect(place.db, place.storage)
    assert place.keys() == {weights.key}


def test_what_the_database_has_never_heard_of_is_left_unless_asked_for(place: Place) -> None:
    place.put("jobs/job_unknown/items/0/1/result.png")
    assert collect(place.db, place.storage, strangers=False).orphans == 0
    assert collect(place.db, place.storage).orphans == 1


def test_keys_that_no_worker_writes_are_nobodys_orphans(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "GRACE", -3600)
    keys = {place.put(key).key for key in ("imports/photo.png", "jobs/notes.txt", "images/readme", "other")}
    assert collect(place.db, place.storage).orphans == 0
    assert place.keys() == keys


def test_an_upload_without_a_row_stays_a_day(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = place.put(image_key(OTHER))
    _post(place, kept)
    place.put(image_key(IMAGE))
    place.put("checkpoints/" + "c" * 64)
    assert collect(place.db, place.storage).orphans == 0
    monkeypatch.setattr(collector, "GRACE", -3600)  # the other end of a day
    assert collect(place.db, place.storage, strangers=False).orphans == 0
    assert collect(place.db, place.storage).orphans == 2
    assert place.keys() == {kept.key}


def _post(place: Place, stored: Stored) -> None:
    upload_id = "sha256:" + stored.key.removeprefix("images/")
    with place.db.transaction() as session:
        session.add(Image(id=upload_id, key=stored.key, size=1, media_type="", width=1, height=1, created_at=0))


def test_a_row_that_comes_while_its_object_goes_waits_until_it_is_gone(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "GRACE", -3600)
    stored, done = place.put(image_key(IMAGE)), threading.Event()

    def post() -> None:
        _post(place, stored)
        done.set()

    poster = threading.Thread(target=post)

    def begin() -> None:
        poster.start()
        assert not done.wait(0.5)

    assert collect(place.db, Interrupted(place.storage, "delete", begin)).orphans == 1
    poster.join(60)
    assert done.is_set()
    assert place.keys() == set()  # so whoever posts looks after the commit, and puts again


def test_a_row_that_comes_between_the_look_and_the_removal_keeps_its_object(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "GRACE", -3600)
    stored = place.put(image_key(IMAGE))
    [entry] = place.storage.dated("images/")
    assert collector._rowless(place.db, "images/", [entry], entry.modified + 1) == [entry]
    _post(place, stored)
    assert not collector._remove(place.db, place.storage, "images/", entry)
    assert place.keys() == {stored.key}


def test_uploads_that_never_ended_are_removed_after_a_day(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    unfinished: list[Path] = []
    for key in ("jobs/a/items/0/1/x", "images/y", "imports/z"):
        if isinstance(place.storage, S3Storage):
            place.storage.client.create_multipart_upload(Bucket=place.storage.bucket, Key=key)
        else:
            assert isinstance(place.storage, LocalStorage)
            unfinished.append((place.storage.folder / key).with_name(".x." + "0" * 32))
            unfinished[-1].parent.mkdir(parents=True)
            unfinished[-1].write_bytes(b"half")
    assert collect(place.db, place.storage).unfinished == 0
    monkeypatch.setattr(collector, "GRACE", -3600)
    assert collect(place.db, place.storage, dry_run=True).unfinished == 2
    assert collect(place.db, place.storage).unfinished == 2
    assert collect(place.db, place.storage).unfinished == 0  # what clients are putting under imports/ is theirs
    assert [path.exists() for path in unfinished] in ([], [False, False, True])


def test_a_pointer_committed_after_the_listing_keeps_its_object(place: Place) -> None:
    _, [shard] = submit(place.db, items=1)
    lease = claimed(place.db, shard).lease
    stored = place.artifact(lease, 0)

    def commit() -> None:
        place.commit(lease, 0, stored)
        finish(place.db, lease)

    assert collect(place.db, Interrupted(place.storage, "dated", commit)).orphans == 0
    assert place.keys() == place.pointers() == {stored.key}


@pytest.mark.parametrize("statement", [1, 2, 3])
def test_a_pointer_committed_between_any_two_reads_keeps_its_object(place: Place, statement: int) -> None:
    _, [shard] = submit(place.db, items=1)
    lease = claimed(place.db, shard).lease
    stored, seen = place.artifact(lease, 0), 0
    place.put(artifact_key(lease.job_id, 0, lease.epoch - 1, "late.png"))  # so that there is something to read
    other = Database(str(place.db.url.render_as_string(hide_password=False)))

    @event.listens_for(place.db.engine, "before_cursor_execute")
    def _count(*_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == statement:
            elsewhere = Place(other, place.storage)
            elsewhere.commit(lease, 0, stored)
            finish(other, lease)

    assert collect(place.db, place.storage).orphans == 1
    assert seen >= statement
    assert place.keys() == place.pointers() == {stored.key}
    other.close()


@pytest.mark.slow
def test_collectors_beside_workers_that_lose_leases_remove_nothing_that_is_pointed_to(place: Place) -> None:
    over = threading.Event()

    def work(jobs: int) -> None:
        for _ in range(jobs):
            [shard] = submit(place.db, items=2)[1]
            for attempt in range(3):  # two are lost half way, with an object stored and another saved or not
                lease = claimed(place.db, shard).lease
                with place.db.reading() as session:
                    left = session.scalars(select(Item.index).where(Item.shard_id == shard, Item.state == "running"))
                    indices = list(left)
                for index in indices[: None if attempt == 2 else attempt]:
                    place.commit(lease, index, place.artifact(lease, index))
                place.artifact(lease, 1)
                if attempt == 2:
                    finish(place.db, lease)
                else:
                    expire(place.db, shard)
                    with place.db.transaction() as session:
                        leases.expire_lease(session, shard, max_crashes=10)

    def tidy(_: int) -> None:
        while not over.is_set():
            collect(place.db, place.storage)

    with ThreadPoolExecutor(5) as pool:
        tidying = [pool.submit(tidy, n) for n in range(2)]
        try:
            list(pool.map(work, [4] * 3))
        finally:
            over.set()
        for one in tidying:
            one.result()
    collect(place.db, place.storage)
    assert len(place.pointers()) == 3 * 4 * 2
    assert place.keys() == place.pointers()


def test_a_collection_stops_when_it_is_told_to(place: Place) -> None:
    _, [shard] = submit(place.db)
    lease = claimed(place.db, shard).lease
    place.artifact(lease, 0)
    finish(place.db, lease)
    assert collect(place.db, place.storage, going=lambda: False) == Collected()
    assert collect(place.db, place.storage).orphans == 1
