"""How the service is: for people, for load balancers, for clients that choose a backend."""

from dataclasses import replace
from enum import StrEnum
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from api.edge.authentication import Caller, CallerDep
from api.problems import documented
from api.services import Services, ServicesDep
from shared.errors import StoreUnavailable
from shared.jobs.requests import Backend
from shared.models.request_schema import request_schema
from shared.workers.records import Download, Fleet, WorkerRecord, WorkerState

router = APIRouter(tags=["service"])

STARTER_NOTE = "The starter model is a small bundled model: 128x128 pictograms. SD_MODEL_ID switches to a large one."


class BackendStatus(StrEnum):
    READY = "ready"
    LOADING = "loading"
    BUSY = "busy"
    OFFLINE = "offline"
    UNCONFIGURED = "unconfigured"


class ServiceStatus(StrEnum):
    OK = "ok"
    DEGRADED = "degraded"
    UNAVAILABLE = "unavailable"


class BackendView(BaseModel):
    name: Backend
    status: BackendStatus
    model: str | None
    device: str | None
    dtype: str | None
    workers: list[WorkerRecord]
    reason: str | None = Field(description="Why its last worker could not start, while none is ready")
    queued: int
    estimated_wait_seconds: float = Field(description="For a job that would be submitted now, by recent experience")
    credits: float | None = Field(description="What the account with the provider still has, where there is one")
    capabilities: dict[str, Any] | None = Field(description="JSON Schema of the accepted fields; null until known")


class BackendListView(BaseModel):
    default: Backend
    backends: list[BackendView]


class OutputsView(BaseModel):
    writable: bool
    free_bytes: int | None


class HealthView(BaseModel):
    status: ServiceStatus
    version: str
    redis: bool
    outputs: OutputsView
    default_backend: Backend
    backends: dict[Backend, BackendStatus]
    reasons: dict[Backend, str] = Field(description="Why backends have no ready worker, where their last one told")
    downloads: dict[Backend, Download] = Field(description="Models on their way to a backend that is loading")


class InfoView(BaseModel):
    name: str
    version: str
    default_backend: Backend
    models: dict[Backend, str]
    safety: dict[Backend, str] = Field(
        description="What local engines do about unsafe images: `checked`, `off`, or `exempt` and why"
    )
    notes: list[str]
    limits: dict[str, int]
    links: dict[str, str]


def backend_status(services: Services, fleet: Fleet, backend: Backend) -> BackendStatus:
    states = {worker.state for worker in fleet.of(backend)}
    for state in (WorkerState.READY, WorkerState.BUSY, WorkerState.LOADING):
        if state in states:
            return BackendStatus(state)
    return BackendStatus.OFFLINE if services.is_known(fleet, backend) else BackendStatus.UNCONFIGURED


def _reason(fleet: Fleet, backend: Backend) -> str | None:
    served = any(worker.state is not WorkerState.LOADING for worker in fleet.of(backend))
    return None if served else fleet.failures.get(backend)


def _shown(services: Services) -> list[Backend]:
    """Every backend, but null only where it is switched on."""
    return [backend for backend in Backend if backend is not Backend.NULL or backend in services.settings.backends]


async def _seen_by(services: Services, caller: Caller, fleet: Fleet) -> Fleet:
    """The workers without the ids of others' jobs. Raises StoreUnavailable."""
    running = [worker.current_job for worker in fleet.workers if worker.current_job is not None]
    if caller.sees is None or not running:
        return fleet
    own = await services.store.run(services.jobs.owned(running, caller.sees))
    workers = (
        worker if worker.current_job in own else worker.model_copy(update={"current_job": None})
        for worker in fleet.workers
    )
    return replace(fleet, workers=tuple(workers))


def _backend_view(services: Services, fleet: Fleet, backend: Backend) -> BackendView:
    workers = fleet.of(backend)
    capabilities = services.capabilities(fleet, backend)
    told = [worker.credits for worker in workers if worker.credits is not None]
    lead = next((worker for worker in workers if worker.device), None)
    return BackendView(
        name=backend,
        status=backend_status(services, fleet, backend),
        model=workers[0].model if workers else capabilities and capabilities.model,
        device=lead and lead.device,
        dtype=lead and lead.dtype,
        workers=list(workers),
        reason=_reason(fleet, backend),
        queued=fleet.queued[backend],
        estimated_wait_seconds=fleet.wait_seconds(backend, fleet.queued[backend] * fleet.pace[backend].get("*", 0)),
        credits=told[0] if told else None,
        capabilities=capabilities and request_schema(capabilities, services.limits),
    )


@router.get("/api/backends", responses=documented("unauthorized", "store-unavailable"))
async def backends(services: ServicesDep, caller: CallerDep) -> BackendListView:
    """What can make images, what it takes, and how busy it is. `current_job` is for callers who may see that job."""
    fleet = await _seen_by(services, caller, await services.watch.fleet())
    views = [_backend_view(services, fleet, backend) for backend in _shown(services)]
    return BackendListView(default=services.settings.effective_default_backend, backends=views)


@router.head("/health", include_in_schema=False)
@router.get("/health", responses=documented("unauthorized"))
async def health(services: ServicesDep) -> HealthView:
    """Everything at a glance. Always 200: `status` says how it is."""
    disk = await services.disk.seen()
    try:
        fleet = await services.watch.fleet()
        statuses = {backend: backend_status(services, fleet, backend) for backend in _shown(services)}
        reasons = {backend: reason for backend in statuses if (reason := _reason(fleet, backend))}
        downloads = {worker.backend: worker.download for worker in fleet.workers if worker.download}
    except StoreUnavailable:
        statuses, reasons, downloads = {}, {}, {}
    default = services.settings.effective_default_backend
    return HealthView(
        status=_overall(statuses.get(default), await services.disk.has_room()),
        version=services.version,
        redis=bool(statuses),
        outputs=OutputsView(writable=disk.is_writable, free_bytes=disk.free_bytes),
        default_backend=default,
        backends=statuses,
        reasons=reasons,
        downloads=downloads,
    )


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live")
async def live() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.head("/health/ready", include_in_schema=False)
@router.get(
    "/health/ready", responses={503: {"description": "Redis is away or the default backend has no ready worker"}}
)
async def ready(services: ServicesDep, response: Response) -> dict[str, str]:
    """Whether a request to the default backend would be served now."""
    try:
        status = backend_status(services, await services.watch.fleet(), services.settings.effective_default_backend)
    except StoreUnavailable:
        status = None
    if status in (BackendStatus.READY, BackendStatus.BUSY):
        return {"status": "ok"}
    response.status_code = 503
    return {"status": status or "redis-unavailable"}


@router.get("/info", responses=documented("unauthorized", "store-unavailable"))
async def info(http: Request, services: ServicesDep) -> InfoView:
    """What this service is."""
    fleet = await services.watch.fleet()
    shown = {backend: known for backend, known in fleet.capabilities.items() if backend in _shown(services)}
    models = {backend: known.model for backend, known in shown.items()}
    base_url, settings = services.base_url(http), services.settings
    return InfoView(
        name="imagegen",
        version=services.version,
        default_backend=settings.effective_default_backend,
        models=models,
        safety={backend: known.safety for backend, known in shown.items() if known.safety},
        notes=[STARTER_NOTE] if "starter" in models.values() else [],
        limits={
            "max_pixels": settings.max_pixels,
            "max_pixel_steps": settings.max_pixel_steps,
            "max_images_per_job": settings.max_images_per_job,
            "max_queued_jobs": settings.max_queued_jobs,
            "sync_timeout_seconds": settings.sync_timeout_seconds,
            "job_timeout_seconds": settings.job_timeout_seconds,
        },
        links={name: f"{base_url}{path}" for name, path in _LINKS.items()},
    )


_LINKS = {"docs": "/docs", "openapi": "/openapi.json", "health": "/health", "backends": "/api/backends"}


def _overall(default: BackendStatus | None, room: bool) -> ServiceStatus:
    match default:
        case None:
            return ServiceStatus.UNAVAILABLE
        case BackendStatus.READY | BackendStatus.BUSY:
            return ServiceStatus.OK if room else ServiceStatus.DEGRADED
        case BackendStatus.LOADING | BackendStatus.OFFLINE | BackendStatus.UNCONFIGURED:
            return ServiceStatus.DEGRADED
