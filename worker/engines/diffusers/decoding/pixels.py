"""Turns what a decoder returns, and half-finished latents, into pixels on the device.

Main memory receives three bytes per pixel.
"""

from dataclasses import dataclass
from typing import assert_never

import torch

from worker.images.values import Pixels
from worker.models.families import LatentLayout

#: How many latents of a channel make a patch.
PATCH = 4


@dataclass(frozen=True, eq=False)
class DecodedPixels:
    pixels: Pixels
    is_sound: bool
    """False for broken images: an overflow in half precision yields NaN or a single colour, usually black."""


@torch.no_grad()
def decoded_pixels(image: torch.Tensor) -> DecodedPixels:
    """Of a decoded batch of one, -1..1, with the values that numpy would compute: halves are rounded to even.

    NaN becomes black, and infinities the nearest colour.
    """
    values = (image / 2 + 0.5)[0].permute(1, 2, 0).float()
    is_finite = values.isfinite().all()
    colours = to_colours(values)
    is_sound = is_finite & (colours.amin() != colours.amax())
    if not colours.is_cuda:
        return DecodedPixels(colours.numpy(), bool(is_sound))
    host = torch.empty(colours.shape, dtype=torch.uint8, pin_memory=True)
    host.copy_(colours, non_blocking=True)
    # Reading the verdict waits for the device, and so for the copy before it on the same stream.
    sound = bool(is_sound)
    return DecodedPixels(host.numpy(), sound)


def to_colours(values: torch.Tensor) -> torch.Tensor:
    """Of values 0..1: halves are rounded to even, NaN is black."""
    return (values * 255).round_().clamp_(0, 255).nan_to_num_(0.0).to(torch.uint8).contiguous()


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
