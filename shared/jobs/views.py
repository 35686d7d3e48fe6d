"""Jobs as clients see them."""

import base64
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, Field

from shared.access.links import Links
from shared.jobs.job import Image, Job, JobError, ModelLoad, Progress, Timings
from shared.jobs.requests import GenerationRequest
from shared.jobs.snapshots import JobSnapshot
from shared.jobs.states import State
from shared.jobs.types import ApiProtocol, Backend, WebhookEvent
from shared.webhooks.deliveries import Delivery, without_query


class ImageView(Image):
    url: str | None
    """Link to the bytes; null for a withheld image (`flagged`)."""
    b64_json: str | None = None
    """The bytes, if `response_format` asks for them."""


class ProviderView(BaseModel):
    """A task at a provider that charges for it."""

    id: str
    cost: float | None = Field(description="In the provider's credits")


class WebhookView(BaseModel):
    """The webhook receiver of a job, and its deliveries."""

    url: str = Field(description="Without its query, which may contain a secret")
    events: list[WebhookEvent]
    inline_images: bool
    deliveries: list[Delivery] = Field(description="The latest delivery of each kind of event")


class JobView(BaseModel):
    """A job: its request, progress and result."""

    id: str
    state: State
    backend: Backend
    owner: str | None = Field(description="Name of the API key that submitted it; null if no keys are set")
    origin: ApiProtocol = Field(description="The protocol that it was submitted with")
    model: str | None = Field(description="The model that it runs on; null if that is not known before it starts")
    model_revision: str | None = Field(description="Identifies the files of that model, if known")
    label: str | None
    metadata: dict[str, Any] | None
    progress: Progress | None
    queue_position: int | None = Field(description="Jobs of the same backend ahead of this one, while it is queued")
    estimated_wait_seconds: float | None = Field(description="Estimated seconds until it starts, while it is queued")
    waiting_for: Literal["loading"] | None = Field(description="`loading` while a worker loads its model")
    loading: ModelLoad | None = Field(description="Progress of that load")
    attempt: int
    pinned: bool = Field(description="Exempt from retention")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    request: dict[str, Any]
    images: list[ImageView]
    error: JobError | None
    warnings: list[str]
    timings: Timings
    reused_from: str | None = Field(description="The job whose images were reused, if they were not generated again")
    providers: list[ProviderView] = Field(description="Paid tasks at a provider, one for each image")
    webhook: WebhookView | None
    links: dict[str, str]


class WebhookMessage(BaseModel):
    """The body posted to `webhook_url`, as https://www.standardwebhooks.com specifies."""

    type: str = Field(examples=["job.succeeded"], description="`job.` and the event")
    timestamp: datetime = Field(description="When it happened")
    data: JobView = Field(description="The job at that time")


class JobListView(BaseModel):
    jobs: list[JobView]
    cursor: str | None = Field(description="Pass it to get older jobs; null if there are no more")


class RepeatableRequestView(BaseModel):
    """The request of a job, to send it again."""

    request: dict[str, Any] = Field(description="The body to post, with the seed and the defaults that were used")
    missing: list[str] = Field(
        description="Fields to add: `image` and `mask` if the job had them, because input images are not kept"
    )


#: Input images are deleted when a job ends, and a webhook belongs to the first run only.
_UNREPEATABLE = {"image", "mask", "webhook_url", "webhook_events", "webhook_inline_images"}


def repeatable_request(job: Job) -> RepeatableRequestView:
    request = job.request
    missing = [name for name, value in (("image", request.image), ("mask", request.mask)) if value]
    # Without its image, the request would be refused for its strength; the caller adds both.
    repeated = {"backend": job.backend, **request.to_json(exclude=_UNREPEATABLE)}
    return RepeatableRequestView(request=repeated, missing=missing)


#: Fields of the request that are fields of the job.
_JOB_FIELDS = {"label", "metadata", "backend", "webhook_url", "webhook_events", "webhook_inline_images"}


def job_view(
    snapshot: JobSnapshot,
    links: Links,
    images: Mapping[int, bytes] | None = None,
    wait: float | None = None,
    load: ModelLoad | None = None,
) -> JobView:
    """`images` holds the bytes to return inline, by index; `wait` is an estimate in seconds, and `load` its reason."""
    job = snapshot.job
    path = links.job(job.id)
    return JobView(
        id=job.id,
        state=job.state,
        backend=job.backend,
        owner=job.owner or None,
        origin=job.origin,
        model=job.model,
        model_revision=job.model_revision,
        label=job.request.label,
        metadata=job.request.metadata,
        progress=snapshot.progress,
        queue_position=snapshot.queue_position,
        estimated_wait_seconds=wait,
        waiting_for="loading" if load else None,
        loading=load,
        attempt=job.attempt,
        pinned=snapshot.pinned,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        request=job.request.to_json(exclude=_JOB_FIELDS),
        images=_images(job, links, images or {}),
        error=job.error,
        warnings=list(job.warnings),
        timings=job.timings,
        reused_from=job.reused_from,
        providers=_providers(job),
        webhook=_webhook(snapshot),
        links={"self": path, "events": f"{path}/events"},
    )


def _webhook(snapshot: JobSnapshot) -> WebhookView | None:
    request = snapshot.job.request
    if request.webhook_url is None:
        return None
    return WebhookView(
        url=without_query(request.webhook_url),
        events=list(request.webhook_events),
        inline_images=request.webhook_inline_images,
        deliveries=list(snapshot.deliveries),
    )


def _providers(job: Job) -> list[ProviderView]:
    return [ProviderView(id=task.id, cost=task.cost) for task in job.providers if task.id is not None]


def _images(job: Job, links: Links, images: Mapping[int, bytes]) -> list[ImageView]:
    return [
        ImageView(
            **image.model_dump(),
            url=None if image.flagged else links.image(job.id, image.index),
            b64_json=base64.b64encode(images[image.index]).decode() if image.index in images else None,
        )
        for image in job.images
    ]


def example_view() -> JobView:
    """As /openapi.json shows it."""
    created_at = datetime(2026, 11, 23, 10, tzinfo=UTC)
    job = Job(
        id="019aaf3e-6a1c-7b61-9c0e-3f1f7d1c2b4a",
        state=State.SUCCEEDED,
        backend=Backend.SD,
        model="starter",
        request=GenerationRequest(
            prompt="a red heart on a blue background",
            width=128,
            height=128,
            num_inference_steps=20,
            guidance_scale=4,
            seed=42,
        ),
        attempt=1,
        created_at=created_at,
        started_at=created_at + timedelta(milliseconds=4),
        finished_at=created_at + timedelta(milliseconds=420),
        images=(
            Image(index=0, media_type="image/png", width=128, height=128, seed=42, bytes=12345, sha256="9f86d081" * 8),
        ),
        timings=Timings(
            queued_ms=4,
            generate_ms=410,
            encode_ms=2,
            total_ms=420,
            step_ms=19.3,
            acceleration="safe: CUDA graphs (1)",
        ),
    )
    return job_view(JobSnapshot(job), Links("http://localhost:7860", None))
