"""Enlarges images with the Lanczos filter or one of this service's upscalers: each image is a job."""

from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from api.delivery.waiting import wait_for_result
from api.field_errors import invalid_field, validate
from api.intake.idempotency import IdempotencyDep, IdempotencyScope
from api.intake.images.separate_images import ImageText, find_image, read_separate_images
from api.intake.openapi_bodies import model_request_body
from api.intake.submissions import ENLARGEMENT, Submission, Translation
from api.intake.uploads import UploadWriter
from api.problems import failed_job_response
from api.protocols.a1111.wire import ExtrasBody
from api.services import Services, ServicesDep
from shared.jobs.job import Image, Job
from shared.jobs.requests import MAX_SIDE, MIN_SIDE, GenerationRequest
from shared.jobs.types import ApiProtocol, ResizeMode
from shared.models.capabilities import RequestLimits, Size

router = APIRouter(prefix="/sdapi/v1")

MAX_IMAGES = 16


@router.post("/extra-single-image", operation_id="a1111EnlargeImage", openapi_extra=model_request_body(ExtrasBody))
async def enlarge_image(http: Request, services: ServicesDep, scope: IdempotencyDep) -> Response:
    """Enlarge an image."""
    async with AsyncExitStack() as exits:
        body, images = await read_separate_images(http, services.uploads, exits, find_image)
        return await _answer(http, services, scope, validate(ExtrasBody, body), images, '"image": ', "")


@router.post("/extra-batch-images", operation_id="a1111EnlargeImages", openapi_extra=model_request_body(ExtrasBody))
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
    images: Sequence[UploadWriter],
    before: str,
    after: str,
) -> Response:
    upscalers = (await services.models()).upscalers
    upscaler = body.upscaler_1 if body.upscaler_1 in upscalers else None
    warnings = _warnings(body, upscalers)
    enlarged = list[tuple[Job, Image]]()
    for number, image in enumerate(images):
        request = _request(body, upscaler, image, services.limits)
        # Each image is a request of its own, which a repeated call finds again.
        own_scope = replace(scope, key=f"{scope.key} {number}") if scope.key and number else scope
        submission = Submission(http, services, own_scope, request, image.uploads, ApiProtocol.A1111, warnings)
        job = (await wait_for_result(submission)).job
        if job.error is not None:
            return failed_job_response(job.error, {"X-Job-Id": job.id})
        enlarged.append((job, (await services.inline_images.required(job))[0]))
    headers = {"X-Job-Id": enlarged[-1][0].id}
    text = services.inline_images.texts(enlarged, f'{{"html_info": "", {before}', after + "}")
    return StreamingResponse(text, media_type="application/json", headers=headers)


def _request(body: ExtrasBody, upscaler: str | None, image: UploadWriter, limits: RequestLimits) -> GenerationRequest:
    """`upscaler` is None for the Lanczos filter. Raises InvalidRequest."""
    request = GenerationRequest(prompt=ENLARGEMENT, image=(image.reference,))
    width, height = _size(body, image.uploads.first_image_size(request) or (1, 1))
    if max(width, height) > MAX_SIDE or width * height > limits.max_pixels:
        detail = f"would make an image of {width}x{height}; at most {limits.max_pixels} pixels are allowed"
        raise invalid_field("/upscaling_resize", detail)
    fields: dict[str, object]
    if upscaler is None:
        fields = {"resize_only": True, "output_width": width, "output_height": height}
    else:
        fields = {"model": upscaler, "width": width, "height": height}
    if body.resize_mode == 1 and body.upscaling_crop:
        fields["resize_mode"] = ResizeMode.CROP
    return request.model_copy(update=fields)


def _size(body: ExtrasBody, given: Size) -> Size:
    """The image covers the box, if there is one, and is cropped to it or not."""
    box = body.upscaling_resize_w, body.upscaling_resize_h
    if body.resize_mode != 1:
        # Without an upscaler, a factor has no effect there.
        factor = 1.0 if body.upscaler_1 in ("", "None") else body.upscaling_resize
    elif body.upscaling_crop:
        return box
    else:
        factor = max(box[0] / given[0], box[1] / given[1])
    return max(MIN_SIDE, round(given[0] * factor)), max(MIN_SIDE, round(given[1] * factor))


def _warnings(body: ExtrasBody, upscalers: Collection[str]) -> tuple[str, ...]:
    translation = Translation({})
    translation.ignore("upscaler_1", body.upscaler_1, "", "None", "Lanczos", *upscalers, reason="Lanczos is used")
    translation.ignore("extras_upscaler_2_visibility", body.extras_upscaler_2_visibility, 0)
    translation.ignore("gfpgan_visibility", body.gfpgan_visibility, 0)
    translation.ignore("codeformer_visibility", body.codeformer_visibility, 0)
    return tuple(translation.warnings)
