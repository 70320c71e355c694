"""/v1/images: upload the images that jobs name."""

from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Body, Response
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from service import images, responses
from service.api.context import Ctx, Id, kept
from service.db import now
from service.errors import NotFound
from service.models import Image
from service.storage import Stored, image_key

router = APIRouter(prefix="/v1/images", tags=["images"])


def _response(row: Image) -> responses.Image:
    return responses.Image(id=row.id, media_type=row.media_type, width=row.width, height=row.height, size=row.size)


@router.post("", status_code=201)
def upload_image(
    data: Annotated[
        bytes,
        Body(
            media_type="application/octet-stream",
            description="A PNG, JPEG or WebP file, or a .npy array: floats [3, H, W] in [0, 1]",
        ),
    ],
    response: Response,
    ctx: Ctx,
) -> responses.Image:
    """Store an image. Its id is the digest of its bytes, so posting it again changes nothing."""
    checked = images.check(data, ctx.settings.max_image_pixels)
    response.headers["Location"] = f"/v1/images/{checked.id}"

    def put() -> Stored:
        return ctx.storage.put(image_key(checked.id), data, checked.media_type)

    with ctx.db.reading() as session:
        known = session.get(Image, checked.id)
    if known is None:
        stored = put()
        with suppress(IntegrityError), ctx.db.transaction() as session:  # the same may be posted at the same time
            at = session.scalar(select(now()))
            session.add(Image(**checked._asdict(), key=stored.key, size=stored.size, created_at=at))
    kept(ctx, image_key(checked.id), put)
    with ctx.db.reading() as session:
        return _response(session.get_one(Image, checked.id))


@router.get("/{image_id}", response_class=Response)
def get_image(image_id: Id, ctx: Ctx) -> Response:
    """The bytes as they were posted."""
    with ctx.db.reading() as session:
        row = session.get(Image, image_id)
    if row is None:
        raise NotFound(f"no image {image_id}")
    return Response(ctx.storage.get(row.key), media_type=row.media_type)
