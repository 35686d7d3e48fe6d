"""The engine for every model that diffusers runs."""

import itertools
import logging
from collections.abc import Hashable, Sequence, Set
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import diffusers
import diffusers.utils.logging
import transformers.utils.logging

from shared.errors import InvalidImage, InvalidRequest
from shared.jobs.requests import GenerationRequest
from worker.engines.base import JobWatch, MultiJobWatch, Sizes
from worker.engines.diffusers.acceleration.accelerator import Accelerator, DenoiserPlan
from worker.engines.diffusers.capabilities import EXEMPT, AddedFiles, capabilities_of
from worker.engines.diffusers.decoding.autoencoder import Autoencoder
from worker.engines.diffusers.decoding.safety_checker import SafetyChecker, flag_images, load_checker
from worker.engines.diffusers.denoising.init_image import InitImage
from worker.engines.diffusers.denoising.modes import ImageSpec
from worker.engines.diffusers.denoising.schedulers import create_scheduler
from worker.engines.diffusers.loading.pipelines import Pipelines, load_pipelines
from worker.engines.diffusers.loading.warm_up import prepare
from worker.engines.diffusers.loras.lora_files import find_loras
from worker.engines.diffusers.loras.loras import Loras
from worker.engines.diffusers.memory.devices import choose_device, dtype_name, precision_of
from worker.engines.diffusers.memory.errors import reported_out_of_memory
from worker.engines.diffusers.memory.out_of_memory import (
    FittingSizes,
    OutOfMemoryFallbacks,
    free_memory,
    keep_freed_memory,
)
from worker.engines.diffusers.memory.shared_parts import PartLoading, SharedParts
from worker.engines.diffusers.options import DiffusersOptions, Level
from worker.engines.diffusers.prompts.encoding import MAX_ENTRIES, Prompts
from worker.engines.diffusers.prompts.textual_inversions import TextualInversions, find_embeddings
from worker.engines.diffusers.prompts.warnings import prompt_warnings
from worker.engines.diffusers.rendering import Rendering
from worker.images.values import Inputs, RenderedImage
from worker.models.contents.fingerprint import fingerprint
from worker.models.families import FEW_STEPS, UNLISTED, family_of
from worker.models.local_model import LocalModel
from worker.models.placements import Placement, Quantization

logger = logging.getLogger(__name__)

#: Limits of the pipelines for images that they look at.
MIN_REFERENCE_SIDE, MAX_REFERENCE_RATIO = 64, 8


class DiffusersEngine:
    """Not thread-safe: one job at a time."""

    def __init__(
        self, model: LocalModel, pipelines: Pipelines, checker: SafetyChecker | None, options: DiffusersOptions
    ) -> None:
        self.capabilities = AddedFiles.found(options).for_model(capabilities_of(model, options))
        self.device = str(pipelines.device)
        self.dtype = dtype_name(pipelines.denoiser.dtype)
        is_quantized = pipelines.quantization is not Quantization.NONE
        self.placement = str(pipelines.placement) + (f", {pipelines.quantization}" if is_quantized else "")
        self._model = model
        self._options = options
        self._pipelines = pipelines
        self._checker = checker
        self._default_scheduler = pipelines.text.scheduler
        family = pipelines.family
        self._autoencoder = Autoencoder(
            pipelines.text,
            family.layout,
            self.capabilities.multiple_of,
            faithful_previews=checker is None,
            use_bfloat16=pipelines.device.type == "cuda" and options.level >= Level.FAST,
        )
        self._accelerator = Accelerator(self._plan(model))
        max_cached = 0 if options.level is Level.OFF else MAX_ENTRIES
        self._prompts = Prompts(encodes_texts_apart=family.reads_with_clip, max_cached=max_cached)
        self._loras = Loras(pipelines, options.lora_dir, model.name, self._forget_lora)
        self._inversions = TextualInversions(pipelines, options.embedding_dir, self._prompts.forget)
        self._fitting_sizes = FittingSizes(self.capabilities, suggest_cloud=options.suggest_cloud)
        # Apple's GPU may crash with batches (diffusers' own notes on MPS). Inpainting models start from a sample of the
        # image around the mask, for which diffusers uses the first image's generator for the whole batch.
        no_batches = pipelines.device.type == "mps" or pipelines.is_inpainting_model or options.level is Level.OFF
        self._max_batch_size = options.max_batch_size if family.batches and not no_batches else 1

    @classmethod
    def load(cls, model: LocalModel, options: DiffusersOptions, shared: SharedParts | None = None) -> "DiffusersEngine":
        """`shared` has the parts of the other models in memory.

        Raises ConfigurationError if the model or the safety checker cannot be loaded.
        """
        _quieten_libraries()
        keep_freed_memory()
        shared = shared or SharedParts()
        device, dtype = choose_device(options.device), precision_of(model, options)
        if family_of(model) is UNLISTED:
            logger.warning(
                "%s is a %s, which is not listed: its defaults are those of diffusers", model.name, model.pipeline_class
            )
        # What cannot be run is refused before anything is read.
        is_exempt = capabilities_of(model, options).safety == EXEMPT
        # The checker comes first: the model is placed in the memory that is left.
        find_checker = None if is_exempt else options.safety_checker
        checker = load_checker(model.folder, find_checker, device, shared) if find_checker else None
        parts = PartLoading(model, dtype_name(dtype), shared)
        with parts.put_back_on_failure():
            engine = cls(model, load_pipelines(model, device, dtype, options, parts), checker, options)
            try:
                prepare(engine._accelerator, engine._pipelines, engine.capabilities, options, engine._max_batch_size)
            except Exception:
                engine.close()
                raise
        return engine

    def fingerprint(self) -> str:
        """LoRAs and embeddings may change at any time."""
        options = self._options
        files = [*find_loras(options.lora_dir).values(), *find_embeddings(options.embedding_dir).values()]
        return fingerprint(
            dict.fromkeys([self._model.path, self._model.folder, *files]),
            self.dtype,
            self.device,
            self._pipelines.quantization,
            self._checker is not None,
            options.level,
            options.compile_sizes,
        )

    @property
    def acceleration(self) -> str:
        return self._accelerator.description

    @property
    def sizes(self) -> Sizes:
        return self._pipelines.sizes

    def generate(self, request: GenerationRequest, inputs: Inputs, watch: JobWatch) -> Sequence[RenderedImage]:
        (read,) = self._inversions.read([request], [watch])
        return self._render(read, self._specs(read, inputs, watch), watch)

    def batch_capacity(self, request: GenerationRequest) -> int:
        return self._fitting_sizes.batch_capacity(request, self._max_batch_size)

    def generate_batch(
        self, requests: Sequence[GenerationRequest], inputs: Sequence[Inputs], watch: MultiJobWatch
    ) -> Sequence[Sequence[RenderedImage]]:
        watches = [watch.for_job(job) for job in range(len(requests))]
        read = list(self._inversions.read(requests, watches))
        specs = [self._specs(*job) for job in zip(read, inputs, watches, strict=True)]
        images = iter(self._render(read[0], list(itertools.chain(*specs)), watch))
        return [list(itertools.islice(images, len(job_specs))) for job_specs in specs]

    def move_to_main_memory(self, staying: Set[Hashable] = frozenset()) -> None:
        """Free the device's memory but for the parts in `staying`, and keep the weights in main memory."""
        self._accelerator.drop()
        self._pipelines.leave_device(staying)
        free_memory()

    def move_to_device(self) -> None:
        """Undo `move_to_main_memory`. Raises OutOfMemory; the next call continues."""
        with reported_out_of_memory():
            self._pipelines.return_to_device()

    def close(self, inherited: Set[Hashable] = frozenset()) -> None:
        """Free all memory but that of `inherited`, which moves to main memory. The engine cannot be used afterwards."""
        self._accelerator.drop()
        self._pipelines.to_main_memory(inherited)
        vars(self).clear()
        free_memory()

    def _forget_lora(self) -> None:
        """A LoRA means something else from now on, also where its new weights lie at the addresses of the old ones."""
        self._prompts.forget()
        self._accelerator.drop()

    def _specs(self, request: GenerationRequest, inputs: Inputs, watch: JobWatch) -> list[ImageSpec]:
        for warning in prompt_warnings(self._pipelines, request):
            watch.add_warning(self._inversions.readable(warning))
        looks_at_images = self._pipelines.family.references and inputs.mask is None
        spec = ImageSpec(
            request.prompt,
            request.negative_prompt,
            request.seeds[0],
            watch.add_warning,
            init_image=None if looks_at_images else InitImage.from_inputs(inputs, *request.size),
            references=_usable_references(inputs) if looks_at_images else (),
        )
        return [replace(spec, seed=seed) for seed in request.seeds]

    def _render(self, request: GenerationRequest, specs: Sequence[ImageSpec], watch: JobWatch) -> list[RenderedImage]:
        """One image for each spec. `request` has the fields that they share."""
        scheduler = self._scheduler(request)
        loras = request.loras or () if "loras" not in self.capabilities.ignored else ()
        with OutOfMemoryFallbacks(request, self._fitting_sizes, watch, self._accelerator.drop) as memory:
            for warning in memory.run(lambda: self._loras.require(loras)):
                watch.add_warning(warning)
            with self._loras.applied(loras):
                images = list(self._rendering(request, specs, scheduler, watch, memory).images())
        return [
            RenderedImage(pixels, spec.seed, flagged)
            for spec, pixels, flagged in zip(specs, images, flag_images(self._checker, images), strict=True)
        ]

    def _rendering(
        self,
        request: GenerationRequest,
        specs: Sequence[ImageSpec],
        scheduler: Any,
        watch: JobWatch,
        memory: OutOfMemoryFallbacks,
    ) -> Rendering:
        return Rendering(
            self._pipelines,
            self._autoencoder,
            self._prompts,
            request,
            specs,
            partial(deepcopy, scheduler),
            watch,
            memory,
            self._accelerator,
            self.batch_capacity(request),
            self._options.level is not Level.MAX,
        )

    def _plan(self, model: LocalModel) -> DenoiserPlan:
        pipelines, options = self._pipelines, self._options
        quantization = pipelines.quantization
        level = options.level if quantization is Quantization.NONE else min(options.level, Level.SAFE)
        return DenoiserPlan(
            pipelines.denoiser,
            pipelines.device,
            level,
            (model.name, model.revision, self.dtype, quantization),
            options.data_dir,
            distilled=(self.capabilities.num_inference_steps or 0) <= FEW_STEPS,
            # Layers that are cast for each call have no address that a graph could keep.
            is_resident=pipelines.placement is Placement.RESIDENT and quantization is not Quantization.FP8,
        )

    def _scheduler(self, request: GenerationRequest) -> Any:
        """Raises InvalidRequest if the scheduler does not support that many steps."""
        name = request.scheduler if "scheduler" not in self.capabilities.ignored else None
        scheduler = create_scheduler(name, self._default_scheduler)
        max_steps = scheduler.config.get("original_inference_steps")
        if isinstance(scheduler, diffusers.LCMScheduler) and (request.num_inference_steps or 0) > max_steps:
            raise InvalidRequest(f"num_inference_steps may be at most {max_steps} with the scheduler lcm.")
        return scheduler


def _quieten_libraries() -> None:
    """Route the libraries' errors to our log and drop the rest; downloads keep their progress bars."""
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
        library.disable_default_handler()
        library.enable_propagation()


def _usable_references(inputs: Inputs) -> tuple[Any, ...]:
    """Raises InvalidImage for images that the pipeline would refuse."""
    for pixels in inputs.images:
        height, width, _ = pixels.shape
        too_small = min(width, height) < MIN_REFERENCE_SIDE
        if too_small or max(width, height) > MAX_REFERENCE_RATIO * min(width, height):
            raise InvalidImage(
                f"An input image has {width}x{height} pixels. Each side must have at least {MIN_REFERENCE_SIDE} "
                f"pixels, and one side at most {MAX_REFERENCE_RATIO} times those of the other."
            )
    return inputs.images
