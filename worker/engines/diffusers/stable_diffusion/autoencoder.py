"""From latents to images."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import diffusers
import torch

from worker.engines.diffusers.out_of_memory import tiled
from worker.engines.diffusers.sampling import Image, in_float32, to_preview
from worker.images.values import Pixels


class Autoencoder:
    """Images are decoded one by one, so that several need no more memory than one."""

    def __init__(self, vae: Any, *, faithful_previews: bool, is_xl: bool) -> None:
        """`faithful_previews`: whether half-made images may be shown as they are."""
        self._vae = vae
        self._has_faithful_previews = faithful_previews and isinstance(vae, diffusers.AutoencoderTiny)
        # That of Stable Diffusion XL overflows in half precision, and says so.
        self.in_float32 = is_xl and bool(getattr(vae.config, "force_upcast", False)) and vae.dtype is torch.float16

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> Image:
        """One image from a batch of one; NaN where the decoder overflowed."""
        with in_float32(self._vae) if self.in_float32 else nullcontext():
            image = self._vae.decode(self._unscaled(latents)).sample
        array: Image = (image / 2 + 0.5)[0].permute(1, 2, 0).float().cpu().numpy()
        return array

    def preview(self, latents: torch.Tensor) -> Pixels:
        """What the latents of one image look like now; a full decoder would cost as much as several steps."""
        if self._has_faithful_previews:
            return to_preview(self._vae.decode(self._unscaled(latents)).sample / 2 + 0.5)
        # The first three channels of the usual 4-channel latents, spread to the visible range: shapes, false colours.
        channels = latents[:, :3].float()
        low, high = channels.amin((2, 3), keepdim=True), channels.amax((2, 3), keepdim=True)
        return to_preview((channels - low) / (high - low).clamp(min=1e-6))

    def tiled(self) -> AbstractContextManager[None]:
        return tiled(self._vae)

    def _unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        """As the decoder takes them: pipelines work on latents of about unit variance."""
        config = self._vae.config
        latents = latents / config.scaling_factor
        mean, deviation = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if mean is not None and deviation is not None:
            shape = (1, latents.shape[1], 1, 1)
            latents = latents * latents.new_tensor(deviation).view(shape) + latents.new_tensor(mean).view(shape)
        return latents.to(self._vae.dtype)
