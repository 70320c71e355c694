"""The life of a job: cancel, pause, resume, retry, expire, and its end. With `leases`, the sole writer of every status.

Each function is one short transaction in the session it is given. A job's row is locked before any of its shards', and
a recipe's parts before the recipe, here as everywhere, so that no two transactions deadlock.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, delete, func, null, or_, select, update
from sqlalchemy.orm import Session

from service.db import among, now
from service.errors import Conflict, NotFound
from service.joblog import Event, note
from service.models import Artifact, Item, Job, Shard, Transition
from service.states import TERMINAL_ITEM, TERMINAL_JOB, ItemState, JobState, ShardState, sources
from service.webhooks import outbox

CLAIMABLE = (JobState.QUEUED, JobState.RUNNING)
GOING = (*CLAIMABLE, JobState.PAUSED)
STOPPED = (JobState.CANCELLING, JobState.CANCELLED, JobState.EXPIRED)
UNSYNCHRONIZED = {"synchronize_session": False}  # no object of the session is read again after such an update
REOPENED: dict[str, Any] = {
    "state": ItemState.QUEUED, "metrics": null(), "provenance": null(), "error": null(), "epoch": None,
    "finished_at": None,
}  # fmt: skip
AHEAD = 16
"""Shards of a job that wait with a message. A job of thousands must not stand in the queue before one that is small."""
MANY = 20_000
"""Items that one transaction cancels or reopens: more would take longer than a statement may."""
AFRESH: dict[str, Any] = {"attempts": 0, "crashes": 0, "not_before": None, "sent_at": None}
"""A shard that is begun again."""
DEADLINE = {"title": "Deadline passed", "detail": "what was not finished by then was dropped"}


def cancel(session: Session, job_id: str) -> None:
    """Stop a job; finished items keep their results. Raises NotFound, or Conflict if the job is over."""
    parts, state = lock_all(session, job_id)
    if state in (JobState.CANCELLING, JobState.CANCELLED):
        return
    if not move(session, job_id, JobState.CANCELLING):
        raise Conflict(f"job {job_id} is {state} and cannot be cancelled")
    note(session, job_id, Event.CANCELLED)
    for part in parts:
        if move(session, part, JobState.CANCELLING):
            note(session, part, Event.CANCELLED)
            settle(session, part)
    settle(session, job_id)


def pause(session: Session, job_id: str) -> None:
    """Have workers keep checkpoints and let go. Raises NotFound, or Conflict if the job is not going on."""
    parts, state = lock_all(session, job_id)
    if state == JobState.PAUSED:
        return
    if not move(session, job_id, JobState.PAUSED):
        raise Conflict(f"job {job_id} is {state} and cannot be paused")
    for each in (job_id, *(part for part in parts if move(session, part, JobState.PAUSED))):
        note(session, each, Event.PAUSED)


def resume(session: Session, job_id: str) -> None:
    """Go on with a paused job; `to_send` answers its shards. Raises NotFound, or Conflict if the job is not paused."""
    parts, state = lock_all(session, job_id)
    if state in CLAIMABLE:
        return
    if state != JobState.PAUSED:
        raise Conflict(f"job {job_id} is {state}, not paused")
    for each in (*(part for part, at in parts.items() if at == JobState.PAUSED), job_id):
        move(session, each, JobState.QUEUED)
        note(session, each, Event.RESUMED)
        queued = (Shard.job_id == each) & (Shard.state == ShardState.QUEUED)
        session.execute(update(Shard).where(queued).values(sent_at=None), execution_options=UNSYNCHRONIZED)
        if _shards(session, each, ShardState.RUNNING):  # a worker that has not let go yet
            move(session, each, JobState.RUNNING)
        settle(session, each)


def expire(session: Session, job_id: str) -> None:
    """End a job whose deadline has passed, if it is still going. Finished items keep their results."""
    state = lock(session, job_id)
    if state in (*GOING, JobState.VALIDATING) and session.scalar(select(Job.deadline < now()).where(Job.id == job_id)):
        move(session, job_id, JobState.CANCELLING)
        session.execute(update(Job).where(Job.id == job_id).values(error=DEADLINE), execution_options=UNSYNCHRONIZED)
        note(session, job_id, Event.EXPIRED)
        settle(session, job_id)


def retry(session: Session, job_id: str, shard: str = "") -> int:
    """Queue failed items of a job, and of a recipe's parts, again, up to MANY of each; answers how many.

    With `shard` only those of this one.

    What was made of all items, a summary or a figure, is made again. Raises NotFound, or Conflict if nothing failed.
    """
    states, state = lock_all(session, job_id)
    states[job_id] = state
    if state in STOPPED:
        raise Conflict(f"job {job_id} is {state}, and its items cannot be tried again")
    if session.scalar(select(Job.deadline < now()).where(Job.id == job_id)):
        raise Conflict(f"the deadline of job {job_id} has passed, and its items cannot be tried again")
    tried = {each: _reopen(session, each, shard) for each in states if states[each] not in STOPPED}
    if not any(tried.values()):
        raise Conflict(f"job {job_id} has no failed items")
    if parent := session.scalar(select(Job.parent_id).where(Job.id == job_id)):
        states[parent] = lock(session, parent)
    changed = [each for each in states if states[each] not in STOPPED and (tried.get(each) or each in (job_id, parent))]
    for each in changed:
        if n := tried.get(each):
            note(session, each, Event.RETRIED, items=n)
        redo_last(session, each)
        if states[each] in TERMINAL_JOB:
            move(session, each, JobState.QUEUED)
    for each in changed:
        settle(session, each)
    return sum(tried.values())


def _reopen(session: Session, job_id: str, shard: str) -> int:
    indices = select(Item.index).where(Item.job_id == job_id, Item.state == ItemState.FAILED).order_by(Item.index)
    if shard:
        indices = indices.where(Item.shard_id == shard)
    failed = (Item.job_id == job_id) & Item.index.in_(indices.limit(MANY))
    shards = select(Item.shard_id).where(failed)
    again = AFRESH | {"state": ShardState.QUEUED}
    session.execute(
        update(Shard).where(Shard.id.in_(shards), Shard.state != ShardState.RUNNING).values(again),
        execution_options=UNSYNCHRONIZED,
    )
    return len(session.scalars(update(Item).where(failed).values(REOPENED).returning(Item.index)).all())


def redo_last(session: Session, job_id: str) -> None:
    """Have what waits for the rest of a job wait again; a worker that is at it loses its lease."""
    waits = AFRESH | {"state": ShardState.WAITING, "lease_expires_at": None}
    last = (Shard.job_id == job_id) & Shard.last
    session.execute(update(Shard).where(last).values(waits), execution_options=UNSYNCHRONIZED)
    shards = select(Shard.id).where(last)
    items = select(Item.index).where(Item.job_id == job_id, Item.shard_id.in_(shards))
    drawn = (Artifact.job_id == job_id) & Artifact.item_index.in_(items)
    session.execute(delete(Artifact).where(drawn), execution_options=UNSYNCHRONIZED)
    session.execute(update(Item).where(Item.shard_id.in_(shards)).values(REOPENED), execution_options=UNSYNCHRONIZED)


def settle(session: Session, job_id: str) -> bool:
    """End a job that has nothing left to do. Whoever makes a shard or a job stop calls this.

    False if that was too much for one transaction: then the reconciler does more of it.
    """
    state = lock(session, job_id)
    if state == JobState.CANCELLING:
        waiting = (Shard.job_id == job_id) & Shard.state.in_((ShardState.QUEUED, ShardState.WAITING))
        cancelled = {"state": ShardState.CANCELLED}
        session.execute(update(Shard).where(waiting).values(cancelled), execution_options=UNSYNCHRONIZED)
        if not _shards(session, job_id, ShardState.RUNNING):
            if not _cancel_items(session, job_id):
                return False
            late = session.get_one(Job, job_id, populate_existing=True).error == DEADLINE
            move(session, job_id, JobState.EXPIRED if late else JobState.CANCELLED, _count(session, job_id))
            _settle_parent(session, job_id)
    elif state in GOING and not _shards(session, job_id, ShardState.QUEUED, ShardState.RUNNING):
        if _reclaim(session, job_id):
            return True
        if _shards(session, job_id, ShardState.WAITING):
            _release(session, job_id)
            return True
        move(session, job_id, JobState.FINALIZING)
        counts = _count(session, job_id)
        whole = JobState.PARTIALLY_SUCCEEDED if counts.get(ItemState.FAILED) else JobState.SUCCEEDED
        found = counts.get(ItemState.SUCCEEDED, 0) - _made_of_others(session, job_id, sum(counts.values()))
        move(session, job_id, whole if found > 0 else JobState.FAILED, counts)
        _settle_parent(session, job_id)
    return True


def _made_of_others(session: Session, job_id: str, items: int) -> int:
    """How many items that succeeded were made of the others, such as a table: alone they are no success."""
    last = Item.shard_id.in_(select(Shard.id).where(Shard.job_id == job_id, Shard.last))
    made, succeeded = count(session, last), count(session, last, Item.state == ItemState.SUCCEEDED)
    return succeeded if made < items else 0


def _cancel_items(session: Session, job_id: str) -> bool:
    """Cancel what is left; of very many items some, and the reconciler calls `settle` again. Whether that was all."""
    left = select(Item.index).where(Item.job_id == job_id, Item.state.not_in(TERMINAL_ITEM)).limit(MANY)
    ended = update(Item).where(Item.job_id == job_id, Item.index.in_(left))
    values = {"state": ItemState.CANCELLED, "finished_at": now()}
    indices = session.scalars(ended.values(values).returning(Item.index), execution_options=UNSYNCHRONIZED).all()
    return len(indices) < MANY


def _reclaim(session: Session, job_id: str) -> bool:
    """Queue what a worker of the version before this one cancelled because the job was paused; whether there is any."""
    left = select(Item.shard_id).where(Item.job_id == job_id, Item.state.not_in(TERMINAL_ITEM))
    dropped = (Shard.job_id == job_id) & (Shard.state == ShardState.CANCELLED) & Shard.id.in_(left)
    again = {"state": ShardState.QUEUED, "sent_at": None}
    shards = session.scalars(update(Shard).where(dropped).values(again).returning(Shard.id)).all()
    items = Item.shard_id.in_(shards) & Item.state.not_in(TERMINAL_ITEM)
    session.execute(update(Item).where(items).values(state=ItemState.QUEUED), execution_options=UNSYNCHRONIZED)
    return bool(shards)


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
    """Shards of the job, of its recipe or of its parts that may begin now; enqueue them after the commit.

    Of many the first: a worker asks again as it claims one, and as it ends one. They are answered once; should they be
    lost after that, the reconciler sends them again.
    """
    parent = select(Job.parent_id).where(Job.id == job_id).scalar_subquery()
    related = or_(Job.id.in_((job_id, parent)), Job.parent_id == job_id)
    # One by one: whatever Postgres takes the tables to hold, none of these can be read again for each row of another.
    going = session.scalars(select(Job.id).where(related, Job.state.in_(CLAIMABLE))).all()
    queued = among(Shard.job_id, going) & (Shard.state == ShardState.QUEUED)
    sent = session.scalar(select(func.count()).select_from(Shard).where(queued, Shard.sent_at.is_not(None))) or 0
    unsent = Shard.sent_at.is_(None) & due()
    nearest = select(Shard.id).where(queued, unsent).order_by(Shard.first_item).limit(max(AHEAD - sent, 0))
    first = session.scalars(nearest).all()
    return session.scalars(
        update(Shard).where(Shard.id.in_(first), unsent).values(sent_at=now()).returning(Shard.id),
        execution_options=UNSYNCHRONIZED,
    ).all()


def priority(session: Session, job_id: str) -> int:
    """What its shards, those of its parts and that of its recipe are sent with: they share it."""
    return session.scalars(select(Job.priority).where(Job.id == job_id)).one()


def due() -> ColumnElement[bool]:
    """Whether a shard's pause after a failed attempt is over."""
    return or_(Shard.not_before.is_(None), Shard.not_before <= now())


def lock_all(session: Session, job_id: str) -> tuple[dict[str, JobState], JobState]:
    """Lock a job and its parts, if it is a recipe; answers the states of the parts, and its own.

    Raises NotFound, also for one that was deleted.
    """
    parts = session.scalars(select(Job.id).where(Job.parent_id == job_id).order_by(Job.id)).all()
    states = {part: lock(session, part) for part in parts}, lock(session, job_id)
    if session.scalar(select(Job.deleted_at).where(Job.id == job_id)) is not None:
        raise NotFound(f"no job {job_id}")
    return states


def lock(session: Session, job_id: str) -> JobState:
    """The job's state, with its row locked, so that the last two shards cannot both think the other is still at it."""
    state = session.scalar(select(Job.state).where(Job.id == job_id).with_for_update(key_share=True))
    if state is None:
        raise NotFound(f"no job {job_id}")
    return JobState(state)


def move(session: Session, job_id: str, target: JobState, counts: Mapping[str, int] | None = None) -> bool:
    """Make a legal move and note its time; False if the job is in no state that allows it.

    `counts` are of its items by state, where that is final.
    """
    values: dict[str, Any] = {
        "state": target, "finished_at": now() if target in TERMINAL_JOB else None, "counts": counts or null(),
    }  # fmt: skip
    legal = update(Job).where(Job.id == job_id, Job.state.in_(sources(target))).values(values)
    asked = session.scalars(legal.returning(outbox.asked()), execution_options=UNSYNCHRONIZED).one_or_none()
    if asked is not None:
        session.add(Transition(job_id=job_id, state=target, at=now()))
        session.flush()
        if asked:
            outbox.note(session, job_id, target)
    return asked is not None


def count(session: Session, *conditions: Any) -> int:
    return session.scalar(select(func.count()).select_from(Item).where(*conditions)) or 0


def _count(session: Session, job_id: str) -> dict[str, int]:
    grouped = select(Item.state, func.count().label("n")).where(Item.job_id == job_id).group_by(Item.state)
    return {row.state: row.n for row in session.execute(grouped)}


def _shards(session: Session, job_id: str, *states: ShardState) -> int:
    condition = (Shard.job_id == job_id) & Shard.state.in_(states)
    return session.scalar(select(func.count()).select_from(Shard).where(condition)) or 0
