"""Answers with predictions. Their output is https: or data:, because clients make files of these alone."""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from fastapi import Request, Response

from api.services import Services
from shared.access.links import Links
from shared.jobs.snapshots import JobSnapshot
from shared.protocols.replicate import image_links, prediction


async def prediction_response(
    services: Services, http: Request, snapshot: JobSnapshot, status: int = 200, *, pending: str | None = None
) -> Response:
    """`pending` replaces the status of a job that has not ended."""
    job, links = snapshot.job, await services.links(http)
    headers = {"X-Job-Id": job.id}
    if not job.images or links.base_url.startswith("https:"):
        body = prediction_object(snapshot, links)
        if pending is not None and not job.state.is_terminal:
            body["status"] = pending
        return Response(json.dumps(body), status, headers, "application/json")
    images = await services.inline_images.available(job)
    return services.inline_images.response(job, partial(_inline, snapshot, links), images, headers, status)


def prediction_object(snapshot: JobSnapshot, links: Links) -> dict[str, Any]:
    """With links to the images."""
    return prediction(snapshot, links.base_url, image_links(snapshot.job, links))


def _inline(snapshot: JobSnapshot, links: Links, inline: Mapping[int, str]) -> str:
    """`inline` has what stands for the bytes of each image."""
    types = {image.index: image.media_type for image in snapshot.job.images}
    output = [f"data:{types[index]};base64,{placeholder}" for index, placeholder in inline.items()]
    return json.dumps(prediction(snapshot, links.base_url, output or None))
