"""A worker of the version before this one, at revision 0003, goes on beside the new API, workers and reconciler.

Its statements are kept here as they were, on the columns that it knew.
"""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from sqlalchemy import MetaData, Row, Table, and_, case, create_engine, func, inspect, or_, select, update
from sqlalchemy.orm import Session

from service import jobs, leases
from service.db import Database, migrate, now
from service.leases import LeaseLost
from service.models import Base, Job
from service.states import JobState
from tests.service.test_jobs import (
    cancel,
    claim,
    claimed,
    do,
    expire,
    fail_item,
    finish,
    item_states,
    save,
    shard_of,
    state_of,
    submit,
)  # fmt: skip

ENDED = ("succeeded", "failed", "cancelled")
CLAIMABLE = ("queued", "running")
Hold = tuple[str, str, int]
"""A job's id, a shard's, and the epoch of the claim."""


@cache
def old_tables() -> dict[str, Table]:
    """The tables of revision 0003."""
    with TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'old.db'}"
        migrate(url, "0003")
        engine, metadata = create_engine(url), MetaData()
        metadata.reflect(engine)
        engine.dispose()
    return {name: table for name, table in metadata.tables.items() if name != "alembic_version"}


def old_lock(session: Session, job_id: str) -> str:
    j = old_tables()["jobs"]
    return str(session.scalar(select(j.c.state).where(j.c.id == job_id).with_for_update(key_share=True)))


def old_move(session: Session, job_id: str, target: str, sources: tuple[str, ...]) -> None:
    j, t = old_tables()["jobs"], old_tables()["transitions"]
    over = target in ("succeeded", "partially_succeeded", "failed", "cancelled")
    values = {"state": target, "finished_at": now() if over else None}
    moved = update(j).where(j.c.id == job_id, j.c.state.in_(sources)).values(values).returning(j.c.id)
    if session.scalars(moved).one_or_none():
        session.execute(t.insert().values(job_id=job_id, state=target, at=now()))


def old_claim(session: Session, shard_id: str) -> tuple[Hold, list[Row[Any]]] | None:
    j, s, i = (old_tables()[name] for name in ("jobs", "shards", "items"))
    job_id = str(session.scalar(select(s.c.job_id).where(s.c.id == shard_id)))
    if old_lock(session, job_id) not in CLAIMABLE:
        return None
    expired = (s.c.state == "running") & (s.c.lease_expires_at < now())
    row = session.execute(
        update(s)
        .where(s.c.id == shard_id, or_(s.c.state == "queued", expired))
        .values(
            state="running", epoch=s.c.epoch + 1, crashes=s.c.crashes + case((s.c.state == "running", 1), else_=0),
            worker="old", lease_expires_at=now() + 60, heartbeat_at=now(), progress={},
        )
        .returning(s.c.epoch, s.c.crashes)
    ).one_or_none()  # fmt: skip
    if row is None:
        return None
    old_move(session, job_id, "running", ("queued",))
    pending = (i.c.shard_id == shard_id) & i.c.state.not_in(ENDED)
    session.execute(update(i).where(pending).values(state="running"))
    session.execute(select(j).where(j.c.id == job_id)).one()
    return (job_id, shard_id, row.epoch), list(session.execute(select(i).where(pending).order_by(i.c.index)))


def old_fence(session: Session, hold: Hold, **values: Any) -> None:
    s = old_tables()["shards"]
    mine = (s.c.id == hold[1]) & (s.c.epoch == hold[2]) & (s.c.state == "running")
    if session.scalar(update(s).where(mine).values(values or {"epoch": hold[2]}).returning(s.c.id)) is None:
        raise LeaseLost


def old_heartbeat(session: Session, hold: Hold) -> bool:
    """Whether to go on."""
    j = old_tables()["jobs"]
    old_fence(session, hold, lease_expires_at=now() + 60, heartbeat_at=now(), progress={"image_steps": 1})
    return session.scalar(select(j.c.state).where(j.c.id == hold[0])) in CLAIMABLE


def old_end(session: Session, /, hold: Hold, index: int, state: str, **values: Any) -> None:
    i, a = old_tables()["items"], old_tables()["artifacts"]
    old_fence(session, hold)
    mine = and_(i.c.job_id == hold[0], i.c.index == index, i.c.shard_id == hold[1], i.c.state.not_in(ENDED))
    ended = update(i).where(mine).values(state=state, finished_at=now(), **values)
    if session.scalar(ended.returning(i.c.index)) is None:
        raise LeaseLost
    if state == "succeeded":
        key = f"jobs/{hold[0]}/items/{index}/{hold[2]}/a.png"
        session.execute(
            a.insert().values(
                job_id=hold[0], item_index=index, name="a.png", key=key, media_type="image/png", size=3, sha256="0"
            )
        )


def old_finish(session: Session, hold: Hold) -> str:
    i = old_tables()["items"]
    job = old_lock(session, hold[0])
    left = (i.c.shard_id == hold[1]) & i.c.state.not_in(ENDED)
    state = "cancelled" if job not in CLAIMABLE else "queued"
    if not session.scalar(select(func.count()).select_from(i).where(left)):
        state = "done"
    elif state == "queued":
        session.execute(update(i).where(left).values(state="queued"))
    old_fence(session, hold, state=state, lease_expires_at=None)
    old_settle(session, hold[0])
    return state


def old_settle(session: Session, job_id: str) -> None:
    s, i = old_tables()["shards"], old_tables()["items"]
    state = old_lock(session, job_id)
    states = set(session.scalars(select(s.c.state).where(s.c.job_id == job_id)))
    if state == "cancelling":
        waiting = (s.c.job_id == job_id) & s.c.state.in_(("queued", "waiting"))
        session.execute(update(s).where(waiting).values(state="cancelled"))
        if "running" not in states:
            left = (i.c.job_id == job_id) & i.c.state.not_in(ENDED)
            session.execute(update(i).where(left).values(state="cancelled", finished_at=now()))
            old_move(session, job_id, "cancelled", ("cancelling",))
    elif state in CLAIMABLE and not states & {"queued", "running"}:
        old_move(session, job_id, "finalizing", CLAIMABLE)
        found = set(session.scalars(select(i.c.state).where(i.c.job_id == job_id)))
        whole = "partially_succeeded" if "failed" in found else "succeeded"
        old_move(session, job_id, whole if "succeeded" in found else "failed", ("finalizing",))


def old_claimed(db: Database, shard_id: str) -> Hold:
    taken = do(db, old_claim, shard_id)
    assert taken is not None
    return taken[0]


def test_everything_that_is_new_may_be_left_out_by_who_does_not_know_it(database: Database) -> None:
    found = inspect(database.engine)
    for name, old in old_tables().items():
        columns = {column["name"]: column for column in found.get_columns(name)}
        assert set(old.columns.keys()) <= set(columns)
        added = [column for key, column in columns.items() if key not in old.columns]
        assert [c["name"] for c in added if not c["nullable"] and c["default"] is None] == []
        kept = {c.name: c.type.python_type for c in old.columns}
        assert {n: columns[n]["type"].python_type for n in kept} == kept
    assert set(old_tables()) <= set(Base.metadata.tables)


def test_an_old_worker_claims_reports_saves_and_finishes(database: Database) -> None:
    job_id, [shard] = submit(database)
    hold = old_claimed(database, shard)
    assert do(database, old_heartbeat, hold)
    do(database, old_end, hold, 0, "succeeded", metrics={"ssim": 1.0}, provenance={})
    do(database, old_end, hold, 1, "failed", error={"title": "Title", "detail": "detail"})
    assert do(database, old_finish, hold) == "done"
    assert state_of(database, job_id) == JobState.PARTIALLY_SUCCEEDED
    assert do(database, jobs.retry, job_id) == 1
    hold = old_claimed(database, shard)
    do(database, old_end, hold, 1, "succeeded", metrics={}, provenance={})
    do(database, old_finish, hold)
    assert state_of(database, job_id) == JobState.SUCCEEDED


@pytest.mark.parametrize("old_last", [False, True])
def test_a_job_of_old_and_new_workers_ends_right(database: Database, old_last: bool) -> None:
    job_id, [first, second] = submit(database, items=4)
    hold, lease = old_claimed(database, first), claimed(database, second).lease
    assert claim(database, first) is None
    assert do(database, old_claim, second) is None

    def old() -> None:
        for index in (0, 1):
            do(database, old_end, hold, index, "succeeded", metrics={}, provenance={})
        do(database, old_finish, hold)

    if not old_last:
        old()
    for index in (2, 3):
        save(database, lease, index)
    finish(database, lease)
    if old_last:
        old()
    assert (state_of(database, job_id), item_states(database, job_id)) == ("succeeded", ["succeeded"] * 4)


def test_old_and_new_workers_fence_each_other_out(database: Database) -> None:
    _, [shard] = submit(database)
    hold = old_claimed(database, shard)
    expire(database, shard)
    do(database, leases.expire_lease, shard, 3)
    lease = claimed(database, shard).lease
    with pytest.raises(LeaseLost):
        do(database, old_end, hold, 0, "succeeded", metrics={}, provenance={})
    expire(database, shard)
    again = old_claimed(database, shard)  # an old one takes an expired lease itself
    with pytest.raises(LeaseLost):
        save(database, lease, 0)
    assert again[2] == lease.epoch + 1


def test_an_old_worker_goes_on_with_what_a_new_one_let_go_of(database: Database) -> None:
    job_id, [shard] = submit(database)
    lease = claimed(database, shard).lease
    fail_item(database, lease, 0)
    do(database, leases.fail_attempt, lease, "Title", "detail", 5, 60.0)
    hold = old_claimed(database, shard)  # it knows of no pause
    assert do(database, old_heartbeat, hold)
    do(database, old_end, hold, 1, "succeeded", metrics={}, provenance={})
    do(database, old_finish, hold)
    assert state_of(database, job_id) == JobState.PARTIALLY_SUCCEEDED


@pytest.mark.parametrize("resumed_first", [False, True])
def test_an_old_worker_that_meets_a_paused_job_loses_nothing(database: Database, resumed_first: bool) -> None:
    job_id, [first, second] = submit(database, items=4)
    hold = old_claimed(database, first)
    do(database, old_end, hold, 0, "succeeded", metrics={}, provenance={})
    do(database, jobs.pause, job_id)
    assert do(database, old_claim, second) is None
    assert not do(database, old_heartbeat, hold)
    if resumed_first:
        do(database, jobs.resume, job_id)
    do(database, old_finish, hold)
    do(database, jobs.settle, job_id)  # as the reconciler does for a job that nobody seems to work on
    do(database, jobs.resume, job_id)
    while state_of(database, job_id) not in ("succeeded", "failed", "partially_succeeded"):
        queued = [shard for shard in (first, second) if shard_of(database, shard).state == "queued"]
        assert queued, "nothing is left to do, and the job is not over"
        work = claimed(database, queued[0])
        for item in work.items:
            save(database, work.lease, item.index)
        finish(database, work.lease)
    assert (state_of(database, job_id), item_states(database, job_id)) == ("succeeded", ["succeeded"] * 4)


def test_an_old_worker_stops_for_a_cancel_and_for_a_deadline(database: Database) -> None:
    for late in (False, True):
        job_id, [shard] = submit(database)
        hold = old_claimed(database, shard)
        if late:
            with database.transaction() as session:
                session.execute(update(Job).where(Job.id == job_id).values(deadline=now() - 1))
            do(database, jobs.expire, job_id)
        else:
            cancel(database, job_id)
        assert not do(database, old_heartbeat, hold)
        assert do(database, old_finish, hold) == "cancelled"
        assert state_of(database, job_id) == JobState.CANCELLED
        assert item_states(database, job_id) == ["cancelled", "cancelled"]
        with database.reading() as session:
            assert session.get_one(Job, job_id).error == (jobs.DEADLINE if late else None)
