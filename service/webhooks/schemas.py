"""What clients send and receive about webhooks."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from service.requests import Description, Labels
from service.schemas import Request

Event = Literal[
    "job.*", "job.queued", "job.running", "job.paused", "job.finalizing", "job.cancelling", "job.succeeded",
    "job.partially_succeeded", "job.failed", "job.cancelled", "job.expired",
]  # fmt: skip
Url = Annotated[str, Field(min_length=1, max_length=2000, description="https://..., of a public address")]
Events = Annotated[
    list[Event], Field(min_length=1, max_length=20, description="Which states to tell of; job.* is all of them")
]
OnlyLabels = Annotated[Labels, Field(description="Tell only of jobs that have all of these labels")]


class WebhookRequest(Request):
    """An address to be told of what becomes of jobs."""

    url: Url
    events: Events = Field(["job.*"])
    labels: OnlyLabels = Field({})
    description: Description | None = None


class WebhookChange(Request):
    """What is left out stays; lists and labels are replaced. `disabled: false` begins again after a 410."""

    url: Url | None = None
    events: Events | None = None
    labels: OnlyLabels | None = None
    description: Description | None = None
    disabled: bool | None = None

    @model_validator(mode="after")
    def _removable(self) -> "WebhookChange":
        for name in self.model_fields_set - {"description", "labels"}:
            if getattr(self, name) is None:
                raise ValueError(f"{name} cannot be null; leave it out to keep it")
        return self


class Webhook(BaseModel):
    id: str
    url: str
    events: list[str]
    labels: dict[str, str]
    description: str | None
    created_at: datetime
    disabled_at: datetime | None = Field(description="Since when nothing is sent; null: it is being told")
    disabled_reason: str | None


class NewWebhook(Webhook):
    secret: str = Field(description="What deliveries are signed with (whsec_...); it is shown only now")


class WebhookList(BaseModel):
    webhooks: list[Webhook]
    next_cursor: str | None


class Delivery(BaseModel):
    id: str = Field(description="The header webhook-id, the same in every attempt")
    webhook: str
    event: str
    job: str | None
    state: Literal["pending", "delivered", "failed"]
    attempts: int
    status: int | None = Field(description="HTTP status of the last attempt; null: there was no answer")
    error: str | None = Field(description="What was wrong with the last attempt")
    body: dict[str, Any]
    created_at: datetime
    next_at: datetime | None = Field(description="When it is tried next; null: it is not")
    delivered_at: datetime | None
    failed_at: datetime | None


class DeliveryList(BaseModel):
    deliveries: list[Delivery]
    next_cursor: str | None
