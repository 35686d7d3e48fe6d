"""Webhooks that have not arrived: look at them, send them again."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, FastAPI, Path, Query, Response
from pydantic import BaseModel, Field

from api.edge.authentication import CallerDep
from api.problems import documented
from api.services import ServicesDep
from shared.errors import WebhookNotFound
from shared.jobs.types import WebhookEvent
from shared.jobs.views import WebhookMessage
from shared.webhooks.deliveries import Delivery, DeliveryState
from shared.webhooks.outbox import ListedState, ListedWebhook

router = APIRouter(tags=["webhooks"])

ID = r"^[0-9a-f-]{36}_[a-z]{1,16}_[0-9_]{1,32}$"


class KeptWebhookView(Delivery):
    job_id: str
    url: str
    """Without its query, which may hold a secret."""
    created_at: datetime


class WebhookListView(BaseModel):
    webhooks: list[KeptWebhookView]
    cursor: str | None = Field(description="Pass it to get those after these; null when there are no more")


@router.get(
    "/api/webhooks", responses=documented("unauthorized", "invalid-request", "rate-limited", "store-unavailable")
)
async def index(
    services: ServicesDep,
    caller: CallerDep,
    state: Annotated[ListedState, Query(description="Given up, or still on their way")] = DeliveryState.DEAD,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(pattern=ID)] = None,
) -> WebhookListView:
    """Webhooks that have not arrived, those of the newest jobs first. A page may be short and still have a cursor."""
    page = await services.store.run(services.webhooks.list_page(state, limit, cursor, caller.sees))
    return WebhookListView(webhooks=[_view(webhook) for webhook in page.webhooks], cursor=page.cursor)


@router.post(
    "/api/webhooks/{webhook_id}/redeliver",
    status_code=202,
    responses=documented(
        "unauthorized", "forbidden", "invalid-request", "webhook-not-found", "rate-limited", "store-unavailable"
    ),
)
async def redeliver(
    services: ServicesDep, caller: CallerDep, response: Response, webhook_id: Annotated[str, Path(pattern=ID)]
) -> KeptWebhookView:
    """Send a webhook that was given up, or that waits for its next attempt, now; its attempts begin anew."""
    webhook = await services.store.run(services.webhooks.redeliver(webhook_id, caller.sees))
    if webhook is None:
        raise WebhookNotFound
    response.headers["X-Job-Id"] = webhook.job_id
    return _view(webhook)


def _view(webhook: ListedWebhook) -> KeptWebhookView:
    return KeptWebhookView(
        **webhook.delivery.model_dump(), job_id=webhook.job_id, url=webhook.url, created_at=webhook.created_at
    )


def describe(app: FastAPI) -> None:
    """Add to /openapi.json what is sent to receivers."""
    for event in WebhookEvent:
        app.webhooks.post(
            f"job.{event}", name=f"job_{event}", description=_SENT, status_code=204, responses={"default": _FAILED}
        )(_sent)


_SENT = """Posted to the `webhook_url` of a job that asks for it. Any 2xx status within 15 seconds says that it arrived;
docs/webhooks.md says how to check the signature."""
_FAILED = {"description": "Sent again later, for about 16 hours; 410 ends it at once"}


def _sent(message: WebhookMessage) -> None:
    """What a receiver gets."""
