"""When a webhook that did not arrive is sent again, and when it is given up."""

import random
from collections.abc import Callable, Sequence

from shared.jobs.types import WebhookEvent
from shared.webhooks.deliveries import DeliveryState
from shared.webhooks.outbox import DeliveryOutcome, Webhook
from worker.housekeeper.webhook_sender import HttpResult

#: Seconds after each attempt until the next one: ten attempts in about 16 hours.
SCHEDULE = (5, 30, 120, 600, 1800, 3600, 7200, 14_400, 28_800)
#: Each wait grows by up to this part of itself, so that what failed together does not come again together.
JITTER = 0.2


class RetryPolicy:
    def __init__(self, schedule: Sequence[float] = SCHEDULE, chance: Callable[[], float] = random.random) -> None:
        """`chance` draws from 0 to 1."""
        self._schedule = schedule
        self._chance = chance

    def outcome(self, webhook: Webhook, result: HttpResult) -> DeliveryOutcome:
        receiver = result.receiver_state
        if result.is_accepted:
            return DeliveryOutcome(DeliveryState.DELIVERED, result.status)
        if webhook.event is WebhookEvent.PROGRESS:
            # What comes next says more.
            return DeliveryOutcome(
                DeliveryState.DROPPED, result.status, result.error, receiver=receiver, gone=result.is_gone
            )
        if result.is_gone or webhook.attempt > len(self._schedule):
            return DeliveryOutcome(
                DeliveryState.DEAD, result.status, result.error, receiver=receiver, gone=result.is_gone
            )
        wait = self._schedule[webhook.attempt - 1] * (1 + JITTER * self._chance())
        delay = round(max(wait, result.wait_seconds) * 1000)
        return DeliveryOutcome(DeliveryState.PENDING, result.status, result.error, delay, receiver)
