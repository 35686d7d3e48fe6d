"""Operations on the webhook outbox. The moves of a job add its webhooks (see lua/webhooks/outbox.lua)."""

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
from shared.webhooks.deliveries import DeliveryState, KeptWebhookView, WebhookListView, without_query

#: Longer than any attempt takes; a webhook that is not settled by then is sent again.
LEASE_MS = 20_000
#: Webhooks of one queue (one owner and one origin) that are sent at the same time.
MAX_IN_FLIGHT_PER_QUEUE = 4
#: A receiver that failed this often in a row is skipped for a cooldown, which doubles with every further failure.
FAILURES_BEFORE_COOLDOWN = 5
COOLDOWN_MS = 10_000
MAX_COOLDOWN_MS = 5 * 60 * 1000
#: Dead webhooks can be redelivered for this time; of one owner, only the newest are kept.
DEAD_RETENTION_MS = 7 * 24 * 3600 * 1000
MAX_DEAD_PER_OWNER = 10_000

#: States in which a webhook is listed.
ListedState = Literal[DeliveryState.PENDING, DeliveryState.DEAD]


@dataclass(frozen=True)
class Webhook:
    """One event for one receiver; only `attempt` differs between attempts."""

    id: str
    event: WebhookEvent
    occurred_at: datetime
    """When the event occurred."""
    queue: str
    """`scheme://host:port`, followed by the owner if there is one."""
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
        """The job at that time. Parsed late, so that an unreadable one fails alone."""
        progress = Progress.model_validate_json(self.progress) if self.progress else None
        return JobSnapshot(job=parse_job(self.doc, self.providers), progress=progress, pinned=self.pinned)


@dataclass(frozen=True)
class ClaimedWebhooks:
    webhooks: tuple[Webhook, ...]
    next_due_ms: int | None
    """Time until more are due; None if none are pending."""


class ReceiverState(StrEnum):
    """How far an attempt got."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """The receiver accepts nothing now; another path of the same origin may."""
    UNREACHABLE = "unreachable"
    """The connection to the origin failed, whatever the path."""


@dataclass(frozen=True)
class DeliveryOutcome:
    """Result of an attempt."""

    state: DeliveryState
    status: int | None = None
    error: str = ""
    delay_ms: int = 0
    """Time until the next attempt, if it is still pending."""
    receiver: ReceiverState = ReceiverState.ANSWERED
    gone: bool = False
    """Whether the receiver wants no more events of this job."""


class Webhooks:
    """Operations on webhooks that have not been delivered."""

    def __init__(self, prefix: str) -> None:
        self._keys = Keys(prefix)
        self._prefix = self._keys.webhooks
        self.channel = f"{self._prefix}news"

    def claim(self, limit: int) -> Operation[ClaimedWebhooks]:
        """Claim webhooks that are due, for LEASE_MS."""
        args: list[Argument] = [self._prefix, limit, MAX_IN_FLIGHT_PER_QUEUE, LEASE_MS]
        return Operation("webhooks/claim", [f"{self._prefix}owners"], args, _claimed)

    def settle(self, webhook: Webhook, outcome: DeliveryOutcome) -> Operation[bool]:
        """Record the outcome of an attempt. A webhook that is delivered, dropped or dead is not sent again."""
        keys = [self._keys.record(webhook.job_id)]
        args: list[Argument] = [self._prefix, webhook.id, webhook.queue, webhook.attempt, outcome.state]
        args += ["" if outcome.status is None else outcome.status, outcome.error, outcome.delay_ms]
        args += [outcome.receiver, "1" if outcome.gone else "", FAILURES_BEFORE_COOLDOWN, COOLDOWN_MS, MAX_COOLDOWN_MS]
        args += [DEAD_RETENTION_MS, MAX_DEAD_PER_OWNER, self._keys.counts, *count_attempt(outcome.state)]
        return Operation("webhooks/settle", keys, args, bool)

    def list_page(
        self, state: ListedState, limit: int, cursor: str | None, owner: str | None = None
    ) -> Operation[WebhookListView]:
        """Those of the newest jobs first, optionally of one owner. The page begins after the id `cursor`."""
        index = f"{self._prefix}{state}" if owner is None else f"{self._prefix}{state}:{owner}"

        def decode(reply: list[list[str]]) -> WebhookListView:
            cursor, *rows = reply
            return WebhookListView(webhooks=[_listing(row, state) for row in rows], cursor=str(cursor) or None)

        return Operation("webhooks/list", [index], [self._prefix, cursor or "", limit], decode)

    def redeliver(self, webhook_id: str, owner: str | None = None) -> Operation[KeptWebhookView | None]:
        """Send a dead or pending webhook now; None for an unknown one, and for one of another owner than `owner`."""
        keys = [self._keys.record(webhook_id.partition("_")[0])]

        def decode(row: list[str] | None) -> KeptWebhookView | None:
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


def _listing(row: list[str], state: ListedState) -> KeptWebhookView:
    webhook_id, event, at, attempts, status, error, tried, due, doc = row
    job = parse_job(doc, "")
    return KeptWebhookView(
        id=webhook_id,
        event=WebhookEvent(event),
        state=state,
        attempts=int(attempts),
        last_status=int(status) if status else None,
        last_error=error or None,
        last_attempt_at=_moment(tried) if tried else None,
        next_attempt_at=_moment(due) if due else None,
        job_id=job.id,
        url=without_query(job.request.webhook_url or ""),
        created_at=_moment(at),
    )


def _moment(milliseconds: str) -> datetime:
    return datetime.fromtimestamp(float(milliseconds) / 1000, UTC)
