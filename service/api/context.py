"""What a route needs: the process's database, storage, broker, catalog and settings, and who asks."""

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Header, Path, Query, Request, Response
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service import estimates, limits, queries, responses, submissions
from service.broker import Broker
from service.bulk import accepting, selection
from service.catalog import Catalog
from service.db import Database
from service.kinds import dispatch
from service.kinds.planning import open_named
from service.requests import PRIORITIES, Submission
from service.settings import Settings
from service.storage import Storage
from service.studies import Inversion


@dataclass(frozen=True)
class Context:
    settings: Settings
    db: Database
    storage: Storage
    broker: Broker
    catalog: Catalog
    planning: threading.Event = field(default_factory=threading.Event)
    """Set when a job waits to be planned."""


def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


Ctx = Annotated[Context, Depends(_context)]


def _reading(ctx: Ctx) -> Iterator[Session]:
    with ctx.db.reading() as session:
        yield session


Reading = Annotated[Session, Depends(_reading, scope="function")]  # over before the answer is sent


def _client(request: Request) -> str:
    if authorization := request.headers.get("authorization"):
        return hashlib.sha256(authorization.encode()).hexdigest()[:16]
    return request.client.host[:64] if request.client else "unknown"


Client = Annotated[str, Depends(_client)]
"""Whose queued items count together: those who send the same Authorization, or else come from the same address."""
# What a database could not even compare (NUL, integers beyond its own) is refused here.
ID = r"^[A-Za-z0-9_.:-]{1,100}$"
TEXT = r"^[^\x00]*$"
Id = Annotated[str, Path(pattern=ID)]
Index = Annotated[int, Path(ge=0, lt=2**31)]
Limit = Annotated[int, Query(ge=1, le=500, description="Most entries in the answer")]
Cursor = Annotated[str | None, Query(max_length=500, description="next_cursor of the page before")]
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)]
Presign = Annotated[bool, Query(description="Give every artifact a link to the storage, for whoever has it")]
RETRY_AFTER = "2"

Submit = Callable[[Session], tuple[str, list[str]]]
"""Inserts a job; answers its id and the shards to enqueue."""


def accept(ctx: Context, response: Response, submit: Submit, digest: str, key: str | None) -> responses.Job:
    """Insert a job, or find the one that `key` made, and send for its shards after the commit."""
    try:
        job_id, shard_ids = _insert(ctx, submit, digest, key)
    except IntegrityError:  # another request with this key committed in between: now it is found
        job_id, shard_ids = _insert(ctx, submit, digest, key)
    response.headers.update({"Location": f"/v1/jobs/{job_id}", "Retry-After": RETRY_AFTER})
    with ctx.db.reading() as session:
        job = queries.job(session, job_id)
    ctx.broker.enqueue(shard_ids, PRIORITIES[job.priority])
    return job


def opened(ctx: Context, body: Submission) -> Catalog:
    """Everything that is registered by now, and what planning the request reads of it: before the transaction."""
    with ctx.db.reading() as session:
        catalog = ctx.catalog.refresh(session)
    open_named(body, catalog)
    return catalog


def admit(ctx: Context, session: Session, body: Submission, client: str, items: int) -> dict[str, Any]:
    """What a job of so many items is inserted with. Raises InvalidInput for a late one, TooManyQueued."""
    limits.check(session, ctx.settings, client, items)
    return submissions.columns(session, body) | {"client": client}


def submit(
    ctx: Context, response: Response, body: Submission, key: str | None, client: str, kind: str = "",
    beside: Mapping[str, Any] = submissions.NOTHING, digest: str = "",
) -> responses.Job:  # fmt: skip
    """Plan a request of any kind and insert its job, `beside` too. Raises InvalidInput, TooManyQueued."""
    digest, catalog = digest or submissions.request_digest(body, kind), opened(ctx, body)
    request = selection.explicit(body, catalog, ctx.settings.max_items, accepting.KEEP)

    def later(session: Session) -> tuple[str, list[str]]:
        assert isinstance(request, Inversion)
        plan, total = accepting.outline(request, catalog, session, ctx.settings)
        admitted = admit(ctx, session, body, client, total or 0) | dict(beside)
        return accepting.accept(session, plan, total, digest, key, admitted), []

    def at_once(session: Session) -> tuple[str, list[str]]:
        plan = dispatch.plan(request, catalog, session, ctx.settings)
        admitted = admit(ctx, session, body, client, submissions.size(plan)) | dict(beside)
        return submissions.submit(session, plan, digest, key, ctx.settings.shard_items, admitted)

    if accepting.is_large(request, ctx.settings):
        job = accept(ctx, response, later, digest, key)
        ctx.planning.set()
        return job
    return accept(ctx, response, at_once, digest, key)


def preview(ctx: Context, body: Submission, client: str) -> responses.Preview:
    """What a request would become. Raises what submitting it would."""
    catalog = opened(ctx, body)
    request = selection.explicit(body, catalog, ctx.settings.max_items, accepting.KEEP)
    with ctx.db.reading() as session:
        if accepting.is_large(request, ctx.settings):
            assert isinstance(request, Inversion)
            plan, total = accepting.outline(request, catalog, session, ctx.settings)
        else:
            plan = dispatch.plan(request, catalog, session, ctx.settings)
            total = len(plan.items)
        admit(ctx, session, body, client, total or 0)
        return estimates.preview(session, plan, total, ctx.settings.shard_items, PRIORITIES[body.priority])


def _insert(ctx: Context, submit: Submit, digest: str, key: str | None) -> tuple[str, list[str]]:
    with ctx.db.transaction() as session:
        if key is not None and (known := submissions.find_by_key(session, key, digest)):
            return known, []
        return submit(session)
