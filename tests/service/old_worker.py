"""What a worker of revision 0004 writes: its statements, kept as they were, on the columns that it knew."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import MetaData, Table, and_, create_engine, func, null, or_, select, update
from sqlalchemy.orm import Session

from service import jobs
from service.db import Database, migrate, now
from service.leases import LeaseLost
from tests.service.test_jobs import do

ENDED = ("succeeded", "failed", "cancelled")
CLAIMABLE = ("queued", "running")
GOING = (*CLAIMABLE, "paused")
OVER = ("succeeded", "partially_succeeded", "failed", "cancelled", "expired")
Hold = tuple[str, str, int]
"""A job's id, a shard's, and the epoch of the claim."""


@cache
def old_tables() -> dict[str, Table]:
    """The tables of revision 0004."""
    with TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'old.db'}"
        migrate(url, "0004")
        engine, metadata = create_engine(url), MetaData()
        metadata.reflect(engine)
        engine.dispose()
    return {name: table for name, table in metadata.tables.items() if name != "alembic_version"}


def old_lock(session: Session, job_id: str) -> str:
    j = old_tables()["jobs"]
    return str(session.scalar(select(j.c.state).where(j.c.id == job_id).with_for_update(key_share=True)))


def old_move(session: Session, job_id: str, target: str, sources: tuple[str, ...]) -> None:
    j, t = old_tables()["jobs"], old_tables()["transitions"]
    values = {"state": target, "finished_at": now() if target in OVER else None}
    moved = update(j).where(j.c.id == job_id, j.c.state.in_(sources)).values(values).returning(j.c.id)
    if session.scalars(moved).one_or_none():
        session.execute(t.insert().values(job_id=job_id, state=target, at=now()))


def old_claim(session: Session, shard_id: str) -> Hold | None:
    j, s, i = (old_tables()[name] for name in ("jobs", "shards", "items"))
    job_id = session.scalar(select(s.c.job_id).where(s.c.id == shard_id))
    if job_id is None or old_lock(session, job_id) not in CLAIMABLE:
        return None
    due = or_(s.c.not_before.is_(None), s.c.not_before <= now())
    in_time = select(j.c.id).where(j.c.id == job_id, or_(j.c.deadline.is_(None), j.c.deadline > now()))
    epoch = session.scalars(
        update(s)
        .where(s.c.id == shard_id, s.c.state == "queued", due, in_time.exists())
        .values(
            state="running", epoch=s.c.epoch + 1, worker="old", lease_expires_at=now() + 60, heartbeat_at=now(),
            progress={}, not_before=None,
        )
        .returning(s.c.epoch)
    ).one_or_none()  # fmt: skip
    if epoch is None:
        return None
    old_move(session, job_id, "running", ("queued",))
    pending = (i.c.shard_id == shard_id) & i.c.state.not_in(ENDED)
    session.execute(update(i).where(pending).values(state="running"))
    session.execute(select(j).where(j.c.id == job_id)).one()
    session.execute(select(i).where(pending).order_by(i.c.index)).all()
    return job_id, shard_id, epoch


def old_fence(session: Session, hold: Hold, **values: Any) -> None:
    s = old_tables()["shards"]
    mine = (s.c.id == hold[1]) & (s.c.epoch == hold[2]) & (s.c.state == "running")
    if session.scalar(update(s).where(mine).values(values or {"epoch": hold[2]}).returning(s.c.id)) is None:
        raise LeaseLost


def old_heartbeat(session: Session, hold: Hold) -> str:
    j = old_tables()["jobs"]
    progress = {"image_steps": 1, "rate": 1.0, "curve": []}
    old_fence(session, hold, lease_expires_at=now() + 60, heartbeat_at=now(), progress=progress)
    late = func.coalesce(j.c.deadline < now(), False)
    state, over = session.execute(select(j.c.state, late).where(j.c.id == hold[0])).one()
    if state == "paused" and not over:
        return "release"
    return "continue" if state in CLAIMABLE and not over else "stop"


def old_end(session: Session, /, hold: Hold, index: int, state: str, **values: Any) -> None:
    i, a = old_tables()["items"], old_tables()["artifacts"]
    old_fence(session, hold, **({"attempts": 0, "crashes": 0} if state == "succeeded" else {}))
    mine = and_(i.c.job_id == hold[0], i.c.index == index, i.c.shard_id == hold[1])
    ended = update(i).where(mine, i.c.state == "running")
    ended = ended.values(state=state, finished_at=now(), epoch=hold[2], **values)
    if session.scalar(ended.returning(i.c.index)) is None:
        raise LeaseLost
    if state == "succeeded":
        key = f"jobs/{hold[0]}/items/{index}/{hold[2]}/a.png"
        session.execute(
            a.insert().values(
                job_id=hold[0], item_index=index, name="a.png", key=key, media_type="image/png", size=3, sha256="0"
            )
        )


def old_keep(session: Session, hold: Hold) -> None:
    s = old_tables()["shards"]
    old_fence(session, hold, attempts=0, crashes=0)
    kept = {"key": f"jobs/{hold[0]}/shards/0/{hold[2]}/checkpoint-1.safetensors", "size": 1, "sha256": "0"}
    session.execute(update(s).where(s.c.id == hold[1]).values(checkpoint=kept))


def old_finish(session: Session, hold: Hold) -> str:
    j, i = old_tables()["jobs"], old_tables()["items"]
    late = select(j.c.deadline < now()).where(j.c.id == hold[0])
    if old_lock(session, hold[0]) in GOING and session.scalar(late):
        old_move(session, hold[0], "cancelling", GOING)
        session.execute(update(j).where(j.c.id == hold[0]).values(error=jobs.DEADLINE))
        old_settle(session, hold[0])
    job = old_lock(session, hold[0])
    old_fence(session, hold)
    left = (i.c.shard_id == hold[1]) & i.c.state.not_in(ENDED)
    state, kept = "cancelled", {"checkpoint": null()}
    if not session.scalar(select(func.count()).select_from(i).where(left)):
        state = "done"
    elif job in GOING:
        state, kept = "queued", {}
        session.execute(update(i).where(left).values(state="queued"))
    old_fence(session, hold, state=state, lease_expires_at=None, not_before=None, sent_at=None, **kept)
    old_settle(session, hold[0])
    return state


def old_settle(session: Session, job_id: str) -> None:
    j, s, i = (old_tables()[name] for name in ("jobs", "shards", "items"))
    state = old_lock(session, job_id)
    states = set(session.scalars(select(s.c.state).where(s.c.job_id == job_id)))
    if state == "cancelling":
        waiting = (s.c.job_id == job_id) & s.c.state.in_(("queued", "waiting"))
        session.execute(update(s).where(waiting).values(state="cancelled"))
        if "running" not in states:
            left = (i.c.job_id == job_id) & i.c.state.not_in(ENDED)
            session.execute(update(i).where(left).values(state="cancelled", finished_at=now()))
            late = session.scalar(select(j.c.error).where(j.c.id == job_id)) == jobs.DEADLINE
            old_move(session, job_id, "expired" if late else "cancelled", ("cancelling",))
    elif state in GOING and not states & {"queued", "running"}:
        if "waiting" in states:
            waiting = (s.c.job_id == job_id) & (s.c.state == "waiting")
            session.execute(update(s).where(waiting).values(state="queued", sent_at=None))
            return
        old_move(session, job_id, "finalizing", GOING)
        found = set(session.scalars(select(i.c.state).where(i.c.job_id == job_id)))
        whole = "partially_succeeded" if "failed" in found else "succeeded"
        old_move(session, job_id, whole if "succeeded" in found else "failed", ("finalizing",))


def old_claimed(db: Database, shard_id: str) -> Hold:
    taken = do(db, old_claim, shard_id)
    assert taken is not None
    return taken
