"""/v1/uploads: images, tensors, checkpoints and manifests that a client puts into the storage by itself."""

from datetime import UTC, datetime
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from service import uploads
from service.api.context import Ctx, Id, room_of
from service.api.receiving import BINARY, received
from service.bulk_models import PendingUpload
from service.errors import Conflict, FieldError, InvalidInput
from service.models import Image
from service.objects import Link
from service.uploads import OCTETS, Kind, NewUpload

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])


class Upload(BaseModel):
    id: str
    kind: Kind
    size: int = Field(description="Bytes")
    sha256: str
    expires_at: datetime = Field(description="When no PUT may begin any more; what was put may be completed for a day")
    result: str | None = Field(description="The id that jobs name, once it is complete, or if it was here before")


class UploadLink(Upload):
    method: Literal["PUT"] = "PUT"
    url: str = Field(description="Where the bytes go")
    headers: dict[str, str] = Field(description="What has to be sent with them")


class Uploaded(BaseModel):
    id: str = Field(description="What jobs and models name")
    kind: Kind
    size: int = Field(description="Bytes")
    media_type: str | None = None
    width: int | None = None
    height: int | None = None


@router.post("", status_code=201)
def begin_upload(body: NewUpload, request: Request, response: Response, ctx: Ctx) -> UploadLink:
    """Where to put an object of this size and digest. If `result` is set, it is here already and nothing need be sent.

    With S3, the url is the bucket's, which takes these bytes and no others; with local files it is this service's.
    """
    room_of(ctx, body.size)
    row = uploads.begin(ctx.db, ctx.storage, ctx.settings, body)
    seconds = ctx.settings.presign_seconds
    link = ctx.storage.upload_link(row.key, row.size, row.sha256, body.media_type, seconds)
    url, headers = link or Link(
        str(request.url_for("put_content", upload_id=row.id)), {"Content-Type": body.media_type}
    )
    response.headers["Location"] = f"{router.prefix}/{row.id}"
    return UploadLink(**_about(row), url=url, headers=headers)


@router.get("/{upload_id}")
def get_upload(upload_id: Id, ctx: Ctx) -> Upload:
    """What was announced, and whether it is complete."""
    return Upload(**_about(uploads.find(ctx.db, upload_id)))


@router.put("/{upload_id}/content", status_code=204, openapi_extra=BINARY)
async def put_content(upload_id: Id, request: Request, ctx: Ctx) -> None:
    """The bytes of an upload, where they do not go to S3. What has another size or digest is refused."""
    row = await run_in_threadpool(uploads.find, ctx.db, upload_id)
    if datetime.now(UTC) > _time(row.expires_at):
        raise Conflict(f"upload {upload_id} has expired; ask for another")
    declared = request.headers.get("content-length", str(row.size))
    if declared != str(row.size):
        raise InvalidInput(FieldError("body", f"has {declared} bytes; announced were {row.size}"))
    async with received(request, row.size, f"{row.kind} as it was announced") as (path, size, sha256):
        if (size, sha256) != (row.size, row.sha256):
            detail = f"has {size} bytes and the SHA-256 digest {sha256}; announced were {row.size} and {row.sha256}"
            raise InvalidInput(FieldError("body", detail))
        await run_in_threadpool(ctx.storage.put_file, row.key, path, OCTETS)


@router.post("/{upload_id}/complete")
def complete_upload(upload_id: Id, ctx: Ctx) -> Uploaded:
    """Check what was put, as if it had been posted, and keep it under the digest of its bytes. May be repeated."""
    kept = uploads.complete(ctx.db, ctx.storage, ctx.settings, upload_id)
    kind = uploads.find(ctx.db, upload_id).kind
    if isinstance(kept, Image):
        picture = {"media_type": kept.media_type, "width": kept.width, "height": kept.height}
        return Uploaded(id=kept.id, kind=kind, size=kept.size, **picture)
    return Uploaded(id=kept.id, kind=kind, size=kept.size)


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _about(row: PendingUpload) -> dict[str, object]:
    named = {name: getattr(row, name) for name in ("id", "kind", "size", "sha256", "result")}
    return named | {"expires_at": _time(row.expires_at)}
