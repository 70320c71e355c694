"""Why items of a job failed: what they share by its title, with how many and which."""

from itertools import groupby

from pydantic import BaseModel, Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service import queries
from service.models import Item
from service.states import ItemState

MOST, NAMED = 100, 10
"""Causes that are told of, and items that are named of each."""


class Failure(BaseModel):
    """A cause that items have in common."""

    title: str | None
    detail: str | None = Field(description="That of the first of them")
    count: int
    items: list[int] = Field(description=f"Indices of the first {NAMED}")


class FailureList(BaseModel):
    failures: list[Failure]


def find(session: Session, job_id: str) -> FailureList:
    """The most frequent first. Raises NotFound."""
    queries.require(session, job_id)
    failed = (Item.job_id == job_id) & (Item.state == ItemState.FAILED)
    of_job = select(Item.index, Item.error["title"].as_string().label("title")).where(failed).subquery()
    title = of_job.c.title
    place = func.row_number().over(partition_by=title, order_by=of_job.c.index).label("place")
    of_title = func.count().over(partition_by=title).label("n")
    ranked = select(of_job.c.index, title, place, of_title).subquery()
    # Each title has a first row, so that these are rows of the most frequent ones.
    first = select(ranked).where(ranked.c.place <= NAMED).order_by(ranked.c.n.desc(), ranked.c.title, ranked.c.place)
    grouped = groupby(session.execute(first.limit(MOST * NAMED)), key=lambda row: row.title)
    causes = [(name, list(rows)) for name, rows in grouped][:MOST]
    example = Item.index.in_([rows[0].index for _, rows in causes])
    detail = select(Item.index, Item.error["detail"].as_string().label("detail")).where(Item.job_id == job_id, example)
    details = {row.index: row.detail for row in session.execute(detail)}
    return FailureList(
        failures=[
            Failure(title=name, detail=details.get(rows[0].index), count=rows[0].n, items=[row.index for row in rows])
            for name, rows in causes
        ]
    )
