"""Chooses how attention is computed, by timing it on this card once."""

import logging
from contextlib import AbstractContextManager, nullcontext

import torch
from diffusers.models.attention_dispatch import attention_backend

from worker.engines.diffusers.acceleration.decisions import Decision, Decisions
from worker.engines.diffusers.acceleration.sample_calls import SampleCall
from worker.engines.diffusers.memory.errors import reason_to_do_without

logger = logging.getLogger(__name__)

#: Faster than PyTorch's own choice on some models of these generations (9: Hopper, 10: Blackwell), slower on others;
#: on all other cards PyTorch's choice is at least as fast.
CANDIDATES = {9: "_native_cudnn", 10: "_native_cudnn"}


def candidate_for(device: torch.device) -> str | None:
    return CANDIDATES.get(torch.cuda.get_device_capability(device)[0]) if device.type == "cuda" else None


def choose_attention(
    module: torch.nn.Module, call: SampleCall, device: torch.device, candidate: str | None, decisions: Decisions
) -> str | None:
    """The candidate if a timed call of this model is faster with it; None keeps PyTorch's choice."""
    if candidate is None:
        return None
    known = decisions.get("attention", candidate)
    if known is None:
        known = _measured(module, call, device, candidate)
        decisions.put(known, "attention", candidate)
        used = "" if known.chosen else ": not used"
        logger.info("attention by %s takes %.2f of the time%s", candidate, known.ratio, used)
    return candidate if known.chosen else None


def using(backend: str | None) -> AbstractContextManager[object]:
    """Inside the block, models of diffusers use this backend of attention, if they support a choice."""
    block: AbstractContextManager[object] = attention_backend(backend) if backend else nullcontext()
    return block


def _measured(module: torch.nn.Module, call: SampleCall, device: torch.device, candidate: str) -> Decision:
    usual = call.seconds(module, device)
    try:
        with using(candidate):
            ratio = call.seconds(module, device) / usual
    # Each backend raises its own kind of error for what it does not support.
    except Exception as error:
        logger.info("attention by %s is not possible: %s", candidate, reason_to_do_without(error))
        return Decision(1.0, chosen=False)
    return Decision.of(ratio)
