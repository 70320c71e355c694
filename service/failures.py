"""Why items of a job failed: what they share by its title, with how many and which."""

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
    title, detail = (Item.error[name].as_string() for name in ("title", "detail"))
    count, first = func.count().label("n"), func.min(Item.index).label("first")
    causes = select(title.label("title"), count, first).where(failed).group_by(title).order_by(count.desc(), first)
    found = []
    for row in session.execute(causes.limit(MOST)).all():
        same = failed & title.is_not_distinct_from(row.title)
        named = session.execute(select(Item.index, detail).where(same).order_by(Item.index).limit(NAMED)).all()
        found.append(Failure(title=row.title, detail=named[0][1], count=row.n, items=[index for index, _ in named]))
    return FailureList(failures=found)
