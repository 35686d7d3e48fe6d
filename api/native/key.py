"""The route that describes the caller's API key."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from api.edge.authentication import CallerDep
from api.services import ServicesDep

router = APIRouter(tags=["service"])


class KeyView(BaseModel):
    required: bool = Field(description="Whether this service needs API keys")
    name: str | None = Field(description="Name of the key, which owns its jobs; null if no keys are set")
    may_write: bool = Field(description="Whether it may create, cancel, delete and pin jobs")
    may_use_high_priority: bool
    is_admin: bool = Field(description="Whether it sees the jobs of all keys, and may load and unload models")


@router.get("/api/key", operation_id="getKey")
async def get_key(services: ServicesDep, caller: CallerDep) -> KeyView:
    """Get the name of your API key, and what it may do. If no keys are set, every caller may do everything."""
    return KeyView(
        required=bool(services.settings.api_key),
        name=caller.owner or None,
        may_write=caller.may_write,
        may_use_high_priority=caller.may_use_high_priority,
        is_admin=caller.may_administer,
    )
