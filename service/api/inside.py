"""What goes on inside a job: /v1/jobs/{id}/failures, /shards and /logs."""

from typing import Annotated

from fastapi import APIRouter, Query

from service import failures, log_lists, shard_lists
from service.api.context import Cursor, Id, Limit, Reading
from service.api.tagged import Tagged
from service.joblog import Level
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


@router.get("/jobs/{job_id}/logs")
def list_logs(
    job_id: Id,
    session: Reading,
    shard: Annotated[int | None, Query(ge=0, lt=2**31, description="Only of the shard with this number")] = None,
    level: Annotated[Level | None, Query(description="Only of this level")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> log_lists.Log:
    """What happened to it and its shards, newest first; of very many lines the last 10,000 are kept."""
    return log_lists.find(session, job_id, shard, level, limit, cursor)
