"""/v1/jobs/{id}/errors: what is wrong with the entries of a large job's source."""

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy import select, tuple_

from service import cursors, queries
from service.api.context import Cursor, Id, Limit, Reading
from service.api.tagged import Tagged
from service.bulk_models import PlanError

router = APIRouter(prefix="/v1", tags=["jobs"], route_class=Tagged)


class EntryError(BaseModel):
    """What is wrong with an entry: a line of a manifest, an object, an image of a list."""

    entry: int = Field(description="Counted from 1; of a manifest, its line")
    field: str
    message: str


class EntryErrorList(BaseModel):
    errors: list[EntryError]
    next_cursor: str | None


@router.get("/jobs/{job_id}/errors")
def list_entry_errors(job_id: Id, session: Reading, limit: Limit = 100, cursor: Cursor = None) -> EntryErrorList:
    """In order; of very many the first 10,000."""
    queries.require(session, job_id)
    order = (PlanError.entry, PlanError.field)
    query = select(PlanError).where(PlanError.job_id == job_id).order_by(*order).limit(limit + 1)
    if cursor is not None:
        entry, field = cursors.decode_cursor(cursor, 2)
        query = query.where(tuple_(*order) > (cursors.number(entry, int), field))
    rows = session.scalars(query).all()
    page = rows[:limit]
    following = cursors.encode_cursor(page[-1].entry, page[-1].field) if len(rows) > limit else None
    errors = [EntryError(entry=row.entry, field=row.field, message=row.message) for row in page]
    return EntryErrorList(errors=errors, next_cursor=following)
