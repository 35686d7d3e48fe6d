"""Decodes latents to images and previews."""

from contextlib import nullcontext
from typing import Any

import diffusers
import torch

from worker.engines.diffusers.out_of_memory import Fallback, tiling_fallback
from worker.engines.diffusers.sampling import Image, false_colour_preview, in_float32, to_image, to_preview
from worker.images.values import Pixels


class Autoencoder:
    """Decodes one image at a time, so that several need no more memory than one."""

    def __init__(self, vae: Any, *, faithful_previews: bool, is_xl: bool) -> None:
        """`faithful_previews`: whether callers may see half-finished images undistorted."""
        self._vae = vae
        self._has_faithful_previews = faithful_previews and isinstance(vae, diffusers.AutoencoderTiny)
        # Stable Diffusion XL's autoencoder overflows in half precision; its configuration says so.
        self.in_float32 = is_xl and bool(getattr(vae.config, "force_upcast", False)) and vae.dtype is torch.float16

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> Image:
        """One image from a batch of one; NaN where the decoder overflowed."""
        with in_float32(self._vae) if self.in_float32 else nullcontext():
            return to_image(self._vae.decode(self._unscaled(latents)).sample)

    def preview(self, latents: torch.Tensor) -> Pixels:
        """What the latents of one image look like now. A full decoder would cost as much as several steps."""
        if self._has_faithful_previews:
            return to_preview(self._vae.decode(self._unscaled(latents)).sample / 2 + 0.5)
        return false_colour_preview(latents[:, :3])

    def tiling_fallback(self) -> Fallback:
        return tiling_fallback(self._vae)

    def _unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        """Pipelines scale latents to about unit variance; the decoder takes them unscaled."""
        config = self._vae.config
        latents = latents / config.scaling_factor
        mean, deviation = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if mean is not None and deviation is not None:
            shape = (1, latents.shape[1], 1, 1)
            latents = latents * latents.new_tensor(deviation).view(shape) + latents.new_tensor(mean).view(shape)
        return latents.to(self._vae.dtype)
