"""What goes on inside a job: /v1/jobs/{id}/failures, /shards and /logs."""

from typing import Annotated

from fastapi import APIRouter, Query

from service import failures, shard_lists
from service.api.context import Cursor, Id, Limit, Reading
from service.api.tagged import Tagged
from service.states import ShardState

router = APIRouter(prefix="/v1", tags=["jobs"], route_class=Tagged)


@router.get("/jobs/{job_id}/failures")
def list_failures(job_id: Id, session: Reading) -> failures.FailureList:
    """Why items failed, by cause: the most frequent 100, with the first items of each."""
    return failures.find(session, job_id)


@router.get("/jobs/{job_id}/shards")
def list_shards(
    job_id: Id,
    session: Reading,
    state: Annotated[list[ShardState], Query(max_length=len(ShardState), description="Any of these")] = [],  # noqa: B006
    limit: Limit = 100,
    cursor: Cursor = None,
) -> shard_lists.ShardList:
    """In order of their items: who computes what, and how far it is. A split shard's items have shards of their own."""
    return shard_lists.find(session, job_id, state, limit, cursor)
