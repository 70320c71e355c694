"""/v1/jobs/{id}: the files of its results, one by one, and as tars and tables of many items."""

import re
from itertools import groupby
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from service import downloads, queries, responses, results
from service.api.context import Context, Ctx, Cursor, Id, Index, Limit, Presign, Reading
from service.api.tagged import Tagged
from service.errors import RangeNotSatisfiable
from service.headers import FOREVER, disposition
from service.objects import read_file, read_pieces

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"], route_class=Tagged)
IN_MEMORY = 4_000_000
"""Bytes of the largest answer that is read as a whole: an ordinary file is smaller, and one request is cheaper."""
RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")
Known = Annotated[str | None, Header(alias="If-None-Match")]
Part = Annotated[str | None, Header(alias="Range", description="One range of bytes; others are ignored")]
Unchanged = Annotated[str | None, Header(alias="If-Range")]


@router.get("/artifacts")
def list_artifacts(
    job_id: Id, session: Reading, ctx: Ctx, request: Request, limit: Limit = 500, cursor: Cursor = None,
    presign: Presign = False,
) -> responses.ArtifactList:  # fmt: skip
    """The files of all items, in order of item and name, and where each is."""
    page = queries.artifacts(session, job_id, limit, cursor)
    if presign:
        own, seconds = str(request.base_url), ctx.settings.presign_seconds
        items = {index: list(of) for index, of in groupby(page.artifacts, key=lambda a: a.item)}
        downloads.add(session, ctx.storage, seconds, own, job_id, items)
    return page


@router.get("/items/{index}/artifacts/{name}", response_class=Response)
def get_artifact(
    job_id: Id,
    index: Index,
    name: Id,
    ctx: Ctx,
    if_none_match: Known = None,
    byte_range: Part = None,
    if_range: Unchanged = None,
    v: Annotated[str, Query(max_length=64, description="The first digits of the digest, as in an artifact's url")] = "",
    redirect: Annotated[bool, Query(description="Answer 307 to the storage, where it can serve the file")] = False,
) -> Response:
    """The bytes, whose digest is the ETag. With `v`, as in an artifact's url, they may be kept for ever."""
    with ctx.db.reading() as session:
        row = queries.artifact(session, job_id, index, name)
    forever = v and row.sha256.startswith(v)
    headers = {
        "ETag": f'"{row.sha256}"',
        "Cache-Control": FOREVER if forever else "private, no-cache",
        "Content-Disposition": disposition(row.media_type, f"{job_id}-{index}-{name}"),
    }
    if if_none_match and row.sha256 in if_none_match:
        return Response(status_code=304, headers=headers)
    link = downloads.link(ctx.storage, row, ctx.settings.presign_seconds) if redirect and row.offset is None else None
    if link:
        return RedirectResponse(link.url, headers={"Cache-Control": "no-store"})
    return sent(ctx, row.key, row.offset, row.size, row.media_type, headers, asked(byte_range, if_range, headers))


@router.get("/result-shards")
def list_result_shards(
    job_id: Id, session: Reading, limit: Limit = 500, cursor: Cursor = None
) -> results.ResultShardList:
    """The tars in which the files of items lie, in the layout of WebDataset."""
    return results.result_shards(session, job_id, limit, cursor)


@router.get("/result-shards/{name}", response_class=Response)
def get_result_shard(
    job_id: Id,
    name: Id,
    ctx: Ctx,
    if_none_match: Known = None,
    byte_range: Part = None,
    if_range: Unchanged = None,
) -> Response:
    """A tar, whose digest is the ETag."""
    with ctx.db.reading() as session:
        row = results.result_shard(session, job_id, name)
    headers = {"ETag": f'"{row.sha256}"', "Cache-Control": FOREVER,
               "Content-Disposition": f'attachment; filename="{job_id}-{name}"'}  # fmt: skip
    if if_none_match and row.sha256 in if_none_match:
        return Response(status_code=304, headers=headers)
    return sent(ctx, row.key, None, row.size, "application/x-tar", headers, asked(byte_range, if_range, headers))


@router.get("/table", response_class=StreamingResponse)
def get_table(
    job_id: Id, ctx: Ctx, form: Annotated[results.Format, Query(alias="format")] = "csv"
) -> StreamingResponse:
    """Every item as a row: index, id, label, state, error, and its metrics."""
    with ctx.db.reading() as session:
        queries.require(session, job_id)
    media_type = "text/csv; charset=utf-8" if form == "csv" else "application/x-ndjson"
    headers = {"Content-Disposition": f'attachment; filename="{job_id}.{form}"', "Cache-Control": "private, no-cache"}
    return StreamingResponse(results.table(ctx.db, job_id, form), media_type=media_type, headers=headers)


def asked(byte_range: str | None, if_range: str | None, headers: dict[str, str]) -> str | None:
    """The range that counts: none where the client has a part of something else."""
    return byte_range if if_range in (None, headers["ETag"]) else None


def sent(
    ctx: Context, key: str, offset: int | None, size: int, media_type: str, headers: dict[str, str],
    byte_range: str | None,
) -> Response:  # fmt: skip
    """A file, or the range of it that was asked for. Raises RangeNotSatisfiable, ObjectNotFound or StorageError."""
    span = _span(byte_range, size)
    first, length = span or (0, size)
    headers = headers | {"Accept-Ranges": "bytes"}
    if span:
        headers["Content-Range"] = f"bytes {first}-{first + length - 1}/{size}"
    begin = None if offset is None and length == size else (offset or 0) + first
    if length <= IN_MEMORY:
        return Response(read_file(ctx.storage, key, begin, length), 206 if span else 200, headers, media_type)
    ctx.storage.stat(key)  # before the answer begins
    pieces = ctx.storage.stream(key) if begin is None else read_pieces(ctx.storage, key, begin, length)
    headers["Content-Length"] = str(length)
    return StreamingResponse(pieces, 206 if span else 200, headers, media_type)


def _span(byte_range: str | None, size: int) -> tuple[int, int] | None:
    """First byte and number of bytes; None for the whole, also where a range is malformed, as the RFC has it.

    Raises RangeNotSatisfiable.
    """
    if not (found := RANGE.fullmatch(byte_range or "")):
        return None
    begin, end = (int(each) if each else None for each in found.groups())
    if begin is None:
        if end is None:
            return None
        first, last = max(size - end, 0), size - 1
    else:
        first, last = begin, size - 1 if end is None else min(end, size - 1)
        if end is not None and end < begin:
            return None
    if first > last:
        raise RangeNotSatisfiable(size)
    return first, last - first + 1
