"""Stores weights in eight or four bits, as SD_QUANTIZE says."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, assert_never

import torch

from shared.errors import ConfigurationError
from worker.engines.diffusers.memory.shared_parts import parts_of
from worker.models.placements import Quantization, choose_quantization

logger = logging.getLogger(__name__)

#: Four-bit weights share a scale in groups of this size.
GROUP = 128


def _tensor_bytes(tensor: torch.Tensor) -> int:
    """What it takes in memory; quantized ones call themselves as large as before."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.nbytes
    inner = (getattr(tensor, name) for name in tensor.__tensor_flatten__()[0])
    return sum(_tensor_bytes(part) for part in inner if part is not None)


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
    chosen, obstacles = choose_quantization(
        setting,
        lambda step: part_sizes(pipe, denoiser, step),
        lambda step: _obstacle(step, getattr(pipe, denoiser), device),
        free,
        working,
    )
    if chosen in obstacles:
        raise ConfigurationError(f"SD_QUANTIZE={chosen} {obstacles[chosen]}.")
    for step, reason in obstacles.items():
        logger.warning("%s weights would fit, but SD_QUANTIZE=%s %s", step, step, reason)
    if setting == "auto" and chosen in (Quantization.EIGHT_BIT, Quantization.FOUR_BIT):
        separate(pipe)
    _apply(chosen, pipe, denoiser, device)
    return chosen


def _obstacle(step: Quantization, denoiser: torch.nn.Module, device: torch.device) -> str | None:
    in_bfloat16 = any(weight.dtype is torch.bfloat16 for weight in denoiser.parameters())
    is_compressed = not all(map(_is_plain, _matrices(denoiser)))
    return step.obstacle(device.type, in_bfloat16=in_bfloat16, is_compressed=is_compressed)


def _apply(step: Quantization, pipe: Any, denoiser: str, device: torch.device) -> None:
    match step:
        case Quantization.NONE:
            pass
        case Quantization.FP8:
            part = getattr(pipe, denoiser)
            part.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=part.dtype)
        case Quantization.EIGHT_BIT | Quantization.FOUR_BIT:
            for name in step.parts(parts_of(pipe), denoiser):
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


def part_sizes(pipe: Any, denoiser: str = "", step: Quantization = Quantization.NONE) -> dict[str, int]:
    """Bytes of each part after the step."""
    parts = parts_of(pipe)
    quantized = step.parts(parts, denoiser)
    return {name: part_size(part, step if name in quantized else Quantization.NONE) for name, part in parts.items()}


def part_size(part: torch.nn.Module, step: Quantization = Quantization.NONE) -> int:
    """Memory that two layers share is counted once."""
    width = step.width
    shrinking = {id(layer.weight) for layer in _matrices(part) if width and _fits(layer, step)}
    return int(
        sum(
            tensor.numel() * width if width and id(tensor) in shrinking else _tensor_bytes(tensor)
            for tensor in (*part.parameters(), *part.buffers())
        )
    )


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
