"""The routes that list models, and that load, unload and pin them."""

import asyncio
from dataclasses import replace
from functools import lru_cache
from typing import Any

from fastapi import APIRouter, Response
from pydantic import Field

from api.edge.authentication import Caller, CallerDep
from api.models.commands import start_load, unload
from api.models.offered import OfferedModel, OfferedModels
from api.models.views import ModelListView, ModelView, model_view
from api.problems import problem_responses
from api.services import Services, ServicesDep
from shared.errors import Forbidden
from shared.models.request_schema import request_schema
from shared.workers.models import ModelRecords

router = APIRouter(tags=["models"])

FIND_PROBLEMS = problem_responses("invalid-request", "model-not-found")
MANAGE_PROBLEMS = {**FIND_PROBLEMS, **problem_responses("forbidden", "backend-unavailable", "model-unavailable")}


class ModelDetails(ModelView):
    capabilities: dict[str, Any] | None = Field(description="JSON Schema of the accepted fields; null while unknown")


@router.get("/api/models", operation_id="listModels", response_model=ModelListView)
async def list_models(services: ServicesDep) -> Response:
    """List the models that requests may name, with their states, defaults and limits."""
    # On a thread: a catalogue may have thousands of models.
    return Response(await asyncio.to_thread(_list_json, await services.models()), media_type="application/json")


@lru_cache(maxsize=1)
def _list_json(models: OfferedModels) -> bytes:
    """The list; concurrent callers share it."""
    return ModelListView(models=[model_view(model) for model in models]).model_dump_json().encode()


# Names contain slashes.
@router.get("/api/models/{name:path}", operation_id="getModel", responses=FIND_PROBLEMS)
async def get_model(services: ServicesDep, name: str) -> ModelDetails:
    """Get one model, with the JSON Schema of its requests."""
    model = (await services.models()).find(name)
    capabilities = model.entry.capabilities
    schema = capabilities and request_schema(capabilities, services.limits)
    return ModelDetails(**model_view(model).model_dump(), capabilities=schema)


@router.post("/api/models/{name:path}/load", operation_id="loadModel", status_code=202, responses=MANAGE_PROBLEMS)
async def load_model(services: ServicesDep, caller: CallerDep, name: str) -> ModelView:
    """Load a model into the memory of a worker before a job needs it. Needs the scope admin.

    The response comes at once; `state` and `loading` of the model show the progress.
    """
    model = await _find(services, caller, name)
    await start_load(services.store, await services.models(), model)
    return model_view(model)


@router.post("/api/models/{name:path}/unload", operation_id="unloadModel", status_code=202, responses=MANAGE_PROBLEMS)
async def unload_model(services: ServicesDep, caller: CallerDep, name: str) -> ModelView:
    """Free the memory of a model in all workers, unless it is busy or pinned. Needs the scope admin."""
    model = await _find(services, caller, name)
    await unload(services.store, await services.models(), model)
    return model_view(model)


@router.put("/api/models/{name:path}/pin", operation_id="pinModel", responses=MANAGE_PROBLEMS)
async def pin_model(services: ServicesDep, caller: CallerDep, name: str) -> ModelView:
    """Load a model and keep it in memory, even if others need the space. Needs the scope admin."""
    model = await _set_pinned(services, caller, name, pinned=True)
    await start_load(services.store, await services.models(), model)
    return model_view(model)


@router.delete("/api/models/{name:path}/pin", operation_id="unpinModel", responses=MANAGE_PROBLEMS)
async def unpin_model(services: ServicesDep, caller: CallerDep, name: str) -> ModelView:
    """Let workers unload the model again. Needs the scope admin."""
    return model_view(await _set_pinned(services, caller, name, pinned=False))


async def _find(services: Services, caller: Caller, name: str) -> OfferedModel:
    if not caller.may_administer:
        raise Forbidden("Only an API key with the scope admin may load, unload and pin models.")
    return (await services.models()).find(name)


async def _set_pinned(services: Services, caller: Caller, name: str, *, pinned: bool) -> OfferedModel:
    model = await _find(services, caller, name)
    records = ModelRecords(services.settings.redis_prefix)
    for backend in model.backends:
        await services.store.run(records.pin(backend, name, pinned=pinned))
    return replace(model, is_pinned=pinned)
