"""What an operator does by hand: take a job up again, and tell a worker to end. Written in jobs' logs.

A shard that is taken from its worker is fenced: what that still writes is refused. Nothing here needs the broker: the
reconciler of any API process sends for what waits without a message.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from service import jobs, leases
from service.bulk_models import WorkerProcess
from service.db import now
from service.errors import Conflict, NotFound
from service.fence import Lease
from service.fleet import ALIVE, DRAIN
from service.joblog import Event, note
from service.jobs import AFRESH, UNSYNCHRONIZED
from service.models import Item, Job, Shard
from service.states import ItemState, ShardState


class Requeued(NamedTuple):
    """Failed items that are computed again, waiting shards that are sent for again, shards taken from their workers."""

    items: int
    shards: int
    taken: int


def requeue(session: Session, name: str, by: str, take: bool = False) -> Requeued:
    """Take up again a job, with its parts, or a shard, by its id: what failed of it, and what waits.

    Counts of attempts begin anew, and pauses end. With `take` also what workers hold is queued again, which goes on
    from its last checkpoint. Raises NotFound, or Conflict if there is nothing to take up.
    """
    job_id, _, shard = name.partition(".")
    parts, state = jobs.lock_all(session, job_id)
    if shard and session.get(Shard, name) is None:
        raise NotFound(f"no shard {name}")
    if state in jobs.STOPPED:
        raise Conflict(f"job {job_id} is {state}, and is not taken up again")
    ours = (Shard.id == name) if shard else Shard.job_id.in_([job_id, *parts])
    running = session.scalars(select(Shard).where(ours, Shard.state == ShardState.RUNNING)).all() if take else ()
    for row in running:
        leases.finish(session, Lease(row.id, row.job_id, row.epoch))
    waiting = update(Shard).where(ours, Shard.state == ShardState.QUEUED).values(AFRESH).returning(Shard.id)
    sent = len(session.scalars(waiting, execution_options=UNSYNCHRONIZED).all()) - len(running)
    failed = select(Item.index).join(Shard, Shard.id == Item.shard_id).where(ours, Item.state == ItemState.FAILED)
    items = jobs.retry(session, job_id, name if shard else "") if session.scalars(failed.limit(1)).all() else 0
    done = Requeued(items, max(sent, 0), len(running))
    if not any(done):
        held = session.scalar(select(Shard.worker).where(ours, Shard.state == ShardState.RUNNING).limit(1))
        why = f"{held} computes it: --take takes it from there" if held else f"job {job_id} is {state}"
        raise Conflict(f"nothing of {name} failed or waits; {why}")
    note(session, job_id, Event.REQUEUED, by=by, **({"shard": int(shard)} if shard else {}), **done._asdict())
    return done


def failed(session: Session, title: str = "", within: float | None = None) -> Sequence[str]:
    """Jobs that can be taken up again and have failed items: of this cause, or that failed within so many seconds."""
    item = (Item.job_id == Job.id) & (Item.state == ItemState.FAILED)
    if title:
        item &= Item.error["title"].as_string() == title
    if within is not None:
        item &= Item.finished_at > now() - within
    open_ = Job.deleted_at.is_(None) & Job.state.not_in(jobs.STOPPED)
    found = select(Job.id).where(open_, select(Item.index).where(item).exists())
    return session.scalars(found.order_by(Job.created_at)).all()


def drain(session: Session, worker: str) -> None:
    """Have a worker end as by SIGTERM, once it next says that it lives. Raises NotFound, or Conflict."""
    row = session.get(WorkerProcess, worker, with_for_update=True)
    if row is None:
        alive = ", ".join(session.scalars(select(WorkerProcess.id).where(ALIVE).order_by(WorkerProcess.id)))
        raise NotFound(f"no worker {worker}; alive are: {alive or 'none'}")
    if session.scalar(select(WorkerProcess.id).where(WorkerProcess.id == worker, ALIVE)) is None:
        raise Conflict(f"{worker} is not alive: there is nothing to drain")
    row.info = {**row.info, DRAIN: True}
