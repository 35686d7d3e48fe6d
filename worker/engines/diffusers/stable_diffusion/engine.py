"""The engine as the worker knows it."""

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
from worker.engines.diffusers.devices import choose_device, choose_dtype, computes_bfloat16, memory_of, name_of
from worker.engines.diffusers.out_of_memory import MemoryBudget, OutOfMemoryFallbacks, keep_freed_memory
from worker.engines.diffusers.prompt_embeddings import MOST_KEPT
from worker.engines.diffusers.safety_checker import CHECKED, OFF, PART, SafetyChecker
from worker.engines.diffusers.sampling import quieten_libraries
from worker.engines.diffusers.stable_diffusion import compilation, loading, prompts
from worker.engines.diffusers.stable_diffusion.autoencoder import Autoencoder
from worker.engines.diffusers.stable_diffusion.init_image import InitImage
from worker.engines.diffusers.stable_diffusion.loading import Pipelines
from worker.engines.diffusers.stable_diffusion.lora_files import found_in
from worker.engines.diffusers.stable_diffusion.loras import Loras
from worker.engines.diffusers.stable_diffusion.modes import mode_of
from worker.engines.diffusers.stable_diffusion.prompts import Prompts
from worker.engines.diffusers.stable_diffusion.rendering import Rendering, Subject
from worker.engines.diffusers.stable_diffusion.sampling_defaults import capabilities_of
from worker.engines.diffusers.stable_diffusion.schedulers import SCHEDULERS
from worker.images.values import Inputs, RenderedImage
from worker.models.fingerprint import fingerprint
from worker.models.sources import STARTER_DIR, LocalModel

logger = logging.getLogger(__name__)

EXEMPT = "exempt: the starter model was trained on a closed set of pictograms"


@dataclass(frozen=True)
class StableDiffusionOptions:
    """What the operator chooses beside the model."""

    device: str = "auto"
    dtype: str = "auto"
    safety_checker: Callable[[], Path] | None = None
    """Finds the checker for models that bring none; None checks nothing."""
    lora_dir: Path | None = None
    max_batch_size: int = 4
    optimize: str = "safe"
    """off, safe or max (see SD_OPTIMIZE)."""
    compile_sizes: tuple[str, ...] = ()
    """`WIDTHxHEIGHT`, to compile for where that is max."""
    cloud: bool = False
    """Whether callers whose images do not fit can be sent to flux-api."""


class StableDiffusion:
    """Not thread-safe: one job at a time, as the worker has it."""

    def __init__(
        self,
        engine: Pipelines,
        capabilities: Capabilities,
        checker: SafetyChecker | None,
        loras: Loras,
        options: StableDiffusionOptions,
        fingerprint: str,
    ) -> None:
        self.capabilities = capabilities
        self.device = str(engine.device)
        self.dtype = name_of(engine.text.unet.dtype)
        self.fingerprint = fingerprint
        self.placement = str(engine.placement)
        self._engine = engine
        self._own_scheduler = engine.text.scheduler
        self._autoencoder = Autoencoder(engine.text.vae, faithful_previews=checker is None, is_xl=engine.is_xl)
        self._checker = checker
        self._loras = loras
        self._prompts = Prompts(is_xl=engine.is_xl, most_kept=0 if options.optimize == "off" else MOST_KEPT)
        self._exact = options.optimize != "max"
        self._room = MemoryBudget(capabilities, cloud=options.cloud)
        # Apple's GPU may crash with more than one (diffusers' own notes on MPS). Inpainting models begin with a sample
        # of what is around the mask, for which diffusers takes the randomness of the first image for all.
        alone = engine.device.type == "mps" or engine.inpaint is not None or options.optimize == "off"
        self._batch_size = 1 if alone else options.max_batch_size

    @classmethod
    def load(cls, model: LocalModel, options: StableDiffusionOptions) -> "StableDiffusion":
        """Raises ConfigurationError with one sentence when the model, or what checks it, cannot be had."""
        quieten_libraries()
        keep_freed_memory()
        device = choose_device(options.device)
        fast = options.optimize == "max"
        half = {**loading.HALF, "cpu": torch.bfloat16} if fast and computes_bfloat16() else loading.HALF
        loading.family_of(model)
        exempt = model.folder == STARTER_DIR
        find = None if exempt else options.safety_checker
        # First: the model is placed by what is free beside it.
        checker = _checker(model, device, find) if find else None
        engine = loading.load(model, device, choose_dtype(options.dtype, device, half))
        files = found_in(options.lora_dir) if options.lora_dir else {}
        safety = EXEMPT if exempt else CHECKED if checker else OFF
        capabilities = capabilities_of(engine, model, loras=tuple(files), safety=safety)
        if fast and options.compile_sizes:
            compilation.compile_for(engine, capabilities, options.compile_sizes, options.max_batch_size)
        runs = (engine.text.unet.dtype, device, checker is not None, options.optimize, options.compile_sizes)
        told = fingerprint([model.folder, *files.values()], *runs)
        return cls(engine, capabilities, checker, Loras(engine, files, model.name), options, told)

    def generate(self, request: GenerationRequest, inputs: Inputs, watch: JobWatch) -> Sequence[RenderedImage]:
        return self._made(request, self._subjects(request, inputs, watch), watch)

    def batch_capacity(self, request: GenerationRequest) -> int:
        return self._room.together(request, self._batch_size)

    def generate_batch(
        self, requests: Sequence[GenerationRequest], inputs: Sequence[Inputs], watch: MultiJobWatch
    ) -> Sequence[Sequence[RenderedImage]]:
        each = [
            self._subjects(request, given, watch.for_job(job))
            for job, (request, given) in enumerate(zip(requests, inputs, strict=True))
        ]
        made = iter(self._made(requests[0], list(itertools.chain(*each)), watch))
        return [list(itertools.islice(made, len(subjects))) for subjects in each]

    def _subjects(self, request: GenerationRequest, inputs: Inputs, watch: JobWatch) -> list[Subject]:
        if request.seed is None or request.width is None or request.height is None:
            raise ValueError("the request is not resolved")
        for sentence in prompts.warnings(self._engine.text, request):
            watch.add_warning(sentence)
        seeds = range(request.seed, request.seed + request.num_images)
        canvas = InitImage.of(inputs, request.width, request.height)
        return [Subject(request.prompt, request.negative_prompt, seed, canvas, watch.add_warning) for seed in seeds]

    def _made(self, request: GenerationRequest, subjects: Sequence[Subject], watch: JobWatch) -> list[RenderedImage]:
        """An image of each subject. `request` has what they share."""
        self._scheduler(request)
        loras = request.loras or ()
        with OutOfMemoryFallbacks(request, self._room, watch) as ladder:
            for sentence in ladder.run(lambda: self._loras.require(loras)):
                watch.add_warning(sentence)
            self._prompts.choose(loras)
            with self._loras.applied(loras):
                rendering = self._rendering(request, subjects, watch, ladder)
                made = [
                    subject.canvas.composited(pixels) if subject.canvas else pixels
                    for subject, pixels in zip(subjects, rendering.images(), strict=True)
                ]
        flags = self._checker.flags(made) if self._checker else [False] * len(made)
        return [
            RenderedImage(pixels, subject.seed, flagged)
            for subject, pixels, flagged in zip(subjects, made, flags, strict=True)
        ]

    def memory(self) -> DeviceMemory | None:
        return memory_of(self._engine.device)

    def _rendering(
        self,
        request: GenerationRequest,
        subjects: Sequence[Subject],
        watch: JobWatch,
        ladder: OutOfMemoryFallbacks,
    ) -> Rendering:
        return Rendering(
            self._engine,
            self._autoencoder,
            self._prompts,
            request,
            subjects,
            mode_of(self._engine, request, begun=subjects[0].canvas is not None),
            lambda: self._scheduler(request),
            watch,
            ladder,
            self._room,
            self.batch_capacity(request),
            self._exact,
        )

    def _scheduler(self, request: GenerationRequest) -> Any:
        """A new one. Raises InvalidRequest where it has too few steps."""
        config = self._own_scheduler.config
        if request.scheduler:
            scheduler = SCHEDULERS[request.scheduler](config)
        else:
            scheduler = type(self._own_scheduler).from_config(config)
        most = scheduler.config.get("original_inference_steps")
        if isinstance(scheduler, diffusers.LCMScheduler) and (request.num_inference_steps or 0) > most:
            raise InvalidRequest(f"num_inference_steps may be at most {most} with the scheduler lcm.")
        return scheduler


def _checker(model: LocalModel, device: torch.device, find: Callable[[], Path]) -> SafetyChecker:
    """The model's own, or the one for all others."""
    if (model.folder / PART).is_dir():
        try:
            return SafetyChecker.load(model.folder, device)
        except ConfigurationError as error:
            logger.warning("taking the one of SD_SAFETY_CHECKER_ID instead: %s", error.detail)
    return SafetyChecker.load(find(), device)
