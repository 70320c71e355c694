"""/v1/jobs/{id}/errors: what is wrong with the entries of a large job's source."""

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy import select

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
    query = select(PlanError).where(PlanError.job_id == job_id)
    rows, following = cursors.page(session, query, limit, cursor, PlanError.entry, PlanError.field)
    errors = [EntryError(entry=row.entry, field=row.field, message=row.message) for row in rows]
    return EntryErrorList(errors=errors, next_cursor=following)
