"""Removes objects that nothing points to and nothing ever will: what killed workers, late ones and retries left.

It may run at any time, several times at once, and holds a page of keys in memory. No grace period protects what workers
write, but the order of reading: keys first, then the states of their shards, then the pointers. A worker commits a
pointer only while its shard runs under the epoch in the key. So if that epoch is over, all that it committed is seen,
and no later claim writes that key. A key of an epoch that is yet to come is left: after a restore, a claim may write it
again. Uploads have no epoch, and are removed a day after they were stored, if there is no row, or if they still lie
where a client put them.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service import previews
from service.bulk_models import Manifest, PendingUpload, ResultShard
from service.db import Database, now
from service.models import Artifact, Image, Item, RegisteredDataset, RegisteredModel, Shard, Upload
from service.objects import Entry, Storage
from service.states import ShardState

PAGE = 1000
GRACE = 86_400.0
"""Seconds that a put may take, and the commit of its row after it, where no epoch tells that it is over."""
WRITTEN = ("jobs/", "models/", "datasets/")
KEY = re.compile(
    r"(?:jobs/(?P<job>[^/]+)/(?P<kind>items|shards|results)/(?P<number>\d+)|(?:models|datasets)/(?P<other>[^/]+))"
    r"/(?P<epoch>\d+)/.+"
)
PENDING = "uploads/"
UPLOAD = re.compile(r"[a-z]+/([0-9a-f]{64})")
UPLOADS: dict[str, tuple[type[Image] | type[Upload] | type[Manifest], dict[str, Any]]] = {
    "images/": (Image, {"media_type": "", "width": 0, "height": 0}),
    "checkpoints/": (Upload, {}),
    "manifests/": (Manifest, {}),
}
"""The tables of what clients post, and what a row needs beside id, key, size and time."""


class Collected(NamedTuple):
    """Objects looked at, those among them that were orphans, their bytes, and puts that never ended."""

    seen: int = 0
    orphans: int = 0
    size: int = 0
    unfinished: int = 0


class Written(NamedTuple):
    """A key that a worker wrote, taken apart: of an item, a shard, a shard's results, or, with no kind, of a job."""

    entry: Entry
    job_id: str
    kind: str
    number: int
    epoch: int


def collect(
    db: Database,
    storage: Storage,
    dry_run: bool = False,
    strangers: bool = True,
    going: Callable[[], bool] = lambda: True,
) -> Collected:
    """Remove orphans, or with `dry_run` only count them; stops early once `going` says no.

    Strangers are objects that the database has never heard of: of unknown jobs, and uploads without a row. They are
    orphans too, unless this is the wrong database for the bucket, which only a person can know. Raises StorageError, or
    what the database raises; what is done by then is done.
    """
    total = Collected()
    for page in _pages(storage, WRITTEN, going):
        found = _orphans(db, page, strangers)
        if not dry_run:
            for entry in found:
                storage.delete(entry.key)
        total = _plus(total, page, found)
    with db.reading() as session:
        before = (session.scalar(select(now())) or 0.0) - GRACE
    for prefix in UPLOADS if strangers else ():
        for page in _pages(storage, [prefix], going):
            found = [e for e in _rowless(db, prefix, page, before) if dry_run or _remove(db, storage, prefix, e)]
            total = _plus(total, page, found)
    for page in _pages(storage, [PENDING], going):
        found = _expired(db, page, before, strangers)
        for entry in () if dry_run else found:
            storage.delete(entry.key)
        total = _plus(total, page, found)
    if going() and not dry_run:
        with db.transaction() as session:
            session.execute(delete(PendingUpload).where(PendingUpload.expires_at < before - GRACE))
    places = (*WRITTEN, *UPLOADS, PENDING)
    left = sum(storage.discard_unfinished(prefix, before, dry_run) for prefix in places if going())
    return total._replace(unfinished=left)


def _pages(storage: Storage, prefixes: Iterable[str], going: Callable[[], bool]) -> Iterator[list[Entry]]:
    for prefix in prefixes:
        entries = storage.dated(prefix)
        while going() and (page := list(islice(entries, PAGE))):
            yield page


def _plus(total: Collected, page: list[Entry], found: list[Entry]) -> Collected:
    return total._replace(
        seen=total.seen + len(page), orphans=total.orphans + len(found), size=total.size + sum(e.size for e in found)
    )


def _orphans(db: Database, page: list[Entry], strangers: bool) -> list[Entry]:
    """Those of a page, which was listed before this is called."""
    jobs: dict[str, list[Written]] = {}
    for entry in page:
        if m := KEY.fullmatch(entry.key):  # keys of other shapes are not ours
            job_id = m["job"] or m["other"]
            written = Written(entry, job_id, m["kind"] or "", int(m["number"] or 0), int(m["epoch"]))
            jobs.setdefault(job_id, []).append(written)
    found = []
    with db.reading() as session:
        for job_id, of_job in jobs.items():
            # In this order also where each statement has a view of its own, as in Postgres.
            over = _over(session, job_id, of_job, strangers)
            pointed = _pointed(session, job_id, over) if over else set()
            found += [w.entry for w in over if w.entry.key not in pointed]
    return found


def _over(session: Session, job_id: str, written: list[Written], strangers: bool) -> list[Written]:
    """Those keys of a job under whose epoch nothing can be committed, now or ever."""
    states: dict[tuple[str, int], list[tuple[int, str]]] = {}
    if numbers := [w.number for w in written if w.kind == "items"]:
        held = select(Item.index, Shard.epoch, Shard.state).join(Shard, Item.shard_id == Shard.id)
        for index, epoch, state in session.execute(held.where(Item.job_id == job_id, Item.index.in_(numbers))):
            states["items", index] = [(epoch, state)]
    if len(numbers) < len(written):
        shards = select(Shard.id, Shard.epoch, Shard.state).where(Shard.job_id == job_id)
        for shard_id, epoch, state in session.execute(shards):
            number = int(shard_id.rpartition(".")[2])
            states["shards", number] = states["results", number] = [(epoch, state)]
            states.setdefault(("", 0), []).append((epoch, state))

    def over(w: Written) -> bool:
        known = states.get((w.kind, w.number))
        if known is None:
            return strangers
        return all(w.epoch < epoch or (w.epoch == epoch and state != ShardState.RUNNING) for epoch, state in known)

    return [w for w in written if over(w)]


def _pointed(session: Session, job_id: str, written: list[Written]) -> set[str]:
    """The keys that rows point to, among these of a job."""
    keys = [w.entry.key for w in written]
    numbers = [w.number for w in written if w.kind == "items"]
    artifacts = select(Artifact.key).where(Artifact.job_id == job_id)
    found = set(session.scalars(artifacts.where(Artifact.item_index.in_(numbers))))
    checkpoints = select(Item.checkpoint).where(Item.job_id == job_id, Item.index.in_(numbers))
    pointers = list(session.scalars(checkpoints))
    if tars := [w.entry.key for w in written if w.kind == "results"]:
        found |= set(session.scalars(select(ResultShard.key).where(ResultShard.key.in_(tars))))
    if any(w.kind == "shards" for w in written):  # the shards that one was split into share its checkpoint
        pointers += session.scalars(select(Shard.checkpoint).where(Shard.job_id == job_id))
        found |= set(previews.stored(session, job_id))
    if not all(w.kind for w in written):
        found |= set(session.scalars(artifacts.where(Artifact.key.in_(keys))))
        found |= set(session.scalars(select(RegisteredModel.key).where(RegisteredModel.key.in_(keys))))
        for location in session.scalars(select(RegisteredDataset.location)):
            found |= set(location.values())
    return found | {pointer["key"] for pointer in pointers if pointer}


def _expired(db: Database, page: list[Entry], before: float, strangers: bool) -> list[Entry]:
    """What clients put by themselves before this time, and did not complete."""
    old = [entry for entry in page if entry.modified < before]
    with db.reading() as session:
        ours = set(session.scalars(select(PendingUpload.key).where(PendingUpload.key.in_(e.key for e in old))))
    return [entry for entry in old if strangers or entry.key in ours]


def _rowless(db: Database, prefix: str, page: list[Entry], before: float) -> list[Entry]:
    """Uploads of a page that were stored before this time and have no row."""
    table, _ = UPLOADS[prefix]
    old = {f"sha256:{m[1]}": e for e in page if e.modified < before and (m := UPLOAD.fullmatch(e.key))}
    with db.reading() as session:
        known = set(session.scalars(select(table.id).where(table.id.in_(old))))
    return [entry for upload_id, entry in old.items() if upload_id not in known]


def _remove(db: Database, storage: Storage, prefix: str, entry: Entry) -> bool:
    """Delete an upload; False if somebody has posted it again meanwhile.

    A row that is never committed keeps others from committing theirs until the object is gone: who posts the same now
    has to look, after that, whether it is there.
    """
    table, columns = UPLOADS[prefix]
    upload_id = "sha256:" + entry.key.removeprefix(prefix)
    try:
        with db.transaction() as session:
            session.add(table(id=upload_id, key=entry.key, size=entry.size, created_at=0, **columns))
            session.flush()
            storage.delete(entry.key)
            session.rollback()
    except IntegrityError:
        return False
    return True
