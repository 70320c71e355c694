"""What every request passes: a line of the log, a bound on bodies and on what they take together. Plain ASGI."""

import asyncio
import re
import time
import uuid

import structlog
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import errors, metrics

TOGETHER = 5
"""As many bodies of the largest size a process holds at once; of smaller ones, as many as take as much memory."""
SILENCE = 30.0
"""Seconds after which no more of a body is waited for."""
JOBS = b"/v1/jobs/"
LONGEST = 500
"""Characters of a path that are logged: while a line is written, and looked at for secrets, no request is answered."""
log = structlog.get_logger()


class RequestLog:
    """Logs what changes something or fails.

    Plain ASGI: Starlette's middleware from a function ends an answer that breaks off as if it were whole.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        structlog.contextvars.clear_contextvars()
        request_id = Headers(scope=scope).get("x-request-id", uuid.uuid4().hex)[:64]
        structlog.contextvars.bind_contextvars(request=request_id)
        start, method = time.perf_counter(), scope["method"]

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                took, status = time.perf_counter() - start, message["status"]
                metrics.request(method, template(scope), status, took)
                if method != "GET" or status >= 500:
                    job = {"job": made} if (made := _made(message)) else {}
                    path = scope["path"][:LONGEST]
                    log.info("request", method=method, path=path, status=status, seconds=round(took, 4), **job)
            await send(message)

        return await self.app(scope, receive, noted)


def _made(message: Message) -> str:
    """The job that a request made, if it did."""
    found = (value for name, value in message["headers"] if name.lower() == b"location" and value.startswith(JOBS))
    return str(next(found, JOBS).removeprefix(JOBS), "ascii", "replace")


def template(scope: Scope) -> str:
    """The path of the route that took a request, with its parameters' names in place of what a client sent."""
    if (route := scope.get("route")) is not None:
        return str(route.path)
    return "/ui/static" if scope["path"].startswith("/ui/static/") else "none"


class BodyLimit:
    """Refuses a body over `limit` bytes with 413, before it is read where its length is declared.

    All bodies that are held at a time may have `TOGETHER` times as much; then more is answered 503, and one that stops
    coming 408. The routes whose paths are `streamed` count for themselves: their bodies are too large to be held.
    """

    def __init__(self, app: ASGIApp, limit: int, streamed: re.Pattern[str]) -> None:
        self.app, self.limit, self.streamed, self.held = app, limit, streamed, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self.streamed.fullmatch(scope["path"]):
            return await self.app(scope, receive, send)
        lengths = [value for name, value in scope["headers"] if name in (b"content-length", b"transfer-encoding")]
        if not lengths:  # no body
            return await self.app(scope, receive, send)
        declared = lengths[0]
        refused = self._refused(int(declared)) if declared.isdigit() else None
        messages: list[Message] = []
        size = 0
        try:
            while refused is None and (not messages or messages[-1].get("more_body", False)):
                try:
                    async with asyncio.timeout(SILENCE):
                        messages.append(await receive())
                except TimeoutError:
                    refused = errors.render(408, "timeout", f"no more of the body came in {SILENCE:.0f} seconds")
                else:
                    came = len(messages[-1].get("body", b""))
                    size, self.held = size + came, self.held + came
                    refused = self._refused(size)
            await (refused or self.app)(scope, _replayed(messages, receive), send)
        finally:
            self.held -= size

    def _refused(self, size: int) -> Response | None:
        """The answer to a request with so much of a body, if that is too much."""
        if size > self.limit:
            allowed = errors.FieldError("body", f"allowed: {self.limit:,} bytes")
            return errors.render(413, "too-large", f"the body is over {self.limit:,} bytes", (allowed,))
        if self.held > TOGETHER * self.limit:
            busy = errors.render(503, "unavailable", "too many large bodies are being sent at once; try again")
            busy.headers["Retry-After"] = "5"
            return busy
        return None


def _replayed(messages: list[Message], receive: Receive) -> Receive:
    """What was received already, and then what follows."""
    left = iter(messages)

    async def replay() -> Message:
        return next(left, None) or await receive()

    return replay
