"""Answers with an ETag: who asks again with it is told 304, without a body, as long as nothing has changed."""

import hashlib
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

JSON = "application/json"


class Tagged(APIRoute):
    """A GET route whose JSON answers carry the digest of their bytes."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        if "GET" in (options.get("methods") or ()):
            unchanged = {304: {"description": "Not changed since the answer with the ETag in If-None-Match"}}
            options["responses"] = unchanged | (options.get("responses") or {})
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def tagged(request: Request) -> Response:
            response = await handle(request)
            if request.method != "GET" or response.status_code != 200 or response.headers.get("content-type") != JSON:
                return response
            if b"presign=" in request.scope["query_string"]:  # it holds links that open doors, other ones each time
                response.headers["Cache-Control"] = "no-store"
                return response
            tag = f'"{hashlib.sha256(response.body).hexdigest()[:32]}"'
            response.headers.update({"ETag": tag, "Cache-Control": "private, no-cache"})
            if not matches(request.headers.get("if-none-match", ""), tag):
                return response
            kept = {k: v for k, v in response.headers.items() if k not in ("content-length", "content-type")}
            return Response(status_code=304, headers=kept)

        return tagged


def matches(asked: str, tag: str) -> bool:
    """Whether an If-None-Match names the tag, or anything at all."""
    return asked.strip() == "*" or tag in (each.strip().removeprefix("W/") for each in asked.split(","))
