"""Builds the answers about one job: as JSON, as its first image, or as 202."""

from collections.abc import Mapping
from functools import partial
from hashlib import sha256

from fastapi import Request, Response

from api.delivery.image_files import client_has, serve_image
from api.delivery.inline_images import CANCELLED
from api.problems import failed_job_response
from api.services import Services
from shared.errors import ImageNotFound, StoreUnavailable
from shared.jobs.job import Job, ModelLoad
from shared.jobs.snapshots import JobSnapshot
from shared.jobs.states import State
from shared.jobs.types import ResponseFormat
from shared.jobs.views import JobView, job_view
from shared.workers.records import Fleet


async def result_response(services: Services, http: Request, snapshot: JobSnapshot, *, as_image: bool) -> Response:
    """The finished job as JSON, its first image, or the error that it failed with."""
    job = snapshot.job
    if job.error is not None:
        return failed_job_response(job.error, {"X-Job-Id": job.id})
    if not as_image:
        return await job_response(services, http, snapshot)
    if job.state is State.CANCELLED:
        raise ImageNotFound(CANCELLED)
    # A withheld image has no bytes; a job whose images are all withheld has failed.
    first = next(image for image in job.images if not image.flagged)
    return await serve_image(services.image_store, job, first, http)


async def job_response(services: Services, http: Request, snapshot: JobSnapshot) -> Response:
    """200 with the job, and with its images if the request asked for base64; 304 if the client has this version."""
    job = snapshot.job
    view = await view_job(services, http, snapshot)
    inline = job.request.response_format is ResponseFormat.B64_JSON
    images = await services.inline_images.available(job) if inline else []
    body, headers = view.model_dump_json().encode(), {"X-Job-Id": job.id}
    if job.state.is_terminal:
        # The body changes with everything but the files, which never change but may be gone.
        available = " ".join(str(image.index) for image in images)
        headers["ETag"] = f'"{sha256(body + available.encode()).hexdigest()}"'
        if client_has(headers["ETag"], http):
            return Response(status_code=304, headers=headers)
    if images:
        return services.inline_images.response(job, partial(_with_images, view), images, headers)
    return Response(body, headers=headers, media_type="application/json")


def _with_images(view: JobView, images: Mapping[int, str]) -> str:
    inline = [image.model_copy(update={"b64_json": images.get(image.index)}) for image in view.images]
    return view.model_copy(update={"images": inline}).model_dump_json()


async def accepted_response(services: Services, http: Request, snapshot: JobSnapshot) -> Response:
    """202 with the job, and its URL in `Location`."""
    view = await view_job(services, http, snapshot)
    headers = {"Location": view.links["self"], "X-Job-Id": view.id}
    return Response(view.model_dump_json(), 202, headers, "application/json")


async def view_job(services: Services, http: Request, snapshot: JobSnapshot) -> JobView:
    """The job as clients see it, with an estimate of its wait while it is queued."""
    links, fleet = await services.links(http), await _fleet_ahead(services, snapshot)
    if fleet is None:
        return job_view(snapshot, links)
    return job_view(snapshot, links, wait=_wait_seconds(fleet, snapshot), load=_load(fleet, snapshot.job))


async def estimated_wait(services: Services, snapshot: JobSnapshot) -> float | None:
    """Seconds until a queued job starts, loads of models included; None for any other job and while Redis is away."""
    fleet = await _fleet_ahead(services, snapshot)
    return _wait_seconds(fleet, snapshot) if fleet else None


async def _fleet_ahead(services: Services, snapshot: JobSnapshot) -> Fleet | None:
    """What a queued job waits for; None for any other job and while Redis is away."""
    if snapshot.queue_position is None:
        return None
    try:
        return await services.fleet_cache.get()
    except StoreUnavailable:
        return None


def _wait_seconds(fleet: Fleet, snapshot: JobSnapshot) -> float:
    models = (*snapshot.models_ahead, snapshot.job.model or "")
    return fleet.wait_seconds(snapshot.job.backend, snapshot.work_ahead_ms, models)


def _load(fleet: Fleet, job: Job) -> ModelLoad | None:
    """The load that a queued job waits for."""
    if job.model is None or fleet.holders_of(job.backend, job.model):
        return None
    return fleet.load_of(job.backend, job.model)
