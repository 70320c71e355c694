"""Jobs' events as they happen, for any number of streams: one poller a process reads for all of them."""

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, defer

from service import rendering
from service.db import Database, iso
from service.errors import TooManyStreams
from service.models import Job, Transition
from service.states import TERMINAL_JOB

log = structlog.get_logger()
TICK = 0.25  # seconds between two looks
TICKS = 4  # from one report of progress to the next
PING = 15.0  # seconds of silence, after which a proxy might think that the connection is dead
DELETED = "deleted"
ENDED = "-end"


class Entered(NamedTuple):
    """A job entered a state. `id` grows within a job."""

    id: int
    state: str
    at: float


class Snapshot(NamedTuple):
    """What a job has been through, how far it is if that was looked at, and the state that it ended in, if it did."""

    entered: list[Entered]
    report: str | None = None
    end: str | None = None

    @property
    def last(self) -> int:
        return self.entered[-1].id if self.entered else 0


@dataclass(eq=False)
class Watch:
    """A place among the streams of the process, and what was last seen of its job."""

    job_id: str
    snapshot: Snapshot = Snapshot([])  # noqa: RUF009 - immutable
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def see(self, snapshot: Snapshot) -> None:
        if snapshot.report is None:
            snapshot = snapshot._replace(report=self.snapshot.report)
        if snapshot != self.snapshot:
            self.snapshot = snapshot
            self.changed.set()


class Feed:
    """All event streams of a process. Everything but `read` runs in the event loop."""

    def __init__(self, db: Database, most: int) -> None:
        self.db, self.most, self.closed = db, most, False
        self._watches: set[Watch] = set()
        self._poller: asyncio.Task[None] | None = None

    def close(self) -> None:
        """End every stream; its client may come back to another process."""
        self.closed = True
        for watch in self._watches:
            watch.changed.set()

    @contextmanager
    def watch(self, job_id: str) -> Iterator[Watch]:
        """Take a place. Raises TooManyStreams."""
        if len(self._watches) >= self.most:
            raise TooManyStreams(f"{self.most} event streams are open; poll the job, or try again")
        watch = Watch(job_id)
        self._watches.add(watch)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        try:
            yield watch
        finally:
            self._watches.discard(watch)

    async def _poll(self) -> None:
        """Look at all jobs that are watched, until none is."""
        n = 0
        while self._watches and not self.closed:
            await asyncio.sleep(TICK)
            n += 1
            ids = {watch.job_id for watch in self._watches}
            try:
                # In a thread of the loop's own executor: those of requests may all be busy.
                found = await asyncio.to_thread(self.read, ids, n % TICKS == 0)
            except (OperationalError, PoolTimeout) as e:
                log.warning("event streams wait for the database", reason=str(e))
            except Exception:  # the streams of all clients hang on this one
                log.exception("looking for events failed; trying again")
            else:
                for watch in self._watches:
                    if watch.job_id in ids:
                        watch.see(found.get(watch.job_id, Snapshot([], end=DELETED)))

    def read(self, ids: Collection[str], reports: bool = True) -> dict[str, Snapshot]:
        """What there is to say of those of these jobs that there are. Progress of those that are over always is."""
        with self.db.reading() as session:
            # In this order also where each statement has a view of its own: a job's end is told after all before it.
            known = select(Job.id, Job.state).where(Job.id.in_(ids), Job.deleted_at.is_(None))
            states = {row.id: row.state for row in session.execute(known)}
            entered: dict[str, list[Entered]] = {job_id: [] for job_id in states}
            columns = select(Transition.job_id, Transition.id, Transition.state, Transition.at)
            for row in session.execute(columns.where(Transition.job_id.in_(states)).order_by(Transition.id)):
                entered[row.job_id].append(Entered(row.id, row.state, row.at))
            ends = {job_id: state for job_id, state in states.items() if state in TERMINAL_JOB}
            told = {
                job.id: json.dumps(job.model_dump(mode="json", include={"items", "progress"}))
                for job in rendering.briefly(session, self._rows(session, states if reports else ends), why=False)
            }
        return {job_id: Snapshot(entered[job_id], told.get(job_id), ends.get(job_id)) for job_id in states}

    @staticmethod
    def _rows(session: Session, ids: Collection[str]) -> Sequence[Job]:
        return session.scalars(select(Job).where(Job.id.in_(ids)).options(defer(Job.parameters))).all()

    async def stream(self, watch: Watch, after: int) -> AsyncIterator[bytes]:
        """Server-sent events of a job, from those after this transition on, to its end."""
        told = None
        while not self.closed:
            watch.changed.clear()
            seen = watch.snapshot
            for entered in (e for e in seen.entered if e.id > after):
                after = entered.id
                said = {"job": watch.job_id, "state": entered.state, "at": iso(entered.at)}
                yield format_sse_event(event="state", data_str=json.dumps(said), id=str(after))
            if seen.report not in (None, told):
                told = seen.report
                yield format_sse_event(event="progress", data_str=told)
            if seen.end:
                said = {"job": watch.job_id, "state": seen.end}
                yield format_sse_event(event="end", data_str=json.dumps(said), id=f"{after}{ENDED}")
                return
            try:
                async with asyncio.timeout(PING):
                    await watch.changed.wait()
            except TimeoutError:
                yield KEEPALIVE_COMMENT
