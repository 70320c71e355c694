"""What a worker does with a shard under a lease: claim, heartbeat, save, finish. Other moves of a job are in `jobs`.

Each function is one short transaction in the session it is given. Every write carries the lease, and is refused with
LeaseLost once another worker has claimed the shard. An ending that was committed already, by a worker that did not
hear of it, may be written again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import func, null, or_, select, update
from sqlalchemy.orm import Session

from service import jobs
from service.db import now
from service.jobs import CLAIMABLE, GOING, UNSYNCHRONIZED
from service.models import Artifact, Epoch, Item, Job, Shard
from service.states import TERMINAL_ITEM, ItemState, JobState, ShardState
from service.storage import Stored

PROGRESS = {"attempts": 0, "crashes": 0}
"""Work that moves on is not what fails attempts or kills workers: both are counted anew."""
LONGEST_PAUSE = 300.0  # seconds between two attempts


class LeaseLost(RuntimeError):  # noqa: N818 - an event more than a fault
    """Another worker holds the shard, or it is over: drop everything about it."""


class Directive(StrEnum):
    """A heartbeat's answer."""

    CONTINUE = "continue"  # go on
    RELEASE = "release"  # the job is paused: keep a checkpoint and let go
    STOP = "stop"  # the job is being cancelled, or its deadline has passed: let go


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
    priority: int
    crashes: int
    checkpoint: Mapping[str, Any] | None


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
            heartbeat_at=now(), progress={}, not_before=None,
        )
        .returning(Shard.epoch),
        execution_options=UNSYNCHRONIZED,
    ).one_or_none()  # fmt: skip
    if epoch is None:
        return None
    jobs.move(session, job_id, JobState.RUNNING)
    if parent := session.scalar(select(Job.parent_id).where(Job.id == job_id)):
        jobs.move(session, parent, JobState.RUNNING)
    running = {"state": ItemState.RUNNING}
    session.execute(update(Item).where(_open(shard_id)).values(running), execution_options=UNSYNCHRONIZED)
    return held(session, Lease(shard_id, job_id, epoch))


def held(session: Session, lease: Lease) -> Work:
    """What there is to do under a lease. Raises LeaseLost."""
    _fence(session, lease)
    job, shard = session.get_one(Job, lease.job_id), session.get_one(Shard, lease.shard_id)
    items = session.scalars(select(Item).where(_open(lease.shard_id)).order_by(Item.index)).all()
    return Work(lease, job.kind, job.parameters, items, job.priority, shard.crashes, shard.checkpoint)


def heartbeat(session: Session, lease: Lease, lease_seconds: float, progress: Mapping[str, Any]) -> Directive:
    """Report progress and renew the lease. Raises LeaseLost."""
    _fence(session, lease, lease_expires_at=now() + lease_seconds, heartbeat_at=now(), progress=dict(progress))
    late = func.coalesce(Job.deadline < now(), False)
    state, over = session.execute(select(Job.state, late).where(Job.id == lease.job_id)).one()
    if state == JobState.PAUSED and not over:
        return Directive.RELEASE
    return Directive.CONTINUE if state in CLAIMABLE and not over else Directive.STOP


def save_item(
    session: Session,
    lease: Lease,
    index: int,
    metrics: Mapping[str, Any],
    provenance: Mapping[str, Any],
    artifacts: Mapping[str, tuple[Stored, str]],
) -> bool:
    """An item succeeded: its stored objects (with media types) by name, its metrics, how it came about.

    False if this lease has saved it already. Raises LeaseLost.
    """
    values = {"metrics": dict(metrics), "provenance": dict(provenance)}
    if not _end_item(session, lease, index, ItemState.SUCCEEDED, PROGRESS, **values):
        return False
    session.add_all(
        Artifact(job_id=lease.job_id, item_index=index, name=name, media_type=media_type, **stored._asdict())
        for name, (stored, media_type) in artifacts.items()
    )
    return True


def save_checkpoint(session: Session, lease: Lease, stored: Stored) -> str | None:
    """Point to where a later claim goes on with the shard; answers the key that nothing points to any more.

    Raises LeaseLost.
    """
    _fence(session, lease, **PROGRESS)
    shard = session.get_one(Shard, lease.shard_id)
    before, shard.checkpoint = shard.checkpoint, stored._asdict()
    # One from before this claim may be that of other shards too: when a shard is split, each part goes on from it.
    of_this_claim = before is not None and _folder(before["key"]) == _folder(stored.key)
    return _replaced(before, stored) if of_this_claim else None


def save_item_checkpoint(session: Session, lease: Lease, index: int, stored: Stored, step: int) -> str | None:
    """The same for one item, whose work has come to `step`. Raises LeaseLost."""
    _fence(session, lease, **PROGRESS)
    item = session.get_one(Item, (lease.job_id, index))
    before, item.checkpoint = item.checkpoint, {**stored._asdict(), "step": step}
    return _replaced(before, stored)


def _replaced(before: Mapping[str, Any] | None, stored: Stored) -> str | None:
    return str(before["key"]) if before and before["key"] != stored.key else None


def _folder(key: str) -> str:
    return key.rpartition("/")[0]


def record_epoch(session: Session, lease: Lease, epoch: int, metrics: Mapping[str, Any]) -> None:
    """What training measured after an epoch; an epoch that is trained again after a crash is recorded anew."""
    _fence(session, lease)
    session.merge(Epoch(job_id=lease.job_id, epoch=epoch, metrics=dict(metrics), at=session.scalar(select(now()))))


def fail_item(session: Session, lease: Lease, index: int, title: str, detail: str) -> None:
    """An item cannot be computed; its neighbours go on. Raises LeaseLost."""
    _end_item(session, lease, index, ItemState.FAILED, {}, error={"title": title, "detail": detail})


def finish(session: Session, lease: Lease, pause: float = 0.0) -> ShardState:
    """Let go of a shard: done if all its items are terminal, cancelled with its job, otherwise queued again.

    It is not claimed for `pause` seconds. Raises LeaseLost.
    """
    jobs.expire(session, lease.job_id)
    job = jobs.lock(session, lease.job_id)
    _fence(session, lease)  # before its items: in the order in which `save_item` locks them
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
    _fence(session, lease, state=state, lease_expires_at=None, not_before=later, sent_at=None, **kept)
    jobs.settle(session, lease.job_id)
    return state


def fail_attempt(
    session: Session, lease: Lease, title: str, detail: str, max_attempts: int, pause: float = 0.0, counts: bool = True
) -> ShardState:
    """A fault of the world ended an attempt: queue the shard again after a pause, which doubles with each attempt.

    It is given up after `max_attempts` that count. Raises LeaseLost.
    """
    jobs.lock(session, lease.job_id)
    _fence(session, lease, attempts=Shard.attempts + (1 if counts else 0))
    attempts = session.scalars(select(Shard.attempts).where(Shard.id == lease.shard_id)).one()
    if counts and attempts >= max_attempts:
        return give_up(session, lease, title, detail)
    return finish(session, lease, min(pause * 2.0 ** min(max(attempts - 1, 0), 30), LONGEST_PAUSE))


def give_up(session: Session, lease: Lease, title: str, detail: str) -> ShardState:
    """Fail every item of the shard that is not terminal, and finish it. Raises LeaseLost."""
    jobs.lock(session, lease.job_id)
    _fence(session, lease)
    ended = {"state": ItemState.FAILED, "error": {"title": title, "detail": detail}, "finished_at": now(),
             "epoch": lease.epoch}  # fmt: skip
    claimed = (Item.shard_id == lease.shard_id) & (Item.state == ItemState.RUNNING)
    session.execute(update(Item).where(claimed).values(ended), execution_options=UNSYNCHRONIZED)
    return finish(session, lease)


def crashed(session: Session, lease: Lease, max_crashes: int) -> ShardState:
    """The worker is gone: queue the shard again, and find out which item kills workers, if one does.

    A shard is split into its items when one more crash is allowed: each then runs in a process of its own, and the one
    that ends that too is failed. Raises LeaseLost.
    """
    jobs.lock(session, lease.job_id)
    _fence(session, lease, crashes=Shard.crashes + 1)
    shard = session.get_one(Shard, lease.shard_id, populate_existing=True)
    indices = session.scalars(select(Item.index).where(_open(shard.id)).order_by(Item.index)).all()
    if len(indices) == 1 and shard.crashes >= max_crashes:
        detail = f"{shard.crashes} workers died while computing it, the last one while computing nothing else"
        return give_up(session, lease, "Quarantined", detail)
    if shard.crashes >= max_crashes - 1:
        _split(session, shard, indices[1:])
    return finish(session, lease)


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


def _end_item(
    session: Session, lease: Lease, index: int, state: ItemState, of_shard: Mapping[str, Any], **values: Any
) -> bool:
    """Whether this ended the item: False if this lease has ended it so, even if it was reopened since.

    Raises LeaseLost.
    """
    _fence(session, lease, **of_shard)
    mine = (Item.job_id == lease.job_id) & (Item.index == index) & (Item.shard_id == lease.shard_id)
    ended = session.scalars(
        update(Item)
        .where(mine, Item.state == ItemState.RUNNING)
        .values(state=state, finished_at=now(), epoch=lease.epoch, **values)
        .returning(Item.index),
        execution_options=UNSYNCHRONIZED,
    ).one_or_none()
    if ended is None:
        ended_so = (Item.state == state) & (Item.epoch == lease.epoch)
        if session.scalar(select(Item.index).where(mine, ended_so | (Item.state == ItemState.QUEUED))) is None:
            raise LeaseLost(f"item {index} of {lease.shard_id} is already over")
    return ended is not None


def _fence(session: Session, lease: Lease, **values: Any) -> None:
    """Lock the shard's row for this transaction and check that the lease still stands."""
    mine = (Shard.id == lease.shard_id) & (Shard.epoch == lease.epoch) & (Shard.state == ShardState.RUNNING)
    fenced = session.scalars(
        update(Shard).where(mine).values(values or {"epoch": lease.epoch}).returning(Shard.id),
        execution_options=UNSYNCHRONIZED,
    ).one_or_none()
    if fenced is None:
        raise LeaseLost(f"{lease.shard_id} is no longer held under epoch {lease.epoch}")
