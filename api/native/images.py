"""Image bytes: one way to send them, with validators and ranges."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

from api.delivery.image_files import send_image
from api.edge.authentication import CallerDep
from api.problems import about, documented
from api.services import ServicesDep
from shared.errors import ImageNotFound
from shared.jobs.requests import Image, Job
from shared.storage.images import ImageStore, image_name

router = APIRouter(tags=["jobs"])

#: An image never changes once it is recorded.
CACHE_CONTROL = "private, max-age=31536000, immutable"


@router.head("/api/jobs/{job_id}/images/{index}", include_in_schema=False)
@router.get(
    "/api/jobs/{job_id}/images/{index}",
    response_class=FileResponse,
    responses={
        200: {"content": {"image/png": {}, "image/jpeg": {}, "image/webp": {}}},
        206: {"description": "The part that `Range` asked for"},
        307: {"description": "The image is in a bucket, and its address there is signed for you"},
        304: {"description": "`If-None-Match` names this very image"},
        **documented(
            "unauthorized",
            "invalid-request",
            "job-not-found",
            "image-not-found",
            "range-not-satisfiable",
            "rate-limited",
            "store-unavailable",
            "storage-unavailable",
        ),
    },
)
async def get_image(http: Request, services: ServicesDep, caller: CallerDep, job_id: str, index: int) -> Response:
    """The bytes of one image."""
    job = (await services.find(caller, job_id)).job
    about(http, job.id)
    image = next((image for image in job.images if image.index == index), None)
    if image is None:
        raise ImageNotFound
    return await serve_image(services.images, job, image, http)


async def serve_image(store: ImageStore, job: Job, image: Image, http: Request) -> Response:
    """Raises ImageNotFound when the file is gone, is not the one that was recorded, or was never to be seen.

    Raises RangeNotSatisfiable and StorageUnavailable.
    """
    if image.flagged:
        raise ImageNotFound("The safety checker withheld this image.")
    headers = {"ETag": f'"{image.sha256}"', "X-Job-Id": job.id, "Cache-Control": CACHE_CONTROL}
    headers["X-Seed"] = str(image.seed)
    return await send_image(store.storage, image_name(job, image.index), image, http, headers)
