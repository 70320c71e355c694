"""Puts right what a crash or a lost message left behind. Any number of them may run; each pass is safe to repeat."""

import threading
import time
from typing import Any

import structlog
from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy import ColumnElement, ScalarSelect, func, select, update
from sqlalchemy.exc import OperationalError as DatabaseError
from sqlalchemy.orm import InstrumentedAttribute

from service import deletion, fleet, jobs, leases, metrics
from service.broker import BEFORE, QUEUES, Broker
from service.bulk_models import Planning
from service.collector import collect
from service.db import Database, now
from service.models import Job, Shard
from service.objects import Storage
from service.settings import Settings
from service.states import JobState, ShardState

log = structlog.get_logger()
AT_ONCE = 1000
"""Rows of a kind that one pass takes on."""


class Reconciler:
    """A thread that makes a pass every `reconcile_seconds`, one that removes deleted jobs, and one for orphans."""

    def __init__(self, db: Database, broker: Broker, settings: Settings, storage: Storage | None = None) -> None:
        self.db, self.broker, self.settings, self.storage = db, broker, settings, storage
        self._stop, self._grace = threading.Event(), False
        self._threads = [threading.Thread(target=self._run, name="reconciler", daemon=True)]
        if storage is not None:
            self._threads.append(threading.Thread(target=self._delete, name="deleter", daemon=True))
        if storage is not None and settings.collect_seconds:
            self._threads.append(threading.Thread(target=self._collect, name="collector", daemon=True))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(5)

    def _collect(self) -> None:
        assert self.storage is not None
        while not self._stop.wait(self.settings.collect_seconds):
            try:
                # Objects of unknown jobs are left to `robustreps admin gc --strangers`: is this the bucket's database?
                found = collect(self.db, self.storage, strangers=False, going=lambda: not self._stop.is_set())
            except Exception as e:  # as for `_run`: whatever it was, the next pass may do better
                log.warning("orphans not removed; trying again", reason=repr(e))
            else:
                log.info("orphans removed", **found._asdict())

    def _delete(self) -> None:
        assert self.storage is not None
        while not self._stop.wait(self.settings.reconcile_seconds):
            try:
                deletion.sweep(self.db, self.storage, going=lambda: not self._stop.is_set())
                with self.db.transaction() as session:
                    fleet.forget(session)
            except Exception as e:  # as for `_run`
                log.warning("deleted jobs not removed; trying again", reason=repr(e))

    def _run(self) -> None:
        while True:
            done = False
            try:
                self.reconcile()
                done = True
                metrics.LAST_PASS.set_to_current_time()
            except (DatabaseError, BrokerError) as e:
                self._grace = isinstance(e, DatabaseError)
                log.warning("reconciler pass failed; trying again", reason=str(e))
            except Exception:  # this thread puts everything else right, so nothing may end it
                log.exception("reconciler pass failed; trying again")
            metrics.PASSES.labels("ok" if done else "failed").inc()
            if self._stop.wait(self.settings.reconcile_seconds):
                return

    def reconcile(self) -> None:
        """One pass. Raises what the database or the broker raises."""
        self._expire_jobs()
        self._expire_leases()
        self._settle_stragglers()
        self._resend_lost()

    def _expire_jobs(self) -> None:
        """Jobs whose deadline has passed are stopped."""
        late = Job.state.in_((*jobs.GOING, JobState.VALIDATING)) & (Job.deadline < now())
        with self.db.reading() as session:
            ids = session.scalars(select(Job.id).where(late).limit(AT_ONCE)).all()
        for job_id in ids:
            with self.db.transaction() as session:
                jobs.expire(session, job_id)

    def _expire_leases(self) -> None:
        """A shard whose worker fell silent is queued again, and counts a crash."""
        if self._grace:  # nobody could send a heartbeat while the database was away
            self._grace = False
            return
        expired = (Shard.state == ShardState.RUNNING) & (Shard.lease_expires_at < now())
        with self.db.reading() as session:
            silent = session.scalars(select(Shard.id).where(expired).limit(AT_ONCE)).all()
        for shard_id in silent:
            with self.db.transaction() as session:
                if leases.expire_lease(session, shard_id, self.settings.max_crashes):
                    log.warning("lease expired", shard=shard_id)

    def _settle_stragglers(self) -> None:
        """A job whose last worker died before ending it is ended here."""
        busy = select(Shard.id).where(Shard.job_id == Job.id, Shard.state == ShardState.RUNNING)
        waits = (ShardState.QUEUED, ShardState.WAITING)
        waiting = select(Shard.id).where(Shard.job_id == Job.id, Shard.state.in_(waits))
        over = (Job.state == JobState.CANCELLING) & ~busy.exists()
        done = Job.state.in_(jobs.GOING) & ~busy.exists() & ~waiting.exists()
        with self.db.reading() as session:
            ids = session.scalars(select(Job.id).where(over | done).limit(AT_ONCE)).all()
        until = time.monotonic() + self.settings.reconcile_seconds
        for job_id in ids:
            settled = False
            while not settled and time.monotonic() < until:  # of very many items, some at a time
                with self.db.transaction() as session:
                    settled = jobs.settle(session, job_id)

    def _resend_lost(self) -> None:
        """Send for what waits without a message.

        Workers of the version before this one neither say that they live nor know any queue but their own. While no
        other is alive they are sent what they can do: not what reads other items' files, which may lie in tars, nor
        what was planned later, nor parts of a recipe, the last of which would send for its drawing.
        """
        self._send_unsent()
        for priority in QUEUES.keys() - {BEFORE}:
            self._resend(priority, _of_job(Job.priority) == priority)
        with self.db.reading() as session:
            known = fleet.threads(session)[0]
        if not known:
            planned = select(Planning.job_id).where(Planning.job_id == Shard.job_id)
            self._resend(BEFORE, ~Shard.last & _of_job(Job.parent_id).is_(None) & ~planned.exists())

    def _send_unsent(self) -> None:
        """Jobs whose shards were released, say by a worker that died before it sent, are sent for as far as may be."""
        unsent = (Shard.state == ShardState.QUEUED) & Shard.sent_at.is_(None) & jobs.due()
        with self.db.reading() as session:
            of_jobs = select(Shard.job_id).where(unsent, _of_job(Job.state).in_(jobs.CLAIMABLE)).distinct()
            ids = session.scalars(of_jobs.limit(AT_ONCE)).all()
        for job_id in ids:
            with self.db.transaction() as session:
                waiting, priority = jobs.to_send(session, job_id), jobs.priority(session, job_id)
            self.broker.enqueue(waiting, priority)

    def _resend(self, priority: int, of: ColumnElement[bool]) -> None:
        """If fewer messages wait in a queue than shards `of` it, the difference was lost: send for the oldest."""
        sent = (Shard.state == ShardState.QUEUED) & Shard.sent_at.is_not(None) & jobs.due()
        waiting = sent & _of_job(Job.state).in_(jobs.CLAIMABLE) & of
        # A message just sent may already be with a worker that has not claimed yet.
        overdue = waiting & (Shard.sent_at < now() - self.settings.reconcile_seconds)
        with self.db.reading() as session:
            counted = select(func.count(), func.count().filter(overdue)).select_from(Shard).where(waiting)
            queued, late = session.execute(counted).one()
        if not late:
            return
        lost = max(queued - self.broker.depth(priority), 0)
        with self.db.transaction() as session:
            ids = session.scalars(
                select(Shard.id)
                .where(overdue)
                .order_by(_of_job(Job.priority).desc(), Shard.sent_at)
                .limit(min(lost, late, AT_ONCE))
                .with_for_update(skip_locked=True, of=Shard)
            ).all()
            session.execute(
                update(Shard).where(Shard.id.in_(ids)).values(sent_at=now()), execution_options=jobs.UNSYNCHRONIZED
            )
        if ids:
            log.info("messages sent again", count=len(ids), priority=priority)
        self.broker.enqueue(ids, priority)


def _of_job(column: InstrumentedAttribute[Any]) -> ScalarSelect[Any]:
    """What a shard's job has there.

    Not by a join: after a burst of submissions Postgres takes both tables for empty of such rows, and compares each
    with each.
    """
    return select(column).where(Job.id == Shard.job_id).scalar_subquery()
