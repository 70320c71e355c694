"""The HTTP API as an ASGI application."""

import re
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import errors
from service.api import (
    archive,
    artifacts,
    bulk,
    catalog,
    checkpoints,
    events,
    health,
    images,
    items,
    jobs,
    recipes,
    uploads,
    webhooks,
    workers,
)  # fmt: skip
from service.api.context import Context
from service.api.receiving import STREAMED
from service.broker import Broker, celery_app
from service.cards import DatasetCard
from service.catalog import Catalog, Dataset
from service.data.opening import open_dataset
from service.db import Database
from service.events import Feed
from service.reference.page import page
from service.reference.schema import describe, operation_id
from service.settings import Settings
from service.storage import open_storage

WEB = Path(__file__).parent / "web"
CSP = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
log = structlog.get_logger()


class BodyLimit:
    """Refuses a body over `limit` bytes with 413, before it is read where its length is declared.

    The routes whose paths are `streamed` count for themselves: their bodies are too large to be held.
    """

    def __init__(self, app: ASGIApp, limit: int, streamed: re.Pattern[str]) -> None:
        self.app, self.limit, self.streamed = app, limit, streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self.streamed.fullmatch(scope["path"]):
            return await self.app(scope, receive, send)
        too_large = errors.render(
            413,
            "too-large",
            f"the body is over {self.limit:,} bytes",
            (errors.FieldError("body", f"allowed: {self.limit:,} bytes"),),
        )
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self.limit:
            return await too_large(scope, receive, send)
        messages, size = [], 0
        while True:
            message = await receive()
            size += len(message.get("body", b""))
            messages.append(message)
            if size > self.limit:
                return await too_large(scope, receive, send)
            if not message.get("more_body", False):
                break
        buffered = iter(messages)

        async def replay() -> Message:
            return next(buffered, None) or await receive()

        return await self.app(scope, replay, send)


class RequestLog:
    """Logs what changes something or fails, and marks every answer.

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
                MutableHeaders(scope=message)["X-Content-Type-Options"] = "nosniff"
                if method != "GET" or message["status"] >= 500:
                    took = round(time.perf_counter() - start, 4)
                    log.info("request", method=method, path=scope["path"], status=message["status"], seconds=took)
            await send(message)

        return await self.app(scope, receive, noted)


def open_context(settings: Settings) -> Context:
    """Connect to nothing yet, but know where everything is."""
    storage = open_storage(settings)

    def opener(card: DatasetCard, location: Mapping[str, Any]) -> Dataset:
        return open_dataset(card, location, settings, storage)

    return Context(
        settings, Database(settings.database), storage, Broker(celery_app(settings)),
        Catalog(settings.assets_dir, opener),
    )  # fmt: skip


class Api(FastAPI):
    """Describes itself by service/reference, once it is asked."""

    @cached_property
    def page(self) -> str:
        return page(self.openapi())

    def openapi(self) -> dict[str, Any]:
        self.openapi_schema = self.openapi_schema or describe(self.routes, self.version)
        return self.openapi_schema


def create_app(settings: Settings, context: Context | None = None) -> Api:
    """The API over `context`, or over one of its own, which it then closes at shutdown."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.context = context or open_context(settings)
        app.state.feed = Feed(app.state.context.db, settings.max_streams)
        yield
        if context is None:
            app.state.context.broker.close()
            app.state.context.db.close()

    app = Api(version="1", lifespan=lifespan, docs_url=None, redoc_url=None, generate_unique_id_function=operation_id)
    of_jobs, registries = (jobs, items, artifacts, archive, events, bulk), (catalog, images, uploads, checkpoints)
    for module in (*of_jobs, recipes, *registries, workers, webhooks, health):
        app.include_router(module.router)
    errors.install(app)
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes, streamed=STREAMED)
    app.add_middleware(RequestLog)
    _add_dashboard(app)
    return app


def _add_dashboard(app: Api) -> None:
    app.mount("/ui/static", StaticFiles(directory=WEB), name="static")

    @app.get("/", include_in_schema=False)
    def root() -> RedirectResponse:
        return RedirectResponse("/ui/")

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(app.page, headers={"Content-Security-Policy": CSP, "Cache-Control": "no-cache"})

    @app.get("/ui/{path:path}", include_in_schema=False)
    def dashboard(path: str) -> FileResponse:  # noqa: ARG001 - the page reads its own address
        return FileResponse(WEB / "index.html", headers={"Content-Security-Policy": CSP, "Cache-Control": "no-cache"})
