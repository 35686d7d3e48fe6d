"""The routes of the web UI's API that make images, and those about the caller's session."""

import asyncio
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any

from fastapi import APIRouter, Query, Request, Response

from api.delivery.waiting import wait_for_result
from api.edge.authentication import CallerDep
from api.field_errors import validate
from api.intake.admission import cancel_job
from api.intake.idempotency import IdempotencyDep, IdempotencyScope
from api.intake.images.separate_images import find_image, read_separate_images
from api.intake.json_body import read_json, require_json
from api.intake.openapi_bodies import model_request_body
from api.intake.submissions import translated_submission
from api.protocols.a1111 import wire
from api.protocols.a1111.answers import images_response
from api.protocols.a1111.checkpoints import Checkpoints
from api.protocols.a1111.translation import GenerationCall
from api.services import Services, ServicesDep
from shared.errors import InvalidTransition, JobNotFound, ModelNotFound
from shared.jobs.states import State
from shared.jobs.types import ApiProtocol
from shared.jobs.web_ui.infotext import parse_infotext
from shared.storage.image_texts import PARAMETERS

router = APIRouter(prefix="/sdapi/v1")


@router.post("/txt2img", operation_id="a1111TextToImage", openapi_extra=model_request_body(wire.TextToImageBody))
async def text_to_image(http: Request, services: ServicesDep, scope: IdempotencyDep) -> Response:
    """Generate images from a prompt."""
    return await _generate(http, services, scope, wire.TextToImageBody)


@router.post("/img2img", operation_id="a1111ImageToImage", openapi_extra=model_request_body(wire.ImageToImageBody))
async def image_to_image(http: Request, services: ServicesDep, scope: IdempotencyDep) -> Response:
    """Generate images from an image, everywhere or where the mask is white."""
    return await _generate(http, services, scope, wire.ImageToImageBody)


async def _generate(
    http: Request, services: Services, scope: IdempotencyScope, body_type: type[wire.GenerationBody]
) -> Response:
    client_id = scope.caller.client_id
    session = await services.store.run(services.sessions.read(client_id))
    checkpoints = await Checkpoints.read(services)
    call = GenerationCall(body_type, checkpoints, session.model, services.limits)
    async with translated_submission(http, services, scope, ApiProtocol.A1111, call.translate) as submission:
        on_accepted = partial(services.live_jobs.started, client_id)
        snapshot = await wait_for_result(submission, on_accepted)
    return await images_response(services, http, snapshot, call.body)


@router.get("/options", operation_id="a1111GetOptions")
async def get_options(services: ServicesDep, caller: CallerDep) -> dict[str, Any]:
    """The checkpoint that the caller has chosen, and settings that clients look for."""
    checkpoints = await Checkpoints.read(services)
    session = await services.store.run(services.sessions.read(caller.client_id))
    chosen = checkpoints.default
    with suppress(ModelNotFound):
        chosen = checkpoints.find(session.model or "") or chosen
    return {
        "sd_model_checkpoint": chosen.title if chosen else "",
        "sd_checkpoint_hash": chosen.hash if chosen else "",
        "sd_vae": "Automatic",
        "CLIP_stop_at_last_layers": 1,
    }


@router.post("/options", operation_id="a1111SetOptions", openapi_extra=model_request_body(wire.OptionsBody))
async def set_options(http: Request, services: ServicesDep, caller: CallerDep) -> None:
    """Choose the checkpoint of the caller's later requests; an empty one is the default. Other settings are ignored."""
    require_json(http)
    options = validate(wire.OptionsBody, await read_json(http))
    if options.sd_model_checkpoint is None:
        return
    chosen = (await Checkpoints.read(services)).find(options.sd_model_checkpoint)
    await services.store.run(services.sessions.set_model(caller.client_id, chosen.name if chosen else None))


@router.get("/progress", operation_id="a1111Progress")
async def show_progress(services: ServicesDep, caller: CallerDep, skip_current_image: bool = Query(False)) -> Any:
    """The progress of the caller's newest job, with a preview; 0 if it has none that is unfinished."""
    live = await services.live_jobs.unfinished(caller.client_id)
    progress = live.progress if live else None
    # Clients take 0 for idle.
    least = 0.01 if live and live.job.state is State.RUNNING else 0.0
    step, steps = (progress.step, progress.steps) if progress else (0, 0)
    state = {"skipped": False, "interrupted": False, "job": live.job.id if live else "", "job_no": 0}
    return {
        "progress": max(least, progress.fraction if progress else 0.0),
        "eta_relative": progress.eta_seconds or 0.0 if progress else 0.0,
        "state": state | {"job_count": 1 if live else 0, "sampling_step": step, "sampling_steps": steps},
        "current_image": live.preview if live and not skip_current_image else None,
        "textinfo": None,
    }


@router.post("/interrupt", operation_id="a1111Interrupt")
@router.post("/skip", operation_id="a1111Skip")
async def interrupt(services: ServicesDep, caller: CallerDep) -> dict[str, Any]:
    """Cancel the caller's newest job."""
    if live := await services.live_jobs.unfinished(caller.client_id):
        with suppress(InvalidTransition, JobNotFound):
            await cancel_job(services, live.job.id)
    return {}


@router.post("/png-info", operation_id="a1111ImageInfo", openapi_extra=model_request_body(wire.ImageBody))
async def show_image_texts(http: Request, services: ServicesDep, _: CallerDep) -> dict[str, Any]:
    """The texts in a PNG, JPEG or WebP, also of other tools, and the settings that they hold."""
    async with AsyncExitStack() as exits:
        _body, (image,) = await read_separate_images(http, services.uploads, exits, find_image)
        texts = await asyncio.to_thread(image.file.read_texts)
    text = texts.pop(PARAMETERS, "")
    return {"info": text, "items": texts, "parameters": parse_infotext(text)}
