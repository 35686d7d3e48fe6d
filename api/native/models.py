"""The routes that list models."""

from typing import Any

from fastapi import APIRouter
from pydantic import Field

from api.models.views import ModelListView, ModelView, model_view
from api.problems import problem_responses
from api.services import ServicesDep
from shared.models.request_schema import request_schema

router = APIRouter(tags=["models"])

LIST_PROBLEMS = problem_responses("unauthorized", "rate-limited", "store-unavailable")
FIND_PROBLEMS = problem_responses(
    "unauthorized", "invalid-request", "model-not-found", "rate-limited", "store-unavailable"
)


class ModelDetails(ModelView):
    capabilities: dict[str, Any] | None = Field(description="JSON Schema of the accepted fields; null while unknown")


@router.get("/api/models", operation_id="listModels", responses=LIST_PROBLEMS)
async def list_models(services: ServicesDep) -> ModelListView:
    """List the models that requests may name, with their states, defaults and limits."""
    return ModelListView(models=[model_view(model) for model in await services.models()])


# Names contain slashes.
@router.get("/api/models/{name:path}", operation_id="getModel", responses=FIND_PROBLEMS)
async def get_model(services: ServicesDep, name: str) -> ModelDetails:
    """Get one model, with the JSON Schema of its requests."""
    model = (await services.models()).find(name)
    capabilities = model.entry.capabilities
    schema = capabilities and request_schema(capabilities, services.limits)
    return ModelDetails(**model_view(model).model_dump(), capabilities=schema)
