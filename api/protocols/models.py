"""Lists models for the readers of several protocols in one object: OpenAI reads `data`, Replicate reads `results`."""

from typing import Any

from fastapi import APIRouter

from api.edge.authentication import CallerDep
from api.problems import problem_responses
from api.protocols.model_names import ModelNames, NamedModel
from api.services import ServicesDep

router = APIRouter()
#: When this kind of list was introduced; clients read it and models have no date of their own.
CREATED = 1_764_115_200


@router.get("/v1/models", operation_id="listCompatibleModels")
async def list_models(services: ServicesDep, _: CallerDep) -> dict[str, Any]:
    """The models of this service, and the other names that requests may use for them."""
    entries = [_entry(model) for model in (await ModelNames.read(services)).list()]
    return {"object": "list", "data": entries, "results": entries, "next": None, "previous": None}


@router.get(
    "/v1/models/{model:path}", operation_id="getCompatibleModel", responses=problem_responses("model-not-found")
)
async def get_model(services: ServicesDep, _: CallerDep, model: str) -> dict[str, Any]:
    """One model. Its name may contain slashes."""
    return _entry((await ModelNames.read(services)).find(model))


def _entry(model: NamedModel) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": CREATED, "owned_by": model.owner}
