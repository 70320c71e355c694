"""How jobs come to be: a plan becomes rows, in one transaction."""

import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import drafts, requests
from service.access.principal import DEFAULT
from service.db import among, insert_all
from service.errors import IdempotencyKeyReused
from service.kinds.planning import ItemPlan
from service.models import Item, Job, Shard
from service.requests import Submission
from service.states import ShardState

MARK = "\x1f"
"""What no header can have in it, and so no key as it is sent."""


def request_digest(request: Submission, name: str = "") -> str:
    """The same for two requests that mean the same, and are for the same recipe `name`."""
    canonical = name + json.dumps(request.model_dump(mode="json"), sort_keys=True)
    beside = requests.envelope(request)
    canonical += beside.pop("deadline", "")  # as it was before there was more
    if beside:
        canonical += json.dumps(beside, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


class Made(NamedTuple):
    """The job that an idempotency key made."""

    key: str
    job_id: str
    digest: str

    def made_by(self, digest: str) -> str:
        """Its id, if by the same request. Raises IdempotencyKeyReused."""
        if self.digest != digest:
            named = "" if MARK in self.key else f" {self.key!r}"
            message = f"Idempotency-Key{named} was used for another request, job {self.job_id}"
            raise IdempotencyKeyReused(message)
        return self.job_id


def keyed(tenant: str, key: str | None) -> str | None:
    """A tenant's idempotency key as it is stored: the same key of another tenant is another."""
    if key is None or tenant == DEFAULT:
        return key
    return f"{tenant}{MARK}{hashlib.sha256(key.encode()).hexdigest()}"


def by_keys(session: Session, keys: Collection[str]) -> dict[str | None, Made]:
    """The jobs that these idempotency keys have made."""
    columns = (Job.idempotency_key, Job.id, Job.request_digest)
    found = session.execute(select(*columns).where(among(Job.idempotency_key, keys))) if keys else ()
    return {key: Made(str(key), job_id, digest) for key, job_id, digest in found}


def columns(session: Session, request: Submission, kept_for: int | None = None) -> dict[str, Any]:
    """What a request has beside its parameters, as a job's columns and its `labels`.

    One that says nothing of its retention is `kept_for` so many seconds. Raises InvalidInput for a deadline that has
    passed.
    """
    said = "retention_seconds" in request.model_fields_set
    return {
        "deadline": requests.seconds(session, request), "priority": requests.PRIORITIES[request.priority],
        "description": request.description, "metadata": request.metadata or None, "labels": request.labels,
        "retention_seconds": request.retention_seconds if said else kept_for,
        "request": request.model_dump(mode="json", exclude_unset=True) | requests.envelope(request),
    }  # fmt: skip


def fill(
    session: Session, job_id: str, items: Sequence[ItemPlan], shard_items: int, state: ShardState = ShardState.QUEUED,
    first: int = 0, shard: int = 0,
) -> list[str]:  # fmt: skip
    """Insert shards and items of a job, numbered from `shard` and `first`; answers the shards' ids.

    None of them is sent for yet: `jobs.to_send` answers those that may be.
    """
    shards, rows = drafts.filled(job_id, items, shard_items, state, first, shard)
    insert_all(session, {Shard: shards, Item: rows})
    return [row["id"] for row in shards]
