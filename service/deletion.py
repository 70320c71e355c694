"""Deleting jobs: at once for whoever asks, then their objects and rows, a chunk a transaction.

A job that is deleted is marked, and every read leaves it out. `sweep` removes what it stored, then its rows; what a
killed sweep has left, the next one removes. A job to whose objects another one points is kept until that one is gone.
Its own row stays for a day, so that what a late worker stored is removed with it. What a job registered is not its own.
"""

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import structlog
from sqlalchemy import ColumnElement, delete, null, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from service import jobs
from service.bulk_models import Delivery, Label, LogLine, PlanError, Planning, ResultShard, Reuse
from service.db import Database, now
from service.errors import Conflict, NotFound
from service.jobs import UNSYNCHRONIZED
from service.models import Artifact, Epoch, Evaluation, Item, Job, Shard, Transition
from service.objects import Storage
from service.states import TERMINAL_JOB
from service.webhooks.registry import PENDING

log = structlog.get_logger()
ROWS, AT_ONCE, DELETERS = 5000, 1000, 8
"""Rows that one transaction removes; jobs that a sweep takes on; objects that are removed at the same time."""
LATE = 86_400.0
"""Seconds within which a worker that was thought dead has stored what it is going to."""
Column = InstrumentedAttribute[Any]


def remove(session: Session, job_id: str, cancel: bool = False) -> None:
    """Mark a job, and a recipe's parts, as deleted; nothing happens if it is.

    Raises NotFound, or Conflict for a part, and for a job that is going on unless it is to be cancelled.
    """
    try:
        parts, state = jobs.lock_all(session, job_id)
    except NotFound:
        if session.get(Job, job_id) is None:
            raise
        return
    if recipe := session.get_one(Job, job_id).parent_id:
        raise Conflict(f"job {job_id} is a part of {recipe}; delete that")
    if going := [each for each, at in (parts | {job_id: state}).items() if at not in TERMINAL_JOB]:
        if not cancel:
            raise Conflict(f"job {going[0]} is going on; cancel it first, or delete with cancel=true")
        jobs.cancel(session, job_id)
    # What is about to point to its objects holds a share of this lock until it does.
    session.execute(select(Job.id).where(Job.id.in_([job_id, *parts])).order_by(Job.id).with_for_update())
    # Its Idempotency-Key may be used again: it would answer a job that is not there.
    gone = {"deleted_at": now(), "idempotency_key": None}
    marked = update(Job).where(Job.id.in_([job_id, *parts])).values(gone)
    session.execute(marked, execution_options=UNSYNCHRONIZED)


def sweep(db: Database, storage: Storage, going: Callable[[], bool] = lambda: True) -> None:
    """Delete jobs that are kept no longer, and remove what deleted ones have left; stops early once `going` says no.

    Raises StorageError, or what the database raises; what is done by then is done.
    """
    with db.reading() as session:
        outlived = Job.retention_seconds.is_not(None) & (Job.finished_at + Job.retention_seconds < now())
        kept = outlived & Job.deleted_at.is_(None) & Job.parent_id.is_(None) & Job.state.in_(TERMINAL_JOB)
        expired = session.scalars(select(Job.id).where(kept).limit(AT_ONCE)).all()
    for job_id in expired:
        with db.transaction() as session:
            try:
                remove(session, job_id)
            except Conflict:  # it is tried again since
                continue
    reused = select(Reuse.job_id).where(Reuse.source_id == Job.id)
    for job_id in _found(db, Job.purged_at.is_(None) & Job.state.in_(TERMINAL_JOB) & ~reused.exists()):
        if going() and _empty(db, storage, job_id, going):
            log.info("deleted job removed", job=job_id)
    part = aliased(Job)
    parts = select(part.id).where(part.parent_id == Job.id)
    for job_id in _found(db, (Job.purged_at < now() - LATE) & ~parts.exists()):
        if going() and _objects(storage, job_id, going):
            with db.transaction() as session:
                _forget_told(session, job_id)
                session.execute(delete(Job).where(Job.id == job_id), execution_options=UNSYNCHRONIZED)


def _found(db: Database, condition: ColumnElement[bool]) -> list[str]:
    """Deleted jobs in any order: of several processes, each begins with another."""
    with db.reading() as session:
        ids = list(session.scalars(select(Job.id).where(Job.deleted_at.is_not(None), condition).limit(AT_ONCE)))
    random.shuffle(ids)
    return ids


def _empty(db: Database, storage: Storage, job_id: str, going: Callable[[], bool]) -> bool:
    """Remove a job's objects, then the rows that point to them; False if that was not brought to its end."""
    if not _objects(storage, job_id, going):
        return False
    for column, others in ((Item.index, (Artifact.item_index,)), (PlanError.entry, ()), (Shard.id, ())):
        for done in _chunks(db, job_id, column, *others):
            if not (done or going()):
                return False
    rows = (ResultShard, Transition, Epoch, Evaluation, Label, LogLine, Planning, Reuse)
    with db.transaction() as session:
        _forget_told(session, job_id)
        for table in rows:
            session.execute(delete(table).where(table.job_id == job_id), execution_options=UNSYNCHRONIZED)
        nothing = dict.fromkeys(("request", "meta", "description", "text"), null())
        bare = {"purged_at": now(), "parameters": {}} | nothing
        session.execute(update(Job).where(Job.id == job_id).values(bare), execution_options=UNSYNCHRONIZED)
    return True


def _forget_told(session: Session, job_id: str) -> None:
    """What webhooks were told of a job; what waits to be sent is sent first."""
    told = delete(Delivery).where(Delivery.job_id == job_id, ~PENDING)
    session.execute(told, execution_options=UNSYNCHRONIZED)


def _objects(storage: Storage, job_id: str, going: Callable[[], bool]) -> bool:
    """Remove everything that a job stored. What it registered lies elsewhere."""
    with ThreadPoolExecutor(DELETERS, "deleter") as pool:
        keys = storage.keys(f"jobs/{job_id}/")
        while page := list(islice(keys, AT_ONCE)):
            if not going():
                return False
            list(pool.map(storage.delete, page))
    return True


def _chunks(db: Database, job_id: str, column: Column, *others: Column) -> Iterator[bool]:
    """Remove a job's rows by `column`, and those of other tables beside them first; yields whether that is all."""
    done = False
    while not done:
        of_job: Any = column.class_.job_id == job_id
        with db.transaction() as session:
            first = select(column).where(of_job).order_by(column).offset(ROWS).limit(1)
            bound = session.scalar(first)
            done = bound is None
            for each in (*others, column):
                table: Any = each.class_
                rest = table.job_id == job_id
                chunk = delete(table).where(rest if done else rest & (each < bound))
                session.execute(chunk, execution_options=UNSYNCHRONIZED)
        yield done
