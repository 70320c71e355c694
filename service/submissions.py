"""How jobs come to be: a plan becomes rows, in one transaction."""

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from service import jobs, requests
from service.bulk_models import Label
from service.db import now
from service.errors import IdempotencyKeyReused
from service.kinds.planning import ItemPlan, Plan
from service.models import Item, Job, Shard, Transition
from service.requests import Submission
from service.states import ItemState, JobState, ShardState
from service.summaries import summarize

RECIPE = "recipe"
NOTHING: Mapping[str, Any] = {}
OF_PARTS = {"deadline", "client", "priority"}
"""What a recipe's parts have from it; the rest is the recipe's own, and so are its retention and its end."""
NAMES = ("model", "judge", "dataset", "architecture", "name", "preset", "recipe", "title")
"""Parameters that name something."""


def request_digest(request: Submission, name: str = "") -> str:
    """The same for two requests that mean the same, and are for the same recipe `name`."""
    canonical = name + json.dumps(request.model_dump(mode="json"), sort_keys=True)
    beside = requests.envelope(request)
    canonical += beside.pop("deadline", "")  # as it was before there was more
    if beside:
        canonical += json.dumps(beside, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def find_by_key(session: Session, key: str, digest: str) -> str | None:
    """The job that this idempotency key made, if any. Raises IdempotencyKeyReused if it was for another request."""
    job = session.scalar(select(Job).where(Job.idempotency_key == key))
    if job is not None and job.request_digest != digest:
        raise IdempotencyKeyReused(f"Idempotency-Key {key!r} was used for another request, job {job.id}")
    return job.id if job else None


def submit(
    session: Session, plan: Plan, digest: str, key: str | None, shard_items: int, beside: Mapping[str, Any] = NOTHING
) -> tuple[str, list[str]]:
    """Insert a planned job with its shards and items; answers the job's id and the ids to enqueue after the commit.

    `beside` is what `columns` answers, and `client`, whose items count together.
    """
    last = [plan.last] if plan.last else []
    job_id = insert_job(session, plan.parameters.kind, plan.parameters.model_dump(mode="json"), plan.warnings,
                        size(plan), request_digest=digest, idempotency_key=key, **beside)  # fmt: skip
    shard_ids = fill(session, job_id, plan.items, max(1, shard_items // plan.weight))
    if last:
        fill(session, job_id, last, 1, ShardState.WAITING, first=len(plan.items), shard=len(shard_ids))
    jobs.move(session, job_id, JobState.QUEUED)
    return job_id, shard_ids


def size(*plans: Plan) -> int:
    """How many items they are together."""
    return sum(len(plan.items) + (plan.last is not None) for plan in plans)


def submit_recipe(
    session: Session,
    parameters: Mapping[str, Any],
    plans: Mapping[str, Plan],
    digest: str,
    key: str | None,
    shard_items: int,
    beside: Mapping[str, Any] = NOTHING,
) -> tuple[str, list[str]]:
    """Insert a recipe's studies, by part, and the job that draws them once they are over; answers as `submit` does."""
    warnings = list(dict.fromkeys(w for plan in plans.values() for w in plan.warnings))
    job_id = insert_job(
        session, RECIPE, dict(parameters), warnings, 1, request_digest=digest, idempotency_key=key, **beside
    )
    shared = {name: value for name, value in beside.items() if name in OF_PARTS}
    ids: list[str] = []
    for label, plan in plans.items():
        of_part = shared | {"parent_id": job_id, "part": label}
        ids += submit(session, plan, digest, None, shard_items, of_part)[1]
    drawing = ItemPlan({"source": "recipe", "label": parameters["title"]}, {"source": "recipe"})
    fill(session, job_id, [drawing], 1, ShardState.WAITING)
    jobs.move(session, job_id, JobState.QUEUED)
    return job_id, ids


def columns(session: Session, request: Submission) -> dict[str, Any]:
    """What a request has beside its parameters, as a job's columns and its `labels`.

    Raises InvalidInput for a deadline that has passed.
    """
    return {
        "deadline": requests.seconds(session, request), "priority": requests.PRIORITIES[request.priority],
        "description": request.description, "meta": request.metadata or None, "labels": request.labels,
        "retention_seconds": request.retention_seconds,
        "request": request.model_dump(mode="json", exclude_unset=True) | requests.envelope(request),
    }  # fmt: skip


def insert_job(
    session: Session, kind: str, parameters: dict[str, Any], warnings: list[str], items: int,
    labels: Mapping[str, str] | None = None, **others: Any,
) -> str:  # fmt: skip
    """Insert a job that is still without shards; answers its id."""
    at = session.scalar(select(now()))
    job_id, labels = f"job_{uuid.uuid4().hex}", labels or {}
    job = Job(
        id=job_id, kind=kind, state=JobState.VALIDATING, warnings=warnings, items=items, parameters=parameters,
        created_at=at, text=searched(job_id, kind, parameters, others.get("description"), labels),
        summary=summarize(kind, parameters, others.get("request")), **others,
    )  # fmt: skip
    session.add(job)
    session.add(Transition(job_id=job_id, state=JobState.VALIDATING, at=at))
    session.flush()
    session.add_all(Label(job_id=job_id, key=key, value=value) for key, value in labels.items())
    return job_id


def searched(
    job_id: str, kind: str, parameters: Mapping[str, Any], description: str | None, labels: Mapping[str, str]
) -> str:
    """What a search by text looks at: id, kind, description, labels, and the names among the parameters."""
    named = [parameters[name] for name in NAMES if isinstance(parameters.get(name), str)]
    pairs = [f"{key}={value}" for key, value in labels.items()]
    return "\n".join([job_id, kind, *named, *pairs, description or ""]).lower()


def fill(
    session: Session, job_id: str, items: Sequence[ItemPlan], shard_items: int, state: ShardState = ShardState.QUEUED,
    first: int = 0, shard: int = 0, sent: bool = True,
) -> list[str]:  # fmt: skip
    """Insert shards and items of a job, numbered from `shard` and `first`; answers the shards' ids.

    Unless they are `sent` by the caller, `jobs.to_send` answers them.
    """
    at = session.scalar(select(now())) if sent else None
    shards = [
        Shard(id=f"{job_id}.{shard + n}", job_id=job_id, state=state, first_item=first + begin, sent_at=at,
              item_count=min(shard_items, len(items) - begin), last=state is ShardState.WAITING)
        for n, begin in enumerate(range(0, len(items), shard_items))
    ]  # fmt: skip
    session.add_all(shards)
    session.flush()
    rows = [
        {"job_id": job_id, "index": first + i, "shard_id": shards[i // shard_items].id, "state": ItemState.QUEUED,
         **item._asdict()}
        for i, item in enumerate(items)
    ]  # fmt: skip
    session.execute(insert(Item), rows)
    return [shard.id for shard in shards]
