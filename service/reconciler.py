"""Puts right what a crash or a lost message left behind. Any number of them may run; each pass is safe to repeat."""

import threading

import structlog
from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy import func, or_, select, update
from sqlalchemy.exc import OperationalError as DatabaseError

from service import jobs
from service.broker import Broker
from service.db import Database, now
from service.models import Job, Shard
from service.settings import Settings
from service.states import JobState, ShardState

log = structlog.get_logger()


class Reconciler:
    """A thread that makes a pass every `reconcile_seconds`."""

    def __init__(self, db: Database, broker: Broker, settings: Settings) -> None:
        self.db, self.broker, self.settings = db, broker, settings
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)

    def _run(self) -> None:
        while True:
            try:
                self.reconcile()
            except (DatabaseError, BrokerError) as e:
                log.warning("reconciler pass failed; trying again", reason=str(e))
            except Exception:  # this thread puts everything else right, so nothing may end it
                log.exception("reconciler pass failed; trying again")
            if self._stop.wait(self.settings.reconcile_seconds):
                return

    def reconcile(self) -> None:
        """One pass. Raises what the database or the broker raises."""
        self._release_expired()
        self._settle_stragglers()
        self._resend_lost()

    def _release_expired(self) -> None:
        """A shard whose worker fell silent is queued again, and counts a crash."""
        expired = (Shard.state == ShardState.RUNNING) & (Shard.lease_expires_at < now())
        released = {"state": ShardState.QUEUED, "crashes": Shard.crashes + 1, "lease_expires_at": None, "progress": {}}
        with self.db.transaction() as session:
            # Rows that another transaction holds are not silent: skipping them also keeps the lock order.
            silent = session.scalars(select(Shard.id).where(expired).with_for_update(skip_locked=True)).all()
            session.execute(
                update(Shard).where(Shard.id.in_(silent), expired).values(released),
                execution_options=jobs.UNSYNCHRONIZED,
            )
        for shard_id in silent:
            log.warning("lease expired", shard=shard_id)

    def _settle_stragglers(self) -> None:
        """A job whose last worker died before ending it is ended here."""
        busy = select(Shard.id).where(Shard.job_id == Job.id, Shard.state == ShardState.RUNNING)
        waits = (ShardState.QUEUED, ShardState.WAITING)
        waiting = select(Shard.id).where(Shard.job_id == Job.id, Shard.state.in_(waits))
        over = (Job.state == JobState.CANCELLING) & ~busy.exists()
        done = Job.state.in_(jobs.CLAIMABLE) & ~busy.exists() & ~waiting.exists()
        with self.db.reading() as session:
            ids = session.scalars(select(Job.id).where(over | done)).all()
        for job_id in ids:
            with self.db.transaction() as session:
                jobs.settle(session, job_id)

    def _resend_lost(self) -> None:
        """If fewer messages wait than shards, the difference was lost: send for those that have waited longest."""
        waiting = (Shard.state == ShardState.QUEUED) & Job.state.in_(jobs.CLAIMABLE)
        # A message just sent may already be with a worker that has not claimed yet.
        unsent = Shard.sent_at.is_(None)  # released by a worker that died before it sent
        overdue = waiting & or_(unsent, Shard.sent_at < now() - self.settings.reconcile_seconds)
        with self.db.reading() as session:
            joined = select(func.count()).select_from(Shard).join(Job)
            queued, late = session.scalar(joined.where(waiting)) or 0, session.scalar(joined.where(overdue)) or 0
        if not late:
            return
        lost = max(queued - self.broker.depth(), 0)
        with self.db.transaction() as session:
            ids = session.scalars(
                select(Shard.id)
                .join(Job)
                .where(overdue)
                .order_by(Shard.sent_at.nulls_first())
                .limit(min(lost, late))
                .with_for_update(skip_locked=True, of=Shard)
            ).all()
            session.execute(
                update(Shard).where(Shard.id.in_(ids)).values(sent_at=now()), execution_options=jobs.UNSYNCHRONIZED
            )
        if ids:
            log.info("messages sent again", count=len(ids))
        self.broker.enqueue(ids)
