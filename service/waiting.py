"""The queue as a whole, and why a job waits in it: what is ahead, and when its first shard may begin."""

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from service import fleet
from service.access.isolation import EVERYBODY
from service.db import kept
from service.models import Job, Shard
from service.responses import Backlog, Reason, Waiting
from service.states import JobState, ShardState

FEW, MANY, OLD = 100, 1000, 1.0
"""With more than a few jobs or many shards in the queue, what is said of it may be so many seconds old."""
GOING = (JobState.QUEUED, JobState.RUNNING)
Place = tuple[int, float, str]
"""Where a job stands: by priority, highest first, then by when it was created."""


def place(priority: int, created_at: float, job_id: str) -> Place:
    return -priority, created_at, job_id


def image_steps() -> ColumnElement[int]:
    """What an item of a job takes at most; jobs from before there were summaries have it in their parameters."""
    return func.coalesce(Job.summary["steps"].as_integer(), Job.parameters["steps"].as_integer(), 0)


class Queue(NamedTuple):
    """What waits, in order, and how fast it moves. `shards` and `steps` count what is before each place."""

    places: Sequence[Place]
    shards: Sequence[int]
    steps: Sequence[int]
    workers: bool
    free: int
    """Shards that workers could take at once."""
    free_in: float | None
    """Seconds until one of them can; None if nobody knows."""
    rate: float
    """Image-steps a second, of all workers."""

    @property
    def backlog(self) -> Backlog:
        """All that waits."""
        return Backlog(shards=self.shards[-1], image_steps=self.steps[-1])

    def wait(self, at: Place) -> Waiting:
        """Of what would begin at this place."""
        n = bisect_left(self.places, at)
        ahead, steps = self.shards[n], self.steps[n]
        if not self.workers:
            return _waiting("no_worker", "no worker is alive", ahead)
        starts = 0.0 if ahead < self.free else None
        if starts is None and self.rate and self.free_in is not None:
            starts = self.free_in + steps / self.rate
        before = f"{ahead:,} shards of other jobs are before its first" if ahead else "it is next"
        return _waiting("queue", before, ahead, starts)


def _waiting(reason: Reason, detail: str, ahead: int | None = None, starts: float | None = None) -> Waiting:
    return Waiting(
        reason=reason, detail=detail, ahead=ahead, starts_in_seconds=None if starts is None else round(starts)
    )


def queue(session: Session) -> Queue:
    """As it is now, or, if it is long, as it was a moment ago."""

    def lasts(found: Queue) -> float:
        return OLD if len(found.places) > FEW or found.shards[-1] > MANY else 0

    return kept(session, "queue", lambda: _read(session), lasts)


def _read(session: Session) -> Queue:
    # Not joined: after a burst Postgres takes both tables for empty of such rows, and compares each with each.
    of_shards = select(Shard.job_id, func.count(), func.sum(Shard.item_count)).where(Shard.state == ShardState.QUEUED)
    waits = session.execute(of_shards.group_by(Shard.job_id), execution_options=EVERYBODY)
    shards = {i: (n, int(items)) for i, n, items in waits}
    of_jobs = select(Job.id, Job.priority, Job.created_at, image_steps()).where(Job.state.in_(GOING))
    going = session.execute(of_jobs, execution_options=EVERYBODY)
    waiting = sorted((place(of, at, i), shards[i][0], shards[i][1] * each) for i, of, at, each in going if i in shards)
    left, rate, held = [], 0.0, 0
    running = select(Shard.item_count * image_steps(), Shard.progress).join(Job)
    of_running = running.where(Shard.state == ShardState.RUNNING)
    for steps, progress in session.execute(of_running, execution_options=EVERYBODY):
        held += 1
        if own := progress.get("rate"):
            left.append(max(steps - progress.get("image_steps", 0), 0) / own)
            rate += own
    slots = fleet.threads(session)[1]
    free = max(slots - held, 0)
    return Queue(
        places=[at for at, _, _ in waiting],
        shards=[0, *accumulate(n for _, n, _ in waiting)],
        steps=[0, *accumulate(n for _, _, n in waiting)],
        workers=slots + held > 0,
        free=free,
        free_in=0.0 if free else min(left, default=None),
        rate=rate,
    )


def find(
    session: Session, rows: Sequence[Job], busy: Collection[str], soonest: Mapping[str, float]
) -> dict[str, Waiting]:
    """Why each of these jobs waits; not those that are over, being cancelled, or `busy`: computed by a worker.

    `soonest` has in how many seconds the first queued shard of a job may be claimed, 0 or less for now.
    """
    found: dict[str, Waiting] = {}
    idle = [row for row in rows if row.state in GOING and row.id not in busy]
    for row in rows:
        if row.state == JobState.VALIDATING:
            found[row.id] = _waiting("planning", "the entries of its source are being looked at")
        elif row.state == JobState.PAUSED:
            found[row.id] = _waiting("paused", "until it is resumed")
    line: Queue | None = None
    for row in idle:
        pause = soonest.get(row.id)
        if pause is None:
            found[row.id] = _waiting("parts", "until what it is made of is over")
        elif pause > 0:
            found[row.id] = _waiting("backing_off", "an attempt failed, and is made again after a pause", None, pause)
        else:
            line = line or queue(session)
            found[row.id] = line.wait(place(row.priority, row.created_at, row.id))
    return found
