"""Webhooks: addresses that the service tells of what becomes of jobs."""

from collections.abc import Iterator
from typing import Any

from service.remote.transport import Transport

Webhook = dict[str, Any]


class WebhookCalls(Transport):
    """Each answers what the API does; see its /v1/webhooks."""

    def webhooks(self) -> Iterator[Webhook]:
        """Every webhook, newest first, without its secret."""
        return self.pages("/v1/webhooks", "webhooks", {})

    def webhook(self, webhook: str | Webhook) -> Webhook:
        """The webhook as it is now."""
        return self._webhook("GET", webhook)

    def add_webhook(self, url: str, **fields: Any) -> Webhook:
        """Have an address told; `fields` are `events`, `labels`, `description`. Its `secret` is shown only now."""
        made: Webhook = self.json("POST", "/v1/webhooks", json={"url": url, **fields})
        return made

    def update_webhook(self, webhook: str | Webhook, **changes: Any) -> Webhook:
        """Change url, events, labels, description, or `disabled`."""
        return self._webhook("PATCH", webhook, json=changes, twice=True)

    def delete_webhook(self, webhook: str | Webhook) -> None:
        """Remove it with its deliveries."""
        self.request("DELETE", f"/v1/webhooks/{_id(webhook)}")

    def rotate_webhook(self, webhook: str | Webhook) -> Webhook:
        """Have a new `secret`, shown only now; the one before signs beside it for a day."""
        return self._webhook("POST", webhook, "/rotate")

    def test_webhook(self, webhook: str | Webhook) -> dict[str, Any]:
        """Send an event that says nothing; answers its delivery, which is yet to be sent."""
        return self._webhook("POST", webhook, "/test")

    def deliveries(self, webhook: str | Webhook, **filters: Any) -> Iterator[dict[str, Any]]:
        """What a webhook was told, newest first, and what became of it."""
        return self.pages(f"/v1/webhooks/{_id(webhook)}/deliveries", "deliveries", filters)

    def retry_delivery(self, delivery: str | dict[str, Any]) -> dict[str, Any]:
        """Send a delivery now, whatever became of it."""
        sent: dict[str, Any] = self.json("POST", f"/v1/deliveries/{_id(delivery)}/retry")
        return sent

    def _webhook(self, method: str, webhook: str | Webhook, path: str = "", **kwargs: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.json(method, f"/v1/webhooks/{_id(webhook)}{path}", **kwargs)
        return found


def _id(named: str | dict[str, Any]) -> str:
    return named if isinstance(named, str) else str(named["id"])
