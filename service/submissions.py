"""How jobs come to be: a plan becomes rows, in one transaction."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from service import drafts, requests
from service.db import among, now
from service.drafts import NOTHING, Draft
from service.errors import IdempotencyKeyReused
from service.kinds.planning import ItemPlan, Plan
from service.models import Item, Job, Shard
from service.requests import Submission
from service.states import ShardState


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
            message = f"Idempotency-Key {self.key!r} was used for another request, job {self.job_id}"
            raise IdempotencyKeyReused(message)
        return self.job_id


def by_keys(session: Session, keys: Collection[str]) -> dict[str | None, Made]:
    """The jobs that these idempotency keys have made."""
    columns = (Job.idempotency_key, Job.id, Job.request_digest)
    found = session.execute(select(*columns).where(among(Job.idempotency_key, keys))) if keys else ()
    return {key: Made(str(key), job_id, digest) for key, job_id, digest in found}


def submit(
    session: Session, plan: Plan, digest: str, key: str | None, shard_items: int, beside: Mapping[str, Any] = NOTHING
) -> tuple[str, list[str]]:
    """Insert a planned job alone; answers its id and those of the shards to enqueue after the commit."""
    return _alone(session, drafts.planned(plan, digest, key, shard_items, beside))


def submit_recipe(
    session: Session, parameters: Mapping[str, Any], plans: Mapping[str, Plan], digest: str, key: str | None,
    shard_items: int, beside: Mapping[str, Any] = NOTHING,
) -> tuple[str, list[str]]:  # fmt: skip
    """Insert a recipe and its studies; answers as `submit` does."""
    return _alone(session, drafts.recipe(parameters, plans, digest, key, shard_items, beside))


def _alone(session: Session, draft: Draft) -> tuple[str, list[str]]:
    drafts.insert(session, [draft])
    return draft.job["id"], draft.shard_ids


def columns(session: Session, request: Submission) -> dict[str, Any]:
    """What a request has beside its parameters, as a job's columns and its `labels`.

    Raises InvalidInput for a deadline that has passed.
    """
    return {
        "deadline": requests.seconds(session, request), "priority": requests.PRIORITIES[request.priority],
        "description": request.description, "metadata": request.metadata or None, "labels": request.labels,
        "retention_seconds": request.retention_seconds,
        "request": request.model_dump(mode="json", exclude_unset=True) | requests.envelope(request),
    }  # fmt: skip


def fill(
    session: Session, job_id: str, items: Sequence[ItemPlan], shard_items: int, state: ShardState = ShardState.QUEUED,
    first: int = 0, shard: int = 0, sent: bool = True,
) -> list[str]:  # fmt: skip
    """Insert shards and items of a job, numbered from `shard` and `first`; answers the shards' ids.

    Unless they are `sent` by the caller, `jobs.to_send` answers them.
    """
    at = session.scalar(select(now())) if sent else None
    shards, rows = drafts.filled(job_id, items, shard_items, state, first, shard)
    session.execute(insert(Shard), [row | {"sent_at": at} for row in shards])
    session.execute(insert(Item), rows)
    return [row["id"] for row in shards]
