"""A job's log: what became of its shards and of what clients asked, written in the transaction that it tells of.

So a line is there if, and only if, that happened. The newest KEPT lines of a job are kept, and some older ones.
"""

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from service import metrics
from service.bulk_models import LogLine
from service.db import now
from service.models import Shard

if TYPE_CHECKING:
    from service.fence import Lease

KEPT, EVERY = 10_000, 256
"""Lines of a job that are kept, and with how many lines there are of all jobs a job's older ones go."""
LONGEST = 2000
"""Characters of an error that are told; the item has all of them."""


class Level(StrEnum):
    INFO = "info"
    WARNING = "warning"  # the service goes on by itself
    ERROR = "error"  # something is lost


class Event(StrEnum):
    CLAIMED = "claimed"  # by its first worker
    TAKEN_OVER = "taken_over"  # by a worker after another
    RELEASED = "released"
    CHECKPOINTED = "checkpointed"
    ATTEMPT_FAILED = "attempt_failed"
    CHECKPOINT_LOST = "checkpoint_lost"  # it was not kept, or is not what was stored
    STALLED = "stalled"  # nothing moves on, so its worker lets the lease run out
    LEASE_LOST = "lease_lost"
    SPLIT = "split"
    ITEM_FAILED = "item_failed"
    ITEMS_FAILED = "items_failed"
    PAUSED = "paused"
    RESUMED = "resumed"
    RETRIED = "retried"
    REQUEUED = "requeued"  # by an operator
    CANCELLED = "cancelled"
    EXPIRED = "expired"


ERRORS = {Event.ITEM_FAILED, Event.ITEMS_FAILED}
WARNINGS = {
    Event.ATTEMPT_FAILED, Event.CHECKPOINT_LOST, Event.STALLED, Event.LEASE_LOST, Event.SPLIT, Event.EXPIRED,
}  # fmt: skip

for _event in Event:  # from 0 on: an alert would not see what is not there, nor the first of it
    metrics.EVENTS.labels(_event.value)


def note(session: Session, /, of: "str | Lease", event: Event, **detail: Any) -> None:
    """Add a line to the log of a job, by its id, or of the job whose shard is held under a lease."""
    level = Level.ERROR if event in ERRORS else Level.WARNING if event in WARNINGS else Level.INFO
    row: dict[str, Any] = {"at": now(), "level": level, "event": event, "detail": detail}
    if isinstance(of, str):
        job_id = of
    else:
        job_id, worker = of.job_id, select(Shard.worker).where(Shard.id == of.shard_id).scalar_subquery()
        row |= {"shard": int(of.shard_id.rpartition(".")[2]), "epoch": of.epoch, "worker": worker}
    metrics.once_committed(session, metrics.EVENTS.labels(event.value).inc)
    number = session.connection().scalar(insert(LogLine).values(job_id=job_id, **row).returning(LogLine.id))
    if number is not None and number % EVERY == 0:
        _forget(session, job_id)


def _forget(session: Session, job_id: str) -> None:
    ids = select(LogLine.id).where(LogLine.job_id == job_id).order_by(LogLine.id.desc())
    oldest = ids.offset(KEPT).limit(1).scalar_subquery()
    # Never waits for whoever else is at it, whose locks may be such as this transaction holds.
    old = select(LogLine.id).where(LogLine.job_id == job_id, LogLine.id <= oldest).with_for_update(skip_locked=True)
    session.connection().execute(delete(LogLine).where(LogLine.id.in_(old)))
