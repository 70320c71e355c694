"""After a restore from an older dump: makes the database and the bucket agree.

The dump is behind the bucket. What was stored since then is not pointed to, and is collected as orphans; what it points
to and has been deleted since then, or was lost, is dropped here, and computed again. Every step may be repeated.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, case, delete, func, null, select, tuple_, update
from sqlalchemy.orm import Session

from service import jobs
from service.bulk_models import Manifest, ResultShard, Reuse
from service.db import Database, now
from service.models import Artifact, Image, Item, Job, RegisteredDataset, RegisteredModel, Shard, Upload
from service.objects import ObjectNotFound, Storage
from service.states import TERMINAL_JOB, ItemState, JobState, ShardState

PAGE, THREADS, MOST_NAMES = 1000, 16, 1000


@dataclass
class Report:
    """What was found and done. `missing` names up to MOST_NAMES things that cannot be computed again."""

    shards: int = 0  # fenced
    released: int = 0  # of them, that workers held
    artifacts: int = 0  # looked at
    lost: int = 0  # of them, whose object is missing or another
    reopened: int = 0  # items that are computed again
    dropped: int = 0  # items without a result whose job was cancelled: they are cancelled with it
    checkpoints: int = 0  # pointers dropped
    missing: list[str] = field(default_factory=list)


def reconcile(db: Database, storage: Storage, verify: bool = False) -> Report:
    """Fence out the workers from before the restore, and reopen items whose artifacts are not as the rows say.

    Sizes are compared; with `verify`, every object is read and its digest compared. Raises StorageError, or what the
    database raises; what is done by then is done.
    """
    report = Report()
    with db.reading() as session:
        base = int(session.scalar(select(now())) or 0)
        report.artifacts = session.scalar(select(func.count()).select_from(Artifact)) or 0
    for job_id in _ids(db, select(Job.id), Job.id):
        with db.transaction() as session:
            _fence(session, job_id, base, report)
    _check_tars(db, storage, verify, report)
    _check_artifacts(db, storage, verify, report)
    _check_checkpoints(db, storage, verify, report)
    _check_others(db, storage, report)
    for job_id in _ids(db, select(Job.id).where(Job.state.in_((*jobs.GOING, JobState.CANCELLING))), Job.id):
        with db.transaction() as session:
            jobs.settle(session, job_id)
    return report


def _fence(session: Session, job_id: str, base: int, report: Report) -> None:
    """Raise a job's epochs above all that were ever given, and take its shards from their workers.

    The dump does not know how many claims came after it, nor does a second restore of the same dump know those after
    the first: but none gave an epoch that is as high as the number of seconds since 1970.
    """
    jobs.lock(session, job_id)
    mine, running = Shard.job_id == job_id, Shard.state == ShardState.RUNNING
    report.released += len(session.scalars(select(Shard.id).where(mine, running)).all())
    held = select(Shard.id).where(mine, running)
    queued = (Item.shard_id.in_(held)) & (Item.state == ItemState.RUNNING)
    _execute(session, update(Item).where(queued).values(state=ItemState.QUEUED))
    fenced = {
        "epoch": case((Shard.epoch > base, Shard.epoch), else_=base) + 1, "lease_expires_at": None, "sent_at": None,
        "state": case((running, ShardState.QUEUED), else_=Shard.state),
    }  # fmt: skip
    report.shards += _execute(session, update(Shard).where(mine).values(fenced)).rowcount


def _check_tars(db: Database, storage: Storage, verify: bool, report: Report) -> None:
    """Of a tar that is not as its row says, every item is computed again, whatever job points to it."""
    rows = select(ResultShard.key, ResultShard.size, ResultShard.sha256, ResultShard.job_id)
    lost: dict[str, list[str]] = defaultdict(list)
    for page in _pages(db, rows, ResultShard.key):
        for row in _lost(storage, page, verify):
            lost[row.job_id].append(row.key)
    for job_id, of_job in lost.items():
        for keys in (of_job[first : first + PAGE] for first in range(0, len(of_job), PAGE)):
            for holder in _holders(db, job_id):
                held = (Artifact.job_id == holder) & Artifact.key.in_(keys)
                with db.reading() as session:
                    files = session.execute(select(Artifact.job_id, Artifact.item_index).where(held)).all()
                report.lost += len(files)
                _reopen_all(db, files, report)
            with db.transaction() as session:
                _execute(session, delete(ResultShard).where(ResultShard.key.in_(keys)))


def _holders(db: Database, job_id: str) -> Sequence[str]:
    """The jobs, but for deleted ones, that may point to a job's objects: it, and who took its items over, or theirs."""
    found, more = set[str](), {job_id}
    with db.reading() as session:
        while more:
            found |= more
            more = set(session.scalars(select(Reuse.job_id).where(Reuse.source_id.in_(more)))) - found
        return session.scalars(select(Job.id).where(Job.id.in_(found), Job.deleted_at.is_(None))).all()


def _check_artifacts(db: Database, storage: Storage, verify: bool, report: Report) -> None:
    """Those that are objects; the others are as their tar is."""
    columns = (Artifact.job_id, Artifact.item_index, Artifact.name)
    there = Artifact.job_id.not_in(select(Job.id).where(Job.deleted_at.is_not(None)))
    objects = select(*columns, Artifact.key, Artifact.size, Artifact.sha256).where(Artifact.offset.is_(None), there)
    for page in _pages(db, objects, *columns):
        lost = _lost(storage, page, verify)
        report.lost += len(lost)
        _reopen_all(db, lost, report)


def _reopen_all(db: Database, files: Sequence[Any], report: Report) -> None:
    """The items that these files are of, rows with `job_id` and `item_index`."""
    for job_id in dict.fromkeys(row.job_id for row in files):
        with db.transaction() as session:
            _reopen(session, job_id, {row.item_index for row in files if row.job_id == job_id}, report)


def _reopen(session: Session, job_id: str, indices: set[int], report: Report) -> None:
    """Have items computed again that had succeeded, or cancel them where their job is."""
    state = jobs.lock(session, job_id)
    for table in (RegisteredModel, RegisteredDataset):
        if name := session.scalar(select(table.name).where(table.job_id == job_id)):
            # Done again, the job would register under a name that is taken, and others already use what it made.
            _miss(report, f"artifacts of job {job_id}, which made {name}")
            return
    these = (Item.job_id == job_id) & Item.index.in_(indices) & (Item.state == ItemState.SUCCEEDED)
    found = session.scalars(select(Item.index).where(these)).all()
    _execute(session, delete(Artifact).where(Artifact.job_id == job_id, Artifact.item_index.in_(found)))
    shards = select(Item.shard_id).where(Item.job_id == job_id, Item.index.in_(found))
    if state in (JobState.CANCELLED, JobState.EXPIRED):
        ended = jobs.REOPENED | {"state": ItemState.CANCELLED, "finished_at": now()}
        _execute(session, update(Item).where(these).values(ended))
        _execute(session, update(Job).where(Job.id == job_id).values(counts=null()))
        report.dropped += len(found)
        return
    _execute(session, update(Item).where(these).values(jobs.REOPENED))
    again = jobs.AFRESH | {"state": case((Shard.last, ShardState.WAITING), else_=ShardState.QUEUED)}
    idle = Shard.id.in_(shards) & (Shard.state != ShardState.RUNNING)
    _execute(session, update(Shard).where(idle).values(again))
    if found:
        jobs.redo_last(session, job_id)  # such as a table, which says where files lie
    if state in TERMINAL_JOB:
        jobs.move(session, job_id, JobState.QUEUED)
    report.reopened += len(found)


def _check_checkpoints(db: Database, storage: Storage, verify: bool, report: Report) -> None:
    """Where a claim would go on from an object that is not there, it begins anew."""
    items = select(Item.job_id, Item.index, Item.checkpoint).where(Item.checkpoint.is_not(null()))
    shards = select(Shard.id, Shard.checkpoint).where(Shard.checkpoint.is_not(null()))
    for table, pages in (
        (Item, _pages(db, items, Item.job_id, Item.index)),
        (Shard, _pages(db, shards, Shard.id)),
    ):
        for page in pages:
            pointers = [_Pointer(row[:-1], **_stored(row.checkpoint)) for row in page if row.checkpoint]
            for pointer in _lost(storage, pointers, verify):
                with db.transaction() as session:
                    row: Any = session.get_one(table, pointer.id, with_for_update=True)
                    if row.checkpoint and row.checkpoint["key"] == pointer.key:  # no worker has come in between
                        row.checkpoint = null()
                        report.checkpoints += 1


@dataclass(frozen=True)
class _Pointer:
    id: Any
    key: str
    size: int | None = None
    sha256: str | None = None


def _stored(checkpoint: dict[str, Any]) -> dict[str, Any]:
    return {name: checkpoint[name] for name in ("key", "size", "sha256")}


def _check_others(db: Database, storage: Storage, report: Report) -> None:
    """Networks, data sets and uploads: nobody can compute them again, so they are only named."""
    for page in _pages(db, select(RegisteredModel.name, RegisteredModel.key), RegisteredModel.name):
        for lost in _lost(storage, [_Pointer(f"model {row.name}", row.key) for row in page], False):
            _miss(report, lost.id)
    for page in _pages(db, select(RegisteredDataset.name, RegisteredDataset.location), RegisteredDataset.name):
        keys = [(r.name, key) for r in page for kind, key in r.location.items() if kind != "root"]
        for lost in _lost(storage, [_Pointer(f"data set {name}", key) for name, key in keys], False):
            _miss(report, lost.id)
    for what, table in (("image", Image), ("checkpoint", Upload), ("manifest", Manifest)):
        for page in _pages(db, select(table.id, table.key, table.size), table.id):
            for lost in _lost(storage, page, False):
                _miss(report, f"{what} {lost.id}")


def _miss(report: Report, name: str) -> None:
    if name not in report.missing and len(report.missing) < MOST_NAMES:
        report.missing.append(name)


def _lost(storage: Storage, pointers: Sequence[Any], verify: bool) -> list[Any]:
    """Those whose object is missing, or has another size or digest, where one is known."""
    # An item's objects lie in one folder, and to list it takes as long as to ask for one of them.
    folders = {p.key.rpartition("/")[0] + "/" for p in pointers if p.key.startswith("jobs/") and not verify}

    def kept(pointer: Any) -> bool:
        try:
            if not verify:
                size = sizes.get(pointer.key) if pointer.key.startswith("jobs/") else storage.stat(pointer.key)
                return size is not None and pointer.size in (size, None)
            digest = hashlib.sha256()
            for piece in storage.stream(pointer.key):
                digest.update(piece)
            return bool(digest.hexdigest() == pointer.sha256)
        except ObjectNotFound:
            return False

    with ThreadPoolExecutor(THREADS) as pool:
        sizes = dict(entry for listed in pool.map(lambda f: list(storage.entries(f)), folders) for entry in listed)
        return [pointer for pointer, whole in zip(pointers, pool.map(kept, pointers), strict=True) if not whole]


def _pages(db: Database, query: Any, *key: Any) -> Iterator[Sequence[Row[Any]]]:
    """The rows of a query, so many at a time, in the order of a unique key that they begin with."""
    after: tuple[Any, ...] | None = None
    while True:
        paged = query if after is None else query.where(tuple_(*key) > tuple_(*after))
        with db.reading() as session:
            page = session.execute(paged.order_by(*key).limit(PAGE)).all()
        if not page:
            return
        yield page
        after = tuple(page[-1])[: len(key)]


def _ids(db: Database, query: Any, key: Any) -> Iterator[str]:
    return (row[0] for page in _pages(db, query, key) for row in page)


def _execute(session: Session, statement: Any) -> Any:
    return session.execute(statement, execution_options=jobs.UNSYNCHRONIZED)
