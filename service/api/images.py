"""/v1/images: upload the images that jobs name."""

from typing import Annotated

from fastapi import APIRouter, Body, Response

from service import responses
from service.api.context import ROOM, Ctx, Id
from service.errors import NotFound
from service.headers import FOREVER, disposition
from service.models import Image
from service.uploads import OCTETS, keep_image

router = APIRouter(prefix="/v1/images", tags=["images"])


@router.post("", status_code=201, dependencies=ROOM)
def upload_image(
    data: Annotated[
        bytes,
        Body(
            media_type=OCTETS,
            description="A PNG, JPEG or WebP file, or a .npy array: floats [3, H, W] in [0, 1]",
        ),
    ],
    response: Response,
    ctx: Ctx,
) -> responses.Image:
    """Store an image. Its id is the digest of its bytes, so posting it again changes nothing."""
    row = keep_image(ctx.db, ctx.storage, data, ctx.settings.max_image_pixels)
    response.headers["Location"] = f"/v1/images/{row.id}"
    return responses.Image(id=row.id, media_type=row.media_type, width=row.width, height=row.height, size=row.size)


@router.get("/{image_id}", response_class=Response)
def get_image(image_id: Id, ctx: Ctx) -> Response:
    """The bytes as they were posted."""
    with ctx.db.reading() as session:
        row = session.get(Image, image_id)
    if row is None:
        raise NotFound(f"no image {image_id}")
    headers = {"Content-Disposition": disposition(row.media_type, image_id.replace(":", "-")), "Cache-Control": FOREVER}
    return Response(ctx.storage.get(row.key), headers=headers, media_type=row.media_type)
