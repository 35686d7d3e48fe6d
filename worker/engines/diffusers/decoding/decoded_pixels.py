"""Turns what a decoder returns into pixels, on the device: main memory receives three bytes per pixel."""

from dataclasses import dataclass

import torch

from worker.images.values import Pixels


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
