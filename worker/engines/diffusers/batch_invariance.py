"""Several images computed at once, with the very numbers that each would have alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

#: MKL multiplies a matrix of few rows in another order than one of many, which rounds otherwise: seen for 1, 2, 3 and 6
#: rows, on AVX-512 and with all the widths of Stable Diffusion 1.5 and XL.
LEAST_ROWS = 16
#: torch convolves a single sample of so few numbers by itself, and everything else with oneDNN (use_mkldnn in its
#: Convolution.cpp).
MOST_ALONE = 20_480

Layer = torch.nn.Linear | torch.nn.Conv2d
Forward = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def as_alone(model: Any, images: int) -> Iterator[None]:
    """Until the block is left, layers that compute one image in another way than several compute each by itself.

    They are few and small; all the others come out the same anyway. The model is given so many images at a time, of
    one size: all of them for one prediction, then, with guidance, all of them for the other. On CPUs only: on GPUs,
    libraries choose how to compute every layer by its size.
    """
    if images == 1 or model.device.type != "cpu":
        yield
        return
    layers = [part for part in model.modules() if isinstance(part, torch.nn.Linear | torch.nn.Conv2d)]
    for layer in layers:
        layer.forward = partial(_each_alone, layer, layer.forward, images)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            _restore(layer)


def _each_alone(layer: Layer, forward: Forward, images: int, x: torch.Tensor) -> torch.Tensor:
    sample = torch.Size((x.shape[0] // images, *x.shape[1:]))
    if x.shape[0] % images or not _differs(layer, sample):
        # At every other step too.
        _restore(layer)
        return forward(x)
    grouped = x.reshape(-1, images, *x.shape[1:])
    # Contiguous, as it is alone: others are multiplied in yet another way.
    first = grouped[:, 0].contiguous()
    # The step that the images are at, which is most of what comes here, is the same for all.
    if torch.equal(grouped, first.unsqueeze(1).expand_as(grouped)):
        return forward(first).repeat_interleave(images, 0)
    return torch.stack([forward(each.contiguous()) for each in grouped.unbind(1)], 1).flatten(0, 1)


def _restore(layer: Layer) -> None:
    vars(layer).pop("forward", None)


def _differs(layer: Layer, sample: torch.Size) -> bool:
    """Whether it computes one image of this shape in another way than several."""
    if isinstance(layer, torch.nn.Linear):
        return sample[:-1].numel() < LEAST_ROWS
    return sample[0] == 1 and sample.numel() <= MOST_ALONE
