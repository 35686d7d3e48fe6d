"""Finished jobs as the web UI answers them."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from fastapi import Request, Response

from api.problems import failed_job_response, set_job_id
from api.protocols.a1111.wire import GenerationBody
from api.services import Services
from shared.jobs.job import Image
from shared.jobs.snapshots import JobSnapshot
from shared.jobs.web_ui.infotext import generation_info


async def images_response(services: Services, http: Request, snapshot: JobSnapshot, body: GenerationBody) -> Response:
    """The images as bare base64, and how they were made. Raises ImageNotFound."""
    job, headers = snapshot.job, {"X-Job-Id": snapshot.job.id}
    set_job_id(http, job.id)
    if job.error is not None:
        return failed_job_response(job.error, headers)
    images = await services.inline_images.required(job)
    info, parameters = json.dumps(generation_info(job, images, services.version)), body.model_dump(by_alias=True)
    for name in parameters.keys() & {"init_images", "mask"}:
        parameters[name] = None
    shown = [] if body.send_images is False else images
    render = partial(_body, shown, parameters, info)
    return services.inline_images.response(job, render, shown, headers)


def _body(images: Sequence[Image], parameters: dict[str, Any], info: str, inline: Mapping[int, str]) -> str:
    texts = [inline[image.index] for image in images]
    return json.dumps({"images": texts, "parameters": parameters, "info": info})
