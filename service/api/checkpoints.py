"""/v1/checkpoints: upload the weights that POST /v1/models names."""

import hashlib
import tempfile
from contextlib import suppress
from pathlib import Path

from fastapi import APIRouter, Request, Response
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from starlette.concurrency import run_in_threadpool

from service import responses
from service.api.context import Context, Ctx, Id, Reading, kept
from service.db import now
from service.errors import FieldError, InvalidInput, NotFound, TooLarge
from service.keys import checkpoint_upload_key
from service.models import Upload
from service.storage import Stored

PATH = "/v1/checkpoints"
router = APIRouter(tags=["catalog"])
BINARY = {"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string",
          "format": "binary"}}}}}  # fmt: skip


@router.post(PATH, status_code=201, openapi_extra=BINARY)
async def upload_checkpoint(request: Request, response: Response, ctx: Ctx) -> responses.Checkpoint:
    """Store a checkpoint file; its id is the digest of its bytes. It is checked when a model is registered from it."""
    # The one route that is not a plain function: gigabytes have to go to the disk as they arrive.
    digest, size, most = hashlib.sha256(), 0, ctx.settings.max_upload_bytes
    with tempfile.NamedTemporaryFile(prefix="checkpoint-") as file:
        async for chunk in request.stream():
            size += len(chunk)
            if size > most:
                raise TooLarge(f"the checkpoint is over {most:,} bytes", FieldError("body", f"allowed: {most:,} bytes"))
            digest.update(chunk)
            await run_in_threadpool(file.write, chunk)
        if not size:
            raise InvalidInput(FieldError("body", "is empty; send the bytes of a checkpoint file"))
        file.flush()
        stored = await run_in_threadpool(_store, ctx, f"sha256:{digest.hexdigest()}", Path(file.name), size)
    response.headers["Location"] = f"{PATH}/{stored.id}"
    return stored


@router.get(PATH + "/{upload_id}")
def get_checkpoint(upload_id: Id, session: Reading) -> responses.Checkpoint:
    """Whether this file is here already."""
    if (row := session.get(Upload, upload_id)) is None:
        raise NotFound(f"no checkpoint {upload_id}")
    return responses.Checkpoint(id=row.id, size=row.size)


def _store(ctx: Context, upload_id: str, path: Path, size: int) -> responses.Checkpoint:
    key = checkpoint_upload_key(upload_id)

    def put() -> Stored:
        return ctx.storage.put_file(key, path, "application/octet-stream")

    with ctx.db.reading() as session:
        known = session.get(Upload, upload_id)
    if known is None:
        put()
        with suppress(IntegrityError), ctx.db.transaction() as session:  # the same may be uploaded at the same time
            session.add(Upload(id=upload_id, key=key, size=size, created_at=session.scalar(select(now()))))
    kept(ctx, key, put)
    return responses.Checkpoint(id=upload_id, size=size)
