"""What a worker does with a shard under a lease: claim, heartbeat, finish; its items are saved by what `saving` has.

Other moves of a job are in `jobs`.

Each function is one short transaction in the session it is given. Every write carries the lease, and is refused with
LeaseLost once another worker has claimed the shard. An ending that was committed already, by a worker that did not
hear of it, may be written again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import case, func, literal, null, or_, select, update
from sqlalchemy.orm import Session

from service import jobs, metrics, summaries
from service.around import OVER, STANDS
from service.db import now
from service.fence import Lease, LeaseLost, fence
from service.joblog import LONGEST, Event, note
from service.jobs import CLAIMABLE, GOING, UNSYNCHRONIZED
from service.models import Item, Job, Shard, Transition
from service.saving import (
    Result,
    error_of,
    fail_item,
    record_epoch,
    save_checkpoint,
    save_item,
    save_item_checkpoint,
    save_items,
)
from service.states import TERMINAL_ITEM, ItemState, JobState, ShardState

__all__ = [
    "Directive", "Lease", "LeaseLost", "Result", "Work", "claim", "crashed", "expire_lease", "fail_attempt",
    "fail_item", "finish", "give_up", "heartbeat", "held", "record_epoch", "save_checkpoint", "save_item",
    "save_item_checkpoint", "save_items",
]  # fmt: skip

LONGEST_PAUSE = 300.0  # seconds between two attempts
_reported = case((STANDS, Shard.progress), else_=literal({}, Shard.progress.type))
"""What a new claim begins with, until it reports: where there is a checkpoint, nothing that was done is lost."""


class Directive(StrEnum):
    """A heartbeat's answer."""

    CONTINUE = "continue"  # go on
    RELEASE = "release"  # the job is paused: keep a checkpoint and let go
    STOP = "stop"  # the job is being cancelled, or its deadline has passed: let go


@dataclass(frozen=True)
class Work:
    """A claimed shard: the job's parameters, and the items that no earlier claim finished."""

    lease: Lease
    kind: str
    parameters: Mapping[str, Any]
    items: Sequence[Item]
    priority: int
    crashes: int
    checkpoint: Mapping[str, Any] | None
    progress: Mapping[str, Any]
    """What an earlier claim last reported, if there is a checkpoint to go on from."""
    done: int
    """Image-steps of the shard's other items, which are over."""
    trace: str | None = None
    """The context of the request that made the job, and when: seconds since the epoch on the database's clock."""
    created_at: float = 0.0


def claim(session: Session, shard_id: str, worker: str, lease_seconds: float) -> Work | None:
    """Take a queued shard; None if there is nothing to take."""
    job_id = session.scalar(select(Shard.job_id).where(Shard.id == shard_id))
    if job_id is None or jobs.lock(session, job_id) not in CLAIMABLE:
        return None
    in_time = select(Job.id).where(Job.id == job_id, or_(Job.deadline.is_(None), Job.deadline > now()))
    epoch = session.scalars(
        update(Shard)
        .where(Shard.id == shard_id, Shard.state == ShardState.QUEUED, jobs.due(), in_time.exists())
        .values(
            state=ShardState.RUNNING, epoch=Shard.epoch + 1, worker=worker, lease_expires_at=now() + lease_seconds,
            heartbeat_at=now(), progress=_reported, not_before=None,
        )
        .returning(Shard.epoch),
        execution_options=UNSYNCHRONIZED,
    ).one_or_none()  # fmt: skip
    if epoch is None:
        return None
    begins = jobs.move(session, job_id, JobState.RUNNING)
    if parent := session.scalar(select(Job.parent_id).where(Job.id == job_id)):
        jobs.move(session, parent, JobState.RUNNING)
    running = {"state": ItemState.RUNNING}
    session.execute(update(Item).where(_open(shard_id)).values(running), execution_options=UNSYNCHRONIZED)
    work = held(session, Lease(shard_id, job_id, epoch))
    detail = {"items": len(work.items), "checkpoint": work.checkpoint is not None}
    if begins and epoch == 1:
        _count_wait(session, work)
    note(session, work.lease, Event.TAKEN_OVER if epoch > 1 else Event.CLAIMED, **detail)
    return work


def _count_wait(session: Session, work: Work) -> None:
    """How long the job waited to run; nothing after a pause or a retry, nor for a shard that waited for others."""
    ran = select(func.count()).where(Transition.job_id == work.lease.job_id, Transition.state == JobState.RUNNING)
    of_others = select(Shard.last).where(Shard.id == work.lease.shard_id)
    once = (ran.scalar_subquery() == 1) & ~of_others.scalar_subquery()
    if (waited := session.scalar(select(now() - work.created_at).where(once))) is not None:
        of = metrics.WAIT.labels(metrics.PRIORITIES[work.priority])
        metrics.once_committed(session, lambda: of.observe(waited))


def held(session: Session, lease: Lease) -> Work:
    """What there is to do under a lease. Raises LeaseLost."""
    fence(session, lease)
    job, shard = session.get_one(Job, lease.job_id), session.get_one(Shard, lease.shard_id)
    items = session.scalars(select(Item).where(_open(lease.shard_id)).order_by(Item.index)).all()
    over = jobs.count(session, (Item.shard_id == lease.shard_id) & OVER)
    done = over * int(summaries.of(job)["steps"])
    checkpoint, reported = shard.checkpoint, shard.progress
    return Work(
        lease, job.kind, job.parameters, items, job.priority, shard.crashes, checkpoint, reported, done, job.trace,
        job.created_at,
    )  # fmt: skip


def heartbeat(session: Session, lease: Lease, lease_seconds: float, progress: Mapping[str, Any]) -> Directive:
    """Report progress and renew the lease. Raises LeaseLost."""
    fence(session, lease, lease_expires_at=now() + lease_seconds, heartbeat_at=now(), progress=dict(progress))
    late = func.coalesce(Job.deadline < now(), False)
    state, over = session.execute(select(Job.state, late).where(Job.id == lease.job_id)).one()
    if state == JobState.PAUSED and not over:
        return Directive.RELEASE
    return Directive.CONTINUE if state in CLAIMABLE and not over else Directive.STOP


def finish(session: Session, lease: Lease) -> ShardState:
    """Let go of a shard: done if all its items are terminal, cancelled with its job, otherwise queued again.

    Raises LeaseLost.
    """
    state = _end(session, lease)
    note(session, lease, Event.RELEASED, state=state)
    return state


def _end(session: Session, lease: Lease, pause: float = 0.0) -> ShardState:
    """Let go of it, and have nobody claim it for `pause` seconds."""
    jobs.expire(session, lease.job_id)
    job = jobs.lock(session, lease.job_id)
    fence(session, lease)  # before its items: in the order in which `save_item` locks them
    open_items = _open(lease.shard_id)
    if not jobs.count(session, open_items):
        state = ShardState.DONE
    elif job in GOING:
        state, queued = ShardState.QUEUED, {"state": ItemState.QUEUED}
        session.execute(update(Item).where(open_items).values(queued), execution_options=UNSYNCHRONIZED)
    else:
        state = ShardState.CANCELLED
    kept = {} if state is ShardState.QUEUED else {"checkpoint": null()}
    later = now() + pause if pause else None
    fence(session, lease, state=state, lease_expires_at=None, not_before=later, sent_at=None, **kept)
    jobs.settle(session, lease.job_id)
    return state


def fail_attempt(
    session: Session, lease: Lease, title: str, detail: str, max_attempts: int, pause: float = 0.0, counts: bool = True
) -> ShardState:
    """A fault of the world ended an attempt: queue the shard again after a pause, which doubles with each attempt.

    It is given up after `max_attempts` that count. Raises LeaseLost.
    """
    jobs.lock(session, lease.job_id)
    fence(session, lease, attempts=Shard.attempts + (1 if counts else 0))
    attempts = session.scalars(select(Shard.attempts).where(Shard.id == lease.shard_id)).one()
    if counts and attempts >= max_attempts:
        return give_up(session, lease, title, detail)
    pause = min(pause * 2.0 ** min(max(attempts - 1, 0), 30), LONGEST_PAUSE)
    state = _end(session, lease, pause)
    told = {"title": title, "detail": detail[:LONGEST], "attempts": attempts, "pause": pause, "state": state}
    note(session, lease, Event.ATTEMPT_FAILED, **told)
    return state


def give_up(session: Session, lease: Lease, title: str, detail: str) -> ShardState:
    """Fail every item of the shard that is not terminal, and finish it. Raises LeaseLost."""
    jobs.lock(session, lease.job_id)
    fence(session, lease)
    ended = {"state": ItemState.FAILED, "error": error_of(title, detail), "finished_at": now(),
             "epoch": lease.epoch}  # fmt: skip
    claimed = (Item.shard_id == lease.shard_id) & (Item.state == ItemState.RUNNING)
    query = update(Item).where(claimed).values(ended).returning(Item.index)
    failed = session.scalars(query, execution_options=UNSYNCHRONIZED).all()
    note(session, lease, Event.ITEMS_FAILED, title=title, detail=detail[:LONGEST], items=len(failed))
    return _end(session, lease)


def crashed(session: Session, lease: Lease, max_crashes: int, why: str = "the worker fell silent") -> ShardState:
    """The worker is gone: queue the shard again, and find out which item kills workers, if one does.

    A shard is split into its items when one more crash is allowed: each then runs in a process of its own, and the one
    that ends that too is failed. Raises LeaseLost.
    """
    jobs.lock(session, lease.job_id)
    fence(session, lease, crashes=Shard.crashes + 1)
    shard = session.get_one(Shard, lease.shard_id, populate_existing=True)
    note(session, lease, Event.LEASE_LOST, why=why, crashes=shard.crashes)
    indices = session.scalars(select(Item.index).where(_open(shard.id)).order_by(Item.index)).all()
    if len(indices) == 1 and shard.crashes >= max_crashes:
        detail = f"{shard.crashes} workers died while computing it, the last one while computing nothing else"
        return give_up(session, lease, "Quarantined", detail)
    if shard.crashes >= max_crashes - 1:
        _split(session, shard, indices[1:])
        note(session, lease, Event.SPLIT, items=len(indices))
    return _end(session, lease)


def _split(session: Session, shard: Shard, indices: Sequence[int]) -> None:
    """Give each of these items a shard of its own."""
    first = session.scalar(select(func.count()).select_from(Shard).where(Shard.job_id == shard.job_id)) or 0
    for n, index in enumerate(indices, first):
        own = Shard(
            id=f"{shard.job_id}.{n}", job_id=shard.job_id, state=ShardState.QUEUED, first_item=index, item_count=1,
            epoch=shard.epoch, crashes=shard.crashes, checkpoint=shard.checkpoint or null(), last=shard.last,
        )  # fmt: skip
        session.add(own)
        session.flush()
        mine = (Item.job_id == shard.job_id) & (Item.index == index)
        moved = {"shard_id": own.id, "state": ItemState.QUEUED}
        session.execute(update(Item).where(mine).values(moved), execution_options=UNSYNCHRONIZED)


def expire_lease(session: Session, shard_id: str, max_crashes: int) -> bool:
    """Count a crash of the shard's worker if it has fallen silent; False if it has not."""
    job_id = session.scalar(select(Shard.job_id).where(Shard.id == shard_id))
    if job_id is None:
        return False
    jobs.lock(session, job_id)
    silent = (Shard.id == shard_id) & (Shard.state == ShardState.RUNNING) & (Shard.lease_expires_at < now())
    epoch = session.scalar(select(Shard.epoch).where(silent).with_for_update())
    if epoch is None:
        return False
    crashed(session, Lease(shard_id, job_id, epoch), max_crashes)
    return True


def _open(shard_id: str) -> Any:
    return (Item.shard_id == shard_id) & Item.state.not_in(TERMINAL_ITEM)
