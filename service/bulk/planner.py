"""Plans large jobs, chunk by chunk, beside the API: entries to items, and what is wrong with those that are none.

Any number of processes may plan; a job is planned by one. One that dies leaves a lease that runs out, and whoever takes
it removes what was planned and begins anew, so that a plan never comes from two readings of its source.
"""

import threading
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from copy import copy

import structlog
from sqlalchemy import or_, select, update
from sqlalchemy.exc import OperationalError

from service import jobs
from service.broker import Broker
from service.bulk.plan import LEASE, JobPlan, Lost
from service.bulk_models import Planning
from service.catalog import Catalog
from service.db import Database, now
from service.errors import InvalidInput
from service.models import Job
from service.settings import Settings
from service.states import JobState
from service.storage import ObjectNotFound, Storage, StorageError

log = structlog.get_logger()
AT_ONCE = 4
"""Jobs that a process plans at the same time."""
VALIDATING = JobState.VALIDATING
LOOK, AGAIN = 2.0, 5.0
"""Seconds between two looks at the database, and after which to begin anew if a server was away."""


class BulkPlanner:
    """A thread that plans every job that waits for it, a chunk of each in turn. `wake` it after a submission."""

    def __init__(
        self, db: Database, storage: Storage, broker: Broker, catalog: Catalog, settings: Settings,
        wake: threading.Event,
    ) -> None:  # fmt: skip
        self.db, self.storage, self.broker, self.catalog, self.settings = db, storage, broker, catalog, settings
        self._wake, self._stop, self._owner = wake, threading.Event(), uuid.uuid4().hex
        self._renewed = 0.0
        self._thread = threading.Thread(target=self._run, name="planner", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._wake.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            try:
                self.plan()
            except OperationalError as e:
                log.warning("planning stopped; trying again", reason=str(e))
            except Exception:  # jobs wait for this thread, so nothing may end it
                log.exception("planning stopped; trying again")
            self._wake.wait(LOOK)

    def plan(self) -> None:
        """Plan all jobs that wait, until none does. Raises what the database raises."""
        going: dict[str, Iterator[None]] = {}
        while not self._stop.is_set():
            for job_id in self._take(going):
                going[job_id] = self._planned(job_id)
            if not going:
                return
            for job_id, steps in list(going.items()):
                self.alive()
                if next(steps, self) is self:
                    del going[job_id]
        for job_id in going:  # another process need not wait until the lease runs out
            self._let_go(job_id, 0)

    def _take(self, going: Collection[str]) -> Sequence[str]:
        """A few jobs that wait and that nobody plans, each under a lease of this process from now on."""
        free = or_(Planning.lease_expires_at.is_(None), Planning.lease_expires_at < now())
        unfinished = select(Planning.job_id).where(Planning.finished_at.is_(None), free, Planning.job_id.not_in(going))
        waiting = unfinished.limit(AT_ONCE - len(going)).with_for_update(skip_locked=True)
        if len(going) >= AT_ONCE:
            return ()
        with self.db.reading() as session:
            if not session.scalars(unfinished.limit(1)).all():
                return ()
        mine = {"owner": self._owner, "lease_expires_at": now() + LEASE, "entries": 0, "items": 0, "shards": 0,
                "reused": 0, "invalid": 0}  # fmt: skip
        over = Planning.job_id.in_(unfinished.join(Job, Job.id == Planning.job_id).where(Job.state != VALIDATING))
        with self.db.transaction() as session:
            ended = update(Planning).where(over).values(finished_at=now())  # they were cancelled before their end
            session.execute(ended, execution_options=jobs.UNSYNCHRONIZED)
            taken = update(Planning).where(Planning.job_id.in_(waiting), free).values(mine).returning(Planning.job_id)
            return session.scalars(taken, execution_options=jobs.UNSYNCHRONIZED).all()

    def alive(self) -> None:
        """Now and then renew the leases of all that this process plans: it waits for the source of one, say."""
        if time.monotonic() - self._renewed > LEASE / 6:
            self._renewed = time.monotonic()
            mine = (
                (Planning.owner == self._owner) & Planning.finished_at.is_(None) & (Planning.lease_expires_at > now())
            )
            with self.db.transaction() as session:
                renewed = update(Planning).where(mine).values(lease_expires_at=now() + LEASE)
                session.execute(renewed, execution_options=jobs.UNSYNCHRONIZED)

    def _planned(self, job_id: str) -> Iterator[None]:
        """Plan a job; each step is one transaction. Whatever goes wrong ends here."""
        try:
            yield from JobPlan(self._of(job_id), job_id, self._owner).steps()
        except Lost:
            log.info("planning given up: the job is over, or another process plans it", job=job_id)
        except (OperationalError, StorageError) as e:
            log.warning("planning begins anew: a server is away", job=job_id, reason=str(e))
            self._let_go(job_id, AGAIN)
        except (InvalidInput, ObjectNotFound) as e:
            yield from self._failed(job_id, "Invalid inputs", str(e))
        except Exception as e:
            log.exception("planning failed", job=job_id)
            yield from self._failed(job_id, "Planning failed", f"{type(e).__name__}: {e}")

    def _of(self, job_id: str) -> "BulkPlanner":
        """The same for the job's tenant, whose names and files are all that the job may name."""
        with self.db.reading() as session:
            tenant = session.scalars(select(Job.tenant).where(Job.id == job_id)).one()
        narrowed = copy(self)
        narrowed.db, narrowed.catalog = self.db.of(tenant), self.catalog.of(tenant)
        return narrowed

    def _let_go(self, job_id: str, pause: float) -> None:
        mine = (Planning.job_id == job_id) & (Planning.owner == self._owner)
        with suppress(OperationalError), self.db.transaction() as session:
            session.execute(update(Planning).where(mine).values(lease_expires_at=now() + pause))

    def _failed(self, job_id: str, title: str, detail: str) -> Iterator[None]:
        with suppress(Lost, OperationalError):
            yield from JobPlan(self._of(job_id), job_id, self._owner).failed(title, detail)
