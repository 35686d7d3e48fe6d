"""The routes that list what the web UI has, and what of that this service has."""

from typing import Any

from fastapi import APIRouter

from api.edge.authentication import CallerDep
from api.protocols.a1111.checkpoints import Checkpoints
from api.services import ServicesDep
from shared.jobs.web_ui.samplers import SAMPLERS, SCHEDULES, sampler_of

router = APIRouter(prefix="/sdapi/v1")

#: Fixed answers: what is empty here has the shape that it has there.
_READS: dict[str, Any] = {
    **{name: [] for name in ("latent-upscale-modes", "sd-vae", "sd-modules", "hypernetworks", "face-restorers")},
    **{name: [] for name in ("realesrgan-models", "prompt-styles", "script-info", "extensions")},
    "scripts": {"txt2img": [], "img2img": []},
    "cmd-flags": {"api": True, "listen": True},
    # Of workers on other machines.
    "memory": {"ram": {"error": "unknown"}, "cuda": {"error": "unknown"}},
}
_CALLS: dict[str, Any] = {
    **dict.fromkeys(f"refresh-{name}" for name in ("checkpoints", "embeddings", "loras", "vae")),
    **dict.fromkeys(("reload-checkpoint", "unload-checkpoint")),
    "interrogate": {"caption": ""},
}


@router.get("/sd-models", operation_id="a1111Checkpoints")
async def list_checkpoints(services: ServicesDep, _: CallerDep) -> list[dict[str, Any]]:
    """The models that make images from a prompt."""
    unknown = {"sha256": None, "config": None}
    listed = await Checkpoints.read(services)
    return [
        {"title": one.title, "model_name": one.name, "hash": one.hash, "filename": one.name, **unknown}
        for one in listed
    ]


@router.get("/samplers", operation_id="a1111Samplers")
async def list_samplers(services: ServicesDep, _: CallerDep) -> list[dict[str, Any]]:
    """The samplers of all models, by the web UI's names."""
    checkpoints = await Checkpoints.read(services)
    offered = {name for one in checkpoints if one.entry.capabilities for name in one.entry.capabilities.schedulers}
    names = {sampler_of(name)[0] for name in offered}
    samplers = [sampler for sampler in SAMPLERS if sampler.name in names]
    listed = [{"name": one.name, "aliases": [*one.aliases], "options": {}} for one in samplers]
    return listed or [{"name": "Automatic", "aliases": [], "options": {}}]


@router.get("/schedulers", operation_id="a1111Schedulers")
async def list_schedulers(_: CallerDep) -> list[dict[str, Any]]:
    """Schedule types."""
    return [
        {"name": label.lower(), "label": label, "aliases": None, "default_rho": -1.0, "need_inner_model": False}
        for label in SCHEDULES.values()
    ]


@router.get("/upscalers", operation_id="a1111Upscalers")
async def list_upscalers(services: ServicesDep, _: CallerDep) -> list[dict[str, Any]]:
    scales = {"None": 1, "Lanczos": 4, **(await services.models()).upscalers}
    paths = {"model_name": None, "model_path": None, "model_url": None}
    return [{"name": name, **paths, "scale": scale} for name, scale in scales.items()]


@router.get("/loras", operation_id="a1111Loras")
async def list_loras(services: ServicesDep, _: CallerDep) -> list[dict[str, Any]]:
    """The LoRAs of all models; prompts use them as `<lora:name:0.8>`."""
    checkpoints = await Checkpoints.read(services)
    capabilities = [one.entry.capabilities for one in checkpoints if one.entry.capabilities]
    names = {name for model in capabilities for name in model.loras}
    words = {name: found for model in capabilities for name, found in model.lora_trigger_words.items()}
    metadata = {name: {"modelspec.trigger_phrase": ", ".join(found)} for name, found in words.items()}
    return [
        {"name": name.rpartition("/")[2], "alias": name, "path": name, "metadata": metadata.get(name, {})}
        for name in sorted(names)
    ]


@router.get("/embeddings", operation_id="a1111Embeddings")
async def list_embeddings(services: ServicesDep, _: CallerDep) -> dict[str, dict[str, Any]]:
    """The textual inversion embeddings of all models; prompts use them by their name."""
    checkpoints = await Checkpoints.read(services)
    names = {name for one in checkpoints if one.entry.capabilities for name in one.entry.capabilities.embeddings or ()}
    unknown = {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None}
    return {"loaded": dict.fromkeys(sorted(names), unknown), "skipped": {}}


def _add(method: str, name: str, value: Any) -> None:
    async def answer(_: CallerDep) -> Any:
        return value

    router.add_api_route(f"/{name}", answer, methods=[method], operation_id=f"a1111-{name}", summary=name)


for _method, _answers in (("GET", _READS), ("POST", _CALLS)):
    for _name, _value in _answers.items():
        _add(_method, _name, _value)
