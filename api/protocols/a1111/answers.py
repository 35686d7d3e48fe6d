"""Finished jobs as the web UI answers them."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from fastapi import Request, Response

from api.problems import failed_job_response, set_job_id
from api.protocols.a1111.wire import GenerationBody
from api.services import Services
from shared.errors import ImageNotFound
from shared.jobs.infotext import infotext
from shared.jobs.job import Image, Job
from shared.jobs.samplers import sampler_of
from shared.jobs.snapshots import JobSnapshot
from shared.jobs.states import State

CANCELLED = "The job was interrupted; it has no image."


async def images_response(services: Services, http: Request, snapshot: JobSnapshot, body: GenerationBody) -> Response:
    """The images as bare base64, and how they were made. Raises ImageNotFound."""
    job, headers = snapshot.job, {"X-Job-Id": snapshot.job.id}
    set_job_id(http, job.id)
    if job.error is not None:
        return failed_job_response(job.error, headers)
    images = await available_images(services, job)
    info, parameters = json.dumps(generation_info(job, images, services.version)), body.model_dump(by_alias=True)
    for name in parameters.keys() & {"init_images", "mask"}:
        parameters[name] = None
    shown = [] if body.send_images is False else images
    render = partial(_body, shown, parameters, info)
    return services.inline_images.response(job, render, shown, headers)


async def available_images(services: Services, job: Job) -> Sequence[Image]:
    """Raises ImageNotFound if there is none."""
    images = await services.inline_images.available(job)
    if not images:
        raise ImageNotFound(CANCELLED if job.state is State.CANCELLED else "")
    return images


def _body(images: Sequence[Image], parameters: dict[str, Any], info: str, inline: Mapping[int, str]) -> str:
    texts = [inline[image.index] for image in images]
    return json.dumps({"images": texts, "parameters": parameters, "info": info})


def generation_info(job: Job, images: Sequence[Image], version: str) -> dict[str, Any]:
    """What the web UI tells about images, and the job that made them."""
    request, first = job.request, images[0]
    seeds = [image.seed for image in images]
    sampler, _ = sampler_of(request.scheduler) if request.scheduler else ("Automatic", "")
    return {
        "prompt": request.prompt,
        "all_prompts": [request.prompt] * len(images),
        "negative_prompt": request.negative_prompt or "",
        "all_negative_prompts": [request.negative_prompt or ""] * len(images),
        "seed": first.seed,
        "all_seeds": seeds,
        "subseed": first.seed,
        "all_subseeds": seeds,
        "subseed_strength": 0,
        "width": first.width,
        "height": first.height,
        "sampler_name": sampler,
        "cfg_scale": request.guidance_scale,
        "steps": request.num_inference_steps,
        "batch_size": len(images),
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": job.model,
        "sd_model_hash": None,
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": request.second_pass.strength if request.second_pass else request.strength,
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": [infotext(job, image.seed, (image.width, image.height), version) for image in images],
        "styles": [],
        "job_timestamp": (job.finished_at or job.created_at).strftime("%Y%m%d%H%M%S"),
        "clip_skip": request.clip_skip or 1,
        "is_using_inpainting_conditioning": False,
        "version": f"imagegen {version}",
        "job_id": job.id,
        "warnings": list(job.warnings),
    }
