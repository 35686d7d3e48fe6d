"""What became of the webhooks of a job, as the job tells it."""

from datetime import datetime
from enum import StrEnum

from pydantic import TypeAdapter

from shared.jobs.types import FrozenModel, WebhookEvent


class DeliveryState(StrEnum):
    PENDING = "pending"
    """On its way; `next_attempt_at` says when it is sent (again)."""
    DELIVERED = "delivered"
    DROPPED = "dropped"
    """Progress that could not be sent, or that newer progress or the end of the job has overtaken; the oldest of an
    owner of whom too many were waiting; and what a receiver wants no more that has answered 410."""
    DEAD = "dead"
    """Given up; POST /api/webhooks/{id}/redeliver sends it again."""


class Delivery(FrozenModel):
    """One webhook and what became of it."""

    id: str
    """The `webhook-id` it is sent with, the same in every attempt."""
    event: WebhookEvent
    state: DeliveryState
    attempts: int
    last_status: int | None = None
    """HTTP status of the last answer; null where there was none."""
    last_error: str | None = None
    last_attempt_at: datetime | None = None
    next_attempt_at: datetime | None = None


_DELIVERIES = TypeAdapter(dict[str, Delivery])


def parse_deliveries(text: str) -> tuple[Delivery, ...]:
    """The latest of each kind of event, in the order of their kinds; '' stands for none."""
    held = _DELIVERIES.validate_json(text) if text else {}
    return tuple(held[event] for event in WebhookEvent if event in held)


def without_query(url: str) -> str:
    """An address without its query, which may hold a secret."""
    return url.partition("#")[0].partition("?")[0]
