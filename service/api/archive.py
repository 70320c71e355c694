"""/v1/jobs/ID/archive: the files of a job as one stream."""

from collections.abc import Generator
from threading import BoundedSemaphore
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service import archive, queries
from service.api.context import Ctx, Id
from service.errors import TooManyArchives
from service.packing import Member, gathered, tarred, zipped

router = APIRouter(prefix="/v1", tags=["jobs"])
Items = Annotated[str | None, Query(max_length=10_000, description="Such as 0-99,200; all of them if not given")]
Names = Annotated[
    str | None,
    Query(pattern=r"^[A-Za-z0-9_.:,-]+$", max_length=2000, description="Such as result.png,trace.json; all by default"),
]


FREE = BoundedSemaphore(8)
"""Archives that this process may yet send at once; each reads some 50 MB ahead."""


class _Archive(StreamingResponse):
    def __init__(self, members: Generator[Member, None, None], packed: str, headers: dict[str, str]) -> None:
        stream, media_type = (zipped, "application/zip") if packed == "zip" else (tarred, "application/x-tar")
        self.chunks, self.members = gathered(stream(members)), members
        super().__init__(self.chunks, media_type=media_type, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:  # also where the client has gone away, or an error holds them: nobody else would end the reading
            self.chunks.close()
            self.members.close()
            FREE.release()


@router.get("/jobs/{job_id}/archive", response_class=StreamingResponse)
def get_archive(
    job_id: Id,
    ctx: Ctx,
    packed: Annotated[Literal["zip", "tar"], Query(alias="format")] = "zip",
    items: Items = None,
    names: Names = None,
) -> StreamingResponse:
    """job.json, the files of the items that are over (items/0000000/result.png), and items.jsonl, a line an item.

    Sent as it is read, so its length is not known. If it breaks off, it is not whole: there is no shorter archive.
    """
    with ctx.db.reading() as session:
        job = queries.job(session, job_id)
    chosen, kept = archive.spans(items, job.items.total), names.split(",") if names else []
    members = archive.members(ctx.db, ctx.storage, job, chosen, kept, sized=packed == "tar")
    headers = {"Content-Disposition": f'attachment; filename="{job_id}.{packed}"', "Cache-Control": "private, no-cache"}
    if not FREE.acquire(blocking=False):
        raise TooManyArchives("as many archives as may be at once are being sent; try again")
    return _Archive(members, packed, headers)
