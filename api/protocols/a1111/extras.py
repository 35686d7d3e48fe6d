"""Enlarges images with the Lanczos filter or one of this service's upscalers: each image is a job."""

import json
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from api.delivery.waiting import wait_for_result
from api.field_errors import invalid_field, validate
from api.intake.idempotency import IdempotencyDep, IdempotencyScope
from api.intake.separate_images import ImageText, SeparateImage, read_separate_images
from api.intake.submissions import Submission, Translation
from api.problems import failed_job_response
from api.protocols.a1111.answers import available_images
from api.protocols.a1111.checkpoints import Checkpoints
from api.protocols.a1111.openapi import json_body
from api.protocols.a1111.wire import BatchExtrasBody, ExtrasBody, SingleExtrasBody
from api.services import Services, ServicesDep
from shared.jobs.job import Image, Job
from shared.jobs.requests import GenerationRequest
from shared.jobs.types import ApiProtocol

router = APIRouter(prefix="/sdapi/v1")

#: What a record of a job says in place of a prompt.
PROMPT = "enlarge this image"
MAX_IMAGES, MAX_SIDE = 16, 8192


@router.post("/extra-single-image", operation_id="a1111EnlargeImage", openapi_extra=json_body(SingleExtrasBody))
async def enlarge_image(http: Request, services: ServicesDep, scope: IdempotencyDep) -> Response:
    """Enlarge an image."""
    async with AsyncExitStack() as exits:

        def find(body: dict[str, object]) -> list[ImageText]:
            return [ImageText(body.get("image"), "/image")]

        body, images = await read_separate_images(http, services.uploads, exits, find)
        return await _answer(http, services, scope, validate(ExtrasBody, body), images, '"image": ', "")


@router.post("/extra-batch-images", operation_id="a1111EnlargeImages", openapi_extra=json_body(BatchExtrasBody))
async def enlarge_images(http: Request, services: ServicesDep, scope: IdempotencyDep) -> Response:
    """Enlarge several images."""
    async with AsyncExitStack() as exits:
        body, images = await read_separate_images(http, services.uploads, exits, _find_images)
        return await _answer(http, services, scope, validate(ExtrasBody, body), images, '"images": [', "]")


def _find_images(body: dict[str, object]) -> list[ImageText]:
    """Raises InvalidRequest."""
    entries = body.get("imageList")
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_IMAGES:
        raise invalid_field("/imageList", f"must be a list of 1 to {MAX_IMAGES} images")
    return [
        ImageText(entry.get("data") if isinstance(entry, dict) else entry, f"/imageList/{index}")
        for index, entry in enumerate(entries)
    ]


async def _answer(
    http: Request,
    services: Services,
    scope: IdempotencyScope,
    body: ExtrasBody,
    images: Sequence[SeparateImage],
    before: str,
    after: str,
) -> Response:
    upscalers = (await Checkpoints.read(services)).upscalers
    enlarged = list[tuple[Job, Image]]()
    for image in images:
        submission = _submission(services, image, body, upscalers)
        job = (await wait_for_result(http, services, submission, scope)).job
        if job.error is not None:
            return failed_job_response(job.error, {"X-Job-Id": job.id})
        enlarged.append((job, (await available_images(services, job))[0]))
    headers = {"X-Job-Id": enlarged[-1][0].id}
    text = _text(services, enlarged, f'{{"html_info": "", {before}', after + "}")
    return StreamingResponse(text, media_type="application/json", headers=headers)


async def _text(
    services: Services, enlarged: Sequence[tuple[Job, Image]], before: str, after: str
) -> AsyncIterator[bytes]:
    for number, (job, image) in enumerate(enlarged):
        yield (", " if number else before).encode()
        async for chunk in services.inline_images.chunks(job, lambda inline: json.dumps(*inline.values()), [image]):
            yield chunk
    yield after.encode()


def _submission(services: Services, image: SeparateImage, body: ExtrasBody, upscalers: Collection[str]) -> Submission:
    """Raises InvalidRequest."""
    request = GenerationRequest(prompt=PROMPT, image=(image.reference,))
    given = image.uploads.first_image_size(request) or (1, 1)
    width, height = _size(body, given)
    if max(width, height) > MAX_SIDE or width * height > services.limits.max_pixels:
        detail = f"would make an image of {width}x{height}; at most {services.limits.max_pixels} pixels are allowed"
        raise invalid_field("/upscaling_resize", detail)
    translation = Translation({})
    if body.upscaler_1 in upscalers:
        size = {"model": body.upscaler_1, "width": width, "height": height}
    else:
        size = {"resize_only": True, "output_width": width, "output_height": height}
        translation.ignore("upscaler_1", body.upscaler_1, "", "None", "Lanczos", reason="Lanczos is used")
    if body.extras_upscaler_2_visibility:
        translation.ignore("upscaler_2", body.upscaler_2, "", "None")
    translation.ignore("gfpgan_visibility", body.gfpgan_visibility, 0)
    translation.ignore("codeformer_visibility", body.codeformer_visibility, 0)
    return Submission(request.model_copy(update=size), image.uploads, ApiProtocol.A1111, tuple(translation.warnings))


def _size(body: ExtrasBody, given: tuple[int, int]) -> tuple[int, int]:
    """With the proportions of the image. Without an upscaler, a factor has no effect there."""
    factor = body.upscaling_resize
    if body.resize_mode == 1:
        factor = min(body.upscaling_resize_w / given[0], body.upscaling_resize_h / given[1])
    elif body.upscaler_1 in ("", "None"):
        factor = 1.0
    return max(16, round(given[0] * factor)), max(16, round(given[1] * factor))
