"""The Stable Diffusion engine."""

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch

from shared.errors import ConfigurationError, InvalidRequest
from shared.jobs.requests import GenerationRequest
from shared.models.capabilities import Capabilities
from shared.workers.devices import DeviceMemory
from worker.engines.base import JobWatch, MultiJobWatch
from worker.engines.diffusers.devices import (
    choose_device,
    choose_dtype,
    computes_bfloat16,
    device_memory,
    dtype_name,
)
from worker.engines.diffusers.out_of_memory import MemoryBudget, OutOfMemoryFallbacks, keep_freed_memory
from worker.engines.diffusers.prompt_embeddings import MAX_ENTRIES
from worker.engines.diffusers.safety_checker import CHECKED, CHECKER_PART, OFF, SafetyChecker, flag_images
from worker.engines.diffusers.sampling import quieten_libraries
from worker.engines.diffusers.stable_diffusion.autoencoder import Autoencoder
from worker.engines.diffusers.stable_diffusion.compilation import compile_for
from worker.engines.diffusers.stable_diffusion.init_image import InitImage
from worker.engines.diffusers.stable_diffusion.loading import HALF, Pipelines, family_of, load_pipelines
from worker.engines.diffusers.stable_diffusion.lora_files import find_loras
from worker.engines.diffusers.stable_diffusion.loras import Loras
from worker.engines.diffusers.stable_diffusion.modes import mode_for
from worker.engines.diffusers.stable_diffusion.prompts import Prompts, prompt_warnings
from worker.engines.diffusers.stable_diffusion.rendering import ImageSpec, Rendering
from worker.engines.diffusers.stable_diffusion.sampling_defaults import capabilities_of
from worker.engines.diffusers.stable_diffusion.schedulers import SCHEDULERS
from worker.images.values import Inputs, RenderedImage
from worker.models.fingerprint import fingerprint
from worker.models.local_model import LocalModel
from worker.models.sources import STARTER

logger = logging.getLogger(__name__)

EXEMPT = "exempt: the starter model was trained on a closed set of pictograms"


@dataclass(frozen=True)
class StableDiffusionOptions:
    """The operator's choices besides the model."""

    device: str = "auto"
    dtype: str = "auto"
    safety_checker: Callable[[], Path] | None = None
    """Returns the folder of the checker for models without their own; None switches checking off."""
    lora_dir: Path | None = None
    max_batch_size: int = 4
    optimize: str = "safe"
    """off, safe or max (see SD_OPTIMIZE)."""
    compile_sizes: tuple[str, ...] = ()
    """`WIDTHxHEIGHT`: sizes to compile for if `optimize` is max."""
    suggest_cloud: bool = False
    """Whether errors about memory name flux-api as an alternative."""


class StableDiffusion:
    """Not thread-safe: one job at a time."""

    def __init__(
        self,
        pipelines: Pipelines,
        capabilities: Capabilities,
        checker: SafetyChecker | None,
        loras: Loras,
        options: StableDiffusionOptions,
        fingerprint: str,
    ) -> None:
        self.capabilities = capabilities
        self.device = str(pipelines.device)
        self.dtype = dtype_name(pipelines.text.unet.dtype)
        self.fingerprint = fingerprint
        self.placement = str(pipelines.placement)
        self._pipelines = pipelines
        self._default_scheduler = pipelines.text.scheduler
        self._autoencoder = Autoencoder(pipelines.text.vae, faithful_previews=checker is None, is_xl=pipelines.is_xl)
        self._checker = checker
        self._loras = loras
        max_cached = 0 if options.optimize == "off" else MAX_ENTRIES
        self._prompts = Prompts(is_xl=pipelines.is_xl, max_cached=max_cached)
        self._batch_invariant = options.optimize != "max"
        self._memory_budget = MemoryBudget(capabilities, suggest_cloud=options.suggest_cloud)
        # Apple's GPU may crash with batches (diffusers' own notes on MPS). Inpainting models start from a sample of the
        # image around the mask, for which diffusers uses the first image's generator for the whole batch.
        no_batches = pipelines.device.type == "mps" or pipelines.inpaint is not None or options.optimize == "off"
        self._max_batch_size = 1 if no_batches else options.max_batch_size

    @classmethod
    def load(cls, model: LocalModel, options: StableDiffusionOptions) -> "StableDiffusion":
        """Raises ConfigurationError if the model or the safety checker cannot be loaded."""
        quieten_libraries()
        keep_freed_memory()
        device = choose_device(options.device)
        optimize_max = options.optimize == "max"
        half = {**HALF, "cpu": torch.bfloat16} if optimize_max and computes_bfloat16() else HALF
        family_of(model)
        # The checker comes first: the model is placed in the memory that is left.
        checker = _load_checker(model, device, options)
        pipelines = load_pipelines(model, device, choose_dtype(options.dtype, device, half))
        lora_files = find_loras(options.lora_dir) if options.lora_dir else {}
        safety = EXEMPT if model.folder == STARTER else CHECKED if checker else OFF
        capabilities = capabilities_of(pipelines, model, loras=tuple(lora_files), safety=safety)
        if optimize_max and options.compile_sizes:
            compile_for(pipelines, capabilities, options.compile_sizes, options.max_batch_size)
        settings = (pipelines.text.unet.dtype, device, checker is not None, options.optimize, options.compile_sizes)
        identity = fingerprint([model.folder, *lora_files.values()], *settings)
        return cls(pipelines, capabilities, checker, Loras(pipelines, lora_files, model.name), options, identity)

    def generate(self, request: GenerationRequest, inputs: Inputs, watch: JobWatch) -> Sequence[RenderedImage]:
        return self._render(request, self._specs(request, inputs, watch), watch)

    def batch_capacity(self, request: GenerationRequest) -> int:
        return self._memory_budget.batch_capacity(request, self._max_batch_size)

    def generate_batch(
        self, requests: Sequence[GenerationRequest], inputs: Sequence[Inputs], watch: MultiJobWatch
    ) -> Sequence[Sequence[RenderedImage]]:
        specs = [
            self._specs(request, job_inputs, watch.for_job(job))
            for job, (request, job_inputs) in enumerate(zip(requests, inputs, strict=True))
        ]
        images = iter(self._render(requests[0], list(itertools.chain(*specs)), watch))
        return [list(itertools.islice(images, len(job_specs))) for job_specs in specs]

    def memory(self) -> DeviceMemory | None:
        return device_memory(self._pipelines.device)

    def _specs(self, request: GenerationRequest, inputs: Inputs, watch: JobWatch) -> list[ImageSpec]:
        if request.seed is None or request.width is None or request.height is None:
            raise ValueError("the request is not resolved")
        for warning in prompt_warnings(self._pipelines.text, request):
            watch.add_warning(warning)
        seeds = range(request.seed, request.seed + request.num_images)
        init_image = InitImage.from_inputs(inputs, request.width, request.height)
        return [
            ImageSpec(request.prompt, request.negative_prompt, seed, init_image, watch.add_warning) for seed in seeds
        ]

    def _render(self, request: GenerationRequest, specs: Sequence[ImageSpec], watch: JobWatch) -> list[RenderedImage]:
        """One image for each spec. `request` has the fields that they share."""
        self._new_scheduler(request)
        loras = request.loras or ()
        with OutOfMemoryFallbacks(request, self._memory_budget, watch) as memory:
            for warning in memory.run(lambda: self._loras.require(loras)):
                watch.add_warning(warning)
            self._prompts.use_loras(loras)
            with self._loras.applied(loras):
                images = [
                    spec.init_image.composite(pixels) if spec.init_image else pixels
                    for spec, pixels in zip(specs, self._rendering(request, specs, watch, memory).images(), strict=True)
                ]
        return [
            RenderedImage(pixels, spec.seed, flagged)
            for spec, pixels, flagged in zip(specs, images, flag_images(self._checker, images), strict=True)
        ]

    def _rendering(
        self, request: GenerationRequest, specs: Sequence[ImageSpec], watch: JobWatch, memory: OutOfMemoryFallbacks
    ) -> Rendering:
        return Rendering(
            self._pipelines,
            self._autoencoder,
            self._prompts,
            request,
            specs,
            mode_for(self._pipelines, request, has_init_image=specs[0].init_image is not None),
            lambda: self._new_scheduler(request),
            watch,
            memory,
            self._memory_budget,
            self.batch_capacity(request),
            self._batch_invariant,
        )

    def _new_scheduler(self, request: GenerationRequest) -> Any:
        """Raises InvalidRequest if the scheduler does not support that many steps."""
        config = self._default_scheduler.config
        if request.scheduler:
            scheduler = SCHEDULERS[request.scheduler](config)
        else:
            scheduler = type(self._default_scheduler).from_config(config)
        max_steps = scheduler.config.get("original_inference_steps")
        if isinstance(scheduler, diffusers.LCMScheduler) and (request.num_inference_steps or 0) > max_steps:
            raise InvalidRequest(f"num_inference_steps may be at most {max_steps} with the scheduler lcm.")
        return scheduler


def _load_checker(model: LocalModel, device: torch.device, options: StableDiffusionOptions) -> SafetyChecker | None:
    """The model's own checker if it has one that works."""
    if options.safety_checker is None or model.folder == STARTER:
        return None
    if (model.folder / CHECKER_PART).is_dir():
        try:
            return SafetyChecker.load(model.folder, device)
        except ConfigurationError as error:
            logger.warning("using the checker of SD_SAFETY_CHECKER_ID instead: %s", error.detail)
    return SafetyChecker.load(options.safety_checker(), device)
