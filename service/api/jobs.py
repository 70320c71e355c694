"""/v1/jobs: submit, list, look at, cancel, pause, resume, retry. /v1/dead-letters: what failed."""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session

from service import dead_letters, downloads, jobs, queries, schemas
from service.api.context import (
    ID,
    RETRY_AFTER,
    Client,
    Context,
    Ctx,
    Cursor,
    Id,
    Index,
    Key,
    Limit,
    Presign,
    Reading,
    streamed,
    submit,
)
from service.errors import NotFound
from service.kinds.dispatch import JobRequest
from service.models import Item
from service.states import JobState

router = APIRouter(prefix="/v1", tags=["jobs"])
TEXT = r"^[^\x00]*$"


@router.post("/jobs", status_code=202)
def submit_job(
    body: JobRequest, response: Response, ctx: Ctx, client: Client, idempotency_key: Key = None
) -> schemas.Job:
    """Accept a job. The same Idempotency-Key with the same body answers the job that the first call made."""
    return submit(ctx, response, body, idempotency_key, client)


@router.get("/jobs")
def list_jobs(
    session: Reading,
    state: Annotated[JobState | None, Query()] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    parent: Annotated[str | None, Query(pattern=ID, description="Only the parts of this recipe's job")] = None,
    top_level: Annotated[bool, Query(description="Leave out the parts of recipes")] = False,
) -> schemas.JobList:
    """Newest first."""
    return queries.jobs(session, state, limit, cursor, parent, top_level)


@router.get("/jobs/{job_id}")
def get_job(job_id: Id, response: Response, session: Reading) -> schemas.Job:
    job = queries.job(session, job_id)
    if job.finished_at is None:
        response.headers["Retry-After"] = RETRY_AFTER
    return job


@router.post("/jobs/{job_id}/cancel", status_code=202)
def cancel_job(job_id: Id, ctx: Ctx) -> schemas.Job:
    """Stop a job, and a recipe with all its parts. Items that have finished keep their results."""
    return _change(ctx, job_id, jobs.cancel)


@router.post("/jobs/{job_id}/pause", status_code=202)
def pause_job(job_id: Id, ctx: Ctx) -> schemas.Job:
    """Have workers keep where the job, and a recipe's parts, stand, and let go of them until they are resumed."""
    return _change(ctx, job_id, jobs.pause)


@router.post("/jobs/{job_id}/resume", status_code=202)
def resume_job(job_id: Id, ctx: Ctx) -> schemas.Job:
    """Go on with a paused job where it stood."""
    return _change(ctx, job_id, jobs.resume)


@router.post("/jobs/{job_id}/retry", status_code=202)
def retry_job(job_id: Id, ctx: Ctx) -> schemas.Job:
    """Queue the failed items of a job, and of a recipe's parts, again. What was made of all items is made anew."""
    return _change(ctx, job_id, jobs.retry)


@router.get("/dead-letters")
def list_dead_letters(
    session: Reading,
    job: Annotated[str | None, Query(pattern=ID, description="Only the items of this job")] = None,
    title: Annotated[str | None, Query(max_length=200, pattern=TEXT, description="Only errors with this title")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> dead_letters.DeadLetterList:
    """The failed items of all jobs, newest first."""
    return dead_letters.find(session, job, title, limit, cursor)


@router.get("/jobs/{job_id}/items")
def list_items(job_id: Id, session: Reading, limit: Limit = 100, cursor: Cursor = None) -> schemas.ItemList:
    return queries.items(session, job_id, limit, cursor)


@router.get("/jobs/{job_id}/items/{index}")
def get_item(
    job_id: Id, index: Index, session: Reading, ctx: Ctx, request: Request, presign: Presign = False
) -> schemas.Item:
    item = queries.item(session, job_id, index)
    if presign:
        own, seconds = str(request.base_url), ctx.settings.presign_seconds
        downloads.add(session, ctx.storage, seconds, own, job_id, {index: item.artifacts})
    return item


@router.get("/jobs/{job_id}/items/{index}/checkpoint", response_class=StreamingResponse)
def get_checkpoint(job_id: Id, index: Index, ctx: Ctx) -> StreamingResponse:
    """The newest checkpoint of an item, such as that of a training run which diverged."""
    with ctx.db.reading() as session:
        row = session.get(Item, (job_id, index))
    if row is None or row.checkpoint is None:
        raise NotFound(f"no checkpoint of item {index} in job {job_id}")
    headers = {"Content-Disposition": f'attachment; filename="{job_id}-{index}-{row.checkpoint["step"]}.pt"'}
    return streamed(ctx, row.checkpoint["key"], headers)


@router.get("/jobs/{job_id}/epochs")
def list_epochs(job_id: Id, session: Reading) -> schemas.EpochList:
    """What a training job measured after each epoch so far; empty for other kinds."""
    return queries.epochs(session, job_id)


def _change(ctx: Context, job_id: str, change: Callable[[Session, str], object]) -> schemas.Job:
    """Change a job, then send for the shards that may begin now."""
    with ctx.db.transaction() as session:
        change(session, job_id)
        waiting = jobs.to_send(session, job_id)
    ctx.broker.enqueue(waiting)
    with ctx.db.reading() as session:
        return queries.job(session, job_id)
