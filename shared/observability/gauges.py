"""What can be told of all jobs and webhooks together, as it is on record now."""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from shared.jobs.states import State
from shared.jobs.types import Backend
from shared.observability.counters import Counts
from shared.redis.keys import Keys
from shared.redis.store import Argument, Operation
from shared.webhooks.deliveries import DeliveryState


@dataclass(frozen=True)
class Gauges:
    counts: Counts
    queued: dict[Backend, int]
    running: dict[Backend, int]
    waiting_since: dict[Backend, datetime]
    """When the job that has waited longest was accepted; backends for which none waits are not in it."""
    webhooks: dict[DeliveryState, int]
    """Those on their way, and those that were given up."""


def read_gauges(prefix: str) -> Operation[Gauges]:
    keys = Keys(prefix)
    places = [keys.counts, keys.state(State.RUNNING), keys.state(State.QUEUED)]
    places += [f"{keys.webhooks}{state}" for state in (DeliveryState.PENDING, DeliveryState.DEAD)]
    args: list[Argument] = [keys.queue(""), keys.backend(""), keys.record(""), *Backend]
    return Operation("housekeeping/gauges", places, args, _figures)


def _figures(reply: tuple[list[str], list[int], list[int], list[str], int, int]) -> Gauges:
    flat, queued, running, oldest, pending, dead = reply
    return Gauges(
        counts=Counts({field: int(value) for field, value in zip(flat[::2], flat[1::2], strict=True)}),
        queued=dict(zip(Backend, queued, strict=True)),
        running=dict(zip(Backend, running, strict=True)),
        waiting_since={backend: created_at(job) for backend, job in zip(Backend, oldest, strict=True) if job},
        webhooks={DeliveryState.PENDING: pending, DeliveryState.DEAD: dead},
    )


def created_at(job_id: str) -> datetime:
    """A UUIDv7 begins with the millisecond in which it was made (RFC 9562, 5.7)."""
    return datetime.fromtimestamp((uuid.UUID(job_id).int >> 80) / 1000, UTC)
