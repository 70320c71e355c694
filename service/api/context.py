"""What a route needs: the process's database, storage, broker, catalog and settings, and who asks."""

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, NamedTuple

from fastapi import Depends, Header, Path, Query, Request, Response
from sqlalchemy.orm import Session

from service import drafts, estimates, limits, responses, submissions
from service.access.gate import PRINCIPAL
from service.access.principal import DEFAULT, EVERYBODY
from service.broker import Broker
from service.bulk import accepting, selection
from service.bulk_models import Planning
from service.catalog import Catalog
from service.db import Database
from service.drafts import Draft
from service.errors import Problem
from service.intake import Intake
from service.kinds import dispatch
from service.kinds.planning import Plan, is_here, open_named
from service.requests import PRIORITIES, Submission
from service.settings import Settings
from service.storage import Storage
from service.telling import Told


@dataclass(frozen=True)
class Context:
    """Everybody's, or by `of` a tenant's, whose database and catalog have nothing of others."""

    settings: Settings
    db: Database
    storage: Storage
    broker: Broker
    catalog: Catalog
    intake: Intake
    planning: threading.Event = field(default_factory=threading.Event)
    """Set when a job waits to be planned."""
    tenant: str = DEFAULT
    narrowed: dict[str, "Context"] = field(default_factory=dict)

    def of(self, tenant: str) -> "Context":
        """The same for a tenant."""
        if tenant not in self.narrowed:
            self.narrowed[tenant] = replace(self, tenant=tenant, db=self.db.of(tenant), catalog=self.catalog.of(tenant))
        return self.narrowed[tenant]

    def close(self) -> None:
        """Answer who asks still, send what waits, and let go of the database."""
        self.intake.close()
        self.broker.close()
        self.db.close()


# Coroutines, since a plain function that a route depends on costs it a thread.
async def whole_of(request: Request) -> Context:
    """Everybody's."""
    context: Context = request.app.state.context
    return context


Whole = Annotated[Context, Depends(whole_of)]


async def context_of(request: Request) -> Context:
    """The context of the tenant that asks: what is outside of /v1 asks for nobody."""
    context: Context = request.app.state.context
    return context.of(request.scope.get(PRINCIPAL, EVERYBODY).tenant)


Ctx = Annotated[Context, Depends(context_of)]


def _reading(ctx: Ctx) -> Iterator[Session]:
    with ctx.db.reading() as session:
        yield session


Reading = Annotated[Session, Depends(_reading, scope="function")]  # over before the answer is sent


async def client_of(request: Request) -> str:
    if (principal := request.scope.get(PRINCIPAL, EVERYBODY)).key:
        return str(principal.tenant)
    if authorization := request.headers.get("authorization"):
        return hashlib.sha256(authorization.encode()).hexdigest()[:16]
    return request.client.host[:64] if request.client else "unknown"


def room_of(ctx: Ctx, content_length: Annotated[int, Header(include_in_schema=False)] = 0) -> None:
    """Raises QuotaExceeded for a body that is more than the tenant may still have stored."""
    with ctx.db.reading() as session:
        limits.room(session, ctx.settings, ctx.tenant, content_length)


ROOM = [Depends(room_of)]
Client = Annotated[str, Depends(client_of)]
"""Whose queued items count together: a tenant's. Where no keys are asked for, those who send the same Authorization, or
else come from the same address."""
# What a database could not even compare (NUL, integers beyond its own) is refused here.
ID = r"^[A-Za-z0-9_.:-]{1,100}$"
TEXT = r"^[^\x00]*$"
Id = Annotated[str, Path(pattern=ID)]
Index = Annotated[int, Path(ge=0, lt=2**31)]
Limit = Annotated[int, Query(ge=1, le=500, description="Most entries in the answer")]
Cursor = Annotated[str | None, Query(max_length=500, description="next_cursor of the page before")]
LONGEST_KEY = 255
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=LONGEST_KEY)]
Presign = Annotated[bool, Query(description="Give every artifact a link to the storage, for whoever has it")]
RETRY_AFTER = "2"


class Asked(NamedTuple):
    """A submission on its way into the database, with others of the moment."""

    told: Future[Told]
    draft: Draft | None
    """What is inserted; None if the job is there already."""

    def answer(self, ctx: Context) -> Response:
        """Send for the job's shards and tell of it, once it is there. Raises what limits raise."""
        told = self.told.result()
        if self.draft and told.job_id == self.draft.job["id"]:
            ctx.broker.enqueue(self.draft.shard_ids, told.priority)
            if self.draft.rows[Planning]:
                ctx.planning.set()
        headers = {"Location": f"/v1/jobs/{told.job_id}", "Retry-After": RETRY_AFTER}
        return Response(told.body, 202, headers, "application/json")


def insert(ctx: Context, draft: Callable[[Session], Draft], digest: str, key: str | None) -> Asked:
    """Draft a job and have it inserted, or find the one that `key` made.

    Raises what drafting raises; but a key is answered with its job even if the request would be refused now.
    """
    try:
        with ctx.db.reading() as session:
            drafted = draft(session)
    except Problem:
        with ctx.db.reading() as session:
            before = submissions.by_keys(session, [key] if key else []).get(key)
        if before is None:
            raise
        return Asked(ctx.intake.tell(before.made_by(digest)), None)
    return Asked(ctx.intake.take(drafted), drafted)


def opened(ctx: Context, body: Submission) -> Catalog:
    """All that the request may name of what is registered by now, and what planning reads of it: before the
    transaction."""
    catalog = ctx.catalog if is_here(body, ctx.catalog) else ctx.catalog.latest(ctx.db)
    open_named(body, catalog)
    return catalog


def submit(
    ctx: Context, body: Submission, key: str | None, client: str, kind: str = "",
    beside: Mapping[str, Any] = drafts.NOTHING, digest: str = "",
) -> Asked:  # fmt: skip
    """Plan a request of any kind and have its job inserted, `beside` too. Raises InvalidInput, TooManyQueued."""
    digest, catalog = digest or submissions.request_digest(body, kind), opened(ctx, body)
    key = submissions.keyed(ctx.tenant, key)
    request = selection.explicit(body, catalog, ctx.settings.max_items, accepting.KEEP)

    def draft(session: Session) -> Draft:
        about = told_of(ctx, session, body, client, beside)
        plan, total = _plan(ctx, request, catalog, session)
        if accepting.is_large(request, ctx.settings):
            return accepting.draft(plan, total, digest, key, about)
        return drafts.planned(plan, digest, key, ctx.settings.shard_items, about)

    return insert(ctx, draft, digest, key)


def told_of(ctx: Context, session: Session, body: Submission, client: str, beside: Mapping[str, Any]) -> dict[str, Any]:
    """What a job's row holds beside its plan: of its request, of whom it is, and `beside`."""
    asked = submissions.columns(session, body, ctx.settings.retention_seconds)
    return {**asked, "client": client, "tenant": ctx.tenant, **beside}


def _plan(ctx: Context, request: Submission, catalog: Catalog, session: Session) -> tuple[Plan, int | None]:
    """What a request would become, and how many items, if that is known: those of a large one are planned later."""
    if accepting.is_large(request, ctx.settings):
        return accepting.outline(request, catalog, session, ctx.settings)
    plan = dispatch.plan(request, catalog, session, ctx.settings)
    return plan, len(plan.items)


def preview(ctx: Context, body: Submission, client: str) -> responses.Preview:
    """What a request would become. Raises what submitting it would."""
    catalog = opened(ctx, body)
    request = selection.explicit(body, catalog, ctx.settings.max_items, accepting.KEEP)
    with ctx.db.reading() as session:
        plan, total = _plan(ctx, request, catalog, session)
        submissions.columns(session, body)
        limits.check(session, ctx.settings, client, total or 0)
        return estimates.preview(session, plan, total, ctx.settings.shard_items, PRIORITIES[body.priority])
