"""Gauges: current figures of all jobs and webhooks."""

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
    """When the job that has waited longest was accepted, for backends with queued jobs."""
    webhooks: dict[DeliveryState, int]
    """Pending and dead webhooks."""


def read_gauges(prefix: str) -> Operation[Gauges]:
    keys = Keys(prefix)
    arg_keys = [keys.counts, keys.state(State.RUNNING), keys.state(State.QUEUED)]
    arg_keys += [f"{keys.webhooks}{state}" for state in (DeliveryState.PENDING, DeliveryState.DEAD)]
    args: list[Argument] = [keys.queue(""), keys.backend(""), keys.record(""), *Backend]
    return Operation("housekeeping/gauges", arg_keys, args, _parse)


def _parse(reply: tuple[list[str], list[int], list[int], list[str], int, int]) -> Gauges:
    flat, queued, running, oldest, pending, dead = reply
    return Gauges(
        counts=Counts({field: int(value) for field, value in zip(flat[::2], flat[1::2], strict=True)}),
        queued=dict(zip(Backend, queued, strict=True)),
        running=dict(zip(Backend, running, strict=True)),
        waiting_since={backend: creation_time(job) for backend, job in zip(Backend, oldest, strict=True) if job},
        webhooks={DeliveryState.PENDING: pending, DeliveryState.DEAD: dead},
    )


def creation_time(job_id: str) -> datetime:
    """A UUIDv7 begins with its creation time in milliseconds (RFC 9562, 5.7)."""
    return datetime.fromtimestamp((uuid.UUID(job_id).int >> 80) / 1000, UTC)
