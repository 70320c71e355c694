"""One large job's way from a request to items, in steps that are a transaction each."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from pydantic import ValidationError
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session, undefer

from service import jobs, limits
from service.bulk import accepting, selection
from service.bulk.entries import Around, Resolver, entries, manifest_key
from service.bulk.manifests import Line
from service.bulk.writing import Written, write
from service.bulk_models import PlanError, Planning, Reuse
from service.db import now
from service.errors import FieldError, InvalidInput, TooManyQueued, field_errors
from service.kinds.planning import ItemPlan, Plan, Source
from service.kinds.study_planning import Planner
from service.models import Job, Shard
from service.reuse import Digests
from service.schemas import NoiseStart, OtherTargetStart
from service.states import JobState, ShardState
from service.studies import Inversion, StudyParameters
from service.submissions import fill

CHUNK = 2048
"""Entries that one transaction plans."""
CLEARED = 64
"""Shards that one transaction removes."""
LEASE = 60.0
"""Seconds without a sign after which another process begins anew."""
MOST_ERRORS = 10_000
"""Of a job's entries that are kept."""


class Lost(RuntimeError):  # noqa: N818 - an event more than a fault
    """The job was cancelled or deleted, or another plans it."""


class JobPlan:
    """One job on its way from a request to items."""

    def __init__(self, around: Around, job_id: str, owner: str) -> None:
        self.of, self.db, self.job_id, self.owner = around, around.db, job_id, owner
        self.seen = self.items = self.shards = self.reused = self.invalid = 0
        self._held: tuple[Line, Source] | None = None
        self._first: Source | None = None

    def steps(self) -> Iterator[None]:
        """Raises Lost, InvalidInput, or what the database or the storage raise."""
        yield from self._cleared()
        request, parameters, plan, manifest = self._opened()
        resolver, lines = Resolver(self.planner), entries(request.targets, manifest, self.of)
        size = max(1, self.of.settings.shard_items // plan.weight)
        digests = Digests(parameters)
        while chunk := list(islice(lines, max(1, CHUNK // size) * size)):
            resolver.open(chunk)
            with self.db.reading() as session:
                resolved = resolver.resolve(session, chunk)
            self.seen += len(chunk)
            self._write(request, digests, size, resolved, last=False)
            yield
            if request.on_invalid == "fail" and self.invalid >= MOST_ERRORS:
                break
        self._write(request, digests, size, [], last=True)
        yield from self._ended(request, plan)

    def _opened(self) -> tuple[Inversion, StudyParameters, Plan, str | None]:
        settings, catalog = self.of.settings, self.of.catalog
        with self.db.reading() as session:
            catalog.refresh(session)
            job = session.get_one(Job, self.job_id, options=[undefer(Job.request)])
            try:
                sent = Inversion.model_validate({k: v for k, v in (job.request or {}).items() if k != "deadline"})
            except ValidationError as e:  # an older version took what this one refuses
                raise InvalidInput(*field_errors(e)) from e
            request = selection.explicit(sent, catalog, settings.max_items, accepting.KEEP)
            plan, _ = accepting.outline(request, catalog, session, settings)
            self.planner = Planner(request, catalog, session, settings)
            lone = isinstance(request.start, NoiseStart | OtherTargetStart)
            self.starts = None if lone else self.planner.starts("start", request.start, 1)
            return request, StudyParameters.model_validate(job.parameters), plan, manifest_key(session, request.targets)

    def _write(
        self, request: Inversion, digests: Digests, size: int, resolved: list[tuple[Line, Source | None]], last: bool
    ) -> None:
        """One chunk, in one transaction; nothing but errors is kept once the job is bound to fail."""
        wrong = [line for line, target in resolved if target is None]
        self.invalid += len(wrong)
        found = [(line, target) for line, target in resolved if target is not None]
        items = [
            ItemPlan(target, start, digest=digests.of(index, target, start, {}))
            for index, (target, start) in enumerate(self._started(request, found, last), self.items)
        ]
        doomed = self.invalid and request.on_invalid == "fail"
        if (asked := (self.items + len(items)) * request.restarts) > self.of.settings.max_bulk_items:
            raise InvalidInput(accepting.too_many(asked, self.of.settings))
        with self.db.transaction() as session:
            self._hold(session)
            done = Written(self.items, self.shards, 0)
            if items and not doomed:
                done = write(session, self.job_id, items, size, done, request.reuse)
            _keep_errors(session, self.job_id, wrong, self.invalid)
            self.items, self.shards, self.reused = done.items, done.shards, self.reused + done.reused
            self._hold(session, entries=self.seen, items=self.items, shards=self.shards, reused=self.reused,
                       invalid=self.invalid)  # fmt: skip
            counted = update(Job).where(Job.id == self.job_id, Job.items < self.items + 1).values(items=self.items + 1)
            session.execute(counted, execution_options=jobs.UNSYNCHRONIZED)

    def _started(
        self, request: Inversion, found: list[tuple[Line, Source]], last: bool
    ) -> Iterator[tuple[Source, Source]]:
        """Each target with its start. If that is the next target, the last of a chunk waits for the next chunk."""
        if not isinstance(request.start, OtherTargetStart):
            yield from ((target, self._start(request, line)) for line, target in found)
            return
        found = ([self._held] if self._held else []) + found
        self._held = found.pop() if found else None
        for place, (_, target) in enumerate(found):
            self._first = self._first or target
            following = found[place + 1] if place + 1 < len(found) else self._held
            assert following is not None
            yield target, following[1]
        if last and self._held:
            if self._first is None:
                raise InvalidInput(FieldError("targets", "is one image, which cannot start from another target"))
            yield self._held[1], self._first
            self._held = None

    def _start(self, request: Inversion, line: Line) -> Source:
        """Noise depends on the entry's number, so that it stays the same if entries before it are corrected."""
        if self.starts is None:
            return request.start.model_dump() | {"draw": line.entry - 1}
        return self.starts[0 if len(self.starts) == 1 else line.entry - 1]

    def _ended(self, request: Inversion, plan: Plan) -> Iterator[None]:
        if self.invalid and request.on_invalid == "fail":
            listed = (
                f"{self.invalid:,} of the first {self.seen:,} entries name no image that can be inverted; see `errors`"
            )
            return (yield from self.failed("Invalid inputs", listed, entries=self.seen, invalid=self.invalid))
        if not self.items:
            nothing = f"the source has {self.seen:,} entries, and none names an image"
            return (yield from self.failed("No inputs", nothing))
        if crowded := self._crowded():
            return (yield from self.failed("Too many items queued", crowded))
        assert plan.last is not None
        with self.db.transaction() as session:
            self._hold(session, finished_at=now(), lease_expires_at=None)
            fill(session, self.job_id, [plan.last], 1, ShardState.WAITING, first=self.items, shard=self.shards)
            values: dict[str, Any] = {"items": self.items + 1}
            if self.invalid:
                left_out = f"{self.invalid:,} of {self.seen:,} entries name no image and were left out; see `errors`"
                values["warnings"] = [*session.get_one(Job, self.job_id).warnings, left_out]
            session.execute(update(Job).where(Job.id == self.job_id).values(values))
            jobs.move(session, self.job_id, JobState.QUEUED)
            jobs.settle(session, self.job_id)  # if an earlier job had finished all of it
            ids, priority = jobs.to_send(session, self.job_id), jobs.priority(session, self.job_id)
        self.of.broker.enqueue(ids, priority)

    def _crowded(self) -> str | None:
        """What limit is passed, now that it is known how many items there are: by its submission it was not."""
        with self.db.reading() as session:
            try:
                limits.check(session, self.of.settings, session.get_one(Job, self.job_id).client, 0)
            except TooManyQueued as e:
                return str(e)
        return None

    def failed(self, title: str, detail: str, **counts: int) -> Iterator[None]:
        """End the job without an item, in steps. Raises Lost."""
        yield from self._cleared()
        with self.db.transaction() as session:
            self._hold(session, finished_at=now(), lease_expires_at=None, items=0, shards=0, reused=0, **counts)
            failed = {"error": {"title": title, "detail": detail}, "items": 0}
            session.execute(update(Job).where(Job.id == self.job_id).values(failed))
            jobs.move(session, self.job_id, JobState.FAILED)

    def _cleared(self) -> Iterator[None]:
        """What an earlier attempt planned is removed, some shards at a time."""
        of_job = select(Shard.id).where(Shard.job_id == self.job_id).limit(CLEARED)
        while True:
            with self.db.transaction() as session:
                self._hold(session)
                ids = session.scalars(of_job).all()
                if not ids:
                    return
                session.execute(delete(Shard).where(Shard.id.in_(ids)), execution_options=jobs.UNSYNCHRONIZED)
                points = delete(Reuse).where(Reuse.job_id == self.job_id)
                session.execute(points, execution_options=jobs.UNSYNCHRONIZED)
            yield

    def _hold(self, session: Session, **values: Any) -> None:
        """The job is still to be planned, and by this process. Raises Lost."""
        values = {"lease_expires_at": now() + LEASE} | values
        mine = (Planning.job_id == self.job_id) & (Planning.owner == self.owner) & Planning.finished_at.is_(None)
        held = update(Planning).where(mine).values(values).returning(Planning.job_id)
        going = jobs.lock(session, self.job_id) == JobState.VALIDATING
        if not going or session.scalars(held, execution_options=jobs.UNSYNCHRONIZED).one_or_none() is None:
            raise Lost(self.job_id)


def _keep_errors(session: Session, job_id: str, wrong: Sequence[Line], counted: int) -> None:
    room = max(MOST_ERRORS - (counted - len(wrong)), 0)
    session.add_all(
        PlanError(job_id=job_id, entry=line.entry, field=_kept(ascii(field)[1:-1], 100), message=_kept(message, 500))
        for line in wrong[:room]
        for field, message in dict(line.errors).items()
    )


def _kept(text: str, most: int) -> str:
    """What every database can keep, and a cursor."""
    return "".join(c if c.isprintable() and c != "|" else "?" for c in text)[:most]
