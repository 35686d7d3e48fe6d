"""What a level of SD_OPTIMIZE does to the denoiser of one model, on one device."""

import logging
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from worker.engines.diffusers.acceleration import attention
from worker.engines.diffusers.acceleration.compiled_code import CompiledCode
from worker.engines.diffusers.acceleration.compiled_denoiser import CompiledDenoiser, compile_denoiser
from worker.engines.diffusers.acceleration.cuda_graphs import CudaGraphs
from worker.engines.diffusers.acceleration.decisions import Decision, Decisions
from worker.engines.diffusers.acceleration.eight_bit import is_possible, quantize_if_faster
from worker.engines.diffusers.acceleration.graph_backend import CudaGraphBackend
from worker.engines.diffusers.acceleration.sample_calls import SampleCall
from worker.engines.diffusers.acceleration.step_cache import cached_steps
from worker.engines.diffusers.options import Level

logger = logging.getLogger(__name__)

#: PyTorch gives up on a function of which it has compiled eight versions, in case each call needs another one. All
#: models of a process share the functions of diffusers, and only the shapes of `SD_COMPILE_SIZES` are compiled.
_NO_LIMIT = dict.fromkeys(("recompile_limit", "accumulated_recompile_limit"), sys.maxsize)


@dataclass(frozen=True)
class DenoiserPlan:
    """The denoiser to accelerate, and all that decides how."""

    denoiser: Any
    device: torch.device
    level: Level
    identity: tuple[object, ...]
    """What measurements depend on besides versions and device: the model's files and its precision."""
    folder: Path | None = None
    """Where measured decisions and compiled code are kept; None keeps them until this process ends."""
    distilled: bool = True
    is_resident: bool = True
    """Whether all its weights stay on the device."""


class Accelerator:
    """Not thread-safe. If an acceleration is not possible, the model runs without it."""

    def __init__(self, plan: DenoiserPlan, backend: CudaGraphBackend | None = None) -> None:
        """`backend` captures graphs; the default is CUDA's on CUDA devices, and none elsewhere."""
        self._plan = plan
        card = torch.cuda.get_device_name(plan.device) if plan.device.type == "cuda" else plan.device.type
        identity = (*plan.identity, plan.level.name, card, torch.__version__)
        self._decisions = Decisions(plan.folder, *identity)
        self._graphs = self._create_graphs(backend)
        self._attention: str | None = None
        self._compiled = CompiledDenoiser()
        self._is_eight_bit = False

    def prepare(self, sizes: Sequence[str], images: Sequence[int], run: Callable[[str, int], object]) -> None:
        """Measure and compile now, so that no request waits for it.

        `run` makes so many images of a size (`WIDTHxHEIGHT`) in one step, without decoding them.
        """
        plan = self._plan
        if plan.level < Level.FAST or not sizes:
            return
        if not plan.is_resident:
            logger.warning("SD_COMPILE_SIZES has no effect: parts of the model wait in main memory")
            return
        with torch._dynamo.config.patch(_NO_LIMIT):
            self._prepare(sizes, images, run)

    def _prepare(self, sizes: Sequence[str], images: Sequence[int], run: Callable[[str, int], object]) -> None:
        plan = self._plan
        runs = [partial(run, size, count) for size in sizes for count in images]
        # The first run is not accelerated: libraries set up their workspaces in it.
        call = SampleCall.record(plan.denoiser, runs[0])
        candidate = attention.candidate_for(plan.device)
        self._attention = attention.choose_attention(plan.denoiser, call, plan.device, candidate, self._decisions)
        if plan.level >= Level.MAX and is_possible(plan.device):
            self._is_eight_bit = quantize_if_faster(
                plan.denoiser, runs[0], plan.device, self._decisions, compiled=plan.device.type == "cuda"
            )
        code = CompiledCode(plan.folder, plan.device, *plan.identity, plan.level, self._is_eight_bit, sizes, images)
        subject = ("compiled", self._attention, self._is_eight_bit, *sizes, *images)
        known = self._decisions.get(*subject)
        with attention.using(self._attention):
            self._compiled = compile_denoiser(plan.denoiser, runs, plan.device, code, sizes=sizes, known=known)
        if known is None and self._compiled.ratio is not None:
            self._decisions.put(Decision(self._compiled.ratio, self._compiled.is_used), *subject)

    @contextmanager
    def active(self, loras: Hashable, steps: int) -> Iterator[None]:
        """Accelerate one call of the pipeline, with these LoRAs and steps."""
        plan = self._plan
        with ExitStack() as active:
            active.enter_context(attention.using(self._attention))
            if plan.level >= Level.FAST:
                active.enter_context(self._compiled.active())
            if plan.level >= Level.MAX:
                active.enter_context(cached_steps(plan.denoiser, steps, distilled=plan.distilled))
            if self._graphs is not None:
                active.enter_context(self._graphs.active(plan.denoiser, loras, self._compiled.forward))
            yield

    def drop(self) -> None:
        """Free the memory of graphs: something else needs it, or the model moves."""
        if self._graphs is not None:
            self._graphs.drop()

    @property
    def description(self) -> str:
        """The level and what it does, such as `fast: compiled for 1024x1024 (0.71 of the time), CUDA graphs (1)`."""
        return f"{self._plan.level.name.lower()}{': ' if (parts := ', '.join(self._parts())) else ''}{parts}"

    def _parts(self) -> Iterator[str]:
        if self._is_eight_bit:
            yield "eight-bit floats"
        if self._attention:
            yield f"attention by {self._attention}"
        if self._compiled.is_used:
            yield f"compiled for {', '.join(self._compiled.sizes)} ({self._compiled.ratio} of the time)"
        if self._graphs is not None and self._graphs.count:
            yield f"CUDA graphs ({self._graphs.count})"

    def _create_graphs(self, backend: CudaGraphBackend | None) -> CudaGraphs | None:
        plan = self._plan
        if plan.level < Level.SAFE or not plan.is_resident:
            return None
        if backend is None and plan.device.type == "cuda":
            backend = CudaGraphBackend(plan.device)
        return CudaGraphs(backend, self._decisions) if backend else None
