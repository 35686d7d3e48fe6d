"""Webhook deliveries: of a job, as its record stores them, and in lists of those that were not delivered."""

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, Field, TypeAdapter

from shared.jobs.types import FrozenModel, WebhookEvent


class DeliveryState(StrEnum):
    PENDING = "pending"
    """Waits to be sent at `next_attempt_at`."""
    DELIVERED = "delivered"
    DROPPED = "dropped"
    """Not sent: progress that failed or was overtaken by a newer event, the oldest of an owner with too many pending
    webhooks, or any event for a receiver that has answered 410."""
    DEAD = "dead"
    """Failed for good; POST /api/webhooks/{id}/redeliver sends it again."""


class Delivery(FrozenModel):
    """One webhook and the state of its delivery."""

    id: str
    """Its `webhook-id` header, the same in every attempt."""
    event: WebhookEvent
    state: DeliveryState
    attempts: int
    last_status: int | None = None
    """HTTP status of the last response; null if there was none."""
    last_error: str | None = None
    last_attempt_at: datetime | None = None
    next_attempt_at: datetime | None = None


class KeptWebhookView(Delivery):
    job_id: str
    url: str
    """Without its query, which may contain a secret."""
    created_at: datetime


class WebhookListView(BaseModel):
    webhooks: list[KeptWebhookView]
    cursor: str | None = Field(description="Send it to get the next page; null on the last page")


_DELIVERIES = TypeAdapter(dict[str, Delivery])


def parse_deliveries(text: str) -> tuple[Delivery, ...]:
    """The latest of each kind of event, in the order of WebhookEvent; '' stands for none."""
    by_event = _DELIVERIES.validate_json(text) if text else {}
    return tuple(by_event[event] for event in WebhookEvent if event in by_event)


def without_query(url: str) -> str:
    """The query may contain a secret."""
    return url.partition("#")[0].partition("?")[0]
