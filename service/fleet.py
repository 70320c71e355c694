"""The worker processes: each writes now and then that it is alive, and what it is doing."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import case, delete, func, select, update
from sqlalchemy.orm import Session

from service import responses
from service.bulk_models import WorkerProcess
from service.cursors import at, timestamp
from service.db import now
from service.jobs import UNSYNCHRONIZED
from service.models import Job, Shard
from service.states import ShardState

ANNOUNCE_SECONDS = 10.0
SILENT_SECONDS = 3 * ANNOUNCE_SECONDS
KEPT_SECONDS = 86_400.0
"""How long a worker is listed that is no more."""
DRAIN = "drain"
"""In a worker's `info`: an operator wants it to end."""
ALIVE = WorkerProcess.ended_at.is_(None) & (WorkerProcess.seen_at > now() - SILENT_SECONDS)


def announce(session: Session, worker: str, info: Mapping[str, Any], first: bool = False) -> bool:
    """The process is alive: `info` has the fields of a response's Worker that only it knows. Whether it is to end.

    What was said of a process of the same name before its `first` time is not meant for it.
    """
    row = session.get(WorkerProcess, worker, with_for_update=True)
    if row is None:
        session.add(WorkerProcess(id=worker, started_at=now(), seen_at=now(), info=dict(info)))
        return False
    asked = DRAIN in row.info and not first
    row.seen_at, row.ended_at, row.info = now(), None, {**info, **({DRAIN: True} if asked else {})}
    if first:
        row.started_at = now()
    return asked


def end(session: Session, worker: str) -> None:
    """The process lets go of everything."""
    over = update(WorkerProcess).where(WorkerProcess.id == worker).values(ended_at=now())
    session.execute(over, execution_options=UNSYNCHRONIZED)


def forget(session: Session) -> None:
    """Drop the rows of those that have long been gone."""
    session.execute(delete(WorkerProcess).where(WorkerProcess.seen_at < now() - KEPT_SECONDS))


def lives_on(session: Session, host: str) -> bool:
    """Whether a process of a machine, or of a container, is alive."""
    here = select(WorkerProcess.id).where(ALIVE, WorkerProcess.id.startswith(f"{host}:", autoescape=True)).limit(1)
    return session.scalar(here) is not None


def threads(session: Session) -> tuple[int, int]:
    """How many processes are alive, and how many shards they can hold at once."""
    slots = func.coalesce(func.sum(WorkerProcess.info["threads"].as_integer()), 0)
    processes, most = session.execute(select(func.count(), slots).where(ALIVE)).one()
    return int(processes), int(most)


def workers(session: Session) -> list[responses.Worker]:
    """Those of the last day: first those that are alive, then by when they were last seen."""
    held: dict[str, list[str]] = {}
    running = select(Shard.worker, Shard.id).join(Job).where(Shard.state == ShardState.RUNNING).order_by(Shard.id)
    for thread, shard_id in session.execute(running):
        held.setdefault(str(thread).rpartition(":")[0], []).append(shard_id)
    state = case((WorkerProcess.ended_at.is_not(None), "ended"), (ALIVE, "alive"), else_="silent")
    rows = session.execute(select(WorkerProcess, state).order_by(state, WorkerProcess.seen_at.desc(), WorkerProcess.id))
    return [
        responses.Worker(
            id=row.id, state=is_, shards=held.get(row.id, []), started_at=at(row.started_at),
            seen_at=at(row.seen_at), ended_at=timestamp(row.ended_at), **row.info,
        )
        for row, is_ in rows
    ]  # fmt: skip
