"""The life of a job: claim, heartbeat, save, finish, cancel. The sole writer of every status.

Each function is one short transaction in the session it is given. A worker's write carries its lease, and is refused
with LeaseLost once another worker has claimed the shard.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import case, func, or_, select, update
from sqlalchemy.orm import Session

from service.db import now
from service.errors import Conflict, NotFound
from service.models import Artifact, Epoch, Item, Job, Shard, Transition
from service.states import TERMINAL_ITEM, TERMINAL_JOB, ItemState, JobState, ShardState, sources
from service.storage import Stored

CLAIMABLE = (JobState.QUEUED, JobState.RUNNING)
UNSYNCHRONIZED = {"synchronize_session": False}  # no object of the session is read again after such an update


class LeaseLost(RuntimeError):  # noqa: N818 - an event more than a fault
    """Another worker holds the shard, or it is over: drop everything about it."""


class Directive(StrEnum):
    """A heartbeat's answer."""

    CONTINUE = "continue"  # go on
    STOP = "stop"  # the job is being cancelled: let go


@dataclass(frozen=True)
class Lease:
    """A worker's hold on a shard. Only the newest epoch may write."""

    shard_id: str
    job_id: str
    epoch: int


@dataclass(frozen=True)
class Work:
    """A claimed shard: the job's parameters, and the items that no earlier claim finished."""

    lease: Lease
    kind: str
    parameters: Mapping[str, Any]
    items: Sequence[Item]
    crashes: int


def cancel(session: Session, job_id: str) -> None:
    """Stop a job; finished items keep their results. Raises NotFound, or Conflict if the job is over."""
    parts = session.scalars(select(Job.id).where(Job.parent_id == job_id).order_by(Job.id)).all()
    part_states = {part: _lock(session, part) for part in parts}  # parts before their recipe, as in `settle`
    state = _lock(session, job_id)
    if state in (JobState.CANCELLING, JobState.CANCELLED):
        return
    if not move(session, job_id, JobState.CANCELLING):
        raise Conflict(f"job {job_id} is {state} and cannot be cancelled")
    for part, part_state in part_states.items():
        if part_state not in TERMINAL_JOB and move(session, part, JobState.CANCELLING):
            settle(session, part)
    settle(session, job_id)


def claim(session: Session, shard_id: str, worker: str, lease_seconds: float) -> Work | None:
    """Take a shard that is queued or whose lease has run out; None if there is nothing to take."""
    # The job's row is locked before any of its shards', here as everywhere, so that no two transactions deadlock.
    job_id = session.scalar(select(Shard.job_id).where(Shard.id == shard_id))
    if job_id is None or _lock(session, job_id) not in CLAIMABLE:
        return None
    expired = (Shard.state == ShardState.RUNNING) & (Shard.lease_expires_at < now())
    row = session.execute(
        update(Shard)
        .where(Shard.id == shard_id, or_(Shard.state == ShardState.QUEUED, expired))
        .values(
            state=ShardState.RUNNING,
            epoch=Shard.epoch + 1,
            crashes=Shard.crashes + case((Shard.state == ShardState.RUNNING, 1), else_=0),
            worker=worker,
            lease_expires_at=now() + lease_seconds,
            heartbeat_at=now(),
            progress={},
        )
        .returning(Shard.epoch, Shard.crashes),
        execution_options=UNSYNCHRONIZED,
    ).one_or_none()
    if row is None:
        return None
    move(session, job_id, JobState.RUNNING)
    if parent := session.scalar(select(Job.parent_id).where(Job.id == job_id)):
        move(session, parent, JobState.RUNNING)
    pending = (Item.shard_id == shard_id) & Item.state.not_in(TERMINAL_ITEM)
    session.execute(update(Item).where(pending).values(state=ItemState.RUNNING), execution_options=UNSYNCHRONIZED)
    job = session.get_one(Job, job_id)
    items = session.scalars(select(Item).where(pending).order_by(Item.index)).all()
    return Work(Lease(shard_id, job_id, row.epoch), job.kind, job.parameters, items, row.crashes)


def heartbeat(session: Session, lease: Lease, lease_seconds: float, progress: Mapping[str, Any]) -> Directive:
    """Report progress and renew the lease. Raises LeaseLost."""
    _fence(session, lease, lease_expires_at=now() + lease_seconds, heartbeat_at=now(), progress=dict(progress))
    state = session.scalar(select(Job.state).where(Job.id == lease.job_id))
    return Directive.CONTINUE if state in CLAIMABLE else Directive.STOP


def save_item(
    session: Session,
    lease: Lease,
    index: int,
    metrics: Mapping[str, Any],
    provenance: Mapping[str, Any],
    artifacts: Mapping[str, tuple[Stored, str]],
) -> None:
    """An item succeeded: its stored objects (with media types) by name, its metrics, how it came about."""
    _end_item(session, lease, index, ItemState.SUCCEEDED, metrics=dict(metrics), provenance=dict(provenance))
    session.add_all(
        Artifact(job_id=lease.job_id, item_index=index, name=name, media_type=media_type, **stored._asdict())
        for name, (stored, media_type) in artifacts.items()
    )


def save_checkpoint(session: Session, lease: Lease, index: int, stored: Stored, step: int) -> str | None:
    """Point to where a later claim goes on with an item; answers the key of the checkpoint that this one replaces.

    Work that moves on is not what killed workers: the shard's attempts and crashes are counted anew.
    """
    _fence(session, lease, attempts=0, crashes=0)
    item = session.get_one(Item, (lease.job_id, index))
    before = item.checkpoint
    item.checkpoint = {**stored._asdict(), "step": step}
    return str(before["key"]) if before else None


def record_epoch(session: Session, lease: Lease, epoch: int, metrics: Mapping[str, Any]) -> None:
    """What training measured after an epoch; an epoch that is trained again after a crash is recorded anew."""
    _fence(session, lease)
    session.merge(Epoch(job_id=lease.job_id, epoch=epoch, metrics=dict(metrics), at=session.scalar(select(now()))))


def fail_item(session: Session, lease: Lease, index: int, title: str, detail: str) -> None:
    """An item cannot be computed; its neighbours go on."""
    _end_item(session, lease, index, ItemState.FAILED, error={"title": title, "detail": detail})


def finish(session: Session, lease: Lease) -> ShardState:
    """Let go of a shard: done if all its items are terminal, cancelled with its job, otherwise queued again."""
    job = _lock(session, lease.job_id)
    open_items = _count(session, Item.shard_id == lease.shard_id, Item.state.not_in(TERMINAL_ITEM))
    if not open_items:
        state = ShardState.DONE
    elif job in CLAIMABLE:
        state = ShardState.QUEUED
        left = (Item.shard_id == lease.shard_id) & Item.state.not_in(TERMINAL_ITEM)
        queued = {"state": ItemState.QUEUED}
        session.execute(update(Item).where(left).values(queued), execution_options=UNSYNCHRONIZED)
    else:
        state = ShardState.CANCELLED
    _fence(session, lease, state=state, lease_expires_at=None)
    settle(session, lease.job_id)
    return state


def fail_attempt(session: Session, lease: Lease, title: str, detail: str, max_attempts: int) -> ShardState:
    """A fault of the world ended an attempt: queue the shard again, or give it up after `max_attempts`."""
    _lock(session, lease.job_id)
    _fence(session, lease, attempts=Shard.attempts + 1)
    if (session.scalar(select(Shard.attempts).where(Shard.id == lease.shard_id)) or 0) >= max_attempts:
        return give_up(session, lease, title, detail)
    return finish(session, lease)


def give_up(session: Session, lease: Lease, title: str, detail: str) -> ShardState:
    """Fail every item of the shard that is not terminal, and finish it."""
    _lock(session, lease.job_id)
    _fence(session, lease)
    open_items = (Item.shard_id == lease.shard_id) & Item.state.not_in(TERMINAL_ITEM)
    ended = {"state": ItemState.FAILED, "error": {"title": title, "detail": detail}, "finished_at": now()}
    session.execute(update(Item).where(open_items).values(ended), execution_options=UNSYNCHRONIZED)
    return finish(session, lease)


def settle(session: Session, job_id: str) -> None:
    """End a job that has nothing left to do. Whoever makes a shard or a job stop calls this."""
    state = _lock(session, job_id)
    if state == JobState.CANCELLING:
        waiting = (Shard.job_id == job_id) & Shard.state.in_((ShardState.QUEUED, ShardState.WAITING))
        cancelled = {"state": ShardState.CANCELLED}
        session.execute(update(Shard).where(waiting).values(cancelled), execution_options=UNSYNCHRONIZED)
        if not _shards(session, job_id, ShardState.RUNNING):
            left = (Item.job_id == job_id) & Item.state.not_in(TERMINAL_ITEM)
            ended = {"state": ItemState.CANCELLED, "finished_at": now()}
            session.execute(update(Item).where(left).values(ended), execution_options=UNSYNCHRONIZED)
            move(session, job_id, JobState.CANCELLED)
            _settle_parent(session, job_id)
    elif state in CLAIMABLE and not _shards(session, job_id, ShardState.QUEUED, ShardState.RUNNING):
        if _shards(session, job_id, ShardState.WAITING):
            _release(session, job_id)
            return
        move(session, job_id, JobState.FINALIZING)
        succeeded = _count(session, Item.job_id == job_id, Item.state == ItemState.SUCCEEDED)
        failed = _count(session, Item.job_id == job_id, Item.state == ItemState.FAILED)
        whole = JobState.SUCCEEDED if not failed else JobState.PARTIALLY_SUCCEEDED
        move(session, job_id, whole if succeeded else JobState.FAILED)
        _settle_parent(session, job_id)


def _settle_parent(session: Session, job_id: str) -> None:
    """Once the last part of a recipe is over, its drawing may begin."""
    if parent := session.scalar(select(Job.parent_id).where(Job.id == job_id)):
        settle(session, parent)


def _release(session: Session, job_id: str) -> None:
    """Queue what waits for the rest of its job, once no part of the job is going on either."""
    going = select(Job.id).where(Job.parent_id == job_id, Job.state.not_in(TERMINAL_JOB))
    waiting = (Shard.job_id == job_id) & (Shard.state == ShardState.WAITING)
    released = {"state": ShardState.QUEUED, "sent_at": None}
    session.execute(update(Shard).where(waiting, ~going.exists()).values(released), execution_options=UNSYNCHRONIZED)


def to_send(session: Session, job_id: str) -> Sequence[str]:
    """Shards of the job, or of its recipe, that waited and now may begin; enqueue them after the commit.

    They are answered once; should they be lost after that, the reconciler sends them again.
    """
    parent = select(Job.parent_id).where(Job.id == job_id).scalar_subquery()
    unsent = (Shard.state == ShardState.QUEUED) & Shard.sent_at.is_(None)
    return session.scalars(
        update(Shard)
        .where(or_(Shard.job_id == job_id, Shard.job_id == parent), unsent)
        .values(sent_at=now())
        .returning(Shard.id),
        execution_options=UNSYNCHRONIZED,
    ).all()


def _end_item(session: Session, lease: Lease, index: int, state: ItemState, **values: Any) -> None:
    _fence(session, lease)
    mine = (Item.job_id == lease.job_id) & (Item.index == index) & (Item.shard_id == lease.shard_id)
    ended = session.scalars(
        update(Item)
        .where(mine, Item.state.not_in(TERMINAL_ITEM))
        .values(state=state, finished_at=now(), **values)
        .returning(Item.index),
        execution_options=UNSYNCHRONIZED,
    ).one_or_none()
    if ended is None:
        raise LeaseLost(f"item {index} of {lease.shard_id} is already over")


def _fence(session: Session, lease: Lease, **values: Any) -> None:
    """Lock the shard's row for this transaction and check that the lease still stands."""
    mine = (Shard.id == lease.shard_id) & (Shard.epoch == lease.epoch) & (Shard.state == ShardState.RUNNING)
    held = session.scalars(
        update(Shard).where(mine).values(values or {"epoch": lease.epoch}).returning(Shard.id),
        execution_options=UNSYNCHRONIZED,
    ).one_or_none()
    if held is None:
        raise LeaseLost(f"{lease.shard_id} is no longer held under epoch {lease.epoch}")


def _lock(session: Session, job_id: str) -> JobState:
    """The job's state, with its row locked, so that the last two shards cannot both think the other is still at it."""
    state = session.scalar(select(Job.state).where(Job.id == job_id).with_for_update(key_share=True))
    if state is None:
        raise NotFound(f"no job {job_id}")
    return JobState(state)


def move(session: Session, job_id: str, target: JobState) -> bool:
    """Make a legal move and note its time; False if the job is in no state that allows it."""
    values: dict[str, Any] = {"state": target, "finished_at": now() if target in TERMINAL_JOB else None}
    moved = session.scalars(
        update(Job).where(Job.id == job_id, Job.state.in_(sources(target))).values(values).returning(Job.id),
        execution_options=UNSYNCHRONIZED,
    ).one_or_none()
    if moved:
        session.add(Transition(job_id=job_id, state=target, at=now()))
        session.flush()
    return moved is not None


def _count(session: Session, *conditions: Any) -> int:
    return session.scalar(select(func.count()).select_from(Item).where(*conditions)) or 0


def _shards(session: Session, job_id: str, *states: ShardState) -> int:
    condition = (Shard.job_id == job_id) & Shard.state.in_(states)
    return session.scalar(select(func.count()).select_from(Shard).where(condition)) or 0
