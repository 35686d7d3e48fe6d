"""Models as the clients of Replicate read them: with an owner, and versions that describe their inputs."""

from typing import Any

from fastapi import APIRouter

from api.edge.authentication import CallerDep
from api.models.offered import OfferedModel
from api.services import Services, ServicesDep
from shared.errors import ModelNotFound
from shared.models.capabilities import RequestLimits
from shared.models.request_schema import request_schema
from shared.protocols.replicate import model_name, version_id

router = APIRouter()
#: Models have no date of their own, but clients read one.
CREATED = "2025-11-26T00:00:00Z"
#: Of the format of the schema: clients take the arrays of versions before 0.3.9 for iterators.
COG_VERSION = "0.16.0"
_OUTPUT = {"type": "array", "items": {"type": "string", "format": "uri"}, "title": "Output"}


@router.get("/v1/models/{owner}/{name}/versions", operation_id="replicateListVersions")
async def list_versions(services: ServicesDep, _: CallerDep, owner: str, name: str) -> dict[str, Any]:
    """The one version of a model that this service has."""
    return {"results": [await _version_of(services, owner, name)], "next": None, "previous": None}


@router.get("/v1/models/{owner}/{name}/versions/{version}", operation_id="replicateGetVersion")
async def get_version(services: ServicesDep, _: CallerDep, owner: str, name: str, version: str) -> dict[str, Any]:
    """A version of a model, with the JSON Schema of its inputs."""
    found = await _version_of(services, owner, name)
    if version not in (found["id"], "latest"):
        raise ModelNotFound(detail="The model has no such version")
    return found


def version_object(model: OfferedModel, limits: RequestLimits) -> dict[str, Any]:
    capabilities = model.entry.capabilities
    inputs = request_schema(capabilities, limits) if capabilities else {"type": "object"}
    schemas = {"Input": {**inputs, "title": "Input"}, "Output": _OUTPUT}
    return {
        "id": version_id(model.entry.name, model.entry.revision),
        "created_at": CREATED,
        "cog_version": COG_VERSION,
        "openapi_schema": {"openapi": "3.1.0", "components": {"schemas": schemas}},
    }


async def _version_of(services: Services, owner: str, name: str) -> dict[str, Any]:
    model = (await services.models()).find(model_name(f"{owner}/{name}"))
    return version_object(model, services.limits)
