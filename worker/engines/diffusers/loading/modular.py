"""Modular pipelines of diffusers, to be called, placed and offloaded like its other pipelines."""

import functools
import inspect
import logging
from collections.abc import Iterator
from inspect import Parameter
from typing import Any, ClassVar

import diffusers

from shared.errors import ConfigurationError
from worker.engines.diffusers.loading.part_classes import part_class
from worker.models.local_model import LocalModel, read_json

#: The output of pipelines that make images; others make videos or sound.
IMAGES = "images"
#: The part that weighs predictions, for pipelines whose call has no guidance scale.
GUIDER, SCALE = "guider", "guidance_scale"
#: Parts without which no pipeline can run.
_NEEDED = ("vae", "scheduler")
#: Blocks with code of their own, beside the index.
_CODE_FILE, _CODE = "modular_config.json", "auto_map"

# diffusers logs every exception in a block, even that of a cancelled job. The caller handles it anyway.
logging.getLogger("diffusers.modular_pipelines.modular_pipeline").setLevel(logging.CRITICAL)


class ModularCall:
    """Methods of other pipelines that modular ones lack. It precedes them in the order of base classes."""

    #: The order in which parts compute; see DiffusionPipeline.
    model_cpu_offload_seq: ClassVar[str] = "text_encoder->text_encoder_2->text_encoder_3->transformer->unet->vae"
    blocks_class: ClassVar[type]
    __setattr__ = object.__setattr__

    @property
    def num_timesteps(self: Any) -> int:
        """The timesteps that remain if the image starts from another one."""
        return len(self.scheduler.timesteps) - (getattr(self.scheduler, "begin_index", None) or 0)

    def set_progress_bar_config(self: Any, **config: Any) -> None:
        """Configure all nested blocks: diffusers' own method reaches the outermost only."""
        for block in _all_blocks(self._blocks):
            if hasattr(block, "set_progress_bar_config"):
                block.set_progress_bar_config(**config)

    def _guide(self: Any, scale: float) -> None:
        """Set the scale. Up to a certain one, the second prediction has no weight and is left out."""
        least = 0.0 if self.guider.config.get("use_original_formulation") else 1.0
        self.guider = self.guider.new(guidance_scale=scale, enabled=scale > least)


def is_modular(pipeline: Any) -> bool:
    kind = pipeline if isinstance(pipeline, type) else type(pipeline)
    return issubclass(kind, diffusers.ModularPipeline)


def modular_class(model: LocalModel, found: type) -> type:
    """The class that runs a model: `found`, with the blocks that the index names.

    Raises ConfigurationError if they are not part of diffusers, or make no images.
    """
    if is_modular(found) is not model.is_modular or found is diffusers.ModularPipeline:
        raise ConfigurationError(
            f"The index of {model.name} names a {found.__name__}, which belongs to another format."
        )
    if not is_modular(found):
        return found
    adapted = _adapted(found, _blocks_class(model, found))
    if IMAGES not in {output.name for output in adapted.blocks_class().outputs}:
        raise ConfigurationError(f"The model {model.name} is a {found.__name__}, which makes no images.")
    return adapted  # type: ignore[no-any-return]


def _blocks_class(model: LocalModel, found: Any) -> Any:
    """As diffusers chooses it, without code from the folder."""
    name = str(model.index.get("_blocks_class_name") or found.default_blocks_name)
    blocks = part_class("diffusers", name)
    if blocks is None or not issubclass(blocks, diffusers.ModularPipelineBlocks) or _has_code(model):
        raise ConfigurationError(f"The model {model.name} needs its own code, which this service never runs.")
    # Some of the blocks, chosen by hand, are saved under the name of their base class.
    return blocks if getattr(blocks, "block_classes", None) else getattr(diffusers, found.default_blocks_name)


def _has_code(model: LocalModel) -> bool:
    file = model.folder / _CODE_FILE
    return file.is_file() and _CODE in read_json(file, model.name)


@functools.cache
def _adapted(found: Any, blocks_class: Any) -> Any:
    """A subclass that is created from its parts and settings, and called with the inputs of its blocks.

    diffusers itself would import what the index names, and download parts that are elsewhere.
    """
    blocks = blocks_class()
    parts = {spec.name: _parameter(spec.name, None) for spec in blocks.expected_components}
    parts |= {name: Parameter(name, Parameter.KEYWORD_ONLY) for name in _NEEDED}
    settings = {spec.name: _parameter(spec.name, spec.default) for spec in blocks.expected_configs}
    guider = next((spec for spec in blocks.expected_components if spec.name == GUIDER), None)
    parameters = {given.name: _parameter(given.name, given.default) for given in blocks.inputs if given.name}
    own_scale = SCALE in parameters or guider is None
    if guider is not None and not own_scale:
        parameters[SCALE] = _parameter(SCALE, (guider.config or {}).get(SCALE))

    def create(self: Any, **given: Any) -> None:
        found.__init__(self, blocks_class())
        self.register_to_config(**{name: value for name, value in given.items() if name in settings})
        self.register_components(**{name: value for name, value in given.items() if name in parts})

    def call(self: Any, **inputs: Any) -> Any:
        if not own_scale and (scale := inputs.pop(SCALE, None)) is not None:
            self._guide(scale)
        return found.__call__(self, **inputs)

    create.__signature__ = inspect.Signature([_SELF, *parts.values(), *settings.values()])  # type: ignore[attr-defined]
    call.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    namespace = {"__init__": create, "__call__": call, "blocks_class": blocks_class}
    return type(found.__name__, (ModularCall, found, diffusers.DiffusionPipeline), namespace)


_SELF = Parameter("self", Parameter.POSITIONAL_ONLY)


def _parameter(name: str, default: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default)


def _all_blocks(block: Any) -> Iterator[Any]:
    yield block
    for inner in getattr(block, "sub_blocks", {}).values():
        yield from _all_blocks(inner)
