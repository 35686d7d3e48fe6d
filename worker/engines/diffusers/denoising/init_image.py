"""Input images as the start of a new image, and masks that keep parts of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch

from worker.images.scaling import scaled
from worker.images.values import Inputs, Mask, Pixels


@dataclass(frozen=True, eq=False)
class InitImage:
    """The input image and its mask, both stretched to the size of the new image."""

    image: Pixels
    mask: Mask | None

    @classmethod
    def from_inputs(cls, inputs: Inputs, width: int, height: int) -> "InitImage | None":
        """None without an input image."""
        if not inputs.images:
            return None
        mask, size = None, (width, height)
        if inputs.mask is not None:
            mask = np.asarray(PIL.Image.fromarray(inputs.mask).resize(size, PIL.Image.Resampling.BILINEAR))
        return cls(scaled(inputs.images[0], size), mask)

    @classmethod
    def blank(cls, width: int, height: int) -> "InitImage":
        """Grey, with a mask that repaints everything."""
        return cls(np.full((height, width, 3), 127, np.uint8), np.full((height, width), 255, np.uint8))

    def composite(self, pixels: Pixels) -> Pixels:
        """The pixels where the mask is white, the input image where it is black, blended in between."""
        if self.mask is None:
            return pixels
        alpha = self.mask[..., None].astype(np.float32) / 255
        blended: Pixels = (self.image + alpha * (pixels.astype(np.float32) - self.image)).round().astype(np.uint8)
        return blended


class MaskedLatentBlender:
    """Keeps what lies outside the mask, for models that do not support masks.

    After each step, the latents outside the mask are reset to those of the input image, with the noise that remains at
    this step. The pipeline computes latents and noise itself and passes both to `scheduler.add_noise`, which is wrapped
    here to capture them.
    """

    def __init__(self, scheduler: Any, masks: Sequence[Mask], strength: float) -> None:
        """`masks` has one mask for each image of the batch."""
        self._scheduler = scheduler
        self._masks = np.stack(masks)[:, None]
        self._starts_from_noise = strength == 1
        self._add_noise = scheduler.add_noise
        scheduler.add_noise = self._capture

    def after_step(self, following: int, latents: torch.Tensor) -> torch.Tensor:
        """`following` is the index of the next timestep."""
        timesteps = self._scheduler.timesteps
        kept = self._latents
        if following < len(timesteps):
            kept = self._add_noise(kept, self._noise, timesteps[following : following + 1])
        blended: torch.Tensor = kept + self._repaint_mask * (latents - kept)
        return blended

    def _capture(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        self._latents, self._noise = latents, noise
        masks = torch.from_numpy(self._masks > 0).to(latents)
        # A latent is repainted if any of its pixels is.
        self._repaint_mask = torch.nn.functional.adaptive_max_pool2d(masks, latents.shape[2:])
        noisy: torch.Tensor = self._add_noise(latents, noise, timesteps)
        return noise.mul(self._scheduler.init_noise_sigma) if self._starts_from_noise else noisy
