"""The routes that send the bytes of images."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse

from api.delivery.archive import MAX_ARCHIVED_JOBS, archive_images
from api.delivery.image_files import FileStream, serve_image, serve_thumbnail
from api.edge.authentication import CallerDep, charge
from api.problems import problem_responses
from api.services import ServicesDep
from shared.errors import ImageNotFound
from shared.storage.images import THUMBNAIL_WIDTH

router = APIRouter(tags=["jobs"])


@router.get(
    "/api/jobs/{job_id}/images/{index}",
    operation_id="getImage",
    response_class=FileResponse,
    responses={
        200: {"content": {"image/png": {}, "image/jpeg": {}, "image/webp": {}}},
        206: {"description": "The requested `Range`"},
        307: {"description": "The image is in a bucket; `Location` is a signed link to it"},
        304: {"description": "`If-None-Match` names this image"},
        **problem_responses(
            "invalid-request",
            "job-not-found",
            "image-not-found",
            "range-not-satisfiable",
            "storage-unavailable",
        ),
    },
)
async def get_image(
    http: Request,
    services: ServicesDep,
    caller: CallerDep,
    job_id: str,
    index: int,
    width: Annotated[
        int | None,
        Query(ge=THUMBNAIL_WIDTH, le=THUMBNAIL_WIDTH, description="A JPEG thumbnail; the image itself if it has none"),
    ] = None,
) -> Response:
    """Get the bytes of one image, or of its thumbnail."""
    job = (await services.find_job(http, caller, job_id)).job
    image = next((image for image in job.images if image.index == index), None)
    if image is None:
        raise ImageNotFound
    serve = serve_image if width is None else serve_thumbnail
    return await serve(services.image_store, job, image, http)


@router.get(
    "/api/images.zip",
    operation_id="getImages",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"application/zip": {}}},
        **problem_responses(
            "invalid-request",
            "job-not-found",
            "image-not-found",
            "payload-too-large",
            "storage-unavailable",
        ),
    },
)
async def get_images(
    http: Request,
    services: ServicesDep,
    caller: CallerDep,
    job: Annotated[
        list[Annotated[str, Query(pattern=r"^[0-9a-f-]{36}$")]],
        Query(min_length=1, max_length=MAX_ARCHIVED_JOBS, description="Ids of jobs"),
    ],
) -> Response:
    """Get all images of some jobs in one ZIP file. Images whose files were deleted are left out."""
    await charge(http, len(job) - 1)
    reads = (services.read_job(job_id, caller.visible_owner) for job_id in dict.fromkeys(job))
    snapshots = await asyncio.gather(*reads)
    chunks = await archive_images(services.image_store.storage, [snapshot.job for snapshot in snapshots])
    headers = {"Content-Disposition": 'attachment; filename="images.zip"', "X-Accel-Buffering": "no"}
    return FileStream(chunks, media_type="application/zip", headers=headers)
