"""What is told of jobs, as JSON. Nothing has changed of most that are asked for again: their answers are kept.

A kept answer is told only while the database says that the job's row is as it was then: `Job.stamp` is another one
after each change of a row. So it is right after a change by any process, at the price of one short statement for all
who ask at a time. Kept are jobs that were never begun, and those that are over: nothing about them changes but
together with the row. Why a job waits depends on other jobs, and is put into its answer each time.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import around, rendering, responses, waiting
from service.db import among
from service.drafts import RECIPE, Draft
from service.models import Job
from service.requests import PRIORITIES
from service.states import TERMINAL_JOB, JobState

MOST_KEPT, LONGEST = 8192, 8192
"""Answers that are kept, and bytes of one."""
IN_LINE = ("queue", "no_worker")
_versions = select(Job.id, Job.stamp, Job.state, Job.finished_at, Job.priority, Job.created_at, Job.tenant)
VERSIONS = _versions.where(among(Job.id, "ids"), Job.deleted_at.is_(None))
Version = tuple[int, str, float | None, str]
"""Of a job's row: its stamp and, since processes of the version before set none, its state and when it was over; whose
it is."""


class Told(NamedTuple):
    """A job as JSON, with what else an answer needs of it."""

    job_id: str
    body: bytes
    over: bool
    priority: int
    tenant: str


class _Kept(NamedTuple):
    version: Version
    head: bytes
    over: bool


class Teller:
    """Of a process."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}

    def tell(self, session: Session, ids: Collection[str]) -> dict[str, Told]:
        """Those of these jobs that there are."""
        # Before their rows: what is told as of an older version than it is of will only be read again.
        found = session.execute(VERSIONS, {"ids": set(ids)}).all()
        versions: dict[str, Version] = {row.id: _version(row) for row in found}
        kept = {i: k for i, version in versions.items() if (k := self._kept.get(i)) and k.version == version}
        told, line = {}, None
        for row in found:
            if row.id not in kept:
                continue
            why = None
            if not kept[row.id].over:
                line = line or waiting.queue(session)
                why = line.wait(waiting.place(row.priority, row.created_at, row.id))
            told[row.id] = Told(row.id, _body(kept[row.id].head, why), kept[row.id].over, row.priority, row.tenant)
        if others := versions.keys() - kept:
            rows = session.scalars(select(Job).where(among(Job.id, others), Job.deleted_at.is_(None))).all()
            told |= self._tell(rendering.wholly(session, rows), versions)
        return told

    def tell_new(self, session: Session, drafts: Sequence[Draft]) -> dict[str, Told]:
        """Jobs that were inserted a moment ago, which need not be read."""
        rows, found = [draft.read() for draft in drafts], around.of_new(draft.rows for draft in drafts)
        return self._tell(rendering.wholly(session, rows, found), {row.id: _version(row) for row in rows})

    def _tell(self, jobs: Sequence[responses.Job], versions: Mapping[str, Version]) -> dict[str, Told]:
        told = {}
        for job in jobs:
            head, over = job.model_dump_json(exclude={"waiting"}).encode()[:-1], job.finished_at is not None
            tenant = versions[job.id][-1]
            told[job.id] = Told(job.id, _body(head, job.waiting), over, PRIORITIES[job.priority], tenant)
            if len(head) <= LONGEST and _stays(job):
                if len(self._kept) >= MOST_KEPT:
                    self._kept.pop(next(iter(self._kept)), None)
                self._kept[job.id] = _Kept(versions[job.id], head, over)
        return told


def _version(row: Any) -> Version:
    return row.stamp, row.state, row.finished_at, row.tenant


def _body(head: bytes, why: responses.Waiting | None) -> bytes:
    return b'%s,"waiting":%s}' % (head, why.model_dump_json().encode() if why else b"null")


def _stays(job: responses.Job) -> bool:
    """Whether nothing of it but why it waits can change without its row; a recipe's depends on its parts."""
    if job.kind == RECIPE:
        return False
    if job.state in TERMINAL_JOB:
        return not job.items.queued and not job.items.running
    begun = job.items.queued < job.items.total or job.progress.steps_done or job.progress.curve
    return job.state == JobState.QUEUED and not begun and job.waiting is not None and job.waiting.reason in IN_LINE
