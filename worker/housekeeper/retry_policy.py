"""When a failed webhook is retried, and when it is given up."""

import random
from collections.abc import Sequence

from shared.jobs.types import WebhookEvent
from shared.webhooks.deliveries import DeliveryState
from shared.webhooks.outbox import DeliveryOutcome, Webhook
from worker.housekeeper.webhook_sender import HttpResult

#: Seconds between attempts: ten attempts in about 16 hours.
SCHEDULE = (5, 30, 120, 600, 1800, 3600, 7200, 14_400, 28_800)
#: Each delay grows by up to this share, so that webhooks that failed together are not retried together.
JITTER = 0.2


class RetryPolicy:
    def __init__(self, schedule: Sequence[float] = SCHEDULE) -> None:
        self._schedule = schedule

    def outcome(self, webhook: Webhook, result: HttpResult) -> DeliveryOutcome:
        if result.is_accepted:
            return DeliveryOutcome(DeliveryState.DELIVERED, result.status)
        if webhook.event is WebhookEvent.PROGRESS:
            # The next progress event replaces it.
            state, delay = DeliveryState.DROPPED, 0.0
        elif result.is_gone or webhook.attempt > len(self._schedule):
            state, delay = DeliveryState.DEAD, 0.0
        else:
            delay = self._schedule[webhook.attempt - 1] * (1 + JITTER * random.random())  # noqa: S311 - not a secret
            state, delay = DeliveryState.PENDING, max(delay, result.retry_after_seconds)
        delay_ms = round(delay * 1000)
        return DeliveryOutcome(state, result.status, result.error, delay_ms, result.receiver_state, result.is_gone)
