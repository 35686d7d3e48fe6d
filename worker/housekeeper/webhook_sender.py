"""One attempt to send a webhook, and its result."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus

from shared.access.links import Links
from shared.errors import (
    ConnectionFailed,
    ForbiddenUrl,
    OutboundError,
    OutboundTimeout,
    ResponseTooLarge,
    StorageUnavailable,
    Unreachable,
)
from shared.jobs.job import Job
from shared.jobs.snapshots import JobSnapshot
from shared.jobs.types import ApiProtocol
from shared.jobs.views import WebhookMessage, job_view
from shared.net.allowlist import ReceiverHeader, header_for
from shared.net.outbound import HttpResponse, OutboundClient
from shared.net.url import Url
from shared.protocols import fal, replicate
from shared.storage.images import ImageStore
from shared.webhooks.outbox import ReceiverState, Webhook
from worker.housekeeper.signing import WebhookSigner

logger = logging.getLogger(__name__)

#: Time limit of an attempt, from the DNS lookup to the last byte of the response.
TOTAL_SECONDS = 15.0
MAX_RESPONSE_BYTES = 64 * 1024
#: Longest delay that a receiver can request with Retry-After.
MAX_RETRY_AFTER_SECONDS = 3600
#: Statuses of a receiver that cannot take any webhook now.
OVERWHELMED = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)


@dataclass(frozen=True)
class HttpResult:
    status: int | None = None
    error: str = ""
    """What the receiver did wrong, if it did not accept. In our words: its own could hold anything."""
    retry_after_seconds: int = 0
    connected: bool = True

    @property
    def is_accepted(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def is_gone(self) -> bool:
        return self.status == HTTPStatus.GONE

    @property
    def receiver_state(self) -> ReceiverState:
        if not self.connected:
            return ReceiverState.UNREACHABLE
        return ReceiverState.REFUSED if self.status is None or self.status in OVERWHELMED else ReceiverState.ANSWERED


@dataclass(frozen=True)
class WebhookSender:
    client: OutboundClient
    signer: WebhookSigner
    images: ImageStore
    links: Callable[[Job], Links]
    inline_max_bytes: int
    user_agent: str
    now: Callable[[], datetime]
    operator_headers: Sequence[ReceiverHeader] = ()
    """The operator's headers for its own receivers; callers can name any other."""
    total_seconds: float = TOTAL_SECONDS

    def deliver(self, webhook: Webhook) -> HttpResult:
        """Send the webhook; blocks for at most `total_seconds`."""
        snapshot = webhook.snapshot()
        body = self._body(webhook, snapshot)
        url = snapshot.job.request.webhook_url or ""
        headers = {"Content-Type": "application/json", "User-Agent": self.user_agent}
        headers |= self.signer.headers(webhook.id, body, self.now())
        try:
            headers |= header_for(Url.parse(url), self.operator_headers)
            response = self.client.send(
                "POST",
                url,
                headers=headers,
                body=body,
                timeout_seconds=self.total_seconds,
                max_bytes=MAX_RESPONSE_BYTES,
            )
        except OutboundError as error:
            # The status decides; whether the rest of the response arrives does not matter.
            return HttpResult(error.status, _why(error), connected=not isinstance(error, ConnectionFailed))
        return self._result(response)

    def _body(self, webhook: Webhook, snapshot: JobSnapshot) -> bytes:
        """As the protocol has it that the job was submitted with."""
        links = self.links(snapshot.job)
        match snapshot.job.origin:
            case ApiProtocol.REPLICATE:
                return replicate.webhook_body(snapshot, links)
            case ApiProtocol.FAL:
                return fal.webhook_body(snapshot, links)
        view = job_view(snapshot, links, self._images(snapshot.job))
        message = WebhookMessage(type=f"job.{webhook.event}", timestamp=webhook.occurred_at, data=view)
        return message.model_dump_json().encode()

    def _images(self, job: Job) -> dict[int, bytes]:
        """Return the inline images by index: the first ones that fit, if the request wants them."""
        found, budget = dict[int, bytes](), self.inline_max_bytes if job.request.webhook_inline_images else 0
        with suppress(StorageUnavailable):
            for image in job.images:
                budget -= image.bytes or 0
                if budget < 0:
                    break
                if not image.flagged and (data := self.images.read(job, image)) is not None:
                    found[image.index] = data
        return found

    def _result(self, response: HttpResponse) -> HttpResult:
        if 300 <= response.status < 400:
            return HttpResult(response.status, "answered with a redirect, which is not followed")
        wait = max(0, min(round(response.retry_after() or 0), MAX_RETRY_AFTER_SECONDS))
        return HttpResult(response.status, f"answered {response.status}", wait)


def _why(error: OutboundError) -> str:
    match error:
        case OutboundTimeout():
            return "did not answer completely in time"
        case ResponseTooLarge():
            return f"answered more than {MAX_RESPONSE_BYTES // 1024} KB"
        case ForbiddenUrl():
            return "has an address that webhooks may not go to; the operator can allow it in SD_WEBHOOK_ALLOW"
        case Unreachable():
            return f"could not be reached: {error.detail[0].lower()}{error.detail[1:].rstrip('.')}"
        case _:
            return "could not be reached"
