"""Models as clients see them."""

from pydantic import BaseModel, Field

from api.models.offered import OfferedModel
from shared.jobs.job import ModelLoad
from shared.jobs.types import Backend
from shared.models.capabilities import Capabilities
from shared.models.catalogue import ModelState

#: Request fields that a model supports or ignores, beside those that `limits` and `defaults` describe.
_OPTIONAL_FIELDS = ("negative_prompt", "scheduler", "loras")


class ModelDefaults(BaseModel):
    """Values of fields that a request leaves out."""

    width: int
    height: int
    num_inference_steps: int | None = Field(description="Null if the model has no steps")
    guidance_scale: float | None = Field(description="Null if the model has no guidance")
    strength: float | None = Field(description="Null if the model has no strength")


class ModelLimits(BaseModel):
    min_side: int
    max_side: int
    multiple_of: int
    max_pixels: int | None
    max_ratio: float | None = Field(description="Maximum ratio of the longer to the shorter side")
    min_steps: int
    max_steps: int
    min_guidance: float
    max_guidance: float
    max_input_images: int


class ModelSupport(BaseModel):
    """What requests to this model may use."""

    negative_prompt: bool
    image: bool
    mask: bool
    strength: bool
    scheduler: bool
    loras: bool
    text_only: bool = Field(description="Whether it makes images from a prompt alone")


class ModelView(BaseModel):
    name: str = Field(description="What requests send as `model`")
    title: str | None
    family: str | None
    backend: Backend = Field(description="The backend that runs requests with this model and no backend")
    backends: list[Backend] = Field(description="All backends that have it")
    is_default: bool = Field(description="Whether its backend uses it for requests that name no model")
    state: ModelState
    reason: str | None = Field(description="Why it cannot be used")
    revision: str | None = Field(description="Identifies its files")
    bytes: int | None = Field(description="Size on disk")
    licence: str | None
    commercial_use: bool | None = Field(description="Whether the licence allows it; null if unknown")
    trigger_words: list[str]
    placement: str | None = Field(description="How much of it is on the device")
    acceleration: str | None = Field(description="The level of SD_OPTIMIZE, and what it does for this model")
    defaults: ModelDefaults | None = Field(description="Null while unknown")
    limits: ModelLimits | None
    supports: ModelSupport | None
    workers: list[str] = Field(description="Workers that hold it in memory")
    memory_bytes: int | None = Field(description="Memory that it takes, as measured; null if no worker holds it")
    shared_memory_bytes: int | None = Field(
        description="The part of `memory_bytes` that other models in memory use as well; it is stored once"
    )
    on_device: bool | None = Field(description="False while it waits in main memory; null if no worker holds it")
    loading: ModelLoad | None = Field(description="Progress of loading it into memory")
    pinned: bool = Field(description="Whether workers keep it in memory")


class ModelListView(BaseModel):
    models: list[ModelView]


def model_view(model: OfferedModel) -> ModelView:
    entry, capabilities, memory = model.entry, model.entry.capabilities, model.memory
    return ModelView(
        name=entry.name,
        title=entry.title,
        family=entry.family,
        backend=entry.backend,
        backends=list(model.backends),
        is_default=model.is_default,
        state=model.state,
        reason=entry.reason,
        revision=entry.revision,
        bytes=entry.bytes,
        licence=entry.licence,
        commercial_use=entry.commercial_use,
        trigger_words=list(entry.trigger_words),
        placement=(memory and memory.placement) or entry.placement,
        acceleration=memory and memory.acceleration,
        defaults=capabilities and ModelDefaults.model_validate(capabilities, from_attributes=True),
        limits=capabilities and ModelLimits.model_validate(capabilities, from_attributes=True),
        supports=capabilities and _support(capabilities),
        workers=[worker.name for worker in model.workers],
        memory_bytes=memory and memory.bytes,
        shared_memory_bytes=memory and memory.shared_bytes,
        on_device=memory and memory.on_device,
        loading=model.load,
        pinned=model.is_pinned,
    )


def _support(model: Capabilities) -> ModelSupport:
    fields = {name: name not in model.ignored for name in _OPTIONAL_FIELDS}
    return ModelSupport(
        **fields,
        image=model.max_input_images > 0,
        mask=model.inpainting,
        strength=model.strength is not None,
        text_only="image" not in model.requires,
    )
