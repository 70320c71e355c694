"""/v1/webhooks, /v1/deliveries: addresses that are told of what becomes of jobs, and what they were told."""

from fastapi import APIRouter, Response

from service.api.context import Client, Ctx, Cursor, Id, Limit, Reading
from service.webhooks import registry, schemas

router = APIRouter(prefix="/v1", tags=["webhooks"])


@router.post("/webhooks", status_code=201)
def create_webhook(body: schemas.WebhookRequest, response: Response, ctx: Ctx, client: Client) -> schemas.NewWebhook:
    """Have an address told. Deliveries are signed, by the Standard Webhooks specification, with the answer's secret."""
    with ctx.db.transaction() as session:
        made = registry.create(session, body, client, ctx.settings)
    response.headers["Location"] = f"/v1/webhooks/{made.id}"
    return made


@router.get("/webhooks")
def list_webhooks(session: Reading, limit: Limit = 50, cursor: Cursor = None) -> schemas.WebhookList:
    """Newest first, without their secrets."""
    return registry.listed(session, limit, cursor)


@router.get("/webhooks/{webhook_id}")
def get_webhook(webhook_id: Id, session: Reading) -> schemas.Webhook:
    """Without its secret."""
    return registry.find(session, webhook_id)


@router.patch("/webhooks/{webhook_id}")
def change_webhook(webhook_id: Id, body: schemas.WebhookChange, ctx: Ctx) -> schemas.Webhook:
    """Change some of its fields. While it is disabled it is told of nothing, and what waited for it is given up."""
    with ctx.db.transaction() as session:
        return registry.change(session, webhook_id, body, ctx.settings)


@router.delete("/webhooks/{webhook_id}", status_code=204)
def delete_webhook(webhook_id: Id, ctx: Ctx) -> None:
    """Remove it with its deliveries."""
    registry.remove(ctx.db, webhook_id)


@router.post("/webhooks/{webhook_id}/rotate")
def rotate_webhook(webhook_id: Id, ctx: Ctx) -> schemas.NewWebhook:
    """A new secret, shown only now. For a day the one before signs beside it."""
    with ctx.db.transaction() as session:
        return registry.rotate(session, webhook_id, ctx.settings)


@router.post("/webhooks/{webhook_id}/test", status_code=202)
def test_webhook(webhook_id: Id, ctx: Ctx) -> schemas.Delivery:
    """Send an event of the type webhook.test."""
    with ctx.db.transaction() as session:
        return registry.test(session, webhook_id)


@router.get("/webhooks/{webhook_id}/deliveries")
def list_deliveries(webhook_id: Id, session: Reading, limit: Limit = 50, cursor: Cursor = None) -> schemas.DeliveryList:
    """Newest first; each is kept for 30 days."""
    return registry.deliveries(session, webhook_id, limit, cursor)


@router.post("/deliveries/{delivery_id}/retry", status_code=202)
def retry_delivery(delivery_id: Id, ctx: Ctx) -> schemas.Delivery:
    """Send it now, whatever became of it, and if need be again by the whole schedule."""
    with ctx.db.transaction() as session:
        return registry.retry(session, delivery_id)
