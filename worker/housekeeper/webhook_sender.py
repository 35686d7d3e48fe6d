"""One attempt to bring a webhook to its receiver, and what it came to."""

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
from shared.jobs.views import WebhookMessage, job_view
from shared.net.allowlist import ReceiverHeader, header_for
from shared.net.outbound import HttpResponse, OutboundClient
from shared.net.url import Url
from shared.storage.images import ImageStore
from shared.webhooks.outbox import ReceiverState, Webhook
from worker.housekeeper.signing import WebhookSigner

logger = logging.getLogger(__name__)

#: What a receiver may cost, from the lookup of its name to the last byte of its answer.
TOTAL_SECONDS = 15.0
MOST_ANSWER_BYTES = 64 * 1024
#: Longest wait that a receiver can ask for.
MOST_WAIT_SECONDS = 3600
#: These say that the receiver cannot take anything now, and not only this.
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
    """What came back."""

    status: int | None = None
    error: str = ""
    """What was wrong, unless it was accepted. In our words: a receiver's own could hold anything."""
    wait_seconds: int = 0
    """How long the receiver asks to be left alone."""
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
    """The operator's, for receivers of the operator's: others are whoever a caller names."""
    total_seconds: float = TOTAL_SECONDS

    def deliver(self, webhook: Webhook) -> HttpResult:
        """Blocks for `total_seconds` at most."""
        snapshot = webhook.snapshot()
        body = self._body(webhook, snapshot)
        url = snapshot.job.request.webhook_url or ""
        headers = {"Content-Type": "application/json", "User-Agent": self.user_agent}
        headers |= self.signer.headers(webhook.id, body, self.now())
        try:
            headers |= header_for(Url.parse(url), self.operator_headers)
            answer = self.client.send(
                "POST",
                url,
                headers=headers,
                body=body,
                timeout_seconds=self.total_seconds,
                max_bytes=MOST_ANSWER_BYTES,
            )
        except OutboundError as error:
            # The status is the receiver's word; what it goes on to say, or does not, is of no interest.
            return HttpResult(error.status, _why(error), connected=not isinstance(error, ConnectionFailed))
        return self._result(answer)

    def _body(self, webhook: Webhook, snapshot: JobSnapshot) -> bytes:
        view = job_view(snapshot, self.links(snapshot.job), self._images(snapshot.job))
        message = WebhookMessage(type=f"job.{webhook.event}", timestamp=webhook.occurred_at, data=view)
        return message.model_dump_json().encode()

    def _images(self, job: Job) -> dict[int, bytes]:
        """By index, those that are asked for and small enough: the first ones, when not all of them can be had."""
        found, left = dict[int, bytes](), self.inline_max_bytes if job.request.webhook_inline_images else 0
        with suppress(StorageUnavailable):
            for image in job.images:
                left -= image.bytes or 0
                if left < 0:
                    break
                if not image.flagged and (data := self.images.read(job, image)) is not None:
                    found[image.index] = data
        return found

    def _result(self, answer: HttpResponse) -> HttpResult:
        if 300 <= answer.status < 400:
            return HttpResult(answer.status, "answered with a redirect, which is not followed")
        wait = max(0, min(round(answer.retry_after() or 0), MOST_WAIT_SECONDS))
        return HttpResult(answer.status, f"answered {answer.status}", wait)


def _why(error: OutboundError) -> str:
    match error:
        case OutboundTimeout():
            return "gave no whole answer in time"
        case ResponseTooLarge():
            return f"answered more than {MOST_ANSWER_BYTES // 1024} KB"
        case ForbiddenUrl():
            return "is at an address that webhooks are not sent to; the operator can name it in SD_WEBHOOK_ALLOW"
        case Unreachable():
            return f"could not be reached: {error.detail[0].lower()}{error.detail[1:].rstrip('.')}"
        case _:
            return "could not be sent to"
