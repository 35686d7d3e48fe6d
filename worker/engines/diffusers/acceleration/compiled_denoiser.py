"""Compiles a denoiser for image sizes that are known in advance."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from worker.engines.diffusers.acceleration.compiled_code import CompiledCode
from worker.engines.diffusers.acceleration.decisions import WORTHWHILE, Decision
from worker.engines.diffusers.acceleration.replaced_forward import replaced_forward
from worker.engines.diffusers.acceleration.sample_calls import SampleCall
from worker.engines.diffusers.memory.errors import reason_to_do_without

logger = logging.getLogger(__name__)

#: Runs the pipeline for one step, at one of the sizes.
Run = Callable[[], object]
#: A whole U-Net gets code of its own for up to so many shapes, which takes half the time of code for any number of
#: images (Stable Diffusion XL, before the compiler for the device begins: 16 s in place of 33 on a core of AMD).
MAX_STATIC_SHAPES = 4


@dataclass(frozen=True)
class CompiledDenoiser:
    """The result of compiling. Other shapes run uncompiled: no request waits for a compiler."""

    forward: Callable[..., Any] | None = None
    """Replaces the denoiser's forward; None if its blocks are compiled, or nothing is."""
    is_used: bool = False
    ratio: float | None = None
    """The time of a compiled call, as a share of the usual one."""
    seconds: float = 0.0
    """How long compiling took."""
    sizes: Sequence[str] = ()

    def active(self) -> AbstractContextManager[object]:
        """Use the compiled code for a pipeline call: other models of this process may be compiled for other sizes."""
        stance: AbstractContextManager[object] = torch.compiler.set_stance(
            "eager_on_recompile" if self.is_used else "force_eager"
        )
        return stance


def compile_denoiser(
    denoiser: Any,
    runs: Sequence[Run],
    device: torch.device,
    code: CompiledCode,
    backend: str = "inductor",
    sizes: Sequence[str] = (),
    known: Decision | None = None,
) -> CompiledDenoiser:
    """Compile for the shapes of these runs, and compare. Everything runs uncompiled if that fails.

    `sizes` are those of the runs' images. `known` is what an earlier comparison has shown.
    """
    if known is not None and not known.chosen:
        logger.info("SD_COMPILE_SIZES has no effect: compiled code takes %.2f of the time", known.ratio)
        return CompiledDenoiser(ratio=known.ratio)
    begin = time.monotonic()
    call = SampleCall.record(denoiser, runs[0]) if known is None else None
    usual = call.seconds(denoiser, device) if call else math.nan
    if not (is_kept := code.load()):
        logger.info("compiling for %s, once; a whole U-Net may take minutes", ", ".join(sizes))
    try:
        forward = _compile(denoiser, device, backend, len(runs))
        with replaced_forward(denoiser, forward) if forward else nullcontext():
            for run in runs:
                run()
            compiled = call.seconds(denoiser, device) if call else math.nan
    # Errors of torch, Triton and the compiler.
    except Exception as error:
        reason = reason_to_do_without(error)
        logger.warning("SD_COMPILE_SIZES has no effect, the model runs uncompiled; is there a C++ compiler? %s", reason)
        return CompiledDenoiser()
    if code.save():
        is_kept = False
    ratio = known.ratio if known else compiled / usual
    # On a CPU the gain is small, but the operator asked for these sizes.
    is_used = device.type != "cuda" or ratio <= WORTHWHILE
    seconds = time.monotonic() - begin
    kept, used = " from kept code" if is_kept else "", "" if is_used else ": not used"
    logger.info("compiled for %s in %.0f s%s, %.2f of the time%s", ", ".join(sizes), seconds, kept, ratio, used)
    return CompiledDenoiser(forward if is_used else None, is_used, round(ratio, 2), seconds, sizes)


def _compile(denoiser: Any, device: torch.device, backend: Any, shapes: int) -> Callable[..., Any] | None:
    """The compiled forward of the whole denoiser, or None after compiling its repeated blocks.

    The repeated blocks of a U-Net leave out its convolutions, where most of its launches are. Compiling those as well
    takes a minute, and on CPUs gains nothing.
    """
    if isinstance(denoiser, UNet2DConditionModel) and device.type == "cuda":
        # None: for the first shape, then for any.
        dynamic = False if shapes <= MAX_STATIC_SHAPES else None
        return _with_float_timesteps(torch.compile(denoiser.forward, fullgraph=True, dynamic=dynamic, backend=backend))
    denoiser.compile_repeated_blocks(fullgraph=True, backend=backend)
    return None


def _with_float_timesteps(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Takes those of every scheduler: half of them count in whole numbers, which U-Nets convert first of all."""

    def call(sample: torch.Tensor, timestep: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return forward(sample, timestep.float(), *args, **kwargs)

    return call
