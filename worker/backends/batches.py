"""Several pictures computed at once, with the very numbers that each would have alone."""

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

Forward = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def as_alone(model: Any, pictures: int) -> Iterator[None]:
    """Until the block is left, layers that compute one picture in another way than several compute each by itself.

    They are few and small; all the others come out the same anyway. The model is given so many pictures at a time:
    all of them for one prediction, then, with guidance, all of them for the other. On CPUs only: on GPUs, libraries
    choose how to compute every layer by its size.
    """
    if pictures == 1 or model.device.type != "cpu":
        yield
        return
    layers = [part for part in model.modules() if isinstance(part, torch.nn.Linear | torch.nn.Conv2d)]
    for layer in layers:
        differs = _few_rows if isinstance(layer, torch.nn.Linear) else _small_sample
        layer.forward = partial(_each_alone, pictures, differs, layer.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _each_alone(
    pictures: int, differs: Callable[[torch.Size], bool], forward: Forward, x: torch.Tensor
) -> torch.Tensor:
    shape = torch.Size((x.shape[0] // pictures, *x.shape[1:]))
    if not differs(shape) or x.shape[0] % pictures:
        return forward(x)
    # Contiguous, as they are alone: others are multiplied in yet another way.
    first, *others = (each.contiguous() for each in x.reshape(-1, pictures, *x.shape[1:]).unbind(1))
    # The step that the pictures are at, which is most of what comes here, is the same for all.
    same = all(torch.equal(each, first) for each in others)
    alone = [forward(first)] * pictures if same else [forward(each) for each in (first, *others)]
    return torch.stack(alone, 1).flatten(0, 1)


def _few_rows(shape: torch.Size) -> bool:
    return shape[:-1].numel() < LEAST_ROWS


def _small_sample(shape: torch.Size) -> bool:
    return shape[0] == 1 and shape.numel() <= MOST_ALONE
