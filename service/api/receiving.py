"""Bodies that are too large to be held: they go to a file as they arrive."""

import hashlib
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from service.errors import FieldError, InvalidInput, TooLarge

STREAMED = re.compile(r"/v1/(checkpoints|manifests|uploads/[^/]+/content)")
"""The paths of the routes that receive so."""
BINARY: dict[str, Any] = {"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {
    "type": "string", "format": "binary"}}}}}  # fmt: skip


class Received(NamedTuple):
    path: Path
    size: int
    sha256: str


@asynccontextmanager
async def received(request: Request, most: int, what: str) -> AsyncIterator[Received]:
    """The body as a file, which is gone afterwards.

    Raises TooLarge for more than `most` bytes, before reading any where the length is declared; InvalidInput if it is
    empty or breaks off.
    """
    declared = request.headers.get("content-length", "")
    digest, size = hashlib.sha256(), int(declared) if declared.isdecimal() else 0
    too_large = TooLarge(f"the {what} is over {most:,} bytes", FieldError("body", f"allowed: {most:,} bytes"))
    if size > most:
        raise too_large
    size = 0
    with tempfile.NamedTemporaryFile(prefix="upload-") as file:
        try:
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    raise too_large
                digest.update(chunk)
                await run_in_threadpool(file.write, chunk)
        except ClientDisconnect as e:
            raise InvalidInput(FieldError("body", "broke off before its end")) from e
        if not size:
            raise InvalidInput(FieldError("body", f"is empty; send the bytes of a {what}"))
        file.flush()
        yield Received(Path(file.name), size, digest.hexdigest())
