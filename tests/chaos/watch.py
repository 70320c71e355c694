"""Watches the database from outside while faults go on: what has ended stays so, and how much work a crash costs."""

import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from types import TracebackType
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from service.db import Database, now
from service.models import Item, Job, Shard
from service.states import TERMINAL_ITEM, ShardState
from tests.chaos.violations import Violation

LOOK_SECONDS, LOOK_BACK, ALL = 0.2, 20.0, 1e9
STEADY = ("inversion", "radius_sweep", "interpolation", "feature_visualization")
"""Kinds each of whose items takes exactly the job's steps."""

Key = tuple[str, int]
End = tuple[str, int | None, float | None]
"""An item's state, the epoch of the claim that ended it, and when it ended."""


class Seen(NamedTuple):
    """How far a shard was, in image-steps, under a claim; `at` is on this process's monotonic clock."""

    at: float
    epoch: int
    steps: int


class Handover(NamedTuple):
    """A claim went on with what another had begun. Work between the two times was done again."""

    shard_id: str
    epoch: int
    """Of the claim that ended."""
    begun: float
    at: float

    @property
    def seconds(self) -> float:
        return self.at - self.begun


class Watch:
    """A thread that looks at the database while it is entered; an outage blinds it, no more."""

    def __init__(self, db: Database) -> None:
        self.broken: list[Violation] = []
        self.ends: dict[Key, End] = {}
        self.seen: dict[str, list[Seen]] = defaultdict(list)
        self._db, self._over = db, threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            try:
                self.look(LOOK_BACK)
            except (DBAPIError, PoolTimeout):
                continue

    def look(self, back: float) -> None:
        """Compare every item that ended within the last `back` seconds with what was seen of it before. Raises what the
        database raises."""
        with self._db.reading() as session:
            self._look_at_ends(session, back)
            self._look_at_progress(session)

    def _look_at_ends(self, session: Session, back: float) -> None:
        rows = select(Item.job_id, Item.index, Item.state, Item.epoch, Item.finished_at)
        ended = rows.where(Item.state.in_(TERMINAL_ITEM), Item.finished_at > now() - back)
        for job_id, index, state, epoch, at in session.execute(ended):
            end = state, epoch, at
            if (before := self.ends.get((job_id, index), end)) != end:
                self.broken.append(Violation("an item ends once", f"item {index} of {job_id}: {before}, then {end}"))
            self.ends[job_id, index] = end

    def _look_at_progress(self, session: Session) -> None:
        """A report counts the items that are over; a claim's first is that of the one before, and says nothing."""
        running = select(Shard.id, Shard.epoch, Shard.progress).join(Job)
        for shard_id, epoch, progress in session.execute(
            running.where(Shard.state == ShardState.RUNNING, Job.kind.in_(STEADY))
        ):
            if not (steps := progress.get("image_steps")):
                continue
            last = self.seen[shard_id][-1] if self.seen[shard_id] else Seen(0, 0, -1)
            if epoch < last.epoch:
                self.broken.append(Violation("epochs only grow", f"{shard_id} went from {last.epoch} to {epoch}"))
            if steps != last.steps:
                self.seen[shard_id].append(Seen(time.monotonic(), epoch, steps))


def handovers(seen: dict[str, list[Seen]]) -> list[Handover]:
    """What each claim but a shard's first did again. Its first report may come after some steps of its own, and the
    last one of the claim before it ahead of some, so a loss is measured too short by a heartbeat at either end."""
    found = []
    for shard_id, rows in seen.items():
        for one, other in pairwise(rows):
            if other.epoch != one.epoch:
                again = [row.at for row in rows if row.epoch == one.epoch and row.steps > other.steps]
                found.append(Handover(shard_id, one.epoch, min(again, default=one.at), one.at))
    return found


def too_long(found: Sequence[Handover], bound: float, storms: Sequence[tuple[float, float]]) -> list[Violation]:
    """Where more seconds of work than `bound` were lost, unless in a storm: from and until when something kept workers
    from storing checkpoints."""
    return [
        Violation("a crash costs little work", f"{each.shard_id} lost {each.seconds:.1f} s of epoch {each.epoch}")
        for each in found
        if each.seconds > bound and not any(each.begun < until and since < each.at for since, until in storms)
    ]
