"""The HTTP API as an ASGI application."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp, Scope

from service import errors, tracing
from service.access.gate import Gate, Verifier
from service.access.secret import server_secret
from service.api import (
    archive,
    artifacts,
    bulk,
    catalog,
    checkpoints,
    events,
    health,
    images,
    inside,
    items,
    jobs,
    metrics,
    recipes,
    session,
    uploads,
    webhooks,
    workers,
)  # fmt: skip
from service.api.context import Context
from service.api.receiving import STREAMED
from service.api.strict import known_query
from service.broker import Broker, celery_app
from service.cards import DatasetCard
from service.catalog import Catalog, Dataset
from service.data.opening import open_dataset
from service.db import Database
from service.events import Feed
from service.headers import PAGE, Guarded
from service.intake import Intake
from service.middleware import BodyLimit, RequestLog
from service.reference.page import page
from service.reference.schema import describe, operation_id
from service.settings import Settings
from service.storage import open_storage

WEB = Path(__file__).parent / "web"


def open_context(settings: Settings) -> Context:
    """Connect to nothing yet, but know where everything is."""
    storage = open_storage(settings)

    def opener(card: DatasetCard, location: Mapping[str, Any]) -> Dataset:
        return open_dataset(card, location, settings, storage)

    db = Database(settings.database)
    return Context(
        settings, db, storage, Broker(celery_app(settings)), Catalog(settings.assets_dir, opener), Intake(db, settings)
    )


class Api(FastAPI):
    """Describes itself by service/reference, once it is asked."""

    @cached_property
    def page(self) -> str:
        return page(self.openapi())

    def build_middleware_stack(self) -> ASGIApp:
        return Guarded(super().build_middleware_stack())

    def openapi(self) -> dict[str, Any]:
        self.openapi_schema = self.openapi_schema or describe(self.routes, self.version)
        return self.openapi_schema


def create_app(settings: Settings, context: Context | None = None) -> Api:
    """The API over `context`, or over one of its own, which it then closes at shutdown."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.context = context or open_context(settings)
        app.state.feed = Feed(app.state.context.db, settings.max_streams)
        asked = settings.auth == "on"
        app.state.verifier = Verifier(app.state.context.db, server_secret(settings), settings) if asked else None
        yield
        if context is None:
            app.state.context.close()

    app = Api(version="1", lifespan=lifespan, docs_url=None, redoc_url=None, generate_unique_id_function=operation_id,
        dependencies=[Depends(known_query)], telemetry=tracing.of_requests(),
    )  # fmt: skip
    of_jobs, registries = (
        (jobs, items, artifacts, archive, events, bulk, inside),
        (catalog, images, uploads, checkpoints),
    )
    for module in (*of_jobs, recipes, *registries, workers, webhooks, session, health, metrics):
        app.include_router(module.router)
    errors.install(app)
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes, streamed=STREAMED)
    app.add_middleware(Gate, verifier=_verifier)
    app.add_middleware(RequestLog)
    _add_dashboard(app)
    return app


def _verifier(scope: Scope) -> Verifier | None:
    found: Verifier | None = scope["app"].state.verifier
    return found


def _add_dashboard(app: Api) -> None:
    app.mount("/ui/static", StaticFiles(directory=WEB), name="static")

    @app.get("/", include_in_schema=False)
    def root() -> RedirectResponse:
        return RedirectResponse("/ui/")

    @app.get("/docs", include_in_schema=False)
    def docs(request: Request) -> HTMLResponse:  # not of `app`: FastAPI keeps each endpoint, and all that it names
        return HTMLResponse(request.app.page, headers=PAGE)

    # All modules at once, instead of each when another names it.
    modules = sorted({path.name for path in WEB.glob("*.js")} - {"app.js", "reference.js", "theme.js"})
    links = "".join(f'<link rel="modulepreload" href="/ui/static/{name}" />' for name in modules)
    page = (WEB / "index.html").read_text().replace("</head>", f"{links}</head>")

    @app.get("/ui/{path:path}", include_in_schema=False)
    def dashboard(path: str) -> HTMLResponse:  # noqa: ARG001 - the page reads its own address
        return HTMLResponse(page, headers=PAGE)
