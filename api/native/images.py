"""The route that sends the bytes of one image."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

from api.delivery.image_files import serve_image
from api.edge.authentication import CallerDep
from api.problems import problem_responses, set_job_id
from api.services import ServicesDep
from shared.errors import ImageNotFound

router = APIRouter(tags=["jobs"])


@router.head("/api/jobs/{job_id}/images/{index}", include_in_schema=False)
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
    job = (await services.read_job(job_id, caller.visible_owner)).job
    set_job_id(http, job.id)
    image = next((image for image in job.images if image.index == index), None)
    if image is None:
        raise ImageNotFound
    return await serve_image(services.image_store, job, image, http)
