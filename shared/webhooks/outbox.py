"""Webhooks on their way: made with the moves of their job (lua/webhooks/outbox.lua), taken, settled, sent again."""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal

from shared.jobs.job import Progress
from shared.jobs.operations import ANY_OWNER
from shared.jobs.snapshots import JobSnapshot, parse_job
from shared.jobs.types import WebhookEvent
from shared.observability.counters import count_attempt
from shared.redis.keys import Keys
from shared.redis.store import Argument, Operation
from shared.webhooks.deliveries import Delivery, DeliveryState, without_query

#: Longer than any attempt may take: what has not been settled by then is sent by somebody else.
LEASE_MS = 20_000
#: Webhooks of one queue, which are those of one owner for one origin, that are under way at a time.
MAX_IN_FLIGHT_PER_QUEUE = 4
#: A receiver that failed so often in a row is left alone: at first so long, then twice as long each time.
FAILURES_BEFORE_COOLDOWN = 5
COOLDOWN_MS = 10_000
MAX_COOLDOWN_MS = 5 * 60 * 1000
#: What was given up can be sent again for so long, and of one owner only the newest of so many.
DEAD_RETENTION_MS = 7 * 24 * 3600 * 1000
MAX_DEAD_PER_OWNER = 10_000

#: Those that are kept, and can be listed.
ListedState = Literal[DeliveryState.PENDING, DeliveryState.DEAD]


@dataclass(frozen=True)
class Webhook:
    """One event to be told to one receiver. The same in every attempt, but for the number of the attempt."""

    id: str
    event: WebhookEvent
    occurred_at: datetime
    """When it happened."""
    queue: str
    """Where it waited: `scheme://host:port`, and its owner where it has one."""
    attempt: int
    doc: str
    progress: str
    providers: str
    pinned: bool

    @property
    def job_id(self) -> str:
        return self.id.partition("_")[0]

    @property
    def receiver(self) -> str:
        """scheme://host:port"""
        return self.queue.partition(" ")[0]

    def snapshot(self) -> JobSnapshot:
        """The job as it was then. Read late: one that cannot be read is the trouble of nobody else."""
        progress = Progress.model_validate_json(self.progress) if self.progress else None
        return JobSnapshot(job=parse_job(self.doc, self.providers), progress=progress, pinned=self.pinned)


@dataclass(frozen=True)
class ClaimedWebhooks:
    webhooks: tuple[Webhook, ...]
    next_due_ms: int | None
    """How long until there are more; None when nothing is on its way."""


class ReceiverState(StrEnum):
    """How far an attempt got, whatever it came to."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """The receiver takes nothing now; another path of the same origin may."""
    UNREACHABLE = "away"
    """Nobody could connect to the origin, whatever the path."""


@dataclass(frozen=True)
class DeliveryOutcome:
    """What an attempt came to."""

    state: DeliveryState
    status: int | None = None
    error: str = ""
    delay_ms: int = 0
    """Until the next attempt of one that is still pending."""
    receiver: ReceiverState = ReceiverState.ANSWERED
    gone: bool = False
    """Whether it wants to hear no more of this job."""


@dataclass(frozen=True)
class ListedWebhook:
    """A webhook as lists show it."""

    job_id: str
    url: str
    """Without its query."""
    created_at: datetime
    delivery: Delivery


@dataclass(frozen=True)
class WebhookPage:
    webhooks: tuple[ListedWebhook, ...]
    cursor: str | None


class Webhooks:
    """Operations on webhooks that have not been delivered."""

    def __init__(self, prefix: str) -> None:
        self._keys = Keys(prefix)
        self._prefix = self._keys.webhooks
        self.channel = f"{self._prefix}news"

    def claim(self, most: int) -> Operation[ClaimedWebhooks]:
        """Take up to so many that are due, for LEASE_MS."""
        args: list[Argument] = [self._prefix, most, MAX_IN_FLIGHT_PER_QUEUE, LEASE_MS]
        return Operation("webhooks/claim", [f"{self._prefix}owners"], args, _claimed)

    def settle(self, webhook: Webhook, outcome: DeliveryOutcome) -> Operation[bool]:
        """Write down what an attempt came to. One that was delivered, dropped or given up is not sent again."""
        keys = [self._keys.record(webhook.job_id)]
        args: list[Argument] = [self._prefix, webhook.id, webhook.queue, webhook.attempt, outcome.state]
        args += ["" if outcome.status is None else outcome.status, outcome.error, outcome.delay_ms]
        args += [outcome.receiver, "1" if outcome.gone else "", FAILURES_BEFORE_COOLDOWN, COOLDOWN_MS, MAX_COOLDOWN_MS]
        args += [DEAD_RETENTION_MS, MAX_DEAD_PER_OWNER, self._keys.counts, *count_attempt(outcome.state)]
        return Operation("webhooks/settle", keys, args, bool)

    def list_page(
        self, state: ListedState, limit: int, cursor: str | None, owner: str | None = None
    ) -> Operation[WebhookPage]:
        """Those of the newest jobs first, of one owner if given. `cursor` is an id; the page begins after it."""
        index = f"{self._prefix}{state}" if owner is None else f"{self._prefix}{state}:{owner}"

        def decode(reply: list[list[str]]) -> WebhookPage:
            cursor, *rows = reply
            return WebhookPage(tuple(_listing(row, state) for row in rows), str(cursor) or None)

        return Operation("webhooks/list", [index], [self._prefix, cursor or "", limit], decode)

    def redeliver(self, webhook_id: str, owner: str | None = None) -> Operation[ListedWebhook | None]:
        """Send now what was given up, or waits for its next attempt; None where there is no such webhook.

        To one who is not its owner, where one is given, there is none.
        """
        keys = [self._keys.record(webhook_id.partition("_")[0])]

        def decode(row: list[str] | None) -> ListedWebhook | None:
            return _listing(row, DeliveryState.PENDING) if row else None

        return Operation(
            "webhooks/redeliver", keys, [self._prefix, webhook_id, ANY_OWNER if owner is None else owner], decode
        )


def _claimed(reply: tuple[int, list[list[str]]]) -> ClaimedWebhooks:
    wait, rows = reply
    return ClaimedWebhooks(tuple(map(_webhook, rows)), wait if wait >= 0 else None)


def _webhook(row: list[str]) -> Webhook:
    webhook_id, queue, event, attempt, at, doc, progress, providers, pinned = row
    return Webhook(
        id=webhook_id,
        event=WebhookEvent(event),
        occurred_at=_moment(at),
        queue=queue,
        attempt=int(attempt),
        doc=doc,
        progress=progress,
        providers=providers,
        pinned=bool(pinned),
    )


def _listing(row: list[str], state: ListedState) -> ListedWebhook:
    webhook_id, event, at, attempts, status, error, tried, due, doc = row
    job = parse_job(doc, "")
    delivery = Delivery(
        id=webhook_id,
        event=WebhookEvent(event),
        state=state,
        attempts=int(attempts),
        last_status=int(status) if status else None,
        last_error=error or None,
        last_attempt_at=_moment(tried) if tried else None,
        next_attempt_at=_moment(due) if due else None,
    )
    return ListedWebhook(job.id, without_query(job.request.webhook_url or ""), _moment(at), delivery)


def _moment(milliseconds: str) -> datetime:
    return datetime.fromtimestamp(float(milliseconds) / 1000, UTC)
