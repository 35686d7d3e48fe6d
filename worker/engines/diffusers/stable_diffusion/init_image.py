"""The image that a job begins with, and what of it stays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch

from worker.images.values import Inputs, Mask, Pixels


@dataclass(frozen=True, eq=False)
class InitImage:
    """In the size of the image that is to be made, to which both are stretched."""

    image: Pixels
    mask: Mask | None

    @classmethod
    def of(cls, inputs: Inputs, width: int, height: int) -> "InitImage | None":
        """None where there is nothing to begin with."""
        if not inputs.images:
            return None
        image, mask, size = PIL.Image.fromarray(inputs.images[0]), None, (width, height)
        if inputs.mask is not None:
            mask = np.asarray(PIL.Image.fromarray(inputs.mask).resize(size, PIL.Image.Resampling.BILINEAR))
        return cls(np.asarray(image.resize(size, PIL.Image.Resampling.LANCZOS)), mask)

    @classmethod
    def blank(cls, width: int, height: int) -> "InitImage":
        """Of which all is to be painted."""
        return cls(np.full((height, width, 3), 127, np.uint8), np.full((height, width), 255, np.uint8))

    def composited(self, pixels: Pixels) -> Pixels:
        """The pixels where the mask is white, the image itself where it is black, and a mixture in between."""
        if self.mask is None:
            return pixels
        share = self.mask[..., None].astype(np.float32) / 255
        mixed: Pixels = (self.image + share * (pixels.astype(np.float32) - self.image)).round().astype(np.uint8)
        return mixed


class MaskedLatentBlender:
    """Keeps what lies outside of the mask, for models that know of no masks.

    After each step, the latents there become again those of the image, with as much noise as the step has left. The
    pipeline makes both itself, and hands them to the scheduler: that is where they are caught.
    """

    def __init__(self, scheduler: Any, masks: Sequence[Mask], strength: float) -> None:
        """`masks` has one for each image that is made at once."""
        self._scheduler = scheduler
        self._masks = np.stack(masks)[:, None]
        self._from_noise = strength == 1
        self._add_noise = scheduler.add_noise
        scheduler.add_noise = self._begin

    def after_step(self, pipe: Any, index: int, latents: torch.Tensor) -> torch.Tensor:
        timesteps = self._scheduler.timesteps
        following = len(timesteps) - pipe.num_timesteps + index + 1
        kept = self._latents
        if following < len(timesteps):
            kept = self._add_noise(kept, self._noise, timesteps[following : following + 1])
        blended: torch.Tensor = kept + self._repainted * (latents - kept)
        return blended

    def _begin(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        self._latents, self._noise = latents, noise
        masks = torch.from_numpy(self._masks > 0).to(latents)
        # Whatever has a pixel to be repainted.
        self._repainted = torch.nn.functional.adaptive_max_pool2d(masks, latents.shape[2:])
        noisy: torch.Tensor = self._add_noise(latents, noise, timesteps)
        return noise.mul(self._scheduler.init_noise_sigma) if self._from_noise else noisy
