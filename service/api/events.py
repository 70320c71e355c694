"""/v1/jobs/{id}/events: what becomes of a job, as server-sent events."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from service import queries
from service.api.context import Context, Ctx, Id
from service.errors import NotFound
from service.events import ENDED, Feed, Watch

router = APIRouter(prefix="/v1", tags=["jobs"])
EVENT_ID = rf"^[0-9]{{1,18}}({ENDED})?$"
SHOWN = """\
id: 41
event: state
data: {"job": "job_0", "state": "running", "at": "2027-01-01T00:00:00Z"}

event: progress
data: {"items": {"total": 2, "running": 2}, "progress": {"fraction": 0.5}}

id: 42-end
event: end
data: {"job": "job_0", "state": "succeeded"}
"""


class EventStream(StreamingResponse):
    """FastAPI's own begins before a route can answer 204."""

    media_type = "text/event-stream"


async def _watch(job_id: Id, request: Request) -> AsyncIterator[Watch]:
    feed: Feed = request.app.state.feed
    with feed.watch(job_id) as watch:
        yield watch


def _require(ctx: Context, job_id: str) -> None:
    with ctx.db.reading() as session:
        queries.require(session, job_id)


@router.get(
    "/jobs/{job_id}/events",
    response_class=EventStream,
    responses={
        200: {"content": {"text/event-stream": {"example": SHOWN}}},
        204: {"description": "The end that this client was told of still stands: it need not connect again"},
        503: {"description": "Too many streams are open; see Retry-After"},
    },
)
async def stream_events(
    job_id: Id,
    request: Request,
    ctx: Ctx,
    watch: Annotated[Watch, Depends(_watch)],
    last_event_id: Annotated[
        str | None, Header(alias="Last-Event-ID", pattern=EVENT_ID, description="As browsers send it")
    ] = None,
    after: Annotated[
        str | None, Query(alias="last_event_id", pattern=EVENT_ID, description="The same, for who cannot set headers")
    ] = None,
) -> Response:
    """Every state since the one with the id Last-Event-ID as an event `state`, then each as the job enters it.

    Between them `progress`, at most once a second and where it changed. At a terminal state comes `end`, and the stream
    is closed. Should the job be retried after that, a client that connects again with the last id goes on from there.
    """
    # No plain function, as other routes: a stream would hold a thread for as long as its job lasts.
    feed: Feed = request.app.state.feed
    await run_in_threadpool(_require, ctx, job_id)  # the feed reads for all tenants
    found = await run_in_threadpool(feed.read, [job_id])
    if job_id not in found:
        raise NotFound(f"no job {job_id}")
    seen = last_event_id or after or "0"
    since, ended = int(seen.removesuffix(ENDED)), seen.endswith(ENDED)
    watch.see(found[job_id])
    if ended and found[job_id].end and found[job_id].last <= since:
        return Response(status_code=204)
    return EventStream(feed.stream(watch, since), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
