"""/v1/checkpoints: upload the weights that POST /v1/models names. /v1/manifests: upload the lists that jobs name."""

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from service import responses
from service.api.context import ROOM, Context, Ctx, Id, Reading
from service.api.receiving import BINARY, received
from service.bulk_models import Manifest
from service.errors import NotFound
from service.models import Upload
from service.uploads import OCTETS, FileKind, keep_file

CHECKPOINTS, MANIFESTS = "/v1/checkpoints", "/v1/manifests"
router = APIRouter()


class UploadedManifest(BaseModel):
    id: str = Field(description="Digest of the bytes")
    size: int = Field(description="Bytes")


# The routes that are no plain functions: gigabytes have to go to the disk as they arrive.


@router.post(CHECKPOINTS, status_code=201, openapi_extra=BINARY, tags=["catalog"], dependencies=ROOM)
async def upload_checkpoint(request: Request, response: Response, ctx: Ctx) -> responses.Checkpoint:
    """Store a checkpoint file; its id is the digest of its bytes. It is checked when a model is registered from it."""
    row = await _receive(request, response, ctx, "checkpoint")
    return responses.Checkpoint(id=row.id, size=row.size)


@router.post(MANIFESTS, status_code=201, openapi_extra=BINARY, tags=["jobs"], dependencies=ROOM)
async def upload_manifest(request: Request, response: Response, ctx: Ctx) -> UploadedManifest:
    """Store a list of inputs, JSONL or CSV; its id is the digest of its bytes. A job that names it checks it."""
    row = await _receive(request, response, ctx, "manifest")
    return UploadedManifest(id=row.id, size=row.size)


@router.get(CHECKPOINTS + "/{upload_id}", tags=["catalog"])
def get_checkpoint(upload_id: Id, session: Reading) -> responses.Checkpoint:
    """Whether this file is here already."""
    if (row := session.get(Upload, upload_id)) is None:
        raise NotFound(f"no checkpoint {upload_id}")
    return responses.Checkpoint(id=row.id, size=row.size)


@router.get(MANIFESTS + "/{manifest_id}", tags=["jobs"])
def get_manifest(manifest_id: Id, session: Reading) -> UploadedManifest:
    """Whether this file is here already."""
    if (row := session.get(Manifest, manifest_id)) is None:
        raise NotFound(f"no manifest {manifest_id}")
    return UploadedManifest(id=row.id, size=row.size)


async def _receive(request: Request, response: Response, ctx: Context, kind: FileKind) -> Upload | Manifest:
    async with received(request, ctx.settings.max_upload_bytes, kind) as (path, size, sha256):

        def put(key: str) -> object:
            return ctx.storage.put_file(key, path, OCTETS)

        row = await run_in_threadpool(keep_file, ctx.db, ctx.storage, kind, size, sha256, put)
    response.headers["Location"] = f"{request.url.path}/{row.id}"
    return row
