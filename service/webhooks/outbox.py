"""The outbox: events are rows, written in the transaction of what they tell of, and sent by `sender` later."""

import json
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, func, insert, select
from sqlalchemy.orm import Session

from service.bulk_models import Delivery, Label, Webhook
from service.db import iso, now
from service.models import Job

EVERY, TEST = "job.*", "webhook.test"
NAMED = ("model", "dataset")


def asked() -> ColumnElement[bool]:
    """Whether anybody is to be told of anything: what saves a job's moves a question of its own."""
    return select(Webhook.id).where(Webhook.disabled_at.is_(None)).exists()


def note(session: Session, job_id: str, state: str) -> None:
    """Have every webhook that wants to know told that a job has just entered `state`."""
    event = f"job.{state}"
    theirs = select(Job.tenant).where(Job.id == job_id).scalar_subquery()
    enabled = Webhook.disabled_at.is_(None) & (Webhook.tenant == theirs)
    hooks = session.execute(select(Webhook.id, Webhook.events, Webhook.labels).where(enabled))
    wanting = [hook for hook in hooks if event in hook.events or EVERY in hook.events]
    if not wanting:
        return
    labels = _labels(session, job_id)
    told = [hook.id for hook in wanting if hook.labels.items() <= labels.items()]
    # One that is removed before this transaction ends would make it fail.
    still = select(Webhook.id, now().label("at")).where(Webhook.id.in_(told), enabled).order_by(Webhook.id)
    if kept := session.execute(still.with_for_update(read=True, key_share=True)).all():
        write(session, [hook.id for hook in kept], event, kept[0].at, _summary(session, job_id, state, labels), job_id)


def write(
    session: Session, webhooks: Iterable[str], event: str, at: float, data: Mapping[str, Any], job_id: str | None = None
) -> str:
    """Insert an event for each of these webhooks; answers the id of the last delivery."""
    body = json.dumps({"type": event, "timestamp": iso(at), "data": data}, separators=(",", ":"))
    rows = [
        {"id": f"msg_{uuid.uuid4().hex}", "webhook_id": webhook, "event": event, "job_id": job_id, "body": body,
         "created_at": at, "next_at": at}
        for webhook in webhooks
    ]  # fmt: skip
    session.execute(insert(Delivery), rows)
    return str(rows[-1]["id"])


def _labels(session: Session, job_id: str) -> dict[str, str]:
    return {row.key: row.value for row in session.execute(select(Label.key, Label.value).where(Label.job_id == job_id))}


def _summary(session: Session, job_id: str, state: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """What a list of jobs says of one, but nothing that must be counted or may be large."""
    columns = (Job.kind, Job.parent_id, Job.part, Job.description, Job.error, Job.items, Job.counts)
    times = (Job.created_at, Job.finished_at, Job.deadline)
    names = [func.coalesce(*(c[name].as_string() for c in (Job.summary, Job.parameters))).label(name) for name in NAMED]
    row = session.execute(select(*columns, *times, *names).where(Job.id == job_id)).one()._mapping
    url = f"/v1/jobs/{job_id}"
    return {
        "id": job_id, "kind": row["kind"], "state": state, "parent": row["parent_id"], "part": row["part"],
        **{name: row[name] for name in NAMED}, "description": row["description"], "labels": dict(labels),
        "items": {"total": row["items"], **(row["counts"] or {})}, "error": row["error"],
        **{time.key: iso(row[time.key]) for time in times},
        "links": {"self": url, **{name: f"{url}/{name}" for name in ("items", "artifacts", "events")}},
    }  # fmt: skip
