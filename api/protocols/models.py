"""Lists models for the readers of several protocols in one object: OpenAI reads `data`, Replicate reads `results`."""

from typing import Any

from fastapi import APIRouter, Request

from api.edge.authentication import CallerDep
from api.protocols.model_names import ModelNames, NamedModel
from api.protocols.replicate.models import version_object
from api.services import ServicesDep
from shared.protocols.replicate import model_name, model_path

router = APIRouter()
#: When this kind of list was introduced; clients read it and models have no date of their own.
CREATED = 1_764_115_200


@router.get("/v1/models", operation_id="listCompatibleModels")
async def list_models(http: Request, services: ServicesDep, _: CallerDep) -> dict[str, Any]:
    """The models of this service, and the other names that requests may use for them."""
    base_url = services.base_url(http)
    entries = [_entry(model, base_url) for model in (await ModelNames.read(services)).list()]
    return {"object": "list", "data": entries, "results": entries, "next": None, "previous": None}


@router.get("/v1/models/{model:path}", operation_id="getCompatibleModel")
async def get_model(http: Request, services: ServicesDep, _: CallerDep, model: str) -> dict[str, Any]:
    """One model. Its name may contain slashes; Replicate's clients put an owner before others: `imagegen/NAME`."""
    names, name = await ModelNames.read(services), model_name(model)
    entry = _entry(names.find(name), services.base_url(http))
    offered = next((offered for offered in names.models if offered.entry.name == name), None)
    return {**entry, "latest_version": offered and version_object(offered, services.limits)}


def _entry(model: NamedModel, base_url: str) -> dict[str, Any]:
    owner, _, name = model_path(model.name).partition("/")
    of_openai = {"id": model.name, "object": "model", "created": CREATED, "owned_by": model.owner}
    of_replicate = {"owner": owner, "name": name, "url": f"{base_url}/v1/models/{owner}/{name}", "run_count": 0}
    return {**of_openai, **of_replicate, "visibility": "public", "latest_version": None}
