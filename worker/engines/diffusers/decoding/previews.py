"""Small previews of half-finished images, from latents in every layout."""

from typing import assert_never

import torch

from worker.engines.diffusers.decoding.decoded_pixels import to_colours
from worker.images.values import Pixels
from worker.models.families import LatentLayout

#: How many latents of a channel make a patch.
PATCH = 4


def as_spatial(latents: torch.Tensor, layout: LatentLayout, height: int, width: int) -> torch.Tensor:
    """Latents of one image as (1, channels, height, width). Packed layouts do not contain the sides."""
    match layout:
        case LatentLayout.SPATIAL:
            return latents
        case LatentLayout.PATCHES:
            return latents[0, : height * width].T.reshape(-1, PATCH, height, width).mean(1)[None]
        case LatentLayout.FRAMES:
            return latents[:, 0].permute(0, 3, 1, 2)
        case _:
            assert_never(layout)


def false_colour_preview(latents: torch.Tensor) -> Pixels:
    """Shapes in false colours: three latent channels, as a batch of one, each stretched to the visible range."""
    count = latents.shape[1]
    channels = latents[:, [0, 1 % count, 2 % count]].float()
    low, high = channels.amin((2, 3), keepdim=True), channels.amax((2, 3), keepdim=True)
    return to_preview((channels - low) / (high - low).clamp(min=1e-6))


def to_preview(image: torch.Tensor) -> Pixels:
    """From a batch of one, 0..1. NaN becomes black: whether the image is sound is judged at the end."""
    pixels: Pixels = to_colours(image[0].permute(1, 2, 0).float()).cpu().numpy()
    return pixels
