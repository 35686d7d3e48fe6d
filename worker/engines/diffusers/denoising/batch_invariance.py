"""Computes several images as a batch, each with exactly the numbers that it would have alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

#: MKL multiplies a matrix of few rows in another order than one of many, which rounds differently: seen for 1, 2, 3 and
#: 6 rows, on AVX-512 and with all the widths of Stable Diffusion 1.5 and XL.
MIN_ROWS = 16
#: torch convolves a single sample of at most this many numbers by itself, and everything else with oneDNN (use_mkldnn
#: in its Convolution.cpp).
MAX_SINGLE_SAMPLE = 20_480

Layer = torch.nn.Linear | torch.nn.Conv2d
Forward = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def batch_invariant(model: Any, images: int) -> Iterator[None]:
    """Inside the block, layers whose results depend on the batch size compute each image separately.

    These layers are few and small; the results of all others do not depend on the batch size. The model's input must
    hold `images` images of one size: all of them for one prediction, then, with guidance, all of them for the other.
    This works on CPUs only.
    """
    if images == 1:
        yield
        return
    layers = [part for part in model.modules() if isinstance(part, torch.nn.Linear | torch.nn.Conv2d)]
    for layer in layers:
        layer.forward = partial(_forward_separately, layer, layer.forward, images)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            _restore(layer)


def _forward_separately(layer: Layer, forward: Forward, images: int, x: torch.Tensor) -> torch.Tensor:
    sample = torch.Size((x.shape[0] // images, *x.shape[1:]))
    if x.shape[0] % images or not _depends_on_batch_size(layer, sample):
        # All further steps have the same shapes.
        _restore(layer)
        return forward(x)
    grouped = x.reshape(-1, images, *x.shape[1:])
    # Contiguous, as it is alone: other layouts are multiplied in yet another order.
    first = grouped[:, 0].contiguous()
    # Most such inputs are the timestep, which is the same for all images.
    if torch.equal(grouped, first.unsqueeze(1).expand_as(grouped)):
        return forward(first).repeat_interleave(images, 0)
    return torch.stack([forward(image.contiguous()) for image in grouped.unbind(1)], 1).flatten(0, 1)


def _restore(layer: Layer) -> None:
    vars(layer).pop("forward", None)


def _depends_on_batch_size(layer: Layer, sample: torch.Size) -> bool:
    """Whether the layer computes one image of this shape differently than several."""
    if isinstance(layer, torch.nn.Linear):
        return sample[:-1].numel() < MIN_ROWS
    return sample[0] == 1 and sample.numel() <= MAX_SINGLE_SAMPLE
