"""/v1/jobs/{id}/items, their checkpoints and epochs, and /v1/dead-letters: what failed."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from service import dead_letters, downloads, previews, queries, responses
from service.api.artifacts import Part, sent
from service.api.context import ID, TEXT, Ctx, Cursor, Id, Index, Limit, Presign, Reading
from service.api.tagged import Tagged
from service.errors import NotFound
from service.item_lists import ALLOWED, COMPARED, INDEX, MOST_COMPARED, Wanted
from service.models import Item
from service.states import ItemState

COMPARISON = Field(json_schema_extra={"pattern": COMPARED})
Comparisons = Annotated[
    list[Annotated[str, COMPARISON]],
    Query(max_length=MOST_COMPARED, description=f"Each must hold, and holds of no item without the metric; {ALLOWED}"),
]
Title = Annotated[str | None, Query(max_length=200, pattern=TEXT, description="Only errors with this title")]
router = APIRouter(prefix="/v1", tags=["jobs"], route_class=Tagged)


@router.get("/dead-letters")
def list_dead_letters(
    session: Reading,
    job: Annotated[str | None, Query(pattern=ID, description="Only the items of this job")] = None,
    title: Title = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> dead_letters.DeadLetterList:
    """The failed items of all jobs, newest first."""
    return dead_letters.find(session, job, title, limit, cursor)


@router.get("/jobs/{job_id}/items")
def list_items(
    job_id: Id,
    session: Reading,
    state: Annotated[list[ItemState], Query(max_length=len(ItemState), description="Any of these")] = [],  # noqa: B006
    error: Title = None,
    metric: Comparisons = [],  # noqa: B006
    sort: Annotated[str, Query(pattern=r"^[A-Za-z0-9_.-]{1,100}$", description="`index`, or a metric's name")] = INDEX,
    order: Annotated[Literal["asc", "desc"], Query(description="Items without the metric come last in both")] = "asc",
    offset: Annotated[int, Query(ge=0, lt=2**31, description="Entries to leave out, in place of a cursor")] = 0,
    counted: Annotated[bool, Query(description="Answer `total` too")] = False,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> responses.ItemList:
    """In order of index or of a metric, each with its settings, metrics and files.

    Of a job of more than 200,000 items, a page narrowed by a metric may be short before the last: go by `next_cursor`.
    """
    return queries.items(session, job_id, limit, Wanted(state, error, sort, order, offset, cursor, metric), counted)


@router.get("/jobs/{job_id}/items/{index}")
def get_item(
    job_id: Id, index: Index, session: Reading, ctx: Ctx, request: Request, presign: Presign = False
) -> responses.Item:
    """One of them."""
    item = queries.item(session, job_id, index)
    if presign:
        own, seconds = str(request.base_url), ctx.settings.presign_seconds
        downloads.add(session, ctx.storage, seconds, own, job_id, {index: item.artifacts})
    return item


@router.get("/jobs/{job_id}/items/{index}/checkpoint", response_class=Response)
def get_item_checkpoint(job_id: Id, index: Index, ctx: Ctx, byte_range: Part = None) -> Response:
    """The newest checkpoint of an item, such as that of a training run which diverged."""
    with ctx.db.reading() as session:
        queries.require(session, job_id)
        row = session.get(Item, (job_id, index))
    if row is None or row.checkpoint is None:
        raise NotFound(f"no checkpoint of item {index} in job {job_id}")
    headers = {"Content-Disposition": f'attachment; filename="{job_id}-{index}-{row.checkpoint["step"]}.pt"'}
    kept = row.checkpoint
    return sent(ctx, kept["key"], None, kept["size"], "application/octet-stream", headers, byte_range)


@router.get("/jobs/{job_id}/items/{index}/preview.png", response_class=Response)
def get_item_preview(
    job_id: Id,
    index: Index,
    ctx: Ctx,
    step: Annotated[int | None, Query(ge=0, lt=2**31, description="As in its url: what is kept for this step")] = None,
) -> Response:
    """How an item that is being computed or paused looks by now; 404 once it is over."""
    with ctx.db.reading() as session:
        shown = previews.shown(session, job_id, index)
    kept = "private, max-age=60" if step == shown.step else "no-store"
    return Response(previews.picture(ctx.storage, shown), headers={"Cache-Control": kept}, media_type="image/png")


@router.get("/jobs/{job_id}/epochs")
def list_epochs(job_id: Id, session: Reading) -> responses.EpochList:
    """What a training job measured after each epoch so far; empty for other kinds."""
    return queries.epochs(session, job_id)
