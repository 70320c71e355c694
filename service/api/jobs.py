"""/v1/jobs: submit, list, read, change, cancel, pause, resume, retry, clone, delete; and what they have stored."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from service import changes, cloning, deletion, jobs, queries, responses
from service.api import recipes
from service.api.context import (
    ID,
    RETRY_AFTER,
    TEXT,
    Client,
    Context,
    Ctx,
    Cursor,
    Id,
    Key,
    Limit,
    Reading,
    preview,
    submit,
)
from service.api.straight import Straight
from service.api.tagged import JSON, Tagged
from service.errors import Conflict
from service.intake import unknown
from service.kinds.dispatch import JobRequest
from service.recipes import Networks
from service.requests import PRIORITIES, LabelFilter, Time
from service.states import JobState

router = APIRouter(prefix="/v1", tags=["jobs"], route_class=Tagged)


def submit_job(
    body: JobRequest, ctx: Ctx, client: Client, idempotency_key: Key = None,
    dry_run: Annotated[bool, Query(description="Only answer what the request would become (200)")] = False,
) -> Response:  # fmt: skip
    """Accept a job. The same Idempotency-Key with the same body answers the job that the first call made."""
    if dry_run:
        return JSONResponse(preview(ctx, body, client).model_dump(mode="json"))
    return submit(ctx, body, idempotency_key, client).answer(ctx)


router.add_api_route(
    "/jobs", submit_job, methods=["POST"], status_code=202, response_model=responses.Job,
    responses={200: {"model": responses.Preview}}, route_class_override=Straight,
)  # fmt: skip


@router.get("/jobs")
def list_jobs(
    session: Reading,
    state: Annotated[list[JobState], Query(max_length=len(JobState), description="Any of these")] = [],  # noqa: B006
    kind: Annotated[str | None, Query(pattern=r"^[a-z_]{1,40}$")] = None,
    label: Annotated[list[LabelFilter], Query(max_length=10, description="KEY=VALUE, or KEY; all must hold")] = [],  # noqa: B006
    created_after: Annotated[Time | None, Query()] = None,
    created_before: Annotated[Time | None, Query()] = None,
    text: Annotated[
        str | None, Query(min_length=1, max_length=200, pattern=TEXT, description="In id, names, description, labels")
    ] = None,
    parent: Annotated[str | None, Query(pattern=ID, description="Only the parts of this recipe's job")] = None,
    top_level: Annotated[bool, Query(description="Leave out the parts of recipes")] = False,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> responses.JobList:
    """Newest first. Without parameters and transitions, which each job has at its own address."""
    after, before = (None if at is None else at.timestamp() for at in (created_after, created_before))
    only = queries.Filter(state, kind, label, after, before, text, parent, top_level)
    return queries.jobs(session, only, limit, cursor)


@router.get("/jobs/{job_id}", response_model=responses.Job)
async def get_job(job_id: Id, ctx: Ctx) -> Response:
    """Its state, progress, parameters and links. Ask again with If-None-Match: 304 costs little."""
    # A coroutine, since what is asked most waits for another thread.
    told = await asyncio.wrap_future(ctx.intake.tell(job_id))
    if told.tenant != ctx.tenant:
        raise unknown(job_id)
    return Response(told.body, 200, {} if told.over else {"Retry-After": RETRY_AFTER}, JSON)


@router.patch("/jobs/{job_id}")
def patch_job(job_id: Id, body: changes.Patch, ctx: Ctx) -> responses.Job:
    """Change what a job has beside its parameters, by a merge patch: what is left out stays, null removes."""
    return _change(ctx, job_id, lambda session, job_id: changes.apply(session, job_id, body))


@router.delete("/jobs/{job_id}", status_code=204)
def delete_job(
    job_id: Id, ctx: Ctx, cancel: Annotated[bool, Query(description="Also if it is going on")] = False
) -> None:
    """Delete a job, and a recipe with its parts, with everything that it stored. What it registered stays."""
    with ctx.db.transaction() as session:
        deletion.remove(session, job_id, cancel)


@router.get("/jobs/{job_id}/request")
def get_request(job_id: Id, session: Reading) -> responses.SentRequest:
    """The request behind a job, as cloning it would send it again, and what of it differs from its preset."""
    return cloning.sent(session, job_id)


@router.post("/jobs/{job_id}/clone", status_code=202, response_model=responses.Job)
def clone_job(
    job_id: Id, ctx: Ctx, client: Client, idempotency_key: Key = None,
    overrides: Annotated[dict[str, Any] | None, Body(description="A merge patch on the job's request")] = None,
) -> Response:  # fmt: skip
    """Submit a job's request again, changed or not. All but its deadline is taken over."""
    with ctx.db.reading() as session:
        clone = cloning.clone(session, job_id, overrides or {})
    beside = {"cloned_from": job_id}
    if isinstance(clone.request, Networks):
        return recipes.submit(clone.name, clone.request, ctx, idempotency_key, client, beside, clone.digest)
    return submit(ctx, clone.request, idempotency_key, client, clone.name, beside, clone.digest).answer(ctx)


@router.post("/jobs/{job_id}/cancel", status_code=202)
def cancel_job(job_id: Id, ctx: Ctx) -> responses.Job:
    """Stop a job, and a recipe with all its parts. Items that have finished keep their results."""
    return _change(ctx, job_id, jobs.cancel)


@router.post("/jobs/{job_id}/pause", status_code=202)
def pause_job(job_id: Id, ctx: Ctx) -> responses.Job:
    """Have workers keep where the job, and a recipe's parts, stand, and let go of them until they are resumed."""
    return _change(ctx, job_id, jobs.pause)


@router.post("/jobs/{job_id}/resume", status_code=202)
def resume_job(job_id: Id, ctx: Ctx) -> responses.Job:
    """Go on with a paused job where it stood."""
    return _change(ctx, job_id, jobs.resume)


@router.post("/jobs/{job_id}/retry", status_code=202)
def retry_job(job_id: Id, ctx: Ctx) -> responses.Job:
    """Queue the failed items of a job, and of a recipe's parts, again. What was made of all items is made anew."""
    tried: list[int] = []

    def retry(session: Session, job_id: str) -> None:
        tried.append(jobs.retry(session, job_id))

    job = _change(ctx, job_id, retry)
    with suppress(Conflict):  # those before were the last
        while tried[-1] >= jobs.MANY:
            job = _change(ctx, job_id, retry)
    return job


def _change(ctx: Context, job_id: str, change: Callable[[Session, str], object]) -> responses.Job:
    """Change a job, then send for the shards that may begin now."""
    with ctx.db.transaction() as session:
        change(session, job_id)
        waiting = jobs.to_send(session, job_id)
    with ctx.db.reading() as session:
        job = queries.job(session, job_id)
    ctx.broker.enqueue(waiting, PRIORITIES[job.priority])
    return job
