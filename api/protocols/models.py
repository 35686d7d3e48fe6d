"""Lists models for the readers of several protocols in one object: OpenAI reads `data`, Replicate reads `results`."""

from typing import Any

from fastapi import APIRouter, Request

from api.edge.authentication import CallerDep
from api.protocols.model_names import ModelNames
from api.protocols.replicate.models import version_object
from api.services import ServicesDep
from shared.errors import ModelNotFound
from shared.protocols.replicate import model_name, model_path

router = APIRouter()
#: When this kind of list was introduced; clients read it and models have no date of their own.
CREATED = 1_764_115_200


@router.get("/v1/models", operation_id="listCompatibleModels")
async def list_models(http: Request, services: ServicesDep, _: CallerDep) -> dict[str, Any]:
    """The models of this service, and the other names that requests may use for them."""
    base_url = services.base_url(http)
    owners = (await ModelNames.read(services)).owners()
    entries = [_entry(name, owner, base_url) for name, owner in owners.items()]
    return {"object": "list", "data": entries, "results": entries, "next": None, "previous": None}


@router.get("/v1/models/{model:path}", operation_id="getCompatibleModel")
async def get_model(http: Request, services: ServicesDep, _: CallerDep, model: str) -> dict[str, Any]:
    """One model. Its name may contain slashes; Replicate's clients put an owner before others: `imagegen/NAME`."""
    names, name = await ModelNames.read(services), model_name(model)
    if (owner := names.owners().get(name)) is None:
        raise ModelNotFound(names.models.catalogue.near(name))
    entry = _entry(name, owner, services.base_url(http))
    offered = next((offered for offered in names.models if offered.entry.name == name), None)
    return {**entry, "latest_version": offered and version_object(offered, services.limits)}


def _entry(model: str, owned_by: str, base_url: str) -> dict[str, Any]:
    owner, _, name = model_path(model).partition("/")
    of_openai = {"id": model, "object": "model", "created": CREATED, "owned_by": owned_by}
    of_replicate = {"owner": owner, "name": name, "url": f"{base_url}/v1/models/{owner}/{name}", "run_count": 0}
    return {**of_openai, **of_replicate, "visibility": "public", "latest_version": None}
