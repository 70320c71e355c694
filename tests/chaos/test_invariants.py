"""The chaos suite finds what it looks for: each kind of damage, planted in a sound database and bucket, is reported."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from safetensors.numpy import save
from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from service import jobs, leases
from service.bulk_models import ResultShard
from service.db import Database
from service.keys import result_shard_key
from service.kinds.planning import ItemPlan, Plan
from service.models import Artifact, Item, Job, Shard, Transition
from service.storage import LocalStorage, Storage, artifact_key
from tests.chaos import invariants
from tests.chaos.load import UNREADABLE, Accepted, Ledger
from tests.chaos.watch import Handover, Seen, Watch, handovers, too_long
from tests.fixtures import migrated
from tests.service import inserting
from tests.service.tars import packed
from tests.service.test_jobs import PARAMETERS, TARGET

EPOCH = 2
FILES = ("result.safetensors", "result.png", "trace.json")


class Past(NamedTuple):
    """What a run left: a job that succeeded, one with an item that failed, one that was cancelled in the middle."""

    db: Database
    storage: Storage
    ledger: Ledger
    whole: str
    partial: str
    cancelled: str

    def found(self) -> set[str]:
        return {violation.promise for violation in invariants.check(self.db, self.storage, self.ledger)}


def tensors(value: float, provenance: str = "") -> bytes:
    return save({"image": np.full((3, 2, 2), value, dtype=np.float32)}, {"provenance": provenance})


def lived(
    db: Database, storage: Storage, key: str, saved: int, failed: int = 0, left: int = 0, tarred: bool = False
) -> str:
    """A job of one shard, claimed twice, with so many items that succeeded, failed, and were cancelled."""
    items = [ItemPlan(TARGET, {"source": "noise"}) for _ in range(saved + failed + left)]
    with db.transaction() as session:
        job_id, [shard_id] = inserting.submit(session, Plan(PARAMETERS, items, []), "digest", key, 100)
        assert leases.claim(session, shard_id, "dead worker", 60) is not None
        session.execute(update(Shard).where(Shard.id == shard_id).values(state="queued"))
        work = leases.claim(session, shard_id, "worker", 60)
        assert work is not None
        if tarred:
            tar, results = packed(storage, work.lease, {i: dict.fromkeys(FILES, tensors(i)) for i in range(saved)})
            leases.save_items(session, work.lease, results, tar)
        for index in range(0 if tarred else saved):
            stored = {
                name: (storage.put(artifact_key(job_id, index, EPOCH, name), tensors(index), "x/y"), "x/y")
                for name in FILES
            }
            leases.save_item(session, work.lease, index, {}, {}, stored)
        for index in range(saved, saved + failed):
            leases.fail_item(session, work.lease, index, UNREADABLE, "gone")
        if left:
            jobs.cancel(session, job_id)
        leases.finish(session, work.lease)
    return job_id


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with a past in it, and the ids of its jobs."""
    folder = tmp_path_factory.mktemp("past")
    (folder / "test.db").write_bytes(migrated())
    db, storage = Database(f"sqlite:///{folder / 'test.db'}"), LocalStorage(folder / "objects")
    ids = [lived(db, storage, "whole", 2), lived(db, storage, "partial", 1, failed=1, tarred=True)]
    ids.append(lived(db, storage, "cancelled", 1, left=1))
    db.close()
    return folder, ids


@pytest.fixture
def past(template: tuple[Path, list[str]], tmp_path: Path) -> Iterator[Past]:
    folder, (whole, partial, cancelled) = template
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    db, storage = Database(f"sqlite:///{tmp_path / 'test.db'}"), LocalStorage(tmp_path / "objects")
    ledger = Ledger(sent={"whole", "partial", "cancelled", "never answered"})
    ledger.accepted = {
        "whole": Accepted(whole, "by pgd"),
        "partial": Accepted(partial, "failing", failing=frozenset({1})),
        "cancelled": Accepted(cancelled, "plain", stopped=True),
    }
    yield Past(db, storage, ledger, whole, partial, cancelled)
    db.close()


def test_a_sound_past_breaks_no_promise(past: Past) -> None:
    assert invariants.check(past.db, past.storage, past.ledger) == []


Plant = Callable[[Past, Session], object]


def write(table: Any, *where: Any, **values: Any) -> Plant:
    return lambda _, session: session.execute(update(table).where(*where).values(values))


def drop(table: Any, *where: Any) -> Plant:
    return lambda _, session: session.execute(delete(table).where(*where))


def key(past: Past, name: str = "result.png") -> str:
    return artifact_key(past.whole, 0, EPOCH, name)


def tar_of(past: Past) -> str:
    return result_shard_key(past.partial, f"{past.partial}.0", EPOCH, 0)


IN_TAR = Artifact.offset.is_not(None)
SAVED, FIRST, RESULT = Item.state == "succeeded", Item.index == 0, Artifact.name == FILES[0]
PARTIAL, OWN = Job.state == "partially_succeeded", Job.idempotency_key == "whole"
PLANTS: list[tuple[str, str, Plant]] = [
    ("a job goes on", "every job ends", write(Job, Job.state == "succeeded", state="running")),
    ("an open item", "every item ends", write(Item, SAVED, state="running")),
    ("an item given up", "every item ends", write(Item, SAVED, state="cancelled")),
    ("an item without an epoch", "an item ends under a claim", write(Item, SAVED, epoch=None)),
    ("an epoch that never was", "an item ends under a claim", write(Item, SAVED, epoch=EPOCH + 1)),
    ("wrong bytes", "a row points to what was stored", lambda p, _: p.storage.put(key(p), b"other", "x/y")),
    ("a torn object", "a row points to what was stored", lambda p, _: p.storage.put(key(p), tensors(0)[:-1], "x/y")),
    ("a missing object", "a row points to what was stored", lambda p, _: p.storage.delete(key(p))),
    (
        "a checkpoint that is gone", "a row points to what was stored",
        write(Shard, checkpoint={"key": "jobs/x/shards/0/1/checkpoint-1.safetensors", "size": 1, "sha256": "0"}),
    ),
    (
        "other bytes in a tar", "a row points to what was stored",
        lambda p, _: p.storage.put(tar_of(p), bytes(p.storage.stat(tar_of(p))), "x/y"),
    ),
    ("a range too far", "a row points to what was stored", write(Artifact, IN_TAR, offset=Artifact.offset + 512)),
    ("a tar without a row", "artifacts are of the claim that ended their item", drop(ResultShard)),
    ("a tar without items", "nothing is left over in the storage", drop(Artifact, IN_TAR)),
    ("a stale epoch", "artifacts are of the claim that ended their item", write(Item, SAVED, epoch=1)),
    ("an artifact too few", "a result is whole", lambda _, s: s.execute(delete(Artifact).where(RESULT))),
    (
        "an artifact of an item that failed", "a result is whole",
        lambda p, s: s.execute(update(Item).where(Item.job_id == p.whole, FIRST).values(state="failed")),
    ),
    ("an item too few", "a job is what its items are", write(Job, items=3)),
    ("a success that is none", "a job is what its items are", write(Job, PARTIAL, state="succeeded")),
    ("a failure that is none", "a job is what its items are", write(Job, Job.state == "succeeded", state="failed")),
    ("a shard that is queued", "no lease outlives its job", write(Shard, state="queued")),
    ("a lease that is held", "no lease outlives its job", write(Shard, lease_expires_at=1.0)),
    ("a second end", "a job ends once", lambda p, s: s.add(Transition(job_id=p.whole, state="succeeded", at=1.0))),
    ("an end unwritten", "a job ends once", write(Transition, Transition.state == "succeeded", state="finalizing")),
    ("a job lost", "a key makes one job", lambda p, s: s.execute(delete(Job).where(Job.id == p.whole))),
    ("a job that nobody sent", "a key makes one job", write(Job, OWN, idempotency_key="other")),
    (
        "an innocent failed", "only bad input fails",
        lambda p, s: s.execute(update(Item).where(Item.job_id == p.whole, FIRST).values(state="failed")),
    ),
    (
        "a failure for another reason", "only bad input fails",
        write(Item, Item.state == "failed", error={"title": "Quarantined", "detail": ""}),
    ),
    ("bad input that passed", "only bad input fails", write(Item, Item.state == "failed", state="succeeded")),
    ("a job that nobody stopped", "only bad input fails", write(Job, Job.state == "succeeded", state="expired")),
    (
        "an orphan", "nothing is left over in the storage",
        lambda p, _: p.storage.put(artifact_key(p.whole, 0, 1, "result.png"), b"stale", "x/y"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("promise", "plant"), [pytest.param(*row[1:], id=row[0]) for row in PLANTS])
def test_damage_is_found(past: Past, promise: str, plant: Plant) -> None:
    with past.db.transaction() as session:
        plant(past, session)
    assert promise in past.found()


def test_every_promise_has_been_broken() -> None:
    assert {promise for _, promise, _ in PLANTS} == set(invariants.PROMISES)


def compared(past: Past, other: bytes) -> list[str]:
    """What is said of the job's second item, were the unbroken run's like this."""
    unbroken = lived(past.db, past.storage, "unbroken", 2)
    stored = past.storage.put(artifact_key(unbroken, 1, EPOCH, FILES[0]), other, "x/y")
    assert stored.size
    found = invariants.same_bits(past.db, past.storage, past.ledger, {"by pgd": unbroken})
    return [violation.promise for violation in found]


def test_the_same_bits_may_have_come_about_differently(past: Past) -> None:
    assert compared(past, tensors(1, "another worker")) == []


@pytest.mark.parametrize("other", [np.nextafter(np.float32(1), np.float32(2)), -1.0])
def test_one_other_bit_is_found(past: Past, other: float) -> None:
    assert compared(past, tensors(other)) == ["a deterministic result is the same to the last bit"]


def test_an_item_that_ends_twice_is_seen(past: Past) -> None:
    watch = Watch(past.db)
    watch.look(60)
    watch.look(60)
    assert (watch.broken, len(watch.ends)) == ([], 6)
    with past.db.transaction() as session:
        session.execute(update(Item).where(Item.job_id == past.whole, FIRST).values(epoch=EPOCH + 1))
    watch.look(60)
    assert [violation.promise for violation in watch.broken] == ["an item ends once"]


def test_a_claims_first_report_is_that_of_the_one_before(past: Past) -> None:
    watch = Watch(past.db)
    for epoch, steps in ((EPOCH, 7), (EPOCH + 1, 7), (EPOCH + 1, 5)):
        with past.db.transaction() as session:
            going = {"state": "running", "epoch": epoch, "progress": {"image_steps": steps}}
            session.execute(update(Shard).where(Shard.job_id == past.whole).values(going))
        watch.look(60)
    [seen] = watch.seen.values()
    assert [row[1:] for row in seen] == [(EPOCH, 7), (EPOCH + 1, 5)]


RUN = [Seen(1.0, 1, 10), Seen(2.0, 1, 20), Seen(3.0, 1, 30)]


def test_a_claim_that_goes_on_where_the_last_one_was_loses_nothing() -> None:
    [handover] = handovers({"s": [*RUN, Seen(5.0, 2, 31)]})
    assert handover.seconds == 0


def test_a_loss_is_measured_in_seconds_of_work() -> None:
    assert handovers({"s": [*RUN, Seen(9.0, 2, 10)]}) == [Handover("s", 1, 2.0, 3.0)]


def test_only_a_storm_excuses_a_long_loss() -> None:
    lost = [Handover("s", 1, 2.0, 5.0)]
    assert too_long(lost, 3.5, []) == []
    assert too_long(lost, 2.5, [(4.0, 9.0)]) == []
    assert [violation.promise for violation in too_long(lost, 2.5, [(0.0, 1.0), (6.0, 9.0)])] == [
        "a crash costs little work"
    ]
