"""Dead letters: the failed items of all jobs."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field
from sqlalchemy import literal_column, select
from sqlalchemy.orm import Session

from service.access.isolation import tenant_of
from service.cursors import page, timestamp
from service.models import Item, Job
from service.states import ItemState


class DeadLetter(BaseModel):
    """An item that failed, and whose it is."""

    job: str
    kind: str
    state: str = Field(description="Of the job: unless that was stopped, POST its `retry` link")
    index: int
    error: dict[str, Any] | None
    epoch: int | None = Field(description="Of the claim under which it failed")
    finished_at: datetime | None
    url: str


class DeadLetterList(BaseModel):
    dead_letters: list[DeadLetter]
    next_cursor: str | None


def find(session: Session, job: str | None, title: str | None, limit: int, cursor: str | None) -> DeadLetterList:
    """Newest first; `title` is that of the error. Raises InvalidInput for a bad cursor."""
    # A literal, because a bound value would not tell the planner that the partial index has these rows.
    failed = Item.state == literal_column(f"'{ItemState.FAILED}'")
    query = select(Item).where(failed)
    if tenant_of(session) is not None:
        query = query.where(select(Job.id).where(Job.id == Item.job_id).exists())
    if job is not None:
        query = query.where(Item.job_id == job)
    if title is not None:
        query = query.where(Item.error["title"].as_string() == title)
    rows, following = page(session, query, limit, cursor, Item.finished_at, Item.job_id, Item.index, newest=True)
    there = Job.id.in_({row.job_id for row in rows}) & Job.deleted_at.is_(None)
    named = select(Job.id, Job.kind, Job.state).where(there)
    jobs = {job_id: (kind, state) for job_id, kind, state in session.execute(named)}
    letters = [
        DeadLetter(
            job=row.job_id, kind=jobs[row.job_id][0], state=jobs[row.job_id][1], index=row.index, error=row.error,
            epoch=row.epoch, finished_at=timestamp(row.finished_at), url=f"/v1/jobs/{row.job_id}/items/{row.index}",
        )
        for row in rows
        if row.job_id in jobs
    ]  # fmt: skip
    return DeadLetterList(dead_letters=letters, next_cursor=following)
