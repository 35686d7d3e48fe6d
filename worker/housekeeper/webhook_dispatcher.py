"""Sends webhooks as they come due: one thread hears of them, one takes them, each is sent on its own."""

import logging
import threading
import time
from contextlib import suppress
from urllib.parse import urlsplit

import redis
import redis.exceptions
from pydantic import ValidationError

from shared.errors import StoreUnavailable
from shared.observability.tracing import NoTracing, Span, StartTracing, Tracing
from shared.redis.store import Store
from shared.webhooks.deliveries import DeliveryState
from shared.webhooks.outbox import DeliveryOutcome, Webhook, Webhooks
from worker.housekeeper.retry_policy import RetryPolicy
from worker.housekeeper.webhook_sender import HttpResult, WebhookSender
from worker.records.redis_retry import retry_until_available

logger = logging.getLogger(__name__)

RECONNECT_SECONDS = 0.5
#: How long webhooks under way may take when the process is told to end. What is cut off is sent again by the next one.
GRACE_SECONDS = 5.0


class WebhookDispatcher:
    """Any number may run: each takes what is due under a lease, and a lease that lapses is somebody else's.

    Takes at most `threads` at a time, and of one owner and receiver no more than shared.webhooks.outbox allows, so
    that a receiver that is slow keeps back only what its owner has for it.
    """

    def __init__(
        self,
        store: Store,
        news: redis.Redis,
        webhooks: Webhooks,
        sender: WebhookSender,
        retries: RetryPolicy,
        threads: int,
        traced: StartTracing = NoTracing,
    ) -> None:
        """`news` is a connection for listening."""
        self._traced = traced
        self._tracing: Tracing = NoTracing()
        self._store = store
        self._news = news
        self._webhooks = webhooks
        self._sender = sender
        self._retries = retries
        self._threads = threads
        self._under_way = 0
        self._changed = threading.Condition()
        self._due = False
        self._stopped = False

    def start(self) -> None:
        self._tracing = self._traced()
        for name, work in (("webhook-news", self._listen), ("webhooks", self._dispatch)):
            threading.Thread(target=work, name=name, daemon=True).start()

    def stop(self) -> None:
        """Take no more, and wait a little for those under way."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._under_way, GRACE_SECONDS)
        self._tracing.close()

    def _listen(self) -> None:
        while not self._stopped:
            try:
                with self._news.pubsub() as pubsub:  # type: ignore[no-untyped-call]
                    pubsub.subscribe(self._webhooks.channel)
                    while not self._stopped:
                        # The timeout lets redis-py ping a silent connection. A subscription that begins is news too:
                        # something may have come before it.
                        if pubsub.get_message(timeout=10) is not None:
                            self._wake()
            except (redis.exceptions.RedisError, OSError) as error:
                logger.warning("the subscription to webhooks was lost (%s); subscribing again", type(error).__name__)
                time.sleep(RECONNECT_SECONDS)

    def _wake(self) -> None:
        with self._changed:
            self._due = True
            self._changed.notify_all()

    def _dispatch(self) -> None:
        wait: float | None = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._due or self._stopped, wait)
                self._changed.wait_for(lambda: self._under_way < self._threads or self._stopped)
                if self._stopped:
                    return
                self._due, free = False, self._threads - self._under_way
            wait = self._send_due(free)

    def _send_due(self, free: int) -> float | None:
        """Begin to send what is due; seconds until there will be more, None when only news can tell."""
        try:
            claimed = self._store.run(self._webhooks.claim(free))
        except StoreUnavailable:
            return RECONNECT_SECONDS
        except Exception:
            # This thread is the only one that takes webhooks: it must not end.
            logger.exception("unexpected error while taking webhooks")
            return GRACE_SECONDS
        for webhook in claimed.webhooks:
            with self._changed:
                self._under_way += 1
            threading.Thread(target=self._send, args=(webhook,), name=f"webhook-{webhook.id}", daemon=True).start()
        return None if claimed.next_due_ms is None else claimed.next_due_ms / 1000

    def _send(self, webhook: Webhook) -> None:
        try:
            outcome = self._attempt(webhook)
            retry_until_available(lambda: self._store.run(self._webhooks.settle(webhook, outcome)))
        finally:
            with self._changed:
                self._under_way -= 1
                self._due = True
                self._changed.notify_all()

    def _attempt(self, webhook: Webhook) -> DeliveryOutcome:
        begin, begin_ns = time.monotonic(), time.time_ns()
        try:
            result = self._sender.deliver(webhook)
        except Exception:
            logger.exception("webhook %s could not be sent", webhook.id)
            result = HttpResult(error="could not be sent; the log of the housekeeper has it")
        outcome = self._retries.outcome(webhook, result)
        _log(webhook, result, outcome, time.monotonic() - begin)
        if self._tracing.is_on:
            self._trace(webhook, result, outcome, begin_ns)
        return outcome

    def _trace(self, webhook: Webhook, result: HttpResult, outcome: DeliveryOutcome, begin_ns: int) -> None:
        receiver = urlsplit(webhook.receiver)
        error = "" if result.is_accepted else result.error
        attributes: dict[str, str | int | float] = {
            "http.request.method": "POST",
            "http.request.resend_count": webhook.attempt - 1,
            "server.address": receiver.hostname or "",
            "server.port": receiver.port or 0,
            "imagegen.job.id": webhook.job_id,
            "imagegen.webhook.event": webhook.event.value,
            "imagegen.webhook.outcome": outcome.state.value,
        }
        if result.status is not None:
            attributes["http.response.status_code"] = result.status
        if error:
            attributes["error.type"] = "unreachable" if result.status is None else str(result.status)
        span = Span("POST", begin_ns, time.time_ns(), attributes, "client", error)
        with suppress(ValidationError):
            self._tracing.record(span, webhook.snapshot().job.traceparent)


def _log(webhook: Webhook, result: HttpResult, outcome: DeliveryOutcome, seconds: float) -> None:
    """Names the receiver, and never the rest of its address: paths and queries are where its secrets are."""
    fields = {"job_id": webhook.job_id}
    what = f"webhook {webhook.id} to {webhook.receiver}"
    match outcome.state:
        case DeliveryState.DELIVERED:
            logger.info("%s was delivered in %.0f ms", what, seconds * 1000, extra=fields)
        case DeliveryState.PENDING:
            again = outcome.delay_ms / 1000
            logger.warning("%s failed: it %s; sent again in %.0f s", what, result.error, again, extra=fields)
        case DeliveryState.DROPPED | DeliveryState.DEAD:
            logger.warning("%s was given up: it %s", what, result.error, extra=fields)
