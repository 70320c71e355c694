"""What clients send: images, tensors, checkpoints, manifests. Each lies under the digest of its bytes, and has one row.

It comes by the API, or by a client's own PUT to a pending place, from where it is taken over once it has been checked.
"""

import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from service import images
from service.access.isolation import tenant_of
from service.access.principal import DEFAULT
from service.bulk_models import Manifest, PendingUpload
from service.db import Database, now
from service.errors import Conflict, FieldError, InvalidInput, NotFound
from service.keys import checkpoint_upload_key, manifest_key, pending_key
from service.models import Holding, Image, Upload
from service.objects import same
from service.schemas import Request
from service.settings import Settings
from service.storage import ObjectNotFound, OtherContent, Storage, image_key

Kind = Literal["image", "tensor", "checkpoint", "manifest"]
FileKind = Literal["checkpoint", "manifest"]
Kept = TypeVar("Kept", bound=Image | Upload | Manifest)
Put = Callable[[str], object]
"""Writes what a row points to, at this key."""
FILES: dict[str, tuple[type[Upload] | type[Manifest], Callable[[str], str]]] = {
    "checkpoint": (Upload, checkpoint_upload_key),
    "manifest": (Manifest, manifest_key),
}
OCTETS = "application/octet-stream"
ONE_PUT = 5 << 30
"""The most bytes that S3 takes in one request."""


class NewUpload(Request):
    """What a client is going to send."""

    kind: Kind
    size: int = Field(ge=1, description="Bytes")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="Digest of the bytes, in hexadecimal")]
    media_type: Annotated[str, Field(pattern=r"^[A-Za-z0-9.+-]+/[A-Za-z0-9.+-]+$", max_length=100)] = OCTETS


def keep(db: Database, storage: Storage, row: Kept, put: Put) -> Kept:
    """Store what has been checked, and then the row that points to it, unless they are here already."""
    with db.reading() as session:
        known = session.get(type(row), row.id)
    if known is None:
        put(row.key)
        with suppress(IntegrityError), db.transaction() as session:  # the same may be sent at the same time
            row.created_at = session.scalar(select(now())) or 0.0
            session.add(row)
        # Another tenant may have posted the same, so this is a transaction of its own.
        with suppress(IntegrityError), db.transaction() as session:
            tenant = tenant_of(session) or DEFAULT
            session.add(Holding(tenant=tenant, kind=row.__tablename__, id=row.id))
    if not stored(storage, row.key):  # it was lost, or removed as an orphan before the row was there
        put(row.key)
    with db.reading() as session:
        return session.get_one(type(row), row.id)


def keep_image(db: Database, storage: Storage, data: bytes, max_pixels: int) -> Image:
    """Raises InvalidInput for what is no image."""
    checked = images.check(data, max_pixels)
    row = Image(**checked._asdict(), key=image_key(checked.id), size=len(data))
    return keep(db, storage, row, lambda key: storage.put(key, data, checked.media_type))


def keep_file(db: Database, storage: Storage, kind: str, size: int, sha256: str, put: Put) -> Upload | Manifest:
    table, key_of = FILES[kind]
    return keep(db, storage, table(id=f"sha256:{sha256}", key=key_of(sha256), size=size), put)


def stored(storage: Storage, key: str) -> bool:
    try:
        storage.stat(key)
    except ObjectNotFound:
        return False
    return True


def begin(db: Database, storage: Storage, settings: Settings, asked: NewUpload) -> PendingUpload:
    """Note what a client is going to put; it has its `result` at once if that is here already. Raises InvalidInput."""
    most = min(settings.max_upload_bytes, ONE_PUT) if asked.kind in FILES else settings.max_body_bytes
    if asked.size > most:
        raise InvalidInput(FieldError("size", f"is {asked.size:,}; allowed for a {asked.kind}: {most:,} bytes"))
    content_id, upload_id = f"sha256:{asked.sha256}", f"upload_{uuid.uuid4().hex}"
    with db.reading() as session:
        here = session.get(_table(asked.kind), content_id)
    result = content_id if here and stored(storage, here.key) else None
    with db.transaction() as session:
        at = session.scalar(select(now())) or 0.0
        row = PendingUpload(
            id=upload_id, kind=asked.kind, key=pending_key(upload_id), size=asked.size, sha256=asked.sha256,
            created_at=at, expires_at=at + settings.presign_seconds, result=result,
        )  # fmt: skip
        session.add(row)
    return row


def find(db: Database, upload_id: str) -> PendingUpload:
    """Raises NotFound."""
    with db.reading() as session:
        row = session.get(PendingUpload, upload_id)
    if row is None:
        raise NotFound(f"no upload {upload_id}; it may have expired a day ago")
    return row


def complete(db: Database, storage: Storage, settings: Settings, upload_id: str) -> Image | Upload | Manifest:
    """Take over what a client has put, once it is checked. It may be asked for again, and by several at once.

    Raises NotFound, Conflict if nothing was put, InvalidInput if it is not what was said.
    """
    row = find(db, upload_id)
    if row.result is None:
        try:
            row.result = _take(db, storage, settings, row).id
        except OtherContent as e:
            raise InvalidInput(FieldError("content", str(e))) from e
        except ObjectNotFound as e:
            row = find(db, upload_id)  # another process may have completed it meanwhile
            if row.result is None:
                raise Conflict("nothing has been put to the url of this upload yet") from e
        with db.transaction() as session:
            session.execute(update(PendingUpload).where(PendingUpload.id == row.id).values(result=row.result))
        storage.delete(row.key)
    with db.reading() as session:
        kept: Image | Upload | Manifest = session.get_one(_table(row.kind), row.result)
        return kept


def _table(kind: str) -> type[Any]:
    return FILES[kind][0] if kind in FILES else Image


def _take(db: Database, storage: Storage, settings: Settings, row: PendingUpload) -> Image | Upload | Manifest:
    if (size := storage.stat(row.key)) != row.size:
        raise OtherContent(f"has {size:,} bytes; announced were {row.size:,}")
    if row.kind in FILES:

        def copy(key: str) -> None:
            storage.copy(row.key, key, row.size, row.sha256)

        return keep_file(db, storage, row.kind, row.size, row.sha256, copy)
    data = b"".join(same([storage.get(row.key)], row.size, row.sha256))
    return keep_image(db, storage, data, settings.max_image_pixels)
