"""Webhooks and their deliveries, as clients change and read them. Each function but one is one transaction's work."""

import json
import uuid
from typing import Any

from sqlalchemy import ColumnElement, delete, func, null, select, update
from sqlalchemy.orm import Session

from service.bulk_models import Delivery, Webhook
from service.cursors import page, timestamp
from service.db import Database, now
from service.errors import Conflict, FieldError, InvalidInput, NotFound
from service.jobs import UNSYNCHRONIZED
from service.models import Job
from service.settings import Settings
from service.webhooks import outbox, schemas, targets
from service.webhooks.sealing import seal
from service.webhooks.signing import new_secret

MOST = 100  # webhooks: every move of every job looks at all of them
MOST_SECRETS = 10  # that sign one delivery
OVERLAP = 86_400.0
"""Seconds for which a secret still signs after it was replaced."""
PENDING = Delivery.delivered_at.is_(None) & Delivery.failed_at.is_(None)
JOB = select(Job.id).where(Job.id == Delivery.job_id, Job.deleted_at.is_(None))
SHOWN = Delivery.job_id.is_(None) | JOB.exists()
"""What was told of a deleted job is sent if it was not, but gone for whoever asks."""
CHUNK = 10_000
"""Deliveries that one transaction removes or gives up."""


def create(session: Session, request: schemas.WebhookRequest, client: str, settings: Settings) -> schemas.NewWebhook:
    """Raises InvalidInput, or Conflict if there are as many as may be."""
    _check(request.url, settings)
    if (session.scalar(select(func.count()).select_from(Webhook)) or 0) >= MOST:
        raise Conflict(f"there are {MOST} webhooks already; allowed: {MOST}")
    secret = new_secret()
    row = Webhook(
        id=f"wh_{uuid.uuid4().hex}", secrets=[{"secret": seal(secret, settings), "expires_at": None}], client=client,
        created_at=session.scalars(select(now())).one(), **request.model_dump(),
    )  # fmt: skip
    session.add(row)
    session.flush()
    return schemas.NewWebhook(secret=secret, **_fields(row))


def change(session: Session, webhook_id: str, request: schemas.WebhookChange, settings: Settings) -> schemas.Webhook:
    """Raises NotFound, InvalidInput."""
    row = _locked(session, webhook_id)
    values = request.model_dump(exclude_unset=True)
    if "url" in values:
        _check(values["url"], settings)
    disabled = values.pop("disabled", None)
    if "labels" in values:
        values["labels"] = values["labels"] or {}
    for name, value in values.items():
        setattr(row, name, value)
    session.flush()
    if disabled and row.disabled_at is None:
        disable(session, webhook_id, "disabled by a client")
    elif disabled is False:
        row.disabled_at = row.disabled_reason = None
        session.flush()
    session.refresh(row)
    return shown(row)


def disable(session: Session, webhook_id: str, reason: str) -> None:
    """Send nothing more to a webhook, and give up what waits for it. Locks it before its deliveries."""
    this = (Webhook.id == webhook_id) & Webhook.disabled_at.is_(None)
    values = {"disabled_at": now(), "disabled_reason": reason}
    session.execute(update(Webhook).where(this).values(values), execution_options=UNSYNCHRONIZED)
    give_up(session, webhook_id)


def give_up(session: Session, webhook_id: str) -> None:
    """What waits for a disabled webhook is not sent. Of more than a chunk, the sender's claims give up the rest."""
    waits = _some((Delivery.webhook_id == webhook_id) & PENDING, CHUNK)
    values = {"failed_at": now(), "error": "the webhook was disabled"}
    session.execute(update(Delivery).where(waits).values(values), execution_options=UNSYNCHRONIZED)


def remove(db: Database, webhook_id: str) -> None:
    """First what it was told, a chunk a transaction, so that no job's move waits for it. Raises NotFound."""
    with db.transaction() as session:
        _locked(session, webhook_id)
        disable(session, webhook_id, "it is being removed")
    removed = CHUNK
    while removed == CHUNK:
        with db.transaction() as session:
            removed = clear(session, Delivery.webhook_id == webhook_id, CHUNK)
    with db.transaction() as session:
        session.execute(delete(Webhook).where(Webhook.id == webhook_id), execution_options=UNSYNCHRONIZED)


def clear(session: Session, which: ColumnElement[bool], most: int) -> int:
    """Remove so many of these deliveries at most; answers how many."""
    gone = delete(Delivery).where(_some(which, most)).returning(Delivery.id)
    return len(session.scalars(gone, execution_options=UNSYNCHRONIZED).all())


def _some(which: ColumnElement[bool], most: int) -> ColumnElement[bool]:
    """Those that nobody else is changing just now."""
    return Delivery.id.in_(select(Delivery.id).where(which).limit(most).with_for_update(skip_locked=True))


def rotate(session: Session, webhook_id: str, settings: Settings) -> schemas.NewWebhook:
    """A new secret; the one before signs beside it for a day. Raises NotFound, or Conflict if too many still sign."""
    row, at = _locked(session, webhook_id), session.scalars(select(now())).one()
    older = [s if s["expires_at"] else s | {"expires_at": at + OVERLAP} for s in valid(row, at)]
    if len(older) >= MOST_SECRETS:
        raise Conflict(f"{len(older)} secrets of webhook {webhook_id} still sign; allowed: {MOST_SECRETS} in a day")
    secret = new_secret()
    row.secrets = [{"secret": seal(secret, settings), "expires_at": None}, *older]
    return schemas.NewWebhook(secret=secret, **_fields(row))


def valid(row: Webhook, at: float) -> list[dict[str, Any]]:
    """The secrets that sign at this time."""
    return [s for s in row.secrets if s["expires_at"] is None or s["expires_at"] > at]


def test(session: Session, webhook_id: str) -> schemas.Delivery:
    """Send an event that says nothing. Raises NotFound, or Conflict for a disabled webhook."""
    _enabled(_locked(session, webhook_id))
    at = session.scalars(select(now())).one()
    delivery_id = outbox.write(session, [webhook_id], outbox.TEST, at, {"webhook": webhook_id})
    return shown_delivery(session.get_one(Delivery, delivery_id))


def retry(session: Session, delivery_id: str) -> schemas.Delivery:
    """Send a delivery now, and again by the whole schedule. Raises NotFound, or Conflict for a disabled webhook."""
    told = select(Delivery.webhook_id).join(Webhook, Webhook.id == Delivery.webhook_id)
    webhook_id = session.scalar(told.where(Delivery.id == delivery_id, SHOWN))
    if webhook_id is None:
        raise NotFound(f"no delivery {delivery_id}")
    _enabled(_locked(session, webhook_id))
    again: dict[str, Any] = {"next_at": now(), "attempts": 0, "delivered_at": null(), "failed_at": null()}
    mine = Delivery.id == delivery_id
    session.execute(update(Delivery).where(mine).values(again), execution_options=UNSYNCHRONIZED)
    return shown_delivery(session.get_one(Delivery, delivery_id))


def find(session: Session, webhook_id: str) -> schemas.Webhook:
    """Raises NotFound."""
    return shown(_get(session, webhook_id))


def listed(session: Session, limit: int, cursor: str | None) -> schemas.WebhookList:
    """Newest first."""
    rows, following = page(session, select(Webhook), limit, cursor, Webhook.created_at, Webhook.id, newest=True)
    return schemas.WebhookList(webhooks=[shown(row) for row in rows], next_cursor=following)


def deliveries(session: Session, webhook_id: str, limit: int, cursor: str | None) -> schemas.DeliveryList:
    """Newest first. Raises NotFound."""
    _get(session, webhook_id)
    query = select(Delivery).where(Delivery.webhook_id == webhook_id, SHOWN)
    rows, following = page(session, query, limit, cursor, Delivery.created_at, Delivery.id, newest=True)
    return schemas.DeliveryList(deliveries=[shown_delivery(row) for row in rows], next_cursor=following)


def _check(url: str, settings: Settings) -> None:
    try:
        targets.parse(url, settings)
    except targets.Refused as e:
        raise InvalidInput(FieldError("url", str(e))) from e


def _get(session: Session, webhook_id: str) -> Webhook:
    row = session.get(Webhook, webhook_id)
    if row is None:
        raise NotFound(f"no webhook {webhook_id}")
    return row


def _locked(session: Session, webhook_id: str) -> Webhook:
    session.scalar(select(Webhook.id).where(Webhook.id == webhook_id).with_for_update(key_share=True))
    return _get(session, webhook_id)


def _enabled(row: Webhook) -> None:
    if row.disabled_at is not None:
        raise Conflict(f"webhook {row.id} is disabled; PATCH it with disabled: false first")


def _fields(row: Webhook) -> dict[str, Any]:
    return {
        "id": row.id, "url": row.url, "events": row.events, "labels": row.labels, "description": row.description,
        "created_at": timestamp(row.created_at), "disabled_at": timestamp(row.disabled_at),
        "disabled_reason": row.disabled_reason,
    }  # fmt: skip


def shown(row: Webhook) -> schemas.Webhook:
    return schemas.Webhook(**_fields(row))


def shown_delivery(row: Delivery) -> schemas.Delivery:
    state = "delivered" if row.delivered_at else "failed" if row.failed_at else "pending"
    return schemas.Delivery(
        id=row.id, webhook=row.webhook_id, event=row.event, job=row.job_id, attempts=row.attempts, status=row.status,
        state=state, error=row.error, body=json.loads(row.body), created_at=timestamp(row.created_at),
        next_at=timestamp(row.next_at) if state == "pending" else None, delivered_at=timestamp(row.delivered_at),
        failed_at=timestamp(row.failed_at),
    )  # fmt: skip
