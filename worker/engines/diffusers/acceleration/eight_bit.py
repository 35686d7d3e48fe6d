"""Computes a denoiser's matrices in eight-bit floats, where the card does that faster."""

import copy
import importlib.util
import logging
from typing import Any

import torch

from worker.engines.diffusers.acceleration.decisions import Decision, Decisions
from worker.engines.diffusers.acceleration.sample_calls import SampleCall
from worker.engines.diffusers.memory.errors import reason_to_do_without

logger = logging.getLogger(__name__)

#: Ada, Hopper and later multiply eight-bit floats.
CAPABILITY = (8, 9)
WORTHWHILE = 0.95
#: torch's eight-bit product needs multiples of 16; in narrow layers, converting costs more than multiplying saves.
MIN_FEATURES, MULTIPLE = 1024, 16


def is_possible(device: torch.device) -> bool:
    return (
        device.type == "cuda"
        and torch.cuda.get_device_capability(device) >= CAPABILITY
        and importlib.util.find_spec("torchao") is not None
    )


def quantize_if_faster(
    denoiser: torch.nn.Module, run: Any, device: torch.device, decisions: Decisions, *, compiled: bool
) -> bool:
    """Quantize all blocks if a timed call of the first block is faster; True if they are.

    `run` calls the denoiser once. Comparing one block takes seconds, and no second copy of all weights.
    """
    blocks = repeated_blocks(denoiser)
    if not blocks:
        return False
    known = decisions.get("eight-bit", compiled)
    try:
        if known is None:
            known = _measured(blocks[0], SampleCall.record(blocks[0], run), device, compiled=compiled)
            decisions.put(known, "eight-bit", compiled)
            logger.info("eight-bit floats take %.2f of the time%s", known.ratio, "" if known.chosen else ": not used")
        if known.chosen:
            for block in blocks:
                _quantize(block)
    # torchao and its kernels refuse layers and cards in their own ways.
    except Exception as error:
        logger.warning("eight-bit floats are not possible: %s", reason_to_do_without(error))
        return False
    return known.chosen


def repeated_blocks(denoiser: torch.nn.Module) -> list[torch.nn.Module]:
    """The blocks that diffusers names as repeated, largest kind first."""
    names = getattr(denoiser, "_repeated_blocks", None) or ()
    blocks = [part for part in denoiser.modules() if type(part).__name__ in names]
    return sorted(blocks, key=lambda block: -sum(weight.numel() for weight in block.parameters()))


def _measured(block: torch.nn.Module, call: SampleCall, device: torch.device, *, compiled: bool) -> Decision:
    quantized = copy.deepcopy(block)
    _quantize(quantized)
    ways = [torch.compile(way.forward, dynamic=False) if compiled else way.forward for way in (block, quantized)]
    usual, eight_bit = (call.seconds(way, device) for way in ways)
    return Decision.of(eight_bit / usual, WORTHWHILE)


def _quantize(block: torch.nn.Module) -> None:
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, PerTensor, quantize_

    # One scale for each row is more exact, and made for bfloat16 only.
    is_bfloat16 = next(block.parameters()).dtype is torch.bfloat16
    granularity = PerRow() if is_bfloat16 else PerTensor()
    quantize_(block, Float8DynamicActivationFloat8WeightConfig(granularity=granularity), filter_fn=_is_wide)


def _is_wide(layer: torch.nn.Module, _: str) -> bool:
    return (
        isinstance(layer, torch.nn.Linear)
        and min(layer.in_features, layer.out_features) >= MIN_FEATURES
        and layer.in_features % MULTIPLE == 0
        and layer.out_features % MULTIPLE == 0
    )
