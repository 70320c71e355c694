"""Items that are stored as one tar: saved together or not at all, kept while rows point to it, made again if lost."""

import re
from typing import NamedTuple

import pytest
from sqlalchemy import select

from service import deletion, jobs, leases, reuse
from service.bulk_models import ResultShard
from service.collector import collect
from service.db import Database
from service.leases import Lease, LeaseLost
from service.models import Artifact, Item, Shard
from service.objects import Storage, read_file
from service.restoring import reconcile
from tests.service.tars import Files, packed
from tests.service.test_jobs import (
    claimed,
    crash,
    do,
    expire,
    fail_attempt,
    fail_item,
    finish,
    item_states,
    shard_of,
    state_of,
    submit,
    submit_with_summary,
)  # fmt: skip

BOTH: Files = {0: {"a.png": b"zero", "b.json": b"{}"}, 1: {"a.png": b"one" * 400}}

OLD_KEY = re.compile(r"(?:jobs/[^/]+/(?:items|shards)/\d+|(?:models|datasets)/[^/]+)/\d+/.+")
"""What a collector of the version before looks at, and removes if nothing that it knows of points to it."""


class Place(NamedTuple):
    db: Database
    storage: Storage

    def save(self, lease: Lease, files: Files = BOTH, number: int = 0) -> int:
        tar, results = packed(self.storage, lease, files, number)
        return do(self.db, leases.save_items, lease, results, tar)

    def files(self) -> dict[tuple[int, str], bytes]:
        """What the rows point to, by item and name."""
        with self.db.reading() as session:
            rows = session.scalars(select(Artifact)).all()
        return {(r.item_index, r.name): read_file(self.storage, r.key, r.offset, r.size) for r in rows}

    def tars(self) -> list[tuple[str, int, int]]:
        with self.db.reading() as session:
            return [(t.key, t.first_item, t.items) for t in session.scalars(select(ResultShard))]


@pytest.fixture
def place(stores: tuple[Database, Storage]) -> Place:
    return Place(*stores)


def test_items_of_a_tar_are_saved_with_where_their_files_lie(place: Place) -> None:
    job_id, [shard] = submit(place.db)
    fail_attempt(place.db, claimed(place.db, shard).lease)
    lease = claimed(place.db, shard).lease
    assert place.save(lease) == 2
    assert place.files() == {(i, name): data for i, files in BOTH.items() for name, data in files.items()}
    assert place.tars() == [(f"jobs/{job_id}/results/0/2/0.tar", 0, 2)]
    assert item_states(place.db, job_id) == ["succeeded", "succeeded"]
    assert shard_of(place.db, shard).attempts == 0, "as after any progress"
    with place.db.reading() as session:
        found = session.execute(select(Item.metrics, Item.provenance, Item.epoch).order_by(Item.index)).all()
    assert [tuple(row) for row in found] == [({"n": n}, {"epoch": 2}, 2) for n in (0, 1)]


def test_a_tar_may_be_saved_again(place: Place) -> None:
    _, [shard] = submit(place.db)
    lease = claimed(place.db, shard).lease
    assert (place.save(lease), place.save(lease)) == (2, 0), "as after a commit whose answer was lost"
    assert len(place.tars()) == 1


@pytest.mark.parametrize("why", ["over", "of another shard", "the lease is lost"])
def test_where_one_item_cannot_be_saved_none_is(place: Place, why: str) -> None:
    job_id, shards = submit(place.db, items=4)
    lease = claimed(place.db, shards[0]).lease
    files = BOTH
    if why == "over":
        fail_item(place.db, lease, 1)
    elif why == "of another shard":
        claimed(place.db, shards[1])
        files = {0: BOTH[0], 2: BOTH[1]}
    else:
        expire(place.db, shards[0])
        do(place.db, leases.expire_lease, shards[0], 3)
        claimed(place.db, shards[0])
    with pytest.raises(LeaseLost):
        place.save(lease, files)
    assert (place.files(), place.tars()) == ({}, [])
    assert item_states(place.db, job_id)[0] == "running"


def test_an_item_that_was_reopened_is_left_out_of_its_tar(place: Place) -> None:
    job_id, [shard] = submit(place.db)
    lease = claimed(place.db, shard).lease
    fail_item(place.db, lease, 0)
    do(place.db, jobs.retry, job_id)
    assert place.save(lease) == 1
    assert item_states(place.db, job_id) == ["queued", "succeeded"]
    assert [(first, items) for _, first, items in place.tars()] == [(1, 1)]


def test_what_a_split_shard_stored_before_stays_beside_what_its_parts_store(place: Place) -> None:
    job_id, [shard] = submit(place.db, items=3, shard_items=3)
    place.save(claimed(place.db, shard).lease, {0: BOTH[0]})
    expire(place.db, shard)
    do(place.db, leases.expire_lease, shard, 3)
    crash(place.db, shard)
    for n, each in ((1, shard), (2, f"{job_id}.1")):
        place.save(claimed(place.db, each).lease, {n: BOTH[1]})
    assert len(place.tars()) == 3
    assert set(item_states(place.db, job_id)) == {"succeeded"}


def test_a_tar_stays_while_a_row_points_to_it_and_goes_where_none_can(place: Place) -> None:
    _, [shard] = submit(place.db)
    late = crash(place.db, shard).lease
    lease = claimed(place.db, shard).lease
    place.save(lease)
    kept = set(place.storage.keys(""))
    packed(place.storage, lease, BOTH, number=1)  # which may be committed yet
    packed(place.storage, late, BOTH)
    assert collect(place.db, place.storage).orphans == 1
    finish(place.db, lease)
    assert collect(place.db, place.storage).orphans == 1
    assert set(place.storage.keys("")) == kept
    assert len(place.files()) == 3


def test_a_collector_from_before_there_were_tars_leaves_them_alone(place: Place) -> None:
    _, [shard] = submit(place.db)
    place.save(claimed(place.db, shard).lease)
    assert not any(OLD_KEY.fullmatch(key) for key in place.storage.keys(""))


def taken_over(place: Place) -> tuple[str, str]:
    """A finished job, and one that took its items over."""
    source, [shard] = submit(place.db)
    place.save(lease := claimed(place.db, shard).lease)
    finish(place.db, lease)
    taker, _ = submit(place.db)
    with place.db.transaction() as session:
        items = session.scalars(select(Item).where(Item.job_id == source)).all()
        reuse.take_over(session, taker, [(item.index, item) for item in items])
    return source, taker


def test_a_tar_is_kept_for_a_job_that_took_its_items_over(place: Place) -> None:
    source, taker = taken_over(place)
    do(place.db, deletion.remove, source)
    deletion.sweep(place.db, place.storage)
    assert collect(place.db, place.storage).orphans == 0
    assert place.files() == {(i, name): data for i, files in BOTH.items() for name, data in files.items()}
    do(place.db, deletion.remove, taker, True)
    for _ in range(2):  # the taker, and then what it kept
        deletion.sweep(place.db, place.storage)
    assert set(place.storage.keys("")) == set()


def lose(place: Place, key: str, how: str) -> None:
    size = place.storage.stat(key)
    if how == "missing":
        place.storage.delete(key)
    else:
        place.storage.put(key, bytes(size - 1 if how == "short" else size), "application/x-tar")


@pytest.mark.parametrize("how", ["missing", "short", "other bytes"])
def test_the_items_of_a_tar_that_was_lost_are_computed_again(place: Place, how: str) -> None:
    job_id, shards, last = submit_with_summary(place.db)
    for n, shard in enumerate(shards):
        place.save(lease := claimed(place.db, shard).lease, {n: BOTH[n]})
        finish(place.db, lease)
    do(place.db, leases.save_item, lease := claimed(place.db, last).lease, 2, {}, {}, {})
    finish(place.db, lease)
    assert state_of(place.db, job_id) == "succeeded"
    assert reconcile(place.db, place.storage, verify=True).lost == 0
    lose(place, place.tars()[0][0], how)
    report = reconcile(place.db, place.storage, verify=how == "other bytes")
    assert (report.artifacts, report.lost, report.reopened) == (3, 2, 1)
    assert item_states(place.db, job_id) == ["queued", "succeeded", "queued"], "a table says where files lie"
    assert [first for _, first, _ in place.tars()] == [1]
    with place.db.reading() as session:
        assert session.get_one(Shard, last).state == "waiting"
    place.save(lease := claimed(place.db, shards[0]).lease, {0: BOTH[0]})
    finish(place.db, lease)
    assert place.files() == {(i, name): data for i, files in BOTH.items() for name, data in files.items()}


def test_where_a_tar_is_lost_a_deleted_job_stays_as_it_is_and_who_took_its_items_over_computes_them(
    place: Place,
) -> None:
    source, taker = taken_over(place)
    do(place.db, deletion.remove, source)
    place.storage.delete(place.tars()[0][0])
    report = reconcile(place.db, place.storage)
    assert (report.artifacts, report.lost, report.reopened) == (6, 3, 2)
    assert (state_of(place.db, source), item_states(place.db, taker)) == ("succeeded", ["queued"] * 2)
    assert reconcile(place.db, place.storage).lost == 0
