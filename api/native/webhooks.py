"""The routes that list and redeliver failed webhooks, and the webhooks in /openapi.json."""

from typing import Annotated

from fastapi import APIRouter, FastAPI, Path, Query, Response

from api.edge.authentication import CallerDep
from api.problems import problem_responses
from api.services import ServicesDep
from shared.errors import WebhookNotFound
from shared.jobs.types import WebhookEvent
from shared.jobs.views import WebhookMessage
from shared.webhooks.deliveries import DeliveryState, KeptWebhookView, WebhookListView
from shared.webhooks.outbox import ListedState

router = APIRouter(tags=["webhooks"])

WEBHOOK_ID = r"^[0-9a-f-]{36}_[a-z]{1,16}_[0-9_]{1,32}$"


@router.get(
    "/api/webhooks",
    operation_id="listWebhooks",
    responses=problem_responses("invalid-request"),
)
async def list_webhooks(
    services: ServicesDep,
    caller: CallerDep,
    state: Annotated[
        ListedState, Query(description="Given up (`dead`) or still being retried (`pending`)")
    ] = DeliveryState.DEAD,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(pattern=WEBHOOK_ID)] = None,
) -> WebhookListView:
    """List undelivered webhooks, those of the newest jobs first. A short page may still have a cursor."""
    return await services.store.run(services.webhooks.list_page(state, limit, cursor, caller.visible_owner))


@router.post(
    "/api/webhooks/{webhook_id}/redeliver",
    operation_id="redeliverWebhook",
    status_code=202,
    responses=problem_responses("forbidden", "invalid-request", "webhook-not-found"),
)
async def redeliver_webhook(
    services: ServicesDep, caller: CallerDep, response: Response, webhook_id: Annotated[str, Path(pattern=WEBHOOK_ID)]
) -> KeptWebhookView:
    """Send a webhook now that was given up or waits for its next attempt. Its attempts start over."""
    webhook = await services.store.run(services.webhooks.redeliver(webhook_id, caller.visible_owner))
    if webhook is None:
        raise WebhookNotFound
    response.headers["X-Job-Id"] = webhook.job_id
    return webhook


def describe(app: FastAPI) -> None:
    """Add the webhooks to /openapi.json."""
    for event in WebhookEvent:
        app.webhooks.post(
            f"job.{event}",
            operation_id=f"job{event.capitalize()}",
            summary=f"Job {event}",
            description=_DESCRIPTION,
            status_code=204,
            responses=_RESPONSES,
        )(_receive)


_DESCRIPTION = """Sent to the `webhook_url` of a job. Any 2xx status within 15 seconds confirms the delivery;
docs/webhooks.md explains how to verify the signature."""
_RESPONSES: dict[int | str, dict[str, object]] = {
    "default": {"description": "The delivery is retried for about 16 hours; 410 stops the retries"}
}


def _receive(message: WebhookMessage) -> None:
    """Never called: its parameter is the schema of a webhook."""
