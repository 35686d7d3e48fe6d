"""Stores weights in eight or four bits, where the operator allows it and memory asks for it."""

import importlib.util
import logging
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, assert_never

import torch

from shared.errors import ConfigurationError
from worker.models.placements import AUTOENCODER, Placement, choose_placement

logger = logging.getLogger(__name__)

#: Four-bit weights share a scale in groups of this size.
GROUP = 128


class Quantization(StrEnum):
    """How weights are stored. All of them compute in the model's own precision."""

    NONE = "none"
    FP8 = "fp8"
    """Layers of the denoiser are eight-bit floats until they compute: needs no other library."""
    EIGHT_BIT = "8bit"
    """Matrices of the denoiser and of the text encoders are integers of eight bits."""
    FOUR_BIT = "4bit"


#: What is left of half precision, with the scales.
_SHARES = {Quantization.NONE: 1.0, Quantization.FP8: 0.5, Quantization.EIGHT_BIT: 0.51, Quantization.FOUR_BIT: 0.27}


def tensor_bytes(tensor: torch.Tensor) -> int:
    """What it takes in memory; quantized ones call themselves as large as before."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.nbytes
    inner = (getattr(tensor, name) for name in tensor.__tensor_flatten__()[0])
    return sum(tensor_bytes(part) for part in inner if part is not None)


def quantize(
    pipe: Any,
    denoiser: str,
    setting: str,
    device: torch.device,
    free: int | None,
    working: Mapping[str, int],
    separate: Callable[[Any], None],
) -> Quantization:
    """Quantize a loaded pipeline as SD_QUANTIZE says; `auto` takes the first step with which all of it fits.

    `separate` gives the pipeline parts of its own: without `auto`, those of other models are quantized in the same way.
    Raises ConfigurationError for what the device, its precision or a missing library forbids.
    """
    match setting:
        case "off":
            return Quantization.NONE
        case "auto":
            chosen = _first_that_fits(pipe, denoiser, device, free, working)
            if chosen in (Quantization.EIGHT_BIT, Quantization.FOUR_BIT):
                separate(pipe)
        case _:
            chosen = Quantization(setting)
            if (reason := _obstacle(chosen, getattr(pipe, denoiser), device)) is not None:
                raise ConfigurationError(f"SD_QUANTIZE={setting} {reason}.")
    _apply(chosen, pipe, denoiser, device)
    return chosen


def _first_that_fits(
    pipe: Any, denoiser: str, device: torch.device, free: int | None, working: Mapping[str, int]
) -> Quantization:
    """NONE where nothing suffices: then parts wait in main memory, as they are."""
    for step in Quantization:
        if choose_placement(_sizes(pipe, denoiser, step), free, working) is Placement.RESIDENT:
            if (reason := _obstacle(step, getattr(pipe, denoiser), device)) is None:
                return step
            logger.warning("%s weights would fit, but SD_QUANTIZE=%s %s", step, step, reason)
    return Quantization.NONE


def _obstacle(step: Quantization, denoiser: torch.nn.Module, device: torch.device) -> str | None:
    match step:
        case Quantization.NONE:
            return None
        case Quantization.FP8:
            return None if all(map(_is_plain, _matrices(denoiser))) else "cannot convert weights that are compressed"
        case Quantization.EIGHT_BIT | Quantization.FOUR_BIT:
            if importlib.util.find_spec("torchao") is None:
                return "needs the package torchao: pip install 'imagegen[quantize]'"
            if step is Quantization.EIGHT_BIT:
                return None
            if device.type != "cuda":
                return "needs an NVIDIA GPU; 8bit works everywhere"
            is_bfloat16 = any(weight.dtype is torch.bfloat16 for weight in denoiser.parameters())
            return None if is_bfloat16 else "needs SD_DTYPE=bfloat16"
        case _:
            assert_never(step)


def _apply(step: Quantization, pipe: Any, denoiser: str, device: torch.device) -> None:
    match step:
        case Quantization.NONE:
            pass
        case Quantization.FP8:
            part = getattr(pipe, denoiser)
            part.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=part.dtype)
        case Quantization.EIGHT_BIT | Quantization.FOUR_BIT:
            for name in _quantized_parts(pipe, denoiser, step):
                _quantize_matrices(getattr(pipe, name), step, device)
        case _:
            assert_never(step)


def _quantize_matrices(part: torch.nn.Module, step: Quantization, device: torch.device) -> None:
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    if step is Quantization.EIGHT_BIT:
        quantize_(part, Int8WeightOnlyConfig(), filter_fn=lambda layer, _: _fits(layer, step))
        return
    # The layout of the GPU's own product, which exists there only.
    config = Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format="tile_packed_to_4d")
    quantize_(part, config, filter_fn=lambda layer, _: _fits(layer, step), device=device)


def _sizes(pipe: Any, denoiser: str, step: Quantization) -> dict[str, int]:
    """Bytes of each part after the step."""
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    quantized = _quantized_parts(pipe, denoiser, step)
    return {name: _size(part, step if name in quantized else Quantization.NONE) for name, part in parts.items()}


def _size(part: torch.nn.Module, step: Quantization) -> int:
    shrinking = {id(layer.weight) for layer in _matrices(part) if _fits(layer, step)}
    return int(
        sum(
            tensor_bytes(tensor) * (_SHARES[step] if id(tensor) in shrinking else 1)
            for tensor in (*part.parameters(), *part.buffers())
        )
    )


def _quantized_parts(pipe: Any, denoiser: str, step: Quantization) -> list[str]:
    if step in (Quantization.NONE, Quantization.FP8):
        return [denoiser]
    names = [name for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)]
    return [name for name in names if name == denoiser or (name != AUTOENCODER and "text_encoder" in name)]


def _matrices(part: torch.nn.Module) -> list[torch.nn.Linear]:
    return [layer for layer in part.modules() if isinstance(layer, torch.nn.Linear)]


def _is_plain(layer: torch.nn.Linear) -> bool:
    """Whether nothing else has compressed its weight."""
    return type(layer.weight) is torch.nn.Parameter and layer.weight.is_floating_point()


def _fits(layer: torch.nn.Module, step: Quantization) -> bool:
    if not isinstance(layer, torch.nn.Linear) or not _is_plain(layer):
        return False
    return step is not Quantization.FOUR_BIT or (
        layer.weight.dtype is torch.bfloat16 and layer.in_features % GROUP == 0 and layer.out_features % 16 == 0
    )
