"""Sends webhooks as they come due: one thread listens, one claims, and each webhook has its own sender thread."""

import logging
import math
import threading
import time
from contextlib import suppress
from urllib.parse import urlsplit

import redis
from pydantic import ValidationError

from shared.errors import StoreUnavailable
from shared.observability.tracing import Span, StartTracing, Tracing
from shared.redis.store import Store
from shared.webhooks.deliveries import DeliveryState
from shared.webhooks.outbox import DeliveryOutcome, Webhook, Webhooks
from worker.housekeeper.retry_policy import RetryPolicy
from worker.housekeeper.webhook_sender import HttpResult, WebhookSender
from worker.records.redis_retry import retry_until_available

logger = logging.getLogger(__name__)

RECONNECT_SECONDS = 0.5
#: Webhooks are looked for at least this often: a subscription may be to a server that has been replaced.
LONGEST_WAIT_SECONDS = 10.0
#: Grace period for webhooks in flight when the process stops. The next process resends what is cut off.
GRACE_SECONDS = 5.0


class WebhookDispatcher:
    """Any number may run: each claims due webhooks under a lease; another one takes over when a lease expires.

    At most `threads` webhooks are in flight, and per owner and receiver no more than shared.webhooks.outbox allows, so
    that a slow receiver delays only its own owner's webhooks.
    """

    def __init__(
        self,
        store: Store,
        listener: redis.Redis,
        webhooks: Webhooks,
        sender: WebhookSender,
        retries: RetryPolicy,
        threads: int,
        start_tracing: StartTracing = Tracing,
    ) -> None:
        """`listener` is a connection for subscribing."""
        self._start_tracing = start_tracing
        self._tracing = Tracing()
        self._store = store
        self._listener = listener
        self._webhooks = webhooks
        self._sender = sender
        self._retries = retries
        self._threads = threads
        self._in_flight = 0
        self._changed = threading.Condition()
        self._due = False
        self._stopped = False

    def start(self) -> None:
        self._tracing = self._start_tracing()
        for name, work in (("webhook-listener", self._listen), ("webhooks", self._dispatch)):
            threading.Thread(target=work, name=name, daemon=True).start()

    def stop(self) -> None:
        """Claim no more, and wait for webhooks in flight within the grace period."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._in_flight, GRACE_SECONDS)
        self._tracing.close()

    def _listen(self) -> None:
        while not self._stopped:
            try:
                with self._listener.pubsub() as pubsub:  # type: ignore[no-untyped-call]
                    pubsub.subscribe(self._webhooks.channel)
                    while not self._stopped:
                        # The timeout lets redis-py ping a silent connection. The start of a subscription counts as a
                        # message too: a webhook may have become due before it.
                        if pubsub.get_message(timeout=10) is not None:
                            self._wake()
            except Exception as error:
                # Only this thread receives new webhooks, so it must not end.
                logger.warning("the subscription to webhooks was lost (%s); resubscribing", type(error).__name__)
                time.sleep(RECONNECT_SECONDS)

    def _wake(self) -> None:
        with self._changed:
            self._due = True
            self._changed.notify_all()

    def _dispatch(self) -> None:
        wait = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._due or self._stopped, wait)
                self._changed.wait_for(lambda: self._in_flight < self._threads or self._stopped)
                if self._stopped:
                    return
                self._due, free = False, self._threads - self._in_flight
            wait = self._send_due(free)

    def _send_due(self, free: int) -> float:
        """Start sending what is due. Return the seconds until more may be due."""
        try:
            claimed = self._store.run(self._webhooks.claim(free))
            for webhook in claimed.webhooks:
                self._start(webhook)
        except StoreUnavailable:
            return RECONNECT_SECONDS
        except Exception:
            # Only this thread claims webhooks: it must not end.
            logger.exception("unexpected error while webhooks were claimed")
            return GRACE_SECONDS
        due_in = math.inf if claimed.next_due_ms is None else claimed.next_due_ms / 1000
        return min(due_in, LONGEST_WAIT_SECONDS)

    def _start(self, webhook: Webhook) -> None:
        """Raises RuntimeError if no thread can start: the webhook is then sent once its lease has expired."""
        with self._changed:
            threading.Thread(target=self._send, args=(webhook,), name=f"webhook-{webhook.id}", daemon=True).start()
            self._in_flight += 1

    def _send(self, webhook: Webhook) -> None:
        try:
            outcome = self._attempt(webhook)
            retry_until_available(lambda: self._store.run(self._webhooks.settle(webhook, outcome)))
        finally:
            with self._changed:
                self._in_flight -= 1
                self._due = True
                self._changed.notify_all()

    def _attempt(self, webhook: Webhook) -> DeliveryOutcome:
        begin, begin_ns = time.monotonic(), time.time_ns()
        try:
            result = self._sender.deliver(webhook)
        except Exception:
            logger.exception("webhook %s could not be sent", webhook.id)
            result = HttpResult(error="was not reached because of an internal error; see the housekeeper's log")
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
    """Log the receiver, but never the rest of its URL: paths and queries may hold secrets."""
    extra = {"job_id": webhook.job_id}
    name = f"webhook {webhook.id} to {webhook.receiver}"
    match outcome.state:
        case DeliveryState.DELIVERED:
            logger.info("%s was delivered in %.0f ms", name, seconds * 1000, extra=extra)
        case DeliveryState.PENDING:
            delay = outcome.delay_ms / 1000
            logger.warning("%s failed: the receiver %s; retrying in %.0f s", name, result.error, delay, extra=extra)
        case DeliveryState.DROPPED | DeliveryState.DEAD:
            logger.warning("%s was given up: the receiver %s", name, result.error, extra=extra)
