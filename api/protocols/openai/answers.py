"""Finished jobs as the OpenAI API answers them."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from fastapi import Request, Response

from api.problems import failed_job_response
from api.protocols.openai.wire import ImageParameters
from api.services import Services
from shared.access.links import Links
from shared.jobs.job import Image, Job
from shared.jobs.snapshots import JobSnapshot
from shared.jobs.types import ResponseFormat

#: This service counts no tokens, but clients read all of these.
USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "output_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "total_tokens": 0,
}


async def images_response(
    services: Services, http: Request, snapshot: JobSnapshot, parameters: ImageParameters
) -> Response:
    """The images as base64 or as links, or both, or the error that the job failed with. Raises ImageNotFound."""
    job, headers = snapshot.job, {"X-Job-Id": snapshot.job.id, "x-request-id": snapshot.job.id}
    if job.error is not None:
        return failed_job_response(job.error, headers)
    images = await services.inline_images.required(job)
    only_links = job.request.response_format is ResponseFormat.URL
    links = await services.links(http) if only_links or parameters.may_expect_links else None
    render = partial(_body, job, images, parameters, links)
    return services.inline_images.response(job, render, [] if only_links else images, headers)


def description(job: Job, image: Image, parameters: ImageParameters) -> dict[str, Any]:
    """What answers and events say of an image."""
    return {
        "background": "opaque",
        "output_format": str(job.request.output_format),
        "quality": parameters.reported_quality,
        "size": f"{image.width}x{image.height}",
        "usage": USAGE,
    }


def _body(
    job: Job, images: Sequence[Image], parameters: ImageParameters, links: Links | None, inline: Mapping[int, str]
) -> str:
    """`inline` has what stands for the bytes of each image; it is empty for links alone."""
    data = [
        ({"b64_json": inline[image.index]} if inline else {})
        | ({"url": links.image(job.id, image.index)} if links else {})
        for image in images
    ]
    created = int((job.finished_at or job.created_at).timestamp())
    return json.dumps({"created": created, "data": data, **description(job, images[0], parameters)})
