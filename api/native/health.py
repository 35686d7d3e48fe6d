"""The routes that report the state of the service to people, load balancers and clients."""

from dataclasses import replace
from enum import StrEnum
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from api.edge.authentication import Caller, CallerDep
from api.problems import problem_responses
from api.services import Services, ServicesDep
from shared.errors import StoreUnavailable
from shared.jobs.job import ModelLoad
from shared.jobs.types import Backend
from shared.models.request_schema import request_schema
from shared.workers.records import Download, Fleet, WorkerRecord, WorkerState

router = APIRouter(tags=["service"])

STARTER_NOTE = "The starter model is small and draws 128x128 pictograms. Set SD_MODEL_ID to use a large model."


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
    reason: str | None = Field(description="Why the last worker could not start, if none is ready")
    queued: int
    estimated_wait_seconds: float = Field(description="Estimate for a job submitted now, from recent durations")
    credits: float | None = Field(description="Credits left at the cloud provider")
    capabilities: dict[str, Any] | None = Field(description="JSON Schema of the accepted fields; null while unknown")


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
    reasons: dict[Backend, str] = Field(description="Why backends have no ready worker, as the last one reported")
    downloads: dict[Backend, Download] = Field(description="Downloads of models that backends wait for")
    loading: dict[Backend, list[ModelLoad]] = Field(description="Models that workers are loading into memory")


class InfoView(BaseModel):
    name: str
    version: str
    default_backend: Backend
    models: dict[Backend, str]
    safety: dict[Backend, str] = Field(
        description="How local backends treat unsafe images: `checked`, `off`, or `exempt` with the reason"
    )
    notes: list[str]
    limits: dict[str, int]
    links: dict[str, str]


def backend_status(services: Services, fleet: Fleet, backend: Backend) -> BackendStatus:
    states = {worker.state for worker in fleet.workers_of(backend)}
    for state in (WorkerState.READY, WorkerState.BUSY, WorkerState.LOADING):
        if state in states:
            return BackendStatus(state)
    return BackendStatus.OFFLINE if services.is_offered(fleet, backend) else BackendStatus.UNCONFIGURED


def _failure_reason(fleet: Fleet, backend: Backend) -> str | None:
    served = any(worker.state is not WorkerState.LOADING for worker in fleet.workers_of(backend))
    return None if served else fleet.start_failures.get(backend)


def _visible_backends(services: Services) -> list[Backend]:
    """All backends, but null only if it is enabled."""
    return [backend for backend in Backend if backend is not Backend.NULL or backend in services.settings.backends]


async def _visible_fleet(services: Services, caller: Caller, fleet: Fleet) -> Fleet:
    """The workers without the ids of jobs that the caller may not see. Raises StoreUnavailable."""
    running = [worker.current_job for worker in fleet.workers if worker.current_job is not None]
    if caller.visible_owner is None or not running:
        return fleet
    visible = await services.store.run(services.jobs.filter_owned(running, caller.visible_owner))
    workers = (
        worker if worker.current_job in visible else worker.model_copy(update={"current_job": None})
        for worker in fleet.workers
    )
    return replace(fleet, workers=tuple(workers))


def _backend_view(services: Services, fleet: Fleet, backend: Backend) -> BackendView:
    workers = fleet.workers_of(backend)
    capabilities = services.capabilities(fleet, backend)
    credits_left = [worker.credits for worker in workers if worker.credits is not None]
    loaded = next((worker for worker in workers if worker.device), None)
    return BackendView(
        name=backend,
        status=backend_status(services, fleet, backend),
        model=workers[0].model if workers else capabilities and capabilities.model,
        device=loaded and loaded.device,
        dtype=loaded and loaded.dtype,
        workers=list(workers),
        reason=_failure_reason(fleet, backend),
        queued=fleet.queued[backend],
        estimated_wait_seconds=fleet.wait_seconds(
            backend, fleet.queued[backend] * fleet.duration_stats[backend].get("*", 0)
        ),
        credits=credits_left[0] if credits_left else None,
        capabilities=capabilities and request_schema(capabilities, services.limits),
    )


@router.get("/api/backends", operation_id="listBackends")
async def list_backends(services: ServicesDep, caller: CallerDep) -> BackendListView:
    """List backends with their capabilities and load. `current_job` is null if you may not see that job."""
    fleet = await _visible_fleet(services, caller, await services.fleet_cache.get())
    views = [_backend_view(services, fleet, backend) for backend in _visible_backends(services)]
    return BackendListView(default=services.settings.effective_default_backend, backends=views)


@router.get("/health", operation_id="getHealth")
async def get_health(services: ServicesDep) -> HealthView:
    """Get the state of the whole service. The status code is always 200; `status` says whether the service works."""
    disk = await services.disk_space.usage()
    try:
        fleet = await services.fleet_cache.get()
        statuses = {backend: backend_status(services, fleet, backend) for backend in _visible_backends(services)}
        reasons = {backend: reason for backend in statuses if (reason := _failure_reason(fleet, backend))}
        downloads = {worker.backend: worker.download for worker in fleet.workers if worker.download}
        loading = {backend: loads for backend in statuses if (loads := _loads(fleet, backend))}
    except StoreUnavailable:
        statuses, reasons, downloads, loading = {}, {}, {}, {}
    default = services.settings.effective_default_backend
    return HealthView(
        status=_overall(statuses.get(default), await services.disk_space.has_space()),
        version=services.version,
        redis=bool(statuses),
        outputs=OutputsView(writable=disk.is_writable, free_bytes=disk.free_bytes),
        default_backend=default,
        backends=statuses,
        reasons=reasons,
        downloads=downloads,
        loading=loading,
    )


def _loads(fleet: Fleet, backend: Backend) -> list[ModelLoad]:
    return [worker.loading for worker in fleet.workers_of(backend) if worker.loading]


@router.get("/health/live", operation_id="getLiveness")
async def get_liveness() -> dict[str, str]:
    """Check that the process responds."""
    return {"status": "ok"}


@router.get(
    "/health/ready",
    operation_id="getReadiness",
    responses={503: {"description": "Redis is unreachable, or the default backend has no ready worker"}},
)
async def get_readiness(services: ServicesDep, response: Response) -> dict[str, str]:
    """Check that the default backend would serve a request now."""
    try:
        status = backend_status(services, await services.fleet_cache.get(), services.settings.effective_default_backend)
    except StoreUnavailable:
        status = None
    if status in (BackendStatus.READY, BackendStatus.BUSY):
        return {"status": "ok"}
    response.status_code = 503
    return {"status": status or "redis-unavailable"}


@router.get("/info", operation_id="getInfo", responses=problem_responses("store-unavailable"))
async def get_info(http: Request, services: ServicesDep) -> InfoView:
    """Get the version, models and limits of the service."""
    fleet = await services.fleet_cache.get()
    visible = _visible_backends(services)
    offered = {backend: known for backend, known in fleet.capabilities.items() if backend in visible}
    models = {backend: known.model for backend, known in offered.items()}
    base_url, settings = services.base_url(http), services.settings
    return InfoView(
        name="imagegen",
        version=services.version,
        default_backend=settings.effective_default_backend,
        models=models,
        safety={backend: known.safety for backend, known in offered.items() if known.safety},
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


_LINKS = {
    "docs": "/docs",
    "openapi": "/openapi.json",
    "health": "/health",
    "backends": "/api/backends",
    "models": "/api/models",
}


def _overall(default: BackendStatus | None, has_disk_space: bool) -> ServiceStatus:
    match default:
        case None:
            return ServiceStatus.UNAVAILABLE
        case BackendStatus.READY | BackendStatus.BUSY:
            return ServiceStatus.OK if has_disk_space else ServiceStatus.DEGRADED
        case BackendStatus.LOADING | BackendStatus.OFFLINE | BackendStatus.UNCONFIGURED:
            return ServiceStatus.DEGRADED
